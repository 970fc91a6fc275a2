//! What is known of the cluster. Synchronous: no I/O, no clock.
//!
//! Every operation takes time for what it returns or changes, not for what there is: an agent of a large cluster
//! applies thousands of changes a minute.

mod claims;
mod contest;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

pub use self::claims::Claim;
use self::claims::Claims;
use crate::model::{
    EndpointSlice, Event, Family, Kind, Labels, Node, Object, ObjectName, Pod, Problem, Service,
    ServiceCidr, ServiceKind,
};

/// All objects, with the indexes that plan and zone ask for.
#[derive(Debug, Default)]
pub struct Registry {
    services: BTreeMap<ObjectName, Arc<Service>>,
    slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// Names of the slices of each Service in order, whether the Service is there or not.
    slices_of: BTreeMap<ObjectName, Vec<Arc<str>>>,
    namespaces: BTreeMap<Arc<str>, Labels>,
    node: Option<Node>,
    service_cidrs: BTreeMap<ObjectName, ServiceCidr>,
    pods: BTreeMap<ObjectName, Arc<Pod>>,
    /// The Pods of a namespace that have an address: more than one while an old one goes.
    pods_at: HashMap<PodAddress, Vec<Arc<Pod>>>,
    claims: Claims,
    /// External addresses and ports that are in vain because another Service has them at its ClusterIP, by claimant.
    shadowed: BTreeMap<Claim, BTreeSet<ObjectName>>,
    /// What is wrong with each object, by kind and name.
    problems: BTreeMap<(String, ObjectName), Vec<Problem>>,
    /// Lists that have begun: what is there and was not named since.
    unnamed: BTreeMap<Kind, Unnamed>,
    complete: BTreeSet<Kind>,
    changes: Changes,
}

/// An address of a Pod, in the namespace of the Pod.
pub type PodAddress = (Arc<str>, IpAddr);

#[derive(Debug, Default)]
struct Unnamed {
    objects: BTreeSet<ObjectName>,
    problems: BTreeSet<ObjectName>,
}

/// What changed since it was last asked: plan and zone recompute these and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that changed, or whose EndpointSlices did, or that came or went, or that won or lost an address or port.
    /// A Service is named here for its EndpointSlices even when it does not exist itself.
    pub services: BTreeSet<ObjectName>,
    /// Namespaces that came or went, or whose labels changed.
    pub namespaces: BTreeSet<Arc<str>>,
    /// This node changed (labels, addresses): every Service has to be planned again.
    pub node: bool,
    /// The networks that ClusterIPs are given out of.
    pub service_cidrs: bool,
    /// Addresses that Pods have got or lost; of no account for anything but their names.
    pub pods: BTreeSet<PodAddress>,
    /// When the changes of EndpointSlices were triggered, in milliseconds since 1970, as far as it is known.
    pub triggered: Vec<Trigger>,
}

/// When a change of an EndpointSlice was triggered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The slice's family.
    pub family: Family,
    /// In milliseconds since 1970.
    pub at: i64,
    /// The Service has no ClusterIP: its names change with its endpoints.
    pub headless: bool,
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.namespaces.is_empty() && !self.node && !self.service_cidrs
    }
}

