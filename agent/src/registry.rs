//! What is known of the cluster. Synchronous: no I/O, no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::model::{EndpointSlice, Event, Kind, Node, ObjectName, Problem, Service};

/// All objects, with the indexes that plan and zone ask for.
#[derive(Debug, Default)]
pub struct Registry {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    namespaces: BTreeSet<Arc<str>>,
    node: Option<Node>,
}

/// What changed since it was last asked: plan and zone recompute these and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that changed, or whose EndpointSlices did, or that came or went.
    pub services: BTreeSet<ObjectName>,
    /// Namespaces that came or went.
    pub namespaces: BTreeSet<Arc<str>>,
    /// This node changed (labels, addresses): every Service has to be planned again.
    pub node: bool,
}

impl Registry {
    /// Takes in what a source says. An event that changes nothing marks nothing as changed.
    pub fn apply(&mut self, event: Event) {
        let _ = event;
        todo!()
    }

    /// Whether every one of these kinds was listed in full at least once.
    pub fn is_complete(&self, kinds: &[Kind]) -> bool {
        let _ = kinds;
        todo!()
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        todo!()
    }

    /// All that is wrong at the moment: what sources said of each object, and what shows only between objects (a
    /// ClusterIP that two Services claim).
    pub fn problems(&self) -> BTreeSet<Problem> {
        todo!()
    }

    /// Every Service, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// One Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// The EndpointSlices of a Service, by their names.
    pub fn slices<'a>(
        &'a self,
        service: &'a ObjectName,
    ) -> impl Iterator<Item = &'a EndpointSlice> {
        self.slices.values().filter(move |s| {
            s.name.namespace == service.namespace && s.service.as_ref() == Some(&service.name)
        })
    }

    /// Whether the namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// Every namespace.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.iter()
    }

    /// This node, once it is known.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Who may use a ClusterIP: the Service that was created first of those that claim it.
    pub fn owner(&self, address: IpAddr) -> Option<&ObjectName> {
        let _ = address;
        todo!()
    }
}
