//! What the zone keeps of one Service: enough to answer for it without the registry.

use std::{net::IpAddr, sync::Arc};

use signpost_common::name::MAX_LABEL;

use super::{Name, Options};
use crate::{
    model::{Endpoint, ObjectName, Protocol, ServiceKind},
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
    /// Its own addresses lead back to it, and it has no other names: no endpoint is ready (CoreDNS's `ignore
    /// empty_service`).
    Empty(Vec<IpAddr>),
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

impl Port {
    /// `_<name>._<protocol>.<own>`; `None` for a port without a name.
    pub(super) fn name_below(&self, own: &Name) -> Option<Name> {
        if self.name.is_empty() {
            return None;
        }
        own.child(format!("_{}", self.protocol))?
            .child(format!("_{}", self.name))
    }
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
    pub(super) fn new(registry: &Registry, name: &ObjectName, options: &Options) -> Option<Self> {
        if !options.exposes(&name.namespace) {
            return None;
        }
        let mut kind = match registry.service(name).map(|s| (&s.kind, s)) {
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
                    hostname: hostname(endpoint, options),
                    ports: ports.clone(),
                }));
            }
        }
        endpoints.sort();
        if options.ignore_empty_services
            && endpoints.is_empty()
            && let Kind::ClusterIp { addresses, .. } = kind
        {
            kind = Kind::Empty(addresses);
        }
        (kind != Kind::Absent || !endpoints.is_empty()).then_some(Self { kind, endpoints })
    }

    /// The names of its entries (`Zone::entries_of`), in no order, some of them several times.
    pub(super) fn names(&self, own: &Name) -> Vec<Name> {
        let ports = match &self.kind {
            Kind::ClusterIp { ports, .. } => ports.as_slice(),
            Kind::Absent | Kind::Empty(_) | Kind::Headless | Kind::External(_) => &[],
        };
        let mut names = vec![own.clone()];
        names.extend(ports.iter().filter_map(|port| port.name_below(own)));
        if self.kind == Kind::Headless {
            for endpoint in &self.endpoints {
                names.extend(own.child(endpoint.label().as_bytes()));
                let ports = endpoint.ports.iter();
                names.extend(ports.filter_map(|port| port.name_below(own)));
            }
        }
        names
    }
}

/// An endpoint's own name. That of a Pod that is no label does not count.
fn hostname(endpoint: &Endpoint, options: &Options) -> Option<Arc<str>> {
    let pod = endpoint
        .pod
        .as_ref()
        .filter(|pod| options.endpoint_pod_names && pod.len() <= MAX_LABEL && !pod.contains('.'));
    let own = endpoint.hostname.as_ref().filter(|name| !name.is_empty());
    own.or(pod).cloned()
}

// An address is no name: the Service has none then (CoreDNS).
fn external(target: &str) -> Kind {
    if target.parse::<IpAddr>().is_ok() {
        return Kind::Absent;
    }
    Name::from_text(target).map_or(Kind::Absent, Kind::External)
}
