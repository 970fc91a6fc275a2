//! From objects to what a node must do: the semantics of kube-proxy, once, for every dataplane. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use crate::{
    model::{Family, ObjectName, Protocol},
    registry::Registry,
};

/// Names a service port of one family: the unit of planning, as in kube-proxy (which runs once a family).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The Service.
    pub service: ObjectName,
    /// Name of the port, empty for an unnamed one.
    pub port: Arc<str>,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// The family.
    pub family: Family,
}

/// What must be done for a service port of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// Where clients send to.
    pub frontends: Vec<Frontend>,
    /// The cluster set (`CategorizeEndpoints`), ordered by address and port, without duplicates.
    pub cluster: Vec<Backend>,
    /// The local set, likewise.
    pub local: Vec<Backend>,
    /// Every endpoint of this port, chosen or not, ordered likewise.
    pub members: Vec<Member>,
    /// Clients inside the cluster use the local set.
    pub internal_local: bool,
    /// Clients outside the cluster use the local set.
    pub external_local: bool,
    /// Some endpoint could serve under some policy: an empty set drops instead of rejecting.
    pub any_endpoints: bool,
    /// Session affinity by client IP, in seconds.
    pub affinity_timeout: Option<u32>,
    /// This is the cluster's DNS Service: one of its frontends is a DNS address of the node.
    pub dns: bool,
}

/// A virtual address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// An endpoint that new connections may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// It is on this node.
    pub local: bool,
}

/// An endpoint, chosen into a set or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Flows that are there may stay.
    pub serving: bool,
    /// It is in one of the sets.
    pub chosen: bool,
    /// It is on this node.
    pub local: bool,
}

/// What planning has to know beside the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanConfig {
    /// This node's name.
    pub node: Arc<str>,
    /// The cluster DNS addresses.
    pub dns: Vec<IpAddr>,
}

/// Plans one Service; empty when it does not exist or is not ours to proxy.
pub fn plan(
    registry: &Registry,
    config: &PlanConfig,
    service: &ObjectName,
) -> Vec<(PortName, PortPlan)> {
    let _ = (registry, config, service);
    todo!()
}
