//! EndpointSlices.

use std::sync::Arc;

use k8s_openapi::{api::discovery::v1 as api, jiff::Timestamp};

use super::{Converted, Report, field, labels, name, shared::shared, slice_is_proxied};
use crate::model::{Endpoint, EndpointPort, EndpointSlice, Family, Hints};

const SERVICE: &str = "kubernetes.io/service-name";
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Converts an EndpointSlice. One of names (`addressType: FQDN`) is none of ours, and nothing is wrong with it.
pub fn slice(slice: &api::EndpointSlice) -> Converted<EndpointSlice> {
    let meta = &slice.metadata;
    let name = name(meta);
    let mut report = Report::new("EndpointSlice", &name);
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return (None, Vec::new()),
        other => {
            report.add(
                "addressType",
                format!("{other:?} is not IPv4, IPv6 or FQDN"),
            );
            return (None, report.problems);
        }
    };
    if !report.dns_label("metadata.namespace", &name.namespace) {
        return (None, report.problems);
    }
    let label = meta.labels.as_ref().and_then(|l| l.get(SERVICE));
    let service = label
        .filter(|service| report.dns_label(format!("metadata.labels[{SERVICE}]"), service))
        .map(|service| Arc::from(service.as_str()));
    let triggered = meta
        .annotations
        .as_ref()
        .and_then(|a| a.get(TRIGGERED)?.parse::<Timestamp>().ok());
    let mut endpoints = Vec::with_capacity(slice.endpoints.len());
    for (index, e) in slice.endpoints.iter().enumerate() {
        endpoints.extend(endpoint(&mut report, family, index, e));
    }
    let slice = EndpointSlice {
        name,
        service,
        family,
        ports: ports(&mut report, slice.ports.as_deref().unwrap_or_default()),
        endpoints,
        proxied: slice_is_proxied(meta),
        triggered: triggered.map(Timestamp::as_millisecond),
        labels: labels(meta),
    };
    (Some(slice), report.problems)
}

fn ports(report: &mut Report, ports: &[api::EndpointPort]) -> Vec<EndpointPort> {
    let mut usable = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("ports[{index}].{field}");
        // No number means every port: nothing that a Service could lead to.
        let Some(number) = port.port else {
            continue;
        };
        let protocol = match field::protocol(port.protocol.as_deref()) {
            Ok(protocol) => protocol,
            Err(reason) => {
                report.add(at("protocol"), reason);
                continue;
            }
        };
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() && !report.dns_label(at("name"), name) {
            continue;
        }
        let Some(number) = report.port(|| at("port"), number) else {
            continue;
        };
        usable.push(EndpointPort {
            name: shared(name),
            protocol,
            port: number,
        });
    }
    usable
}

