//! Pods, as far as their addresses are concerned.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use super::{Converted, Report, labels, name};
use crate::model::Pod;

/// Converts a Pod. One that is over or that goes has no address any more, and nothing is wrong with it (CoreDNS leaves it out
/// as well).
pub fn pod(object: &core::Pod) -> Converted<Pod> {
    let name = name(&object.metadata);
    let mut report = Report::new("Pod", &name);
    let status = object.status.as_ref();
    if is_over(status) || object.metadata.deletion_timestamp.is_some() {
        return (None, Vec::new());
    }
    let addresses = pod_addresses(&mut report, status);
    let pod = (!addresses.is_empty()).then(|| Pod {
        name,
        addresses: addresses.into(),
        labels: labels(&object.metadata),
    });
    (pod, report.problems)
}

/// Whether a Pod's processes have ended: its address may be another Pod's by now.
pub fn is_over(status: Option<&core::PodStatus>) -> bool {
    let phase = status.and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// `status.podIPs`, or `status.podIP`.
pub(in crate::source) fn pod_addresses(
    report: &mut Report,
    status: Option<&core::PodStatus>,
) -> Vec<IpAddr> {
    let Some(status) = status else {
        return Vec::new();
    };
    let listed = status.pod_ips.as_deref().unwrap_or_default();
    if listed.is_empty() {
        let single = status.pod_ip.as_deref().filter(|ip| !ip.is_empty());
        return single
            .and_then(|ip| report.address(|| "status.podIP".to_owned(), ip, None))
            .into_iter()
            .collect();
    }
    let mut addresses = Vec::with_capacity(listed.len());
    for (index, entry) in listed.iter().enumerate() {
        let field = || format!("status.podIPs[{index}].ip");
        addresses.extend(report.address(field, &entry.ip, None));
    }
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_has_its_addresses_until_it_goes() {
        let convert = |more: serde_json::Value, phase: &str| {
            let mut metadata = json!({"namespace": "dev", "name": "a"});
            metadata
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            let ips = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
            let status = json!({"phase": phase, "podIP": "10.0.0.1", "podIPs": ips});
            let object = json!({"metadata": metadata, "status": status});
            pod(&serde_json::from_value(object).unwrap())
        };
        let (found, problems) = convert(json!({}), "Running");
        let addresses: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(found.unwrap().addresses.to_vec(), addresses);
        assert!(problems.is_empty());
        assert_eq!(convert(json!({}), "Succeeded"), (None, Vec::new()));
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(convert(going, "Running"), (None, Vec::new()));
    }
}
