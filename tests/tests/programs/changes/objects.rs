//! The objects of a small cluster, and what happens to them.

use std::{collections::BTreeMap, net::IpAddr};

use signpost::model::{Event, Kind, Object, ObjectName, Protocol};

use super::manifests::{
    cidr_events, node_events, object_name, rubbish, service_events, service_name, slice_events,
    slice_name,
};
use crate::packets::Family;

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// Name of the node that this is about.
pub(crate) const HERE: &str = "here";
pub(super) const CLUSTER_IPS: u8 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    Headless,
    ExternalName,
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) kind: Type,
    pub(crate) families: Vec<Family>,
    /// Which of the cluster's Service addresses it has in each family.
    pub(crate) cluster_ip: u8,
    pub(crate) ports: Vec<Port>,
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
    pub(crate) affinity: Option<u32>,
    pub(crate) ways: Vec<Way>,
    pub(crate) ranges: Vec<&'static str>,
    /// It has the label `service.kubernetes.io/service-proxy-name`.
    pub(crate) other_proxy: bool,
    pub(super) malformed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
    pub(crate) node_port: Option<u16>,
}

/// An address for clients outside the cluster, in both families.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) kind: WayKind,
    pub(super) at: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayKind {
    External,
    /// Of the load balancer, with `ipMode` VIP, without one, and with `ipMode` Proxy.
    Vip,
    Unset,
    Proxy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nobody else has it.
    Own(u8),
    Shared,
    /// An address of this node.
    Node(u8),
}

#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// Which Service its label names.
    pub(crate) service: Option<usize>,
    /// `None` for one of names.
    pub(crate) family: Option<Family>,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
    /// It has the label `service.kubernetes.io/headless`.
    pub(crate) headless: bool,
    pub(super) malformed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// 0 is a node's own address.
    pub(super) number: u8,
    pub(crate) here: bool,
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
    pub(crate) zones: Vec<&'static str>,
    pub(crate) nodes: Vec<&'static str>,
    /// Its slice lists a second address of the same endpoint.
    pub(super) second: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct NodeObject {
    pub(crate) zone: Option<&'static str>,
    /// Number of the primary address.
    pub(crate) primary: u8,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Service(usize, Option<Service>),
    Slice((usize, usize), Option<Slice>),
    Node(Option<NodeObject>),
    ServiceCidr(bool),
    /// An object comes that cannot be used at all.
    Rubbish(usize),
    /// The source lists everything anew.
    Relist,
    /// The agent is replaced.
    Restart,
    /// So many seconds pass.
    Wait(u64),
}

/// The cluster, as its API server has it.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) services: BTreeMap<usize, Service>,
    pub(crate) slices: BTreeMap<(usize, usize), Slice>,
    pub(crate) node: Option<NodeObject>,
    pub(crate) service_cidr: bool,
}

impl Default for Objects {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            node: Some(NodeObject {
                zone: Some("z"),
                primary: 1,
            }),
            service_cidr: true,
        }
    }
}

impl Type {
    pub(crate) fn has_cluster_ip(self) -> bool {
        !matches!(self, Self::Headless | Self::ExternalName)
    }
}

impl Way {
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        match self.at {
            Place::Own(service) => family.outside(10 + service),
            Place::Shared => family.outside(50),
            Place::Node(number) => family.node(number),
        }
    }
}

impl Endpoint {
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        match (self.number, self.here) {
            (0, true) => family.node(1),
            (0, false) => family.node(9),
            (number, true) => family.pod(number),
            (number, false) => family.far_pod(number),
        }
    }
}

