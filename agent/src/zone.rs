//! The cluster's DNS zone: one source of truth for the kernel's maps and for `signpost dns`. Pure.

pub mod name;

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    model::ObjectName,
    registry::{Changes, Registry},
};

pub use name::Name;

/// What building the zone has to know beside the registry.
#[derive(Clone, Debug)]
pub struct ZoneConfig {
    /// The cluster domain, such as `cluster.local`.
    pub domain: Name,
    /// TTL of every record, in seconds (kubeadm's Corefile: 30).
    pub ttl: u32,
    /// The cluster DNS addresses: what `ns.dns.<zone>` leads to.
    pub dns: Vec<IpAddr>,
}

/// What is at a name, as the kernel may know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameEntry {
    /// A namespace: Services that the zone has not do not exist.
    pub namespace: bool,
    /// A Service: more than two labels to its left do not exist.
    pub service: bool,
    /// Every type that exists is in `a`, `aaaa` or `user`: another type is NODATA.
    pub complete: bool,
    /// A records, in order; rotated where there are several.
    pub a: Vec<std::net::Ipv4Addr>,
    /// AAAA records, likewise.
    pub aaaa: Vec<std::net::Ipv6Addr>,
    /// Types (numbers of RFC 1035) that exist and that only user space answers.
    pub user: Vec<u16>,
    /// TTL of the records, in seconds.
    pub ttl: u32,
}

/// A record of an answer. The owner is the question's name unless `owner` says another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Owner, where it is not the question's name.
    pub owner: Option<Name>,
    /// TTL in seconds.
    pub ttl: u32,
    /// Type and data.
    pub data: RecordData,
}

/// Type and data of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordData {
    /// Address.
    Address(IpAddr),
    /// Canonical name.
    Cname(Name),
    /// Server selection.
    Srv {
        /// Always 0.
        priority: u16,
        /// 100 divided by the number of records, at least 1.
        weight: u16,
        /// Port of the service.
        port: u16,
        /// Name of the host.
        target: Name,
    },
    /// Pointer.
    Ptr(Name),
    /// Text.
    Txt(String),
    /// Name server.
    Ns(Name),
    /// Start of authority, with the serial in the zone.
    Soa,
}

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The name is not in the zone (nor a reverse name that the zone knows): ask upstream.
    Outside,
    /// Records.
    Answer {
        /// The answer section.
        answers: Vec<Record>,
        /// The additional section.
        additional: Vec<Record>,
    },
    /// An alias of a name outside the zone: this CNAME, then what upstream says of its target.
    Alias {
        /// The CNAME records so far.
        answers: Vec<Record>,
        /// The name to ask upstream for.
        target: Name,
    },
    /// The name exists, the type does not.
    NoData,
    /// The name does not exist.
    NxDomain,
}

/// The zone.
#[derive(Debug)]
pub struct Zone {
    config: ZoneConfig,
    serial: u32,
    entries: BTreeMap<Name, NameEntry>,
}

impl Zone {
    /// An empty zone.
    pub fn new(config: ZoneConfig) -> Self {
        Self {
            config,
            serial: 0,
            entries: BTreeMap::new(),
        }
    }

    /// Takes over what changed. `serial` is the SOA serial from now on (seconds since 1970). Returns the names whose
    /// entry changed, with their new entry (`None`: gone).
    pub fn update(
        &mut self,
        registry: &Registry,
        changes: &Changes,
        serial: u32,
    ) -> BTreeMap<Name, Option<NameEntry>> {
        let _ = (registry, changes, serial);
        todo!()
    }

    /// Answers a question as CoreDNS with kubeadm's Corefile does. `qtype` is the number of RFC 1035 and its successors.
    pub fn lookup(&self, name: &Name, qtype: u16) -> Lookup {
        let _ = (name, qtype);
        todo!()
    }

    /// Every name that the kernel may know, with what it may know of it.
    pub fn entries(&self) -> &BTreeMap<Name, NameEntry> {
        &self.entries
    }

    /// The Service that a name belongs to: names wait for it, and go before it.
    pub fn service_of(&self, name: &Name) -> Option<ObjectName> {
        let _ = name;
        todo!()
    }

    /// The configuration.
    pub fn config(&self) -> &ZoneConfig {
        &self.config
    }

    /// The SOA serial.
    pub fn serial(&self) -> u32 {
        self.serial
    }
}
