//! The ways into a Service from outside the cluster.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;

use super::{Addresses, Report};
use crate::model::{Family, ServiceKind, WaysIn};

/// Reads external IPs, the load balancer's IPs, who may use them, and the health check's port.
pub(super) fn ways_in(
    report: &mut Report,
    service: &api::Service,
    spec: &api::ServiceSpec,
    kind: &ServiceKind,
    addresses: Addresses,
) -> WaysIn {
    let ServiceKind::ClusterIp(cluster_ips) = kind else {
        return WaysIn::default();
    };
    let external_ips = external_ips(report, spec);
    let load_balancer_ips = load_balancer_ips(report, service);
    let source_ranges = source_ranges(report, spec);
    let families: Vec<Family> = cluster_ips.iter().map(|a| Family::of(*a)).collect();
    if !families.is_empty() {
        let foreign = |family: Family| !families.contains(&family);
        for (address, field) in external_ips.iter().chain(&load_balancer_ips) {
            if foreign(Family::of(*address)) {
                report.add(field, of_another_family(address));
            }
        }
        for (network, field) in &source_ranges {
            if foreign(Family::of(network.addr())) {
                report.add(field, of_another_family(network));
            }
        }
    }
    WaysIn {
        health_check_node_port: health_check_node_port(report, spec, addresses),
        external_ips: without_fields(external_ips),
        load_balancer_ips: without_fields(load_balancer_ips),
        source_ranges: without_fields(source_ranges),
    }
}

fn external_ips(report: &mut Report, spec: &api::ServiceSpec) -> Vec<(IpAddr, String)> {
    let mut usable: Vec<(IpAddr, String)> = Vec::new();
    let given = spec.external_ips.iter().flatten().enumerate();
    // The API server lets empty ones through, and kube-proxy says nothing of them.
    for (index, text) in given.filter(|(_, text)| !text.trim().is_empty()) {
        let field = || format!("spec.externalIPs[{index}]");
        let address = report.address(field, text, None);
        add(&mut usable, address, field);
    }
    usable
}

fn load_balancer_ips(report: &mut Report, service: &api::Service) -> Vec<(IpAddr, String)> {
    let mut usable: Vec<(IpAddr, String)> = Vec::new();
    let status = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let ingress = status
        .and_then(|s| s.ingress.as_deref())
        .unwrap_or_default();
    for (index, entry) in ingress.iter().enumerate() {
        let at = |field: &str| format!("status.loadBalancer.ingress[{index}].{field}");
        // A load balancer with a name, and one that is no way into the node by its IP, need nothing of a node.
        let Some(text) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) else {
            continue;
        };
        match entry.ip_mode.as_deref() {
            None | Some("VIP") => {}
            Some("Proxy") => continue,
            Some(other) => {
                report.add(at("ipMode"), format!("{other:?} is not VIP or Proxy"));
                continue;
            }
        }
        let address = report.address(|| at("ip"), text, None);
        add(&mut usable, address, || at("ip"));
    }
    usable
}

fn source_ranges(report: &mut Report, spec: &api::ServiceSpec) -> Vec<(IpNet, String)> {
    let mut usable = Vec::new();
    let given = spec.load_balancer_source_ranges.iter().flatten();
    for (index, text) in given
        .enumerate()
        .filter(|(_, text)| !text.trim().is_empty())
    {
        let field = || format!("spec.loadBalancerSourceRanges[{index}]");
        let network = report.network(field, text);
        add(&mut usable, network, field);
    }
    usable
}

/// kube-proxy's `NeedsHealthCheck`.
fn health_check_node_port(
    report: &mut Report,
    spec: &api::ServiceSpec,
    addresses: Addresses,
) -> u16 {
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    if spec.type_.as_deref() != Some("LoadBalancer") || !local {
        return 0;
    }
    const FIELD: &str = "spec.healthCheckNodePort";
    match spec.health_check_node_port {
        None | Some(0) => {
            if addresses == Addresses::Given {
                report.add(
                    FIELD,
                    "missing: a load balancer cannot ask where the endpoints are",
                );
            }
            0
        }
        Some(port) => report.port(|| FIELD.to_owned(), port).unwrap_or(0),
    }
}

fn add<T: PartialEq>(usable: &mut Vec<(T, String)>, value: Option<T>, field: impl Fn() -> String) {
    if let Some(value) = value.filter(|value| usable.iter().all(|(other, _)| other != value)) {
        usable.push((value, field()));
    }
}

fn without_fields<T>(values: Vec<(T, String)>) -> Vec<T> {
    values.into_iter().map(|(value, _)| value).collect()
}