impl Registry {
    /// Takes in what a source says. An event that changes nothing marks nothing as changed.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Begin(kind) => self.begin(kind),
            Event::Apply(object, problems) => {
                let (kind, name) = (object.kind(), object.name().clone());
                if let Some(unnamed) = self.unnamed.get_mut(&kind) {
                    unnamed.objects.remove(&name);
                }
                self.set_problems(kind.to_string(), name, problems);
                self.insert(object);
            }
            Event::Delete(kind, name) => {
                self.set_problems(kind.to_string(), name.clone(), Vec::new());
                self.remove(kind, &name);
            }
            Event::Problems {
                kind,
                object,
                problems,
            } => self.set_problems(kind, object, problems),
            Event::End(kind) => self.end(kind),
        }
    }

    /// Whether every one of these kinds was listed in full at least once.
    pub fn is_complete(&self, kinds: &[Kind]) -> bool {
        kinds.iter().all(|kind| self.complete.contains(kind))
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// All that is wrong at the moment: what sources said of each object, and what shows only between objects (a
    /// address that two Services claim).
    pub fn problems(&self) -> BTreeSet<Problem> {
        self.problems
            .values()
            .flatten()
            .cloned()
            .chain(self.claim_problems())
            .collect()
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::Namespace => self.namespaces.len(),
            Kind::Node => self.node.iter().count(),
            Kind::ServiceCidr => self.service_cidrs.len(),
            Kind::Pod => self.pods.len(),
        }
    }

    /// Every Service, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(|service| &**service)
    }

    /// One Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name).map(|service| &**service)
    }

    /// The EndpointSlices of a Service, by their names. The Service itself need not exist.
    pub fn slices<'a>(
        &'a self,
        service: &'a ObjectName,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        self.slices_of
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|name| {
                self.slices
                    .get(&ObjectName::new(service.namespace.clone(), name.clone()))
            })
    }

    /// Whether the namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains_key(name)
    }

    /// The labels of a namespace that exists.
    pub fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// Every namespace.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.keys()
    }

    /// This node, once it is known.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The networks that ClusterIPs are given out of, as far as the source tells.
    pub fn service_ranges(&self) -> impl Iterator<Item = IpNet> {
        self.service_cidrs
            .values()
            .flat_map(|c| &c.networks)
            .copied()
    }

    /// The Pods of the namespace that have the address.
    pub fn pods_at(&self, at: &PodAddress) -> impl Iterator<Item = &Pod> {
        self.pods_at.get(at).into_iter().flatten().map(|pod| &**pod)
    }

    /// Every address of a Pod.
    pub fn pods(&self) -> impl Iterator<Item = &PodAddress> {
        self.pods_at.keys()
    }

    fn begin(&mut self, kind: Kind) {
        let objects = match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => self.slices.keys().cloned().collect(),
            Kind::Namespace => self
                .namespaces
                .keys()
                .map(|name| ObjectName::new("", name.clone()))
                .collect(),
            Kind::Node => self.node.iter().map(|node| node.name.clone()).collect(),
            Kind::ServiceCidr => self.service_cidrs.keys().cloned().collect(),
            Kind::Pod => self.pods.keys().cloned().collect(),
        };
        let kind_name = kind.to_string();
        let problems = self
            .problems
            .keys()
            .filter(|(kind, _)| *kind == kind_name)
            .map(|(_, name)| name.clone())
            .collect();
        self.unnamed.insert(kind, Unnamed { objects, problems });
    }

    fn end(&mut self, kind: Kind) {
        if let Some(Unnamed { objects, problems }) = self.unnamed.remove(&kind) {
            for name in objects {
                self.remove(kind, &name);
            }
            for name in problems {
                self.problems.remove(&(kind.to_string(), name));
            }
        }
        if kind == Kind::Service {
            self.claims.settle();
        }
        self.complete.insert(kind);
    }

    fn set_problems(&mut self, kind: String, name: ObjectName, problems: Vec<Problem>) {
        for (listed, unnamed) in &mut self.unnamed {
            if listed.to_string() == kind {
                unnamed.problems.remove(&name);
            }
        }
        if problems.is_empty() {
            self.problems.remove(&(kind, name));
        } else {
            self.problems.insert((kind, name), problems);
        }
    }

    fn insert(&mut self, object: Object) {
        match object {
            Object::Service(service) => self.insert_service(service),
            Object::EndpointSlice(slice) => self.insert_slice(slice),
            Object::Namespace(namespace) => {
                let name = namespace.name.name;
                if self.namespaces.get(&name) != Some(&namespace.labels) {
                    self.namespaces.insert(name.clone(), namespace.labels);
                    self.changes.namespaces.insert(name);
                }
            }
            Object::Node(node) => {
                if self.node.as_ref() != Some(&node) {
                    self.node = Some(node);
                    self.changes.node = true;
                }
            }
            Object::ServiceCidr(cidr) => {
                let before = self.service_cidrs.insert(cidr.name.clone(), cidr.clone());
                self.changes.service_cidrs |= before != Some(cidr);
            }
            Object::Pod(pod) => self.insert_pod(pod),
        }
    }

    fn remove(&mut self, kind: Kind, name: &ObjectName) {
        match kind {
            Kind::Service => {
                if let Some(service) = self.services.remove(name) {
                    self.unclaim(&service);
                    self.review([&*service]);
                    self.changes.services.insert(service.name.clone());
                }
            }
            Kind::EndpointSlice => {
                if let Some(slice) = self.slices.remove(name) {
                    self.forget_slice_of(&slice);
                }
            }
            Kind::Namespace => {
                if self.namespaces.remove(&name.name).is_some() {
                    self.changes.namespaces.insert(name.name.clone());
                }
            }
            Kind::Node => {
                if self.node.take_if(|node| node.name == *name).is_some() {
                    self.changes.node = true;
                }
            }
            Kind::ServiceCidr => {
                self.changes.service_cidrs |= self.service_cidrs.remove(name).is_some();
            }
            Kind::Pod => {
                if let Some(pod) = self.pods.remove(name) {
                    self.forget_pod(&pod);
                }
            }
        }
    }

    fn insert_service(&mut self, service: Arc<Service>) {
        let old = self.services.get(&service.name);
        if old == Some(&service) {
            return;
        }
        let old = old.cloned();
        self.claim(old.as_deref(), &service);
        self.services.insert(service.name.clone(), service.clone());
        self.review(old.as_deref().into_iter().chain([&*service]));
        self.changes.services.insert(service.name.clone());
    }

    fn insert_slice(&mut self, slice: Arc<EndpointSlice>) {
        if self.slices.get(&slice.name) == Some(&slice) {
            return;
        }
        let headless = || {
            let service = self.services.get(&service_of(&slice)?)?;
            Some(service.kind == ServiceKind::Headless)
        };
        let triggered = slice.triggered.map(|at| Trigger {
            family: slice.family,
            at,
            headless: headless().unwrap_or(false),
        });
        self.changes.triggered.extend(triggered);
        if let Some(service) = service_of(&slice) {
            let names = self
                .slices_of
                .entry(service.clone())
                .or_insert_with(|| Vec::with_capacity(1));
            if let Err(place) = names.binary_search(&slice.name.name) {
                names.insert(place, slice.name.name.clone());
            }
            self.changes.services.insert(service);
        }
        let service = slice.service.clone();
        if let Some(old) = self.slices.insert(slice.name.clone(), slice)
            && old.service != service
        {
            self.forget_slice_of(&old);
        }
    }

    fn insert_pod(&mut self, pod: Arc<Pod>) {
        if self.pods.get(&pod.name) == Some(&pod) {
            return;
        }
        for address in pod.addresses.iter() {
            let at = (pod.name.namespace.clone(), *address);
            self.pods_at
                .entry(at.clone())
                .or_default()
                .push(pod.clone());
            self.changes.pods.insert(at);
        }
        if let Some(old) = self.pods.insert(pod.name.clone(), pod) {
            self.forget_pod(&old);
        }
    }

    fn forget_pod(&mut self, pod: &Pod) {
        for address in pod.addresses.iter() {
            let at = (pod.name.namespace.clone(), *address);
            if let Some(pods) = self.pods_at.get_mut(&at) {
                pods.retain(|other| !std::ptr::eq(&**other, pod));
                if pods.is_empty() {
                    self.pods_at.remove(&at);
                }
            }
            self.changes.pods.insert(at);
        }
    }

    fn forget_slice_of(&mut self, slice: &EndpointSlice) {
        let Some(service) = service_of(slice) else {
            return;
        };
        if let Some(names) = self.slices_of.get_mut(&service) {
            names.retain(|name| *name != slice.name.name);
            if names.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.changes.services.insert(service);
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectName> {
    let service = slice.service.clone()?;
    Some(ObjectName::new(slice.name.namespace.clone(), service))
}
