//! Arbitrary manifests, objects of the API and lines of the feed.
//!
//! Nothing panics, and what is taken over of an object can be used.

use k8s_openapi::api::{
    core::v1::{Endpoints, Namespace, Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use serde_json::Value;
use signpost::{
    feed::wire::Line,
    model::{self, Event, Family, Kind, Object, ServiceKind},
    registry::Registry,
    source::{
        convert::{self, Addresses, is_dns_label},
        files,
    },
};

/// Reads one input: its first byte says as what.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    match kind % 3 {
        0 => drop(files::parse(&text)),
        1 => object(&text),
        _ => line(&text),
    }
}

fn object(text: &str) {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return;
    };
    let mut registry = Registry::default();
    let mut take_in = |object: Object, problems| {
        is_usable(&object);
        registry.apply(Event::Apply(object, problems));
    };
    if let Ok(object) = serde_json::from_value::<Service>(value.clone()) {
        for addresses in [Addresses::Given, Addresses::GivenLater] {
            let (service, problems) = convert::service(&object, addresses);
            service
                .into_iter()
                .for_each(|s| take_in(Object::from(s), problems.clone()));
        }
    }
    if let Ok(object) = serde_json::from_value::<EndpointSlice>(value.clone()) {
        let (slice, problems) = convert::slice(&object);
        slice
            .into_iter()
            .for_each(|s| take_in(Object::from(s), problems.clone()));
    }
    if let Ok(object) = serde_json::from_value::<Endpoints>(value.clone()) {
        let (slices, problems) = convert::endpoints(&object);
        slices
            .into_iter()
            .for_each(|s| take_in(Object::from(s), problems.clone()));
    }
    if let Ok(object) = serde_json::from_value::<Node>(value.clone()) {
        let (node, problems) = convert::node(&object);
        node.into_iter()
            .for_each(|n| take_in(Object::Node(n), problems.clone()));
    }
    if let Ok(object) = serde_json::from_value::<Namespace>(value.clone()) {
        let (namespace, problems) = convert::namespace(&object);
        namespace
            .into_iter()
            .for_each(|n| take_in(Object::Namespace(n), problems.clone()));
    }
    if let Ok(object) = serde_json::from_value::<ServiceCIDR>(value) {
        let (cidr, problems) = convert::service_cidr(&object);
        cidr.into_iter()
            .for_each(|c| take_in(Object::ServiceCidr(c), problems.clone()));
    }
    let _ = registry.problems();
    for kind in Kind::ALL {
        registry.apply(Event::Begin(kind));
        registry.apply(Event::End(kind));
        assert_eq!(registry.count(kind), 0, "an empty list leaves nothing");
    }
}

fn is_usable(object: &Object) {
    match object {
        Object::Service(service) => {
            assert!(is_dns_label(&service.name.name) && is_dns_label(&service.name.namespace));
            let mut numbers = Vec::new();
            for port in &service.ports {
                assert!(port.name.is_empty() || is_dns_label(&port.name));
                assert_ne!(port.port, 0);
                assert!(
                    !numbers.contains(&(port.port, port.protocol)),
                    "a port is there twice"
                );
                numbers.push((port.port, port.protocol));
            }
            if let ServiceKind::ClusterIp(addresses) = &service.kind {
                assert!(addresses.len() <= 2);
            }
        }
        Object::EndpointSlice(slice) => {
            let model::EndpointSlice {
                ports,
                endpoints,
                family,
                ..
            } = &**slice;
            assert!(ports.iter().all(|port| port.port != 0));
            let mut addresses = endpoints.iter().flat_map(|e| &*e.addresses);
            assert!(addresses.all(|address| Family::of(*address) == *family));
        }
        Object::Namespace(_) | Object::Node(_) | Object::ServiceCidr(_) | Object::Pod(_) => {}
    }
}

/// A line that can be read is one that can be sent.
fn line(text: &str) {
    let Ok(line) = serde_json::from_str::<Line>(text) else {
        return;
    };
    let sent = line.encode();
    let got: Line = serde_json::from_slice(&sent).expect("it was just written");
    assert_eq!(got, line);
    let mut registry = Registry::default();
    if let Line::Event(event) = line {
        registry.apply(event);
        let _ = (registry.take_changes(), registry.problems());
    }
}