fn of_another_family(what: &impl std::fmt::Display) -> String {
    format!("{what} is of a family that the Service has no ClusterIP of; it is not used")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::{model::Problem, source::convert};

    fn converted(spec: Value, status: Value) -> (WaysIn, Vec<Problem>) {
        let mut object = json!({
            "metadata": {"namespace": "a", "name": "x"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
            "status": status,
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        let object = serde_json::from_value(object).unwrap();
        let (service, problems) = convert::service(&object, Addresses::Given);
        (service.unwrap().ways_in, problems)
    }

    fn ingress(entries: Value) -> Value {
        json!({"loadBalancer": {"ingress": entries}})
    }

    fn texts<T: ToString>(values: &[T]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_way_in_is_read() {
        let (ways_in, problems) = converted(
            json!({
                "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_001,
                "externalIPs": ["192.0.2.1", "192.0.2.1", ""],
                "loadBalancerSourceRanges": [" 10.0.0.1/8 ", "192.0.2.0/24"],
            }),
            ingress(json!([{"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "VIP"}])),
        );
        assert_eq!(problems, []);
        assert_eq!(texts(&ways_in.external_ips), ["192.0.2.1"]);
        assert_eq!(
            texts(&ways_in.load_balancer_ips),
            ["198.51.100.1", "198.51.100.2"]
        );
        assert_eq!(
            texts(&ways_in.source_ranges),
            ["10.0.0.0/8", "192.0.2.0/24"]
        );
        assert_eq!(ways_in.health_check_node_port, 30_001);
    }

    #[test]
    fn a_load_balancer_that_proxies_or_has_only_a_name_is_not_captured() {
        let entries =
            json!([{"ip": "198.51.100.1", "ipMode": "Proxy"}, {"hostname": "lb.example.org"}]);
        let (ways_in, problems) = converted(json!({}), ingress(entries));
        assert_eq!((ways_in.load_balancer_ips, problems), (vec![], vec![]));
    }

    #[test]
    fn an_address_with_leading_zeros_is_decimal() {
        let external = json!({"externalIPs": ["192.000.002.010"], "loadBalancerSourceRanges": ["010.0.0.0/8"]});
        let (ways_in, problems) = converted(external, ingress(json!([{"ip": "198.051.100.011"}])));
        assert_eq!(problems, []);
        assert_eq!(texts(&ways_in.external_ips), ["192.0.2.10"]);
        assert_eq!(texts(&ways_in.load_balancer_ips), ["198.51.100.11"]);
        assert_eq!(texts(&ways_in.source_ranges), ["10.0.0.0/8"]);
    }

    #[rstest]
    #[case::external_ip(json!({"externalIPs": ["192.0.2.1", "192.0.2"]}), "spec.externalIPs[1]")]
    #[case::external_loopback(json!({"externalIPs": ["127.0.0.1"]}), "spec.externalIPs[0]")]
    #[case::external_family(json!({"externalIPs": ["2001:db8::1"]}), "spec.externalIPs[0]")]
    #[case::range(json!({"loadBalancerSourceRanges": ["10.0.0.0"]}), "spec.loadBalancerSourceRanges[0]")]
    #[case::range_family(json!({"loadBalancerSourceRanges": ["10.0.0.0/8", "::/0"]}), "spec.loadBalancerSourceRanges[1]")]
    #[case::no_health_check(
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}), "spec.healthCheckNodePort"
    )]
    #[case::health_check(
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 70_000}),
        "spec.healthCheckNodePort"
    )]
    fn a_field_that_cannot_be_used_is_named(#[case] spec: Value, #[case] field: &str) {
        let (_, problems) = converted(spec, json!({}));
        let fields: Vec<_> = problems.iter().map(|p| &*p.field).collect();
        assert_eq!(fields, [field]);
    }

    #[rstest]
    #[case::ip(json!([{"ip": "198.51.100"}]), "status.loadBalancer.ingress[0].ip")]
    #[case::family(json!([{"ip": "2001:db8::1"}]), "status.loadBalancer.ingress[0].ip")]
    #[case::mode(json!([{"ip": "198.51.100.1", "ipMode": "vip"}]), "status.loadBalancer.ingress[0].ipMode")]
    fn a_status_that_cannot_be_used_is_named(#[case] entries: Value, #[case] field: &str) {
        let (_, problems) = converted(json!({}), ingress(entries));
        let fields: Vec<_> = problems.iter().map(|p| &*p.field).collect();
        assert_eq!(fields, [field]);
    }

    #[rstest]
    #[case::other_policy(json!({"type": "LoadBalancer", "healthCheckNodePort": 30_001}))]
    #[case::other_type(json!({"type": "NodePort", "externalTrafficPolicy": "Local"}))]
    fn only_a_local_load_balancer_has_a_health_check(#[case] spec: Value) {
        let (ways_in, problems) = converted(spec, json!({}));
        assert_eq!((ways_in.health_check_node_port, problems), (0, vec![]));
    }
}
