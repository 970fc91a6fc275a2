//! Objects as an API server has them, and what a source makes of them.

use std::net::IpAddr;

use serde_json::{Value, json};
use signpost::{
    model::{Event, Kind, Object, ObjectName},
    source::convert::{self, Addresses},
};

use super::objects::{Endpoint, FAMILIES, HERE, NodeObject, Port, Service, Slice, Type, WayKind};
use crate::packets::Family;

pub(super) fn service_name(number: usize) -> String {
    format!("service-{number}")
}

pub(super) fn slice_name((service, number): (usize, usize)) -> String {
    format!("{}-{number}", service_name(service))
}

pub(super) fn object_name(name: &str) -> ObjectName {
    ObjectName::new("prod", name)
}

pub(super) fn service_events(number: usize, service: &Service) -> Vec<Event> {
    let (kind, cluster_ips) = match service.kind {
        Type::ExternalName => ("ExternalName", vec![]),
        Type::Headless => ("ClusterIP", vec!["None".to_owned()]),
        kind => {
            let ips = service.families.iter();
            let kind = match kind {
                Type::NodePort => "NodePort",
                Type::LoadBalancer => "LoadBalancer",
                _ => "ClusterIP",
            };
            (
                kind,
                ips.map(|f| f.service(20 + service.cluster_ip).to_string())
                    .collect(),
            )
        }
    };
    let policy = |local: bool| if local { "Local" } else { "Cluster" };
    let port = |port: &Port| {
        json!({
            "name": port.name, "protocol": port.protocol.to_string(), "port": port.number, "nodePort": port.node_port,
        })
    };
    let mut ports: Vec<Value> = service.ports.iter().map(port).collect();
    let addresses = |kinds: &[WayKind]| -> Vec<(IpAddr, WayKind)> {
        let ways = service.ways.iter().filter(|w| kinds.contains(&w.kind));
        ways.flat_map(|w| FAMILIES.map(|f| (w.address(f), w.kind)))
            .collect()
    };
    let mut external: Vec<String> = addresses(&[WayKind::External])
        .iter()
        .map(|(a, _)| a.to_string())
        .collect();
    let ingress = addresses(&[WayKind::Vip, WayKind::Unset, WayKind::Proxy]);
    let mut ingress: Vec<Value> = ingress
        .iter()
        .map(|(address, kind)| match kind {
            WayKind::Vip => json!({"ip": address, "ipMode": "VIP"}),
            WayKind::Proxy => json!({"ip": address, "ipMode": "Proxy"}),
            _ => json!({"ip": address}),
        })
        .collect();
    let mut ranges = service.ranges.clone();
    if service.malformed {
        ports.push(json!({"name": "Odd_One", "port": 81}));
        ports.push(json!({"name": "none", "port": 0}));
        ports.push(json!({"name": "icmp", "port": 82, "protocol": "ICMP"}));
        ports.push(json!({"name": "big", "port": 70_000}));
        external.extend(["300.1.1.1", "", "127.0.0.1"].map(str::to_owned));
        ingress.extend([
            json!({"ip": "nowhere"}),
            json!({"hostname": "lb.example.org"}),
        ]);
        ranges.push("10.0.0.0/33");
    }
    let labels = if service.other_proxy {
        json!({"service.kubernetes.io/service-proxy-name": "other"})
    } else {
        json!({})
    };
    let object = json!({
        "metadata": {"namespace": "prod", "name": service_name(number), "labels": labels},
        "spec": {
            "type": kind,
            "clusterIP": cluster_ips.first(),
            "clusterIPs": cluster_ips,
            "externalName": (service.kind == Type::ExternalName).then_some("example.org"),
            "ports": ports,
            "internalTrafficPolicy": policy(service.internal_local),
            "externalTrafficPolicy": policy(service.external_local),
            "sessionAffinity": if service.affinity.is_some() { "ClientIP" } else { "None" },
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": service.affinity}},
            "externalIPs": external,
            "loadBalancerSourceRanges": ranges,
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    let object = serde_json::from_value(object).expect("a Service");
    let (service, problems) = convert::service(&object, Addresses::Given);
    let name = object_name(&service_name(number));
    convert::events(Kind::Service, name, (service.map(Object::from), problems))
}

pub(super) fn slice_events(key: (usize, usize), slice: &Slice) -> Vec<Event> {
    let endpoint = |endpoint: &Endpoint| {
        let family = slice.family.unwrap_or(Family::V4);
        let mut addresses = vec![endpoint.address(family)];
        if endpoint.second {
            addresses.push(family.far_pod(99));
        }
        let hints = |names: &[&str]| -> Vec<Value> {
            names.iter().map(|name| json!({"name": name})).collect()
        };
        json!({
            "addresses": addresses,
            "nodeName": if endpoint.here { HERE } else { "there" },
            "conditions": {
                "ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating,
            },
            "hints": {"forZones": hints(&endpoint.zones), "forNodes": hints(&endpoint.nodes)},
        })
    };
    let port = |port: &Port| json!({"name": port.name, "protocol": port.protocol.to_string(), "port": port.number});
    let mut endpoints: Vec<Value> = slice.endpoints.iter().map(endpoint).collect();
    let mut ports: Vec<Value> = slice.ports.iter().map(port).collect();
    if slice.malformed {
        endpoints.push(json!({"addresses": []}));
        endpoints.push(json!({"addresses": ["10.1.0.300"]}));
        endpoints.push(json!({"addresses": ["127.0.0.1"]}));
        ports.push(json!({"name": "http", "port": null}));
        ports.push(json!({"name": "http", "port": 0}));
        ports.push(json!({"name": "dns", "port": 53, "protocol": "ICMP"}));
    }
    let mut labels = json!({});
    if let Some(service) = slice.service {
        labels["kubernetes.io/service-name"] = json!(service_name(service));
    }
    if slice.headless {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    let object = json!({
        "metadata": {"namespace": "prod", "name": slice_name(key), "labels": labels},
        "addressType": match slice.family {
            Some(Family::V4) => "IPv4",
            Some(Family::V6) => "IPv6",
            None => "FQDN",
        },
        "ports": ports,
        "endpoints": endpoints,
    });
    let object = serde_json::from_value(object).expect("an EndpointSlice");
    let (converted, problems) = convert::slice(&object);
    let object = (converted.map(Object::from), problems);
    convert::events(Kind::EndpointSlice, object_name(&slice_name(key)), object)
}

pub(super) fn node_events(node: &NodeObject) -> Vec<Event> {
    let addresses: Vec<Value> = FAMILIES
        .map(|f| json!({"type": "InternalIP", "address": f.node(node.primary)}))
        .to_vec();
    let labels = match node.zone {
        Some(zone) => json!({"topology.kubernetes.io/zone": zone}),
        None => json!({}),
    };
    let object = json!({
        "metadata": {"name": HERE, "labels": labels},
        "status": {"addresses": addresses},
    });
    let (node, problems) = convert::node(&serde_json::from_value(object).expect("a Node"));
    let name = ObjectName::new("", HERE);
    convert::events(Kind::Node, name, (node.map(Object::Node), problems))
}

pub(super) fn cidr_events() -> Vec<Event> {
    let object = json!({
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/16", "fd96::/64"]},
    });
    let object = serde_json::from_value(object).expect("a ServiceCIDR");
    let (cidr, problems) = convert::service_cidr(&object);
    let name = ObjectName::new("", "kubernetes");
    convert::events(
        Kind::ServiceCidr,
        name,
        (cidr.map(Object::ServiceCidr), problems),
    )
}

/// Objects without a usable name or type.
pub(super) fn rubbish(number: usize) -> Vec<Event> {
    let name = format!("Rubbish_{number}");
    let service = json!({
        "metadata": {"namespace": "prod", "name": name},
        "spec": {"clusterIP": Family::V4.service(20), "ports": [{"port": 80}]},
    });
    let slice = json!({
        "metadata": {
            "namespace": "prod", "name": name, "labels": {"kubernetes.io/service-name": service_name(number)},
        },
        "addressType": "IP",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [Family::V4.far_pod(98)]}],
    });
    let (service, said) = convert::service(
        &serde_json::from_value(service).expect("a Service"),
        Addresses::Given,
    );
    let service = (service.map(Object::from), said);
    let (slice, said) = convert::slice(&serde_json::from_value(slice).expect("an EndpointSlice"));
    let slice = (slice.map(Object::from), said);
    let name = object_name(&name);
    [
        convert::events(Kind::Service, name.clone(), service),
        convert::events(Kind::EndpointSlice, name, slice),
    ]
    .concat()
}
