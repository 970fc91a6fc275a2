//! From Kubernetes objects to the model, with a [`Problem`] for each field that cannot be used.
//!
//! An API server has checked most of this, but not every one, not always, and a folder of manifests nobody. What
//! cannot be used is left out and named; the rest of the object is used.

mod endpoints;
mod field;
mod pod;
mod service;
mod shared;
mod slice;
mod ways_in;

use ipnet::IpNet;
use k8s_openapi::{
    api::{core::v1 as core, networking::v1 as networking},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

pub(super) use self::pod::pod_addresses;
pub use self::{
    endpoints::{endpoints, is_mirrored},
    field::{address, is_dns_label, network, protocol},
    pod::{is_over, pod},
    service::{Addresses, service},
    slice::slice,
};
use crate::model::{
    Event, Family, Kind, Labels, Namespace, Node, Object, ObjectName, Problem, ServiceCidr,
};

/// What became of an object: none of it where its name or type cannot be used at all.
pub type Converted<T> = (Option<T>, Vec<Problem>);

/// A Service with this label is served by somebody else (KEP-2447).
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The taint that the cluster autoscaler puts on a node before it deletes it.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// An EndpointSlice with this label is of a Service without a virtual address.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// What a source says of an object that was converted.
pub fn events(kind: Kind, name: ObjectName, converted: Converted<Object>) -> Vec<Event> {
    match converted {
        (Some(object), problems) => vec![Event::Apply(object, problems)],
        (None, problems) => {
            let gone = Event::Delete(kind, name.clone());
            if problems.is_empty() {
                return vec![gone];
            }
            let said = Event::Problems {
                kind: kind.to_string(),
                object: name,
                problems,
            };
            vec![gone, said]
        }
    }
}

/// Namespace and name of an object, whatever they are.
pub fn name(meta: &ObjectMeta) -> ObjectName {
    ObjectName::new(
        shared::shared(meta.namespace.as_deref().unwrap_or_default()),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// Converts a Namespace.
pub fn namespace(namespace: &core::Namespace) -> Converted<Namespace> {
    let name = ObjectName::new("", name(&namespace.metadata).name);
    let mut report = Report::new("Namespace", &name);
    let usable = report.dns_label("metadata.name", &name.name);
    let labels = labels(&namespace.metadata);
    (
        usable.then_some(Namespace { name, labels }),
        report.problems,
    )
}

/// Labels of an object.
pub(super) fn labels(meta: &ObjectMeta) -> Labels {
    Labels::new(meta.labels.as_ref())
}

/// Converts a Node.
pub fn node(node: &core::Node) -> Converted<Node> {
    let name = ObjectName::new("", name(&node.metadata).name);
    let mut report = Report::new("Node", &name);
    let (mut addresses, mut external) = (Vec::new(), Vec::new());
    let listed = node.status.iter().flat_map(|s| &s.addresses).flatten();
    for (index, entry) in listed.enumerate() {
        let addresses = match entry.type_.as_str() {
            "InternalIP" => &mut addresses,
            "ExternalIP" => &mut external,
            _ => continue,
        };
        let field = || format!("status.addresses[{index}].address");
        addresses.extend(report.address(field, &entry.address, None));
    }
    addresses.append(&mut external);
    let mut taints = node.spec.iter().flat_map(|s| &s.taints).flatten();
    let leaving =
        node.metadata.deletion_timestamp.is_some() || taints.any(|t| t.key == TO_BE_DELETED);
    let node = Node {
        name,
        labels: node.metadata.labels.clone().unwrap_or_default(),
        addresses,
        leaving,
    };
    (Some(node), report.problems)
}

/// Converts a ServiceCIDR.
pub fn service_cidr(cidr: &networking::ServiceCIDR) -> Converted<ServiceCidr> {
    let name = ObjectName::new("", name(&cidr.metadata).name);
    let mut report = Report::new("ServiceCidr", &name);
    let mut networks = Vec::new();
    let listed = cidr.spec.iter().flat_map(|s| &s.cidrs).flatten();
    for (index, text) in listed.enumerate() {
        networks.extend(report.network(|| format!("spec.cidrs[{index}]"), text));
    }
    (Some(ServiceCidr { name, networks }), report.problems)
}

/// Whether a Service is ours to serve by its labels. Other than at EndpointSlices, kube-proxy heeds no label of headless
/// ones here (1.36).
pub(super) fn service_is_proxied(meta: &ObjectMeta) -> bool {
    !has_label(meta, PROXY_NAME)
}

/// Whether the endpoints of an EndpointSlice are for virtual addresses. Other than at Services, kube-proxy heeds no name
/// of another proxy here (1.36).
pub(super) fn slice_is_proxied(meta: &ObjectMeta) -> bool {
    !has_label(meta, HEADLESS)
}

fn has_label(meta: &ObjectMeta, label: &str) -> bool {
    meta.labels.as_ref().is_some_and(|l| l.contains_key(label))
}

/// Collects what is wrong with one object.
pub(super) struct Report {
    kind: &'static str,
    object: ObjectName,
    pub(super) problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(kind: &'static str, object: &ObjectName) -> Self {
        Self {
            kind,
            object: object.clone(),
            problems: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.problems.push(Problem {
            kind: self.kind.to_owned(),
            object: self.object.clone(),
            field: field.into(),
            reason: reason.into(),
        });
    }

    /// Whether a name can be a label of a DNS name.
    pub(super) fn dns_label(&mut self, field: impl Into<String>, name: &str) -> bool {
        let usable = is_dns_label(name);
        if !usable {
            self.add(
                field,
                format!("{name:?} is no DNS label: lower-case letters, digits and inner hyphens, at most 63 of them"),
            );
        }
        usable
    }

    /// An address that packets can be sent to, of a family where one is wanted.
    pub(super) fn address(
        &mut self,
        field: impl Fn() -> String,
        text: &str,
        family: Option<Family>,
    ) -> Option<std::net::IpAddr> {
        let checked = address(text).and_then(|address| match family {
            Some(family) if Family::of(address) != family => Err(format!(
                "{text:?} is no {} address",
                match family {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                }
            )),
            _ => Ok(address),
        });
        match checked {
            Ok(address) => Some(address),
            Err(reason) => {
                self.add(field(), reason);
                None
            }
        }
    }

    /// A network. Its address may have bits beyond the prefix, which say nothing.
    pub(super) fn network(&mut self, field: impl Fn() -> String, text: &str) -> Option<IpNet> {
        match field::network(text) {
            Ok(network) => Some(network),
            Err(reason) => {
                self.add(field(), reason);
                None
            }
        }
    }

    /// A port number; 0 is none.
    pub(super) fn port(&mut self, field: impl Fn() -> String, port: i32) -> Option<u16> {
        let usable = u16::try_from(port).ok().filter(|&port| port != 0);
        if usable.is_none() {
            self.add(field(), format!("{port} is not between 1 and 65535"));
        }
        usable
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_node_has_the_addresses_that_packets_come_to() {
        let object: core::Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "one", "labels": {"topology.kubernetes.io/zone": "z"}},
            "status": {"addresses": [
                {"type": "Hostname", "address": "one"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "ExternalIP", "address": "2001:db8::1"},
                {"type": "InternalIP", "address": "192.0.2.256"},
            ]},
        }))
        .unwrap();
        let (node, problems) = node(&object);
        let node = node.unwrap();
        let expected: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(node.addresses, expected);
        assert_eq!(node.labels["topology.kubernetes.io/zone"], "z");
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].field, "status.addresses[3].address");
    }

    #[rstest::rstest]
    #[case::plain(serde_json::json!({}), false)]
    #[case::deleted(serde_json::json!({"metadata": {"name": "one", "deletionTimestamp": "2026-01-02T03:04:05Z"}}), true)]
    #[case::tainted(
        serde_json::json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}),
        true
    )]
    #[case::tainted_otherwise(serde_json::json!({"spec": {"taints": [{"key": "other", "effect": "NoSchedule"}]}}), false)]
    fn a_node_that_goes_away_is_leaving(#[case] object: serde_json::Value, #[case] leaving: bool) {
        let mut whole = serde_json::json!({"metadata": {"name": "one"}});
        for (key, value) in object.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let (node, _) = node(&serde_json::from_value(whole).unwrap());
        assert_eq!(node.unwrap().leaving, leaving);
    }

    #[test]
    fn a_node_s_internal_addresses_come_first() {
        let object: core::Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "one"},
            "status": {"addresses": [
                {"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "InternalIP", "address": "192.0.2.1"},
            ]},
        }))
        .unwrap();
        let node = node(&object).0.unwrap();
        let primary: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(node.primary(Family::V4), Some(primary));
        assert_eq!(node.primary(Family::V6), None);
    }

    #[test]
    fn a_service_cidr_has_networks() {
        let object: networking::ServiceCIDR = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.0/12", "fd00:96::/108", "10.96"]},
        }))
        .unwrap();
        let (cidr, problems) = service_cidr(&object);
        let texts: Vec<_> = cidr
            .unwrap()
            .networks
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(texts, ["10.96.0.0/12", "fd00:96::/108"]);
        assert_eq!(problems[0].field, "spec.cidrs[2]");
    }

    #[test]
    fn a_namespace_needs_a_dns_label_for_a_name() {
        let object = |name: &str| core::Namespace {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..Default::default()
            },
            ..Default::default()
        };
        assert_eq!(
            namespace(&object("dev")).0,
            Some(ObjectName::new("", "dev").into())
        );
        let (none, problems) = namespace(&object("De.v"));
        assert_eq!(none, None);
        assert_eq!(problems[0].field, "metadata.name");
    }

    #[test]
    fn an_object_that_cannot_be_used_is_gone_and_named() {
        let name = ObjectName::new("a", "x");
        let mut report = Report::new("Service", &name);
        report.add("metadata.name", "no");
        let events = events(Kind::Service, name.clone(), (None, report.problems));
        assert_eq!(events[0], Event::Delete(Kind::Service, name));
        assert!(matches!(&events[1], Event::Problems { kind, .. } if kind == "Service"));
    }
}
