//! Endpoints, the older form: mirrored into EndpointSlices as the control plane does it (KEP-1713).

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::{Report, field, labels, name, shared::shared, slice_is_proxied};
use crate::model::{Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, Problem};

/// Whether the control plane mirrors an Endpoints object: not those that say so, nor locks of leader elections.
pub fn is_mirrored(endpoints: &api::Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let label = meta
        .labels
        .as_ref()
        .and_then(|l| l.get("endpointslice.kubernetes.io/skip-mirror"));
    let lock = meta
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key("control-plane.alpha.kubernetes.io/leader"));
    label.is_none_or(|value| value != "true") && !lock
}

/// Converts Endpoints to EndpointSlices, one for each subset and family, for the Service of the same name.
pub fn endpoints(endpoints: &api::Endpoints) -> (Vec<EndpointSlice>, Vec<Problem>) {
    let object = name(&endpoints.metadata);
    let mut report = Report::new("Endpoints", &object);
    let named = report.dns_label("metadata.name", &object.name)
        & report.dns_label("metadata.namespace", &object.namespace);
    if !named {
        return (Vec::new(), report.problems);
    }
    let proxied = slice_is_proxied(&endpoints.metadata);
    // As the control plane copies them.
    let labels = labels(&endpoints.metadata);
    let mut slices = Vec::new();
    let subsets = endpoints.subsets.as_deref().unwrap_or_default();
    for (index, subset) in subsets.iter().enumerate() {
        let ports = ports(
            &mut report,
            index,
            subset.ports.as_deref().unwrap_or_default(),
        );
        let ready = addresses(
            &mut report,
            index,
            "addresses",
            subset.addresses.as_deref(),
            true,
        );
        let not_ready = addresses(
            &mut report,
            index,
            "notReadyAddresses",
            subset.not_ready_addresses.as_deref(),
            false,
        );
        let all: Vec<_> = ready.into_iter().chain(not_ready).collect();
        for family in [Family::V4, Family::V6] {
            let endpoints: Vec<_> = all
                .iter()
                .filter(|e| e.addresses.iter().all(|a| Family::of(*a) == family))
                .cloned()
                .collect();
            if endpoints.is_empty() {
                continue;
            }
            let name = format!("{}-mirrored-{}", object.name, slices.len());
            slices.push(EndpointSlice {
                name: ObjectName::new(object.namespace.clone(), name),
                service: Some(object.name.clone()),
                family,
                ports: ports.clone(),
                endpoints,
                proxied,
                triggered: None,
                labels: labels.clone(),
            });
        }
    }
    (slices, report.problems)
}

fn ports(report: &mut Report, subset: usize, ports: &[api::EndpointPort]) -> Vec<EndpointPort> {
    let mut usable = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("subsets[{subset}].ports[{index}].{field}");
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
        usable.push(EndpointPort {
            name: shared(name),
            protocol,
            port: number,
        });
    }
    usable
}

fn addresses(
    report: &mut Report,
    subset: usize,
    list: &str,
    addresses: Option<&[api::EndpointAddress]>,
    ready: bool,
) -> Vec<Endpoint> {
    let mut usable = Vec::new();
    for (index, entry) in addresses.unwrap_or_default().iter().enumerate() {
        let at = |field: &str| format!("subsets[{subset}].{list}[{index}].{field}");
        let Some(address) = report.address(|| at("ip"), &entry.ip, None) else {
            continue;
        };
        let hostname = entry
            .hostname
            .as_deref()
            .filter(|name| !name.is_empty())
            .filter(|name| report.dns_label(at("hostname"), name));
        let target = entry.target_ref.as_ref();
        usable.push(Endpoint {
            addresses: address.into(),
            ready,
            // Mirroring leaves this condition out, and absent means true.
            serving: true,
            terminating: false,
            hostname: hostname.map(Arc::from),
            node: entry.node_name.as_deref().map(shared),
            hints: None,
            pod: target
                .filter(|target| target.kind.as_deref() == Some("Pod"))
                .and_then(|target| target.name.as_deref().map(Arc::from)),
        });
    }
    usable
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(subsets: Value) -> api::Endpoints {
        serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "x"},
            "subsets": subsets,
        }))
        .unwrap()
    }

    #[test]
    fn each_subset_and_family_is_a_slice() {
        let (slices, problems) = endpoints(&object(json!([
            {
                "addresses": [{"ip": "10.1.0.1", "hostname": "one"}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "10.1.0.2", "nodeName": "n"}],
                "ports": [{"name": "http", "port": 8080}],
            },
            {"addresses": [{"ip": "10.1.0.3"}], "ports": [{"name": "http", "port": 9090}]},
        ])));
        assert_eq!(problems, []);
        let shape: Vec<_> = slices
            .iter()
            .map(|s| (&*s.name.name, s.family, s.endpoints.len(), s.ports[0].port))
            .collect();
        assert_eq!(
            shape,
            [
                ("x-mirrored-0", Family::V4, 2, 8080),
                ("x-mirrored-1", Family::V6, 1, 8080),
                ("x-mirrored-2", Family::V4, 1, 9090)
            ]
        );
        assert!(slices.iter().all(|s| s.service.as_deref() == Some("x")));
        assert_eq!(slices[0].endpoints[0].hostname.as_deref(), Some("one"));
        assert!(!slices[0].endpoints[1].ready);
    }

    #[test]
    fn a_bad_address_or_port_is_named() {
        let (slices, problems) = endpoints(&object(json!([{
            "addresses": [{"ip": "10.1.0.1"}, {"ip": "127.0.0.1"}],
            "ports": [{"port": 0}],
        }])));
        assert_eq!(slices[0].endpoints.len(), 1);
        let fields: Vec<_> = problems.iter().map(|p| &*p.field).collect();
        assert_eq!(
            fields,
            ["subsets[0].ports[0].port", "subsets[0].addresses[1].ip"]
        );
    }

    #[test]
    fn what_asks_not_to_be_mirrored_is_not() {
        let mut object = object(json!([]));
        assert!(is_mirrored(&object));
        let label = "endpointslice.kubernetes.io/skip-mirror".to_owned();
        object.metadata.labels = Some([(label, "true".to_owned())].into());
        assert!(!is_mirrored(&object));
    }
}