impl Objects {
    /// Makes a change as far as an API server lets it, and tells of it.
    pub(crate) fn make(&mut self, change: &Change) -> Vec<Event> {
        match change {
            Change::Service(number, Some(service)) => {
                let mut service = service.clone();
                self.allocate(*number, &mut service);
                let events = service_events(*number, &service);
                self.services.insert(*number, service);
                events
            }
            Change::Service(number, None) => {
                self.services.remove(number);
                vec![Event::Delete(
                    Kind::Service,
                    object_name(&service_name(*number)),
                )]
            }
            Change::Slice(key, Some(slice)) => {
                self.slices.insert(*key, slice.clone());
                slice_events(*key, slice)
            }
            Change::Slice(key, None) => {
                self.slices.remove(key);
                vec![Event::Delete(
                    Kind::EndpointSlice,
                    object_name(&slice_name(*key)),
                )]
            }
            Change::Node(node) => {
                self.node.clone_from(node);
                self.node.as_ref().map_or_else(
                    || vec![Event::Delete(Kind::Node, ObjectName::new("", HERE))],
                    node_events,
                )
            }
            Change::ServiceCidr(there) => {
                self.service_cidr = *there;
                if *there {
                    cidr_events()
                } else {
                    let name = ObjectName::new("", "kubernetes");
                    vec![Event::Delete(Kind::ServiceCidr, name)]
                }
            }
            Change::Rubbish(number) => rubbish(*number),
            Change::Relist | Change::Restart | Change::Wait(_) => Vec::new(),
        }
    }

    /// Everything, as a list.
    pub(crate) fn listed(&self) -> Vec<Event> {
        let namespace = Object::Namespace(ObjectName::new("", "prod").into());
        let namespaces = vec![Event::Apply(namespace, Vec::new())];
        let services = self.services.iter();
        let slices = self.slices.iter();
        let lists = [
            (Kind::Namespace, namespaces),
            (
                Kind::Service,
                services.flat_map(|(n, s)| service_events(*n, s)).collect(),
            ),
            (
                Kind::EndpointSlice,
                slices.flat_map(|(k, s)| slice_events(*k, s)).collect(),
            ),
            (Kind::Node, self.node.iter().flat_map(node_events).collect()),
            (
                Kind::ServiceCidr,
                self.service_cidr.then(cidr_events).unwrap_or_default(),
            ),
        ];
        let list = |(kind, events): (Kind, Vec<Event>)| {
            [vec![Event::Begin(kind)], events, vec![Event::End(kind)]].concat()
        };
        lists.into_iter().flat_map(list).collect()
    }

    /// What only one Service can have: an API server gives ClusterIPs and NodePorts once. That no two Services claim one
    /// port of an external address is up to people; who has it then, kube-proxy leaves to chance.
    fn allocate(&self, number: usize, service: &mut Service) {
        let others: Vec<&Service> = self
            .services
            .iter()
            .filter(|(other, _)| **other != number)
            .map(|(_, service)| service)
            .collect();
        let is_free = |ip: u8| {
            others
                .iter()
                .all(|o| !o.kind.has_cluster_ip() || o.cluster_ip != ip)
        };
        let mut candidates = (0..CLUSTER_IPS).map(|n| (service.cluster_ip + n) % CLUSTER_IPS);
        service.cluster_ip = candidates
            .find(|ip| is_free(*ip))
            .expect("fewer Services than addresses");

        let node_ports = matches!(service.kind, Type::NodePort | Type::LoadBalancer);
        for port in &mut service.ports {
            let taken = |n: u16| {
                let mut ports = others.iter().flat_map(|o| &o.ports);
                ports.any(|p| (p.node_port, p.protocol) == (Some(n), port.protocol))
            };
            port.node_port = port.node_port.filter(|n| node_ports && !taken(*n));
        }
        let ports = &service.ports;
        service.ways.retain(|way| {
            others.iter().all(|other| {
                let same_place = other.ways.iter().any(|w| w.at == way.at);
                let mut theirs = other.ports.iter();
                let same_port = theirs.any(|p| {
                    let mut ours = ports.iter();
                    ours.any(|q| (p.number, p.protocol) == (q.number, q.protocol))
                });
                !(same_place && same_port)
            })
        });
    }
}
