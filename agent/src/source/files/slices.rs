//! From selectors and Pods to EndpointSlices, as the control plane's endpoint-slice controller makes them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    pod::PodDraft,
    service::{ServiceDraft, TargetPort},
};
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, Protocol, ServiceKind,
};

/// Pods by their labels: a selector looks at the Pods of its rarest label only.
#[derive(Debug, Default)]
pub(super) struct Pods<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a PodDraft>>,
}

impl<'a> Pods<'a> {
    /// Indexes Pods; they are found in the order in which they come here.
    pub(super) fn new(pods: impl IntoIterator<Item = &'a PodDraft>) -> Self {
        let mut by_label: HashMap<_, Vec<_>> = HashMap::new();
        for pod in pods {
            for (key, value) in &pod.labels {
                let label = (&*pod.name.namespace, key.as_str(), value.as_str());
                by_label.entry(label).or_default().push(pod);
            }
        }
        Self { by_label }
    }

    fn select(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<&'a PodDraft> {
        let rarest = selector
            .iter()
            .map(|(key, value)| {
                self.by_label
                    .get(&(namespace, key.as_str(), value.as_str()))
                    .map_or(&[][..], Vec::as_slice)
            })
            .min_by_key(|pods| pods.len())
            .unwrap_or_default();
        let all = |pod: &PodDraft| selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v));
        rarest.iter().copied().filter(|pod| all(pod)).collect()
    }
}

/// The EndpointSlices of a Service with a selector: one for each family and for each way in which the Pods resolve
/// the target ports. `taken` says which names other slices have.
pub(super) fn slices(
    draft: &ServiceDraft,
    families: &[Family],
    pods: &Pods<'_>,
    taken: impl Fn(&ObjectName) -> bool,
) -> Vec<EndpointSlice> {
    let service = &draft.service;
    if draft.selector.is_empty() || matches!(service.kind, ServiceKind::ExternalName(_)) {
        return Vec::new();
    }
    let pods = pods.select(&service.name.namespace, &draft.selector);
    let mut slices = Vec::new();
    for &family in families {
        let mut groups: BTreeMap<Ports, Vec<Endpoint>> = BTreeMap::new();
        for pod in &pods {
            if let Some(endpoint) = endpoint(draft, pod, family) {
                groups.entry(ports(draft, pod)).or_default().push(endpoint);
            }
        }
        let prefix = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let mut names = (0..)
            .map(|n| format!("{}-{prefix}-{n}", service.name.name))
            .map(|name| ObjectName::new(service.name.namespace.clone(), name))
            .filter(|name| !taken(name));
        for (ports, endpoints) in groups {
            let Some(name) = names.next() else {
                break;
            };
            slices.push(EndpointSlice {
                name,
                service: Some(service.name.name.clone()),
                family,
                ports: ports
                    .into_iter()
                    .map(|(name, protocol, port)| EndpointPort {
                        name,
                        protocol,
                        port,
                    })
                    .collect(),
                endpoints,
                // The control plane marks the slices of headless Services with the label that proxies heed.
                proxied: service.proxied && service.kind != ServiceKind::Headless,
                triggered: None,
                // As the control plane copies them.
                labels: service.labels.clone(),
            });
        }
    }
    slices
}

/// Name, protocol and number of each port.
type Ports = Vec<(Arc<str>, Protocol, u16)>;

fn endpoint(draft: &ServiceDraft, pod: &PodDraft, family: Family) -> Option<Endpoint> {
    let addresses: Vec<_> = pod
        .addresses
        .iter()
        .copied()
        .filter(|a| Family::of(*a) == family)
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let hostname = pod
        .hostname
        .as_ref()
        .filter(|(_, subdomain)| **subdomain == *draft.service.name.name)
        .map(|(hostname, _)| hostname.clone());
    Some(Endpoint {
        addresses: addresses.into(),
        ready: draft.publish_not_ready || (pod.ready && !pod.terminating),
        serving: pod.ready,
        terminating: pod.terminating,
        hostname,
        node: pod.node.clone(),
        hints: None,
        pod: Some(pod.name.name.clone()),
    })
}

