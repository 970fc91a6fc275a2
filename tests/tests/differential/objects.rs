//! The objects of the API server that a Service of a scenario stands for.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    addresses::Slot,
    place::Family,
    service::{Endpoint, IpMode, Kind, Service},
};

/// Namespace of all scenarios. Their Services have names of their own.
pub(crate) const NAMESPACE: &str = "differential";

/// Objects by resource and name, so that an object which is no longer wanted is found.
pub(crate) type Objects = BTreeMap<(Resource, String), Value>;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    Service,
    /// The status of a Service, which has a way of its own.
    Status,
    Slice,
}

/// The objects of a Service.
pub(crate) fn of(service: &Service, name: &str, slot: Slot) -> Objects {
    let mut objects = Objects::new();
    objects.insert(
        (Resource::Service, name.to_owned()),
        service_object(service, name, slot),
    );
    if service.kind == Kind::LoadBalancer {
        objects.insert(
            (Resource::Status, name.to_owned()),
            status(service, name, slot),
        );
    }
    for (number, endpoints) in service.slices.iter().enumerate() {
        for family in &service.families {
            let of_slice = format!("{name}-{number}-{family:?}").to_lowercase();
            let slice = slice_object(service, name, &of_slice, endpoints, *family);
            objects.insert((Resource::Slice, of_slice), slice);
        }
    }
    objects
}

fn service_object(service: &Service, name: &str, slot: Slot) -> Value {
    let mut spec = Map::new();
    let mut set = |field: &str, value: Value| spec.insert(field.to_owned(), value);
    let kind = match service.kind {
        Kind::ClusterIp | Kind::Headless => "ClusterIP",
        Kind::NodePort => "NodePort",
        Kind::LoadBalancer => "LoadBalancer",
        Kind::ExternalName => "ExternalName",
    };
    set("type", json!(kind));
    let with_node_ports = matches!(service.kind, Kind::NodePort | Kind::LoadBalancer);
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| {
            let mut object = json!({
                "name": port.name(),
                "port": port.number,
                "protocol": port.protocol,
                "targetPort": port.to,
            });
            if with_node_ports {
                object["nodePort"] = json!(slot.node_port(port.number));
            }
            object
        })
        .collect();
    set("ports", json!(ports));
    match service.kind {
        Kind::ExternalName => {
            set("externalName", json!("elsewhere.example"));
        }
        Kind::Headless => {
            set("clusterIP", json!("None"));
        }
        _ => {
            set_families(&mut set, &service.families, slot);
            if let Some(seconds) = service.affinity {
                set("sessionAffinity", json!("ClientIP"));
                let config = json!({"clientIP": {"timeoutSeconds": seconds}});
                set("sessionAffinityConfig", config);
            }
            if let Some(policy) = service.internal {
                set("internalTrafficPolicy", json!(policy));
            }
        }
    }
    if let Some(policy) = service.external {
        set("externalTrafficPolicy", json!(policy));
        if service.kind == Kind::LoadBalancer {
            set("healthCheckNodePort", json!(slot.health_check_node_port()));
        }
    }
    if service.external_ips {
        let families = service.families.iter();
        let ips: Vec<_> = families.map(|f| f.of(slot.external_ips())).collect();
        set("externalIPs", json!(ips));
    }
    if !service.ranges.is_empty() {
        set("loadBalancerSourceRanges", json!(service.ranges));
    }
    let labels: BTreeMap<_, _> = service.labels.iter().copied().collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": spec,
    })
}

fn set_families(
    set: &mut impl FnMut(&str, Value) -> Option<Value>,
    families: &[Family],
    slot: Slot,
) {
    let names: Vec<_> = families.iter().map(|f| family_name(*f)).collect();
    let ips: Vec<_> = families.iter().map(|f| f.of(slot.cluster_ips())).collect();
    let policy = match families {
        [_] => "SingleStack",
        _ => "RequireDualStack",
    };
    set("ipFamilyPolicy", json!(policy));
    set("ipFamilies", json!(names));
    set("clusterIP", json!(ips[0]));
    set("clusterIPs", json!(ips));
}

fn status(service: &Service, name: &str, slot: Slot) -> Value {
    let families = service.families.iter();
    let ingress: Vec<_> = families
        .filter_map(|family| {
            let mut ingress = json!({"ip": family.of(slot.ingress())});
            match service.ip_mode? {
                IpMode::Unset => {}
                IpMode::Vip => ingress["ipMode"] = json!("VIP"),
                IpMode::Proxy => ingress["ipMode"] = json!("Proxy"),
            }
            Some(ingress)
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

fn slice_object(
    service: &Service,
    name: &str,
    of_slice: &str,
    endpoints: &[Endpoint],
    family: Family,
) -> Value {
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| json!({"name": port.name(), "port": port.to, "protocol": port.protocol}))
        .collect();
    let endpoints: Vec<_> = endpoints.iter().map(|e| endpoint(e, family)).collect();
    let mut labels: BTreeMap<_, _> = service.labels_of_slices.iter().copied().collect();
    labels.insert("kubernetes.io/service-name", name);
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": of_slice,
            "namespace": NAMESPACE,
            "labels": labels,
        },
        "addressType": family_name(family),
        "ports": ports,
        "endpoints": endpoints,
    })
}

fn endpoint(endpoint: &Endpoint, family: Family) -> Value {
    let mut conditions = Map::new();
    for (name, value) in [
        ("ready", endpoint.ready),
        ("serving", endpoint.serving),
        ("terminating", endpoint.terminating),
    ] {
        if let Some(value) = value {
            conditions.insert(name.to_owned(), json!(value));
        }
    }
    let mut object = json!({
        "addresses": [family.of(endpoint.at.addresses())],
        "conditions": conditions,
        "nodeName": endpoint.at.node().name(),
        "zone": endpoint.at.node().zone(),
    });
    let named = |names: &[&str]| -> Value { names.iter().map(|n| json!({"name": n})).collect() };
    let mut hints = Map::new();
    if !endpoint.zones.is_empty() {
        hints.insert("forZones".to_owned(), named(&endpoint.zones));
    }
    if !endpoint.nodes.is_empty() {
        hints.insert("forNodes".to_owned(), named(&endpoint.nodes));
    }
    if !hints.is_empty() {
        object["hints"] = Value::Object(hints);
    }
    object
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
