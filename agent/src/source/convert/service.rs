//! Services.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1 as api;

use super::{
    Converted, Report, field, labels, name, service_is_proxied, shared::shared, ways_in::ways_in,
};
use crate::model::{Family, Service, ServiceKind, ServicePort};

/// Seconds for which a client stays with its endpoint, where the Service does not say (API default).
const AFFINITY_TIMEOUT: i32 = 10_800;
/// The longest affinity that the API takes.
const MAX_AFFINITY_TIMEOUT: i32 = 86_400;

/// Where the ClusterIPs of a Service come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// From the object: without one, something is wrong.
    Given,
    /// From the caller, where the object has none.
    GivenLater,
}

/// Converts a Service.
pub fn service(service: &api::Service, addresses: Addresses) -> Converted<Service> {
    let name = name(&service.metadata);
    let mut report = Report::new("Service", &name);
    let named = report.dns_label("metadata.name", &name.name)
        & report.dns_label("metadata.namespace", &name.namespace);
    let default = api::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let Some(kind) = kind(&mut report, spec, addresses).filter(|_| named) else {
        return (None, report.problems);
    };
    let policy = |report: &mut Report, field: &str, value: Option<&str>| match value {
        None | Some("" | "Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            report.add(field, format!("{other:?} is not Cluster or Local"));
            false
        }
    };
    let ways_in = ways_in(&mut report, service, spec, &kind, addresses);
    let service = Service {
        name,
        created: service
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |t| t.0.as_second()),
        kind,
        ports: ports(&mut report, spec.ports.as_deref().unwrap_or_default()),
        ways_in,
        internal_local: policy(
            &mut report,
            "spec.internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
        ),
        external_local: policy(
            &mut report,
            "spec.externalTrafficPolicy",
            spec.external_traffic_policy.as_deref(),
        ),
        affinity_timeout: affinity(&mut report, spec),
        proxied: service_is_proxied(&service.metadata),
        labels: labels(&service.metadata),
    };
    (Some(service), report.problems)
}

fn kind(report: &mut Report, spec: &api::ServiceSpec, addresses: Addresses) -> Option<ServiceKind> {
    match spec.type_.as_deref() {
        Some("ExternalName") => return external_name(report, spec),
        None | Some("" | "ClusterIP" | "NodePort" | "LoadBalancer") => {}
        Some(other) => report.add(
            "spec.type",
            format!("{other:?} is no type of Service; taken for ClusterIP"),
        ),
    }
    let given: Vec<&str> = match spec.cluster_ips.as_deref() {
        Some([first, ..]) if !first.is_empty() => spec
            .cluster_ips
            .iter()
            .flatten()
            .map(String::as_str)
            .collect(),
        _ => spec
            .cluster_ip
            .iter()
            .map(String::as_str)
            .filter(|a| !a.is_empty())
            .collect(),
    };
    if given.first() == Some(&"None") {
        return Some(ServiceKind::Headless);
    }
    if given.is_empty() && addresses == Addresses::Given {
        report.add("spec.clusterIP", "missing: the Service has no address");
    }
    let mut usable: Vec<IpAddr> = Vec::new();
    for (index, text) in given.iter().enumerate() {
        let field = || format!("spec.clusterIPs[{index}]");
        let Some(address) = report.address(field, text, None) else {
            continue;
        };
        let family = Family::of(address);
        if usable.iter().any(|a| Family::of(*a) == family) {
            report.add(
                field(),
                format!("{address} is of the same family as the one before it"),
            );
        } else {
            usable.push(address);
        }
    }
    Some(ServiceKind::ClusterIp(usable))
}

fn external_name(report: &mut Report, spec: &api::ServiceSpec) -> Option<ServiceKind> {
    let text = spec.external_name.as_deref().unwrap_or_default();
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if text.len() > 253 || !text.split('.').all(label) {
        report.add("spec.externalName", format!("{text:?} is no DNS name"));
        return None;
    }
    Some(ServiceKind::ExternalName(text.to_owned()))
}