fn endpoint(
    report: &mut Report,
    family: Family,
    index: usize,
    endpoint: &api::Endpoint,
) -> Option<Endpoint> {
    let mut addresses = Vec::with_capacity(endpoint.addresses.len());
    for (number, text) in endpoint.addresses.iter().enumerate() {
        let field = || format!("endpoints[{index}].addresses[{number}]");
        addresses.extend(report.address(field, text, Some(family)));
    }
    if endpoint.addresses.is_empty() {
        report.add(format!("endpoints[{index}].addresses"), "has no address");
    }
    if addresses.is_empty() {
        return None;
    }
    let hostname = endpoint
        .hostname
        .as_deref()
        .filter(|name| !name.is_empty())
        .filter(|name| report.dns_label(format!("endpoints[{index}].hostname"), name));
    let conditions = endpoint.conditions.as_ref();
    let condition = |of: fn(&api::EndpointConditions) -> Option<bool>, absent| {
        conditions.and_then(of).unwrap_or(absent)
    };
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|h| h.for_zones.as_ref());
    let nodes = hints.and_then(|h| h.for_nodes.as_ref());
    let (zones, nodes) = (zones.into_iter().flatten(), nodes.into_iter().flatten());
    let target = endpoint.target_ref.as_ref();
    Some(Endpoint {
        addresses: addresses.into(),
        ready: condition(|c| c.ready, true),
        serving: condition(|c| c.serving, true),
        terminating: condition(|c| c.terminating, false),
        hostname: hostname.map(Arc::from),
        node: endpoint.node_name.as_deref().map(shared),
        hints: Hints::of(
            zones.map(|z| shared(&z.name)).collect(),
            nodes.map(|n| shared(&n.name)).collect(),
        ),
        pod: target
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| target.name.as_deref().map(Arc::from)),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Problem, Protocol};

    fn converted(change: Value) -> (Option<EndpointSlice>, Vec<Problem>) {
        let mut object = json!({
            "metadata": {
                "namespace": "a", "name": "x-1",
                "labels": {"kubernetes.io/service-name": "x"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "1970-01-01T00:00:01.5Z"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.1.0.1"]}],
        });
        for (key, value) in change.as_object().unwrap() {
            object[key] = value.clone();
        }
        slice(&serde_json::from_value(object).unwrap())
    }

    #[rstest]
    #[case("service.kubernetes.io/headless", false)]
    #[case("service.kubernetes.io/service-proxy-name", true)]
    fn only_the_label_of_headless_services_keeps_endpoints_from_virtual_addresses(
        #[case] label: &str,
        #[case] ours: bool,
    ) {
        let metadata = json!({"namespace": "a", "name": "x-1", "labels": {label: ""}});
        let (slice, _) = converted(json!({"metadata": metadata}));
        assert_eq!(slice.unwrap().proxied, ours);
    }

    #[test]
    fn a_sound_slice_is_converted_whole() {
        let (slice, problems) = converted(json!({"endpoints": [{
            "addresses": ["10.1.0.1"],
            "conditions": {"ready": false, "serving": true, "terminating": true},
            "hostname": "one", "nodeName": "n",
            "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n"}]},
            "targetRef": {"kind": "Pod", "name": "x-abc"},
        }]}));
        let slice = slice.unwrap();
        assert_eq!(problems, []);
        assert_eq!(slice.service.as_deref(), Some("x"));
        assert_eq!(slice.triggered, Some(1500));
        assert_eq!(slice.ports[0].protocol, Protocol::Tcp);
        let endpoint = &slice.endpoints[0];
        assert_eq!(
            (endpoint.ready, endpoint.serving, endpoint.terminating),
            (false, true, true)
        );
        assert_eq!(endpoint.hostname.as_deref(), Some("one"));
        assert_eq!(endpoint.pod.as_deref(), Some("x-abc"));
        assert_eq!(endpoint.zone_hints(), ["z".into()]);
        assert_eq!(endpoint.node_hints(), ["n".into()]);
    }

    #[test]
    fn conditions_that_are_absent_mean_ready_and_serving() {
        let (slice, _) = converted(json!({}));
        let endpoint = &slice.unwrap().endpoints[0];
        assert_eq!(
            (endpoint.ready, endpoint.serving, endpoint.terminating),
            (true, true, false)
        );
    }

    #[rstest]
    #[case::no_address(json!({"endpoints": [{"addresses": []}]}), "endpoints[0].addresses")]
    #[case::bad_address(json!({"endpoints": [{"addresses": ["10.1"]}]}), "endpoints[0].addresses[0]")]
    #[case::wrong_family(json!({"endpoints": [{"addresses": ["fd00::1"]}]}), "endpoints[0].addresses[0]")]
    #[case::hostname(json!({"endpoints": [{"addresses": ["10.1.0.1"], "hostname": "a.b"}]}), "endpoints[0].hostname")]
    #[case::port(json!({"ports": [{"port": 70_000}]}), "ports[0].port")]
    #[case::protocol(json!({"ports": [{"port": 1, "protocol": "ICMP"}]}), "ports[0].protocol")]
    #[case::port_name(json!({"ports": [{"port": 1, "name": "A"}]}), "ports[0].name")]
    #[case::address_type(json!({"addressType": "IP"}), "addressType")]
    fn a_field_that_cannot_be_used_is_named(#[case] change: Value, #[case] field: &str) {
        let (_, problems) = converted(change);
        let fields: Vec<_> = problems.iter().map(|p| &*p.field).collect();
        assert_eq!(fields, [field]);
    }

    #[test]
    fn the_usable_endpoints_of_a_slice_are_used() {
        let (slice, problems) = converted(json!({"endpoints": [
            {"addresses": ["010.001.000.001"]}, {"addresses": ["x"]}, {"addresses": ["y", "10.1.0.3"]},
        ]}));
        let slice = slice.unwrap();
        let addresses: Vec<_> = slice
            .endpoints
            .iter()
            .map(|e| e.addresses[0].to_string())
            .collect();
        assert_eq!(addresses, ["10.1.0.1", "10.1.0.3"]);
        assert_eq!(problems.len(), 2);
    }

    #[test]
    fn a_slice_of_names_is_left_out_without_a_word() {
        assert_eq!(converted(json!({"addressType": "FQDN"})), (None, vec![]));
    }

    #[test]
    fn a_port_without_number_is_left_out_without_a_word() {
        let (slice, problems) = converted(json!({"ports": [{"name": "all"}]}));
        assert_eq!((slice.unwrap().ports, problems), (vec![], vec![]));
    }
}
