//! What the zone keeps of one Service: enough to answer for it without the registry.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use signpost_common::dns::qtype;

use super::{Name, NameEntry};
use crate::{
    model::{ObjectName, Protocol, ServiceKind},
    registry::Registry,
};

/// A Service, or the endpoints of one that does not exist (their reverse names do).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceRecords {
    pub(super) kind: Kind,
    /// Ready endpoints, ordered.
    pub(super) endpoints: Vec<EndpointRecord>,
}

/// What kind of Service it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// There are EndpointSlices, but no Service or none that has a name.
    #[default]
    Absent,
    /// Its own addresses.
    ClusterIp {
        addresses: Vec<IpAddr>,
        ports: Vec<Port>,
    },
    /// The addresses of its endpoints.
    Headless,
    /// An alias.
    External(Name),
}

/// A port that an SRV question can ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) name: Arc<str>,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
}

/// A ready endpoint. `ready` alone counts: one that terminates and is ready is published, and nothing stands in for
/// ready endpoints where there are none (CoreDNS).
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndpointRecord {
    pub(super) address: IpAddr,
    hostname: Option<Arc<str>>,
    pub(super) ports: Arc<[Port]>,
}

impl EndpointRecord {
    /// The endpoint's label left of the Service: its hostname, else its address with dashes; an IPv6 address that
    /// ends with a dash gets a zero, because a label must not end so (CoreDNS).
    pub(super) fn label(&self) -> Arc<str> {
        match (&self.hostname, self.address) {
            (Some(hostname), _) => hostname.to_ascii_lowercase().into(),
            (None, IpAddr::V4(address)) => address.to_string().replace('.', "-").into(),
            (None, IpAddr::V6(address)) => {
                let mut label = address.to_string().replace(':', "-");
                if label.ends_with('-') {
                    label.push('0');
                }
                label.into()
            }
        }
    }
}

impl ServiceRecords {
    /// What the registry knows of a Service; `None` where it knows nothing that has a name.
    pub(super) fn new(registry: &Registry, name: &ObjectName) -> Option<Self> {
        let kind = match registry.service(name).map(|s| (&s.kind, s)) {
            None => Kind::Absent,
            Some((ServiceKind::Headless, _)) => Kind::Headless,
            Some((ServiceKind::ExternalName(target), _)) => external(target),
            Some((ServiceKind::ClusterIp(addresses), service)) => Kind::ClusterIp {
                addresses: addresses
                    .iter()
                    .filter(|a| registry.owner(**a) == Some(name))
                    .copied()
                    .collect(),
                ports: service
                    .ports
                    .iter()
                    .map(|p| Port {
                        name: p.name.clone(),
                        protocol: p.protocol,
                        number: p.port,
                    })
                    .collect(),
            },
        };
        let mut endpoints = Vec::new();
        for slice in registry.slices(name) {
            let ports: Arc<[Port]> = slice
                .ports
                .iter()
                .map(|p| Port {
                    name: p.name.clone(),
                    protocol: p.protocol,
                    number: p.port,
                })
                .collect();
            for endpoint in slice.endpoints.iter().filter(|e| e.ready) {
                endpoints.extend(endpoint.addresses.iter().map(|&address| EndpointRecord {
                    address,
                    hostname: endpoint.hostname.clone().filter(|h| !h.is_empty()),
                    ports: ports.clone(),
                }));
            }
        }
        endpoints.sort();
        (kind != Kind::Absent || !endpoints.is_empty()).then_some(Self { kind, endpoints })
    }

    /// Whether the Service's own name exists. A headless Service without ready endpoints does not, nor anything
    /// below it (Kubernetes DNS specification §2.4.1).
    pub(super) fn exists(&self) -> bool {
        match self.kind {
            Kind::Absent => false,
            Kind::ClusterIp { .. } | Kind::External(_) => true,
            Kind::Headless => !self.endpoints.is_empty(),
        }
    }

    /// What the kernel may know of the Service: its own name, and for a headless Service those of its endpoints. The
    /// endpoint names of other Services are left to user space, as are ports.
    pub(super) fn entries(&self, own: &Name, ttl: u32) -> BTreeMap<Name, NameEntry> {
        let mut entries = BTreeMap::new();
        if !self.exists() {
            return entries;
        }
        let service = NameEntry {
            service: true,
            complete: true,
            ttl,
            ..NameEntry::default()
        };
        match &self.kind {
            Kind::Absent => {}
            Kind::External(_) => {
                let entry = NameEntry {
                    complete: false,
                    ..service
                };
                entries.insert(own.clone(), entry);
            }
            Kind::ClusterIp { addresses, ports } => {
                let mut entry = service;
                for address in addresses {
                    push(&mut entry, *address);
                }
                if !ports.is_empty() && !addresses.is_empty() {
                    entry.user.push(qtype::SRV);
                }
                entries.insert(own.clone(), entry);
            }
            Kind::Headless => {
                entries.insert(own.clone(), service);
                for endpoint in &self.endpoints {
                    for name in [Some(own.clone()), own.child(endpoint.label().as_bytes())] {
                        let Some(name) = name else { continue };
                        let entry = entries.entry(name).or_insert_with(|| NameEntry {
                            complete: true,
                            ttl,
                            ..NameEntry::default()
                        });
                        push(entry, endpoint.address);
                        if !endpoint.ports.is_empty() && entry.user.is_empty() {
                            entry.user.push(qtype::SRV);
                        }
                    }
                }
            }
        }
        entries
    }
}

// Endpoints are ordered by address, so equal addresses follow each other; the few addresses of a Service itself do
// not repeat.
fn push(entry: &mut NameEntry, address: IpAddr) {
    match address {
        IpAddr::V4(a) if entry.a.last() != Some(&a) => entry.a.push(a),
        IpAddr::V6(a) if entry.aaaa.last() != Some(&a) => entry.aaaa.push(a),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
}

// An address is no name: the Service has none then (CoreDNS).
fn external(target: &str) -> Kind {
    if target.parse::<IpAddr>().is_ok() {
        return Kind::Absent;
    }
    Name::from_text(target).map_or(Kind::Absent, Kind::External)
}