fn ports(report: &mut Report, ports: &[api::ServicePort]) -> Vec<ServicePort> {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut usable = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() && !report.dns_label(at("name"), name) {
            continue;
        }
        let protocol = match field::protocol(port.protocol.as_deref()) {
            Ok(protocol) => protocol,
            Err(reason) => {
                report.add(at("protocol"), reason);
                continue;
            }
        };
        let Some(number) = report.port(|| at("port"), port.port) else {
            continue;
        };
        if names.contains(name) {
            report.add(at("name"), format!("another port is named {name:?}"));
            continue;
        }
        if !numbers.insert((protocol, number)) {
            report.add(at("port"), format!("another port is {number}/{protocol}"));
            continue;
        }
        names.insert(name);
        let node_port = match port.node_port {
            None | Some(0) => 0,
            Some(port) => report.port(|| at("nodePort"), port).unwrap_or(0),
        };
        usable.push(ServicePort {
            name: shared(name),
            protocol,
            port: number,
            node_port,
        });
    }
    usable
}

fn affinity(report: &mut Report, spec: &api::ServiceSpec) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            report.add(
                "spec.sessionAffinity",
                format!("{other:?} is not None or ClientIP"),
            );
            return None;
        }
    }
    let seconds = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
        .unwrap_or(AFFINITY_TIMEOUT);
    if !(1..=MAX_AFFINITY_TIMEOUT).contains(&seconds) {
        report.add(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!(
                "{seconds} is not between 1 and {MAX_AFFINITY_TIMEOUT}; {AFFINITY_TIMEOUT} is used"
            ),
        );
        return u32::try_from(AFFINITY_TIMEOUT).ok();
    }
    u32::try_from(seconds).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Problem, Protocol};

    fn object(spec: Value) -> api::Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "x", "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": spec,
        }))
        .unwrap()
    }

    fn converted(spec: Value) -> (Service, Vec<Problem>) {
        let (service, problems) = super::service(&object(spec), Addresses::Given);
        (service.unwrap(), problems)
    }

    fn fields(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|p| &*p.field).collect()
    }

    #[test]
    fn a_sound_service_is_converted_whole() {
        let (service, problems) = converted(json!({
            "type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7"],
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53},
                {"name": "dns-tcp", "port": 53, "nodePort": 30053},
            ],
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Cluster",
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        }));
        assert_eq!(problems, []);
        assert_eq!(service.created, 1_767_323_045);
        let ServiceKind::ClusterIp(addresses) = &service.kind else {
            panic!("{service:?}");
        };
        assert_eq!(addresses.len(), 2);
        assert_eq!(
            (service.internal_local, service.external_local),
            (true, false)
        );
        assert_eq!(service.affinity_timeout, Some(60));
        assert_eq!(service.ports[0].protocol, Protocol::Udp);
        assert_eq!(service.ports[1].node_port, 30_053);
        assert!(service.proxied);
    }

    #[rstest]
    #[case::bad_address(json!({"clusterIP": "10.96.0.300"}), "spec.clusterIPs[0]")]
    #[case::missing_address(json!({"clusterIP": ""}), "spec.clusterIP")]
    #[case::same_family(json!({"clusterIPs": ["10.0.0.1", "10.0.0.2"]}), "spec.clusterIPs[1]")]
    #[case::type_(json!({"type": "Clusterip", "clusterIP": "10.0.0.1"}), "spec.type")]
    #[case::policy(json!({"clusterIP": "None", "internalTrafficPolicy": "local"}), "spec.internalTrafficPolicy")]
    #[case::external_policy(json!({"clusterIP": "None", "externalTrafficPolicy": "x"}), "spec.externalTrafficPolicy")]
    #[case::affinity(json!({"clusterIP": "None", "sessionAffinity": "Cookie"}), "spec.sessionAffinity")]
    #[case::timeout(
        json!({"clusterIP": "None", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    )]
    fn a_field_that_cannot_be_used_is_named(#[case] spec: Value, #[case] field: &str) {
        let (_, problems) = converted(spec);
        assert_eq!(fields(&problems), [field]);
        assert_eq!(problems[0].object.to_string(), "a/x");
    }

    #[rstest]
    #[case::zero(json!({"port": 0}), "port")]
    #[case::negative(json!({"port": -1}), "port")]
    #[case::too_large(json!({"port": 65536}), "port")]
    #[case::protocol(json!({"port": 1, "protocol": "tcp"}), "protocol")]
    #[case::name(json!({"port": 1, "name": "a_b"}), "name")]
    #[case::duplicate_name(json!({"port": 1, "name": "good"}), "name")]
    #[case::duplicate_number(json!({"port": 80, "name": "other"}), "port")]
    fn a_bad_port_is_left_out_and_the_others_stay(#[case] port: Value, #[case] field: &str) {
        let good = json!({"port": 80, "name": "good"});
        let (service, problems) =
            converted(json!({"clusterIP": "10.0.0.1", "ports": [good, port]}));
        assert_eq!(fields(&problems), [format!("spec.ports[1].{field}")]);
        assert_eq!(service.ports.len(), 1);
        assert_eq!(&*service.ports[0].name, "good");
    }

    #[test]
    fn one_number_may_be_a_port_of_two_protocols() {
        let ports =
            json!([{"port": 53, "name": "a"}, {"port": 53, "name": "b", "protocol": "UDP"}]);
        let (service, problems) = converted(json!({"clusterIP": "10.0.0.1", "ports": ports}));
        assert_eq!(problems, []);
        assert_eq!(service.ports.len(), 2);
    }

    #[rstest]
    #[case("example.org.", Some("example.org"))]
    #[case("Example.ORG", Some("Example.ORG"))]
    #[case("_tcp.example.org", Some("_tcp.example.org"))]
    #[case("", None)]
    #[case("a..b", None)]
    #[case("a b", None)]
    fn external_names(#[case] text: &str, #[case] expected: Option<&str>) {
        let object = object(json!({"type": "ExternalName", "externalName": text}));
        let (service, problems) = super::service(&object, Addresses::Given);
        let kind = expected.map(|name| ServiceKind::ExternalName(name.to_owned()));
        assert_eq!(service.map(|s| s.kind), kind);
        assert_eq!(problems.is_empty(), expected.is_some());
    }

    #[rstest]
    #[case(json!({"clusterIP": "None"}))]
    #[case(json!({"clusterIPs": ["None"]}))]
    fn headless_services(#[case] spec: Value) {
        let (service, problems) = converted(spec);
        assert_eq!((service.kind, problems), (ServiceKind::Headless, vec![]));
    }

    #[test]
    fn a_service_without_a_usable_name_is_left_out() {
        let mut object = object(json!({"clusterIP": "10.0.0.1"}));
        object.metadata.name = Some("a.b".to_owned());
        let (service, problems) = super::service(&object, Addresses::Given);
        assert_eq!((service, fields(&problems)), (None, vec!["metadata.name"]));
    }

    #[rstest]
    #[case("service.kubernetes.io/service-proxy-name", false)]
    #[case("service.kubernetes.io/headless", true)]
    fn the_name_of_a_proxy_leaves_a_service_to_others(#[case] label: &str, #[case] ours: bool) {
        let mut object = object(json!({"clusterIP": "10.0.0.1"}));
        object.metadata.labels = Some([(label.to_owned(), String::new())].into());
        let (service, _) = super::service(&object, Addresses::Given);
        assert_eq!(service.unwrap().proxied, ours);
    }

    #[test]
    fn an_address_may_be_given_later() {
        let (service, problems) = super::service(&object(json!({})), Addresses::GivenLater);
        assert_eq!(service.unwrap().kind, ServiceKind::ClusterIp(vec![]));
        assert_eq!(problems, []);
    }
}
