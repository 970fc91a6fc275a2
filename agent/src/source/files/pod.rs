//! Pods, as far as EndpointSlices are made of them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1 as core;

use crate::{
    model::{ObjectName, Problem, Protocol},
    source::convert::{self, Report},
};

/// What EndpointSlices say of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodDraft {
    pub(super) name: ObjectName,
    pub(super) labels: BTreeMap<String, String>,
    /// `status.podIPs`. Empty for a Pod that is over: its address may be another Pod's by now.
    pub(super) addresses: Vec<IpAddr>,
    /// Condition `Ready`.
    pub(super) ready: bool,
    /// Has a `metadata.deletionTimestamp`.
    pub(super) terminating: bool,
    /// `spec.nodeName`.
    pub(super) node: Option<Arc<str>>,
    /// `spec.hostname` and `spec.subdomain`.
    pub(super) hostname: Option<(Arc<str>, String)>,
    /// Named ports of the containers.
    pub(super) ports: Vec<(String, Protocol, u16)>,
}

/// Converts a Pod.
pub(super) fn pod(object: &core::Pod) -> (PodDraft, Vec<Problem>) {
    let name = convert::name(&object.metadata);
    let mut report = Report::new("Pod", &name);
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let over = convert::is_over(status);
    let conditions = status.iter().flat_map(|s| &s.conditions).flatten();
    let ready = conditions
        .filter(|c| c.type_ == "Ready")
        .any(|c| c.status == "True");
    let non_empty = |text: Option<&String>| text.cloned().filter(|text| !text.is_empty());
    let hostname = spec
        .and_then(|s| non_empty(s.hostname.as_ref()))
        .filter(|hostname| report.dns_label("spec.hostname", hostname))
        .and_then(|hostname| Some((Arc::from(hostname), non_empty(spec?.subdomain.as_ref())?)));
    let addresses = if over {
        Vec::new()
    } else {
        convert::pod_addresses(&mut report, status)
    };
    let draft = PodDraft {
        labels: object.metadata.labels.clone().unwrap_or_default(),
        addresses,
        ready,
        terminating: object.metadata.deletion_timestamp.is_some(),
        node: spec
            .and_then(|s| non_empty(s.node_name.as_ref()))
            .map(Arc::from),
        hostname,
        ports: ports(&mut report, spec),
        name,
    };
    (draft, report.problems)
}

/// The ports of ordinary containers, then those of sidecars (init containers that are restarted): the order in which
/// the control plane looks for a name.
fn ports(report: &mut Report, spec: Option<&core::PodSpec>) -> Vec<(String, Protocol, u16)> {
    let Some(spec) = spec else {
        return Vec::new();
    };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut named = Vec::new();
    for container in spec.containers.iter().chain(sidecars) {
        for port in container.ports.iter().flatten() {
            let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) else {
                continue;
            };
            let field =
                |field: &str| format!("spec.containers[{}].ports[{name}].{field}", container.name);
            let protocol = match convert::protocol(port.protocol.as_deref()) {
                Ok(protocol) => protocol,
                Err(reason) => {
                    report.add(field("protocol"), reason);
                    continue;
                }
            };
            if let Some(number) = report.port(|| field("containerPort"), port.container_port) {
                named.push((name.clone(), protocol, number));
            }
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn converted(spec: Value, status: Value) -> (PodDraft, Vec<Problem>) {
        let object = json!({
            "metadata": {"namespace": "a", "name": "p", "labels": {"app": "x"}},
            "spec": spec, "status": status,
        });
        pod(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_pod_is_reduced_to_what_slices_say_of_it() {
        let (pod, problems) = converted(
            json!({
                "nodeName": "n", "hostname": "h", "subdomain": "s",
                "containers": [{"name": "c", "ports": [
                    {"containerPort": 80}, {"name": "http", "containerPort": 8080},
                ]}],
                "initContainers": [
                    {"name": "i", "ports": [{"name": "no", "containerPort": 1}]},
                    {"name": "s", "restartPolicy": "Always", "ports": [
                        {"name": "dns", "protocol": "UDP", "containerPort": 53},
                    ]},
                ],
            }),
            json!({
                "phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True"}],
            }),
        );
        assert_eq!(problems, []);
        assert_eq!(pod.addresses.len(), 2);
        assert!(pod.ready && !pod.terminating);
        assert_eq!(pod.hostname, Some(("h".into(), "s".to_owned())));
        assert_eq!(
            pod.ports,
            [
                ("http".to_owned(), Protocol::Tcp, 8080),
                ("dns".to_owned(), Protocol::Udp, 53)
            ]
        );
    }

    #[test]
    fn a_pod_that_is_over_has_no_address() {
        for phase in ["Succeeded", "Failed"] {
            let (pod, _) = converted(
                json!({"containers": []}),
                json!({"phase": phase, "podIP": "10.1.0.1"}),
            );
            assert_eq!(pod.addresses, Vec::<IpAddr>::new());
        }
    }

    #[test]
    fn the_single_address_is_enough() {
        let (pod, problems) = converted(json!({"containers": []}), json!({"podIP": "10.1.0.1"}));
        assert_eq!(
            (pod.addresses.len(), pod.ready, problems),
            (1, false, vec![])
        );
    }

    #[test]
    fn bad_fields_are_named() {
        let (_, problems) = converted(
            json!({"hostname": "a.b", "containers": [{"name": "c", "ports": [{"name": "x", "containerPort": 0}]}]}),
            json!({"podIP": "10.1"}),
        );
        let fields: Vec<_> = problems.iter().map(|p| &*p.field).collect();
        assert_eq!(
            fields,
            [
                "spec.hostname",
                "status.podIP",
                "spec.containers[c].ports[x].containerPort"
            ]
        );
    }
}
