//! What carries a plan and a zone out: the only modules that make BPF or netlink calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    plan::{PortName, PortPlan},
    registry::Trigger,
    zone::{Name, NameEntry},
};

pub mod ebpf;
pub mod ipvs;
pub mod netfilter;
mod netlink;

/// What changed, for a dataplane to carry out. `None` means gone.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// Service ports.
    pub ports: BTreeMap<PortName, Option<PortPlan>>,
    /// Names of the cluster's zone.
    pub names: BTreeMap<Name, Option<NameEntry>>,
    /// This node's addresses, where they changed.
    pub node_addresses: Option<NodeAddresses>,
    /// The cluster DNS addresses, where they changed: questions sent there may be answered. They may be learned from
    /// a Service, so a dataplane does not know them when it is opened.
    pub dns_addresses: Option<Vec<IpAddr>>,
    /// The ClusterIPs that somebody else serves, where they changed.
    pub foreign_addresses: Option<BTreeSet<IpAddr>>,
    /// The networks that ClusterIPs are given out of, where they changed: of their addresses those that are none of a
    /// Service are cut off.
    pub service_ranges: Option<BTreeSet<IpNet>>,
    /// The terms of the zone, where they changed.
    pub zone: Option<ZoneTerms>,
    /// When the changes in it were triggered, in milliseconds since 1970, as far as it is known. Says nothing to a
    /// dataplane.
    pub triggered: Vec<Trigger>,
    /// The zone's SOA serial.
    pub serial: u32,
}

/// What holds for all names of the zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneTerms {
    /// Seconds for which a negative answer may be kept.
    pub ttl: u32,
    /// Names that are not there may be denied. Where they may not, an operator's rules can make any name exist.
    pub deniable: bool,
}

/// The addresses of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// All of its interfaces' addresses, those of the loopback included.
    pub all: BTreeSet<IpAddr>,
    /// Those at which NodePorts are served.
    pub node_ports: BTreeSet<IpAddr>,
}

/// What a dataplane did with an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Elements written.
    pub written: usize,
    /// Elements deleted.
    pub deleted: usize,
    /// What could not be carried out; it is tried again with the next update. Nothing else is affected.
    pub refused: Vec<Refusal>,
}

/// How this node stands to another proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handover {
    /// Connections of another proxy are alive: segments of TCP connections that are not known are left to it.
    pub takeover: bool,
    /// This node is left to another proxy: known flows go on, new ones are its.
    pub drain: bool,
}

/// Something that a dataplane could not carry out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The service port or name that is not served by this dataplane.
    pub object: String,
    /// Why, with what the operator can do.
    pub reason: String,
}

/// A way of carrying out plans.
pub trait Dataplane {
    /// Carries out an update, in the order that is safe: service ports that come before names that come; names that
    /// go before service ports that go. The first update of a process is the whole state: what is in the kernel and
    /// not in it is removed.
    ///
    /// # Errors
    /// Only where nothing can be carried out at all; what is refused singly is in the report.
    fn apply(&mut self, update: &Update) -> anyhow::Result<Report>;

    /// Whether processes of the host are served, and why not: for operators.
    fn host_processes(&self) -> String {
        String::new()
    }

    /// Says how this node stands to another proxy. Must be said before an update is carried out where connections of it
    /// may be alive.
    ///
    /// # Errors
    /// Where the programs cannot be told.
    fn set_handover(&mut self, handover: Handover) -> anyhow::Result<()>;

    /// Says that the source is in sync as of now: negative answers may be given for a while.
    ///
    /// # Errors
    /// Where the clock cannot be written.
    fn in_sync(&mut self) -> anyhow::Result<()>;

    /// Removes what has expired: closed and idle flows, old generations of slots.
    ///
    /// # Errors
    /// Where the tables cannot be read.
    fn sweep(&mut self) -> anyhow::Result<Report>;
}