/// A named port that the Pod does not have is left out for this Pod.
fn ports(draft: &ServiceDraft, pod: &PodDraft) -> Ports {
    let resolve = |target: &TargetPort, protocol| match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Named(wanted) => pod
            .ports
            .iter()
            .find(|(name, p, _)| name == wanted && *p == protocol)
            .map(|(_, _, number)| *number),
    };
    draft
        .targets
        .iter()
        .filter_map(|target| {
            let number = resolve(&target.port, target.protocol)?;
            Some((target.name.clone(), target.protocol, number))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{pod::pod, service::service},
        *,
    };

    fn draft(spec: Value) -> ServiceDraft {
        let object = json!({"metadata": {"namespace": "a", "name": "x"}, "spec": spec});
        service(&serde_json::from_value(object).unwrap()).0.unwrap()
    }

    /// A Pod `p<last>` with labels `app: x` and address `10.1.0.<last>`, ready.
    fn a_pod(last: u8, change: impl FnOnce(&mut Value)) -> PodDraft {
        let mut object = json!({
            "metadata": {"namespace": "a", "name": format!("p{last}"), "labels": {"app": "x", "n": last.to_string()}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": format!("10.1.0.{last}"), "conditions": [{"type": "Ready", "status": "True"}]},
        });
        change(&mut object);
        pod(&serde_json::from_value(object).unwrap()).0
    }

    fn made(spec: Value, pods: &[PodDraft]) -> Vec<EndpointSlice> {
        slices(
            &draft(spec),
            &[Family::V4, Family::V6],
            &Pods::new(pods),
            |_| false,
        )
    }

    fn spec() -> Value {
        json!({"selector": {"app": "x"}, "ports": [{"port": 80, "targetPort": "http"}]})
    }

    #[test]
    fn a_ready_pod_is_an_endpoint() {
        let slices = made(spec(), &[a_pod(1, |_| ())]);
        assert_eq!(slices.len(), 1);
        let slice = &slices[0];
        assert_eq!(slice.name.to_string(), "a/x-ipv4-0");
        assert_eq!(
            (slice.family, slice.ports[0].port, slice.proxied),
            (Family::V4, 8080, true)
        );
        let endpoint = &slice.endpoints[0];
        assert_eq!(
            (endpoint.ready, endpoint.serving, endpoint.terminating),
            (true, true, false)
        );
        assert_eq!(endpoint.pod.as_deref(), Some("p1"));
        assert_eq!(endpoint.node.as_deref(), Some("n"));
        assert_eq!(endpoint.hostname, None);
    }

    #[test]
    fn only_pods_with_every_label_and_in_the_namespace_are_selected() {
        let pods = [
            a_pod(1, |_| ()),
            a_pod(2, |_| ()),
            a_pod(3, |p| p["metadata"]["namespace"] = "b".into()),
        ];
        let selector = json!({"selector": {"app": "x", "n": "2"}});
        let slices = made(selector, &pods);
        assert_eq!(slices[0].endpoints.len(), 1);
        assert_eq!(slices[0].endpoints[0].pod.as_deref(), Some("p2"));
        assert_eq!(made(json!({"selector": {"app": "y"}}), &pods), []);
        assert_eq!(made(json!({}), &pods), [], "no selector");
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        let unready = |p: &mut Value| p["status"]["conditions"][0]["status"] = "False".into();
        let gone =
            |p: &mut Value| p["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let pods = [
            a_pod(1, unready),
            a_pod(2, gone),
            a_pod(3, |p| {
                unready(p);
                gone(p);
            }),
        ];
        let conditions = |spec| -> Vec<_> {
            let endpoints = made(spec, &pods).remove(0).endpoints;
            endpoints
                .iter()
                .map(|e| (e.ready, e.serving, e.terminating))
                .collect()
        };
        assert_eq!(
            conditions(spec()),
            [
                (false, false, false),
                (false, true, true),
                (false, false, true)
            ]
        );
        let mut published = spec();
        published["publishNotReadyAddresses"] = true.into();
        assert_eq!(
            conditions(published),
            [
                (true, false, false),
                (true, true, true),
                (true, false, true)
            ]
        );
    }

    #[test]
    fn each_family_has_its_slices() {
        let both =
            |p: &mut Value| p["status"]["podIPs"] = json!([{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]);
        let slices = made(spec(), &[a_pod(1, both), a_pod(2, |_| ())]);
        let shape: Vec<_> = slices
            .iter()
            .map(|s| (s.family, s.endpoints.len()))
            .collect();
        assert_eq!(shape, [(Family::V4, 2), (Family::V6, 1)]);
    }

    #[test]
    fn pods_that_resolve_a_port_differently_are_in_different_slices() {
        let other =
            |p: &mut Value| p["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090.into();
        let none = |p: &mut Value| p["spec"]["containers"][0]["ports"] = json!([]);
        let slices = made(spec(), &[a_pod(1, |_| ()), a_pod(2, other), a_pod(3, none)]);
        let ports: Vec<_> = slices
            .iter()
            .map(|s| s.ports.first().map(|p| p.port))
            .collect();
        assert_eq!(ports, [None, Some(8080), Some(9090)]);
    }

    #[test]
    fn a_hostname_counts_only_under_the_service_of_its_subdomain() {
        let named = |subdomain: &'static str| {
            move |p: &mut Value| {
                p["spec"]["hostname"] = "h".into();
                p["spec"]["subdomain"] = subdomain.into();
            }
        };
        let slices = made(
            spec(),
            &[
                a_pod(1, named("x")),
                a_pod(2, named("y")),
                a_pod(3, named("")),
            ],
        );
        let hostnames: Vec<_> = slices[0]
            .endpoints
            .iter()
            .map(|e| e.hostname.as_deref())
            .collect();
        assert_eq!(hostnames, [Some("h"), None, None]);
    }

    #[test]
    fn a_headless_service_has_endpoints_without_ports() {
        let slices = made(
            json!({"clusterIP": "None", "selector": {"app": "x"}}),
            &[a_pod(1, |_| ())],
        );
        assert_eq!((slices[0].ports.len(), slices[0].endpoints.len()), (0, 1));
        assert!(!slices[0].proxied);
    }

    #[test]
    fn names_of_other_slices_are_avoided() {
        let pods = [a_pod(1, |_| ())];
        let taken = |name: &ObjectName| &*name.name == "x-ipv4-0";
        let slices = slices(&draft(spec()), &[Family::V4], &Pods::new(&pods), taken);
        assert_eq!(&*slices[0].name.name, "x-ipv4-1");
    }
}
