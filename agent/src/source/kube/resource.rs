//! What the kinds that are watched have of their own.

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::runtime::watcher;

use crate::{
    model::{Event, Kind, Object},
    source::convert::{self, Addresses, Converted},
};

/// A kind that is watched.
pub(super) trait Watched: kube::Resource {
    /// Which one it is to us.
    const KIND: Kind;

    /// Converts an object.
    fn convert(&self) -> Converted<Object>;
}

impl Watched for Service {
    const KIND: Kind = Kind::Service;

    fn convert(&self) -> Converted<Object> {
        let (service, problems) = convert::service(self, Addresses::Given);
        (service.map(Object::from), problems)
    }
}

impl Watched for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn convert(&self) -> Converted<Object> {
        let (slice, problems) = convert::slice(self);
        (slice.map(Object::from), problems)
    }
}

impl Watched for Namespace {
    const KIND: Kind = Kind::Namespace;

    fn convert(&self) -> Converted<Object> {
        let (namespace, problems) = convert::namespace(self);
        (namespace.map(Object::Namespace), problems)
    }
}

impl Watched for Node {
    const KIND: Kind = Kind::Node;

    fn convert(&self) -> Converted<Object> {
        let (node, problems) = convert::node(self);
        (node.map(Object::Node), problems)
    }
}

impl Watched for ServiceCIDR {
    const KIND: Kind = Kind::ServiceCidr;

    fn convert(&self) -> Converted<Object> {
        let (cidr, problems) = convert::service_cidr(self);
        (cidr.map(Object::ServiceCidr), problems)
    }
}

impl Watched for Pod {
    const KIND: Kind = Kind::Pod;

    fn convert(&self) -> Converted<Object> {
        let (pod, problems) = convert::pod(self);
        (pod.map(Object::from), problems)
    }
}

/// What a watch says, as sources say it.
pub(super) fn events<K: Watched>(event: watcher::Event<K>) -> Vec<Event> {
    match event {
        watcher::Event::Init => vec![Event::Begin(K::KIND)],
        watcher::Event::InitDone => vec![Event::End(K::KIND)],
        watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
            convert::events(K::KIND, convert::name(object.meta()), object.convert())
        }
        watcher::Event::Delete(object) => {
            vec![Event::Delete(K::KIND, convert::name(object.meta()))]
        }
    }
}
