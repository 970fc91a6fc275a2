//! What the zone keeps of one Service: enough to answer for it without the registry.

use std::{net::IpAddr, sync::Arc};

use signpost_common::name::MAX_LABEL;

use super::{Name, Options, reverse::Held};
use crate::{
    model::{Endpoint, EndpointPort, EndpointSlice, ObjectName, Protocol, Service, ServiceKind},
    registry::Registry,
};

/// A Service, or the endpoints of one that does not exist (their reverse names do).
#[derive(Debug, Default)]
pub(super) struct ServiceRecords {
    pub(super) kind: Kind,
    /// In [`super::reverse::Reverse`], where it is there.
    pub(super) number: Option<u32>,
    /// Pods' names are hostnames ([`Options::endpoint_pod_names`]).
    pod_names: bool,
    /// The registry's own: there are many endpoints.
    slices: Box<[Arc<EndpointSlice>]>,
    /// Where the addresses of ready endpoints are, in the order of [`ServiceRecords::endpoints`].
    ready: Box<[Place]>,
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
        ports: Vec<EndpointPort>,
    },
    /// Its own addresses lead back to it, and it has no other names: no endpoint is ready (CoreDNS's `ignore
    /// empty_service`).
    Empty(Vec<IpAddr>),
    /// The addresses of its endpoints.
    Headless,
    /// An alias.
    External(Name),
}

/// Indexes: of an EndpointSlice, of an endpoint in it, and of an address of that.
#[derive(Clone, Copy, Debug)]
struct Place {
    slice: u32,
    endpoint: u32,
    address: u32,
}

/// A ready endpoint. `ready` alone counts: one that terminates and is ready is published, and nothing stands in for
/// ready endpoints where there are none (CoreDNS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndpointRecord<'a> {
    pub(super) address: IpAddr,
    hostname: Option<&'a str>,
    pub(super) ports: &'a [EndpointPort],
}

impl EndpointRecord<'_> {
    /// The endpoint's label left of the Service: its hostname, else its address with dashes; an IPv6 address that
    /// ends with a dash gets a zero, because a label must not end so (CoreDNS).
    pub(super) fn label(&self) -> String {
        match (self.hostname, self.address) {
            (Some(hostname), _) => hostname.to_ascii_lowercase(),
            (None, IpAddr::V4(address)) => address.to_string().replace('.', "-"),
            (None, IpAddr::V6(address)) => {
                let mut label = address.to_string().replace(':', "-");
                if label.ends_with('-') {
                    label.push('0');
                }
                label
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
        let selected = |service: &&Service| options.labels.matches(&service.labels);
        let service = registry.service(name).filter(selected);
        let mut kind = match service.map(|s| (&s.kind, s)) {
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
                    .map(|p| EndpointPort {
                        name: p.name.clone(),
                        protocol: p.protocol,
                        port: p.port,
                    })
                    .collect(),
            },
        };
        let slices = registry.slices(name);
        let slices = slices.filter(|slice| options.labels.matches(&slice.labels));
        let slices: Box<[_]> = slices.cloned().collect();
        let mut ready = Vec::new();
        for (slice, of_slice) in (0..).zip(&slices) {
            let endpoints = (0..).zip(&of_slice.endpoints);
            for (endpoint, of_endpoint) in endpoints.filter(|(_, endpoint)| endpoint.ready) {
                let addresses = 0..of_endpoint.addresses.len() as u32;
                ready.extend(addresses.map(|address| Place {
                    slice,
                    endpoint,
                    address,
                }));
            }
        }
        if options.ignore_empty_services
            && ready.is_empty()
            && let Kind::ClusterIp { addresses, .. } = kind
        {
            kind = Kind::Empty(addresses);
        }
        let mut records = Self {
            kind,
            number: None,
            pod_names: options.endpoint_pod_names,
            slices,
            ready: Box::default(),
        };
        ready.sort_by(|a, b| records.endpoint(*a).cmp(&records.endpoint(*b)));
        records.ready = ready.into();
        let known = records.kind != Kind::Absent || !records.ready.is_empty();
        known.then_some(records)
    }

    /// The ready endpoints, ordered by address.
    pub(super) fn endpoints(&self) -> impl ExactSizeIterator<Item = EndpointRecord<'_>> {
        self.ready.iter().map(|place| self.endpoint(*place))
    }

    /// The ready endpoints with an address.
    pub(super) fn endpoints_at(&self, address: IpAddr) -> impl Iterator<Item = EndpointRecord<'_>> {
        let first = self
            .ready
            .partition_point(|place| self.endpoint(*place).address < address);
        self.ready[first..]
            .iter()
            .map(|place| self.endpoint(*place))
            .take_while(move |endpoint| endpoint.address == address)
    }

    /// The Service's own addresses.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        match &self.kind {
            Kind::ClusterIp { addresses, .. } | Kind::Empty(addresses) => addresses,
            Kind::Absent | Kind::Headless | Kind::External(_) => &[],
        }
    }

    /// All addresses that lead back to it, some of them several times.
    pub(super) fn held(&self) -> impl Iterator<Item = Held> {
        let own = self.addresses().iter().copied().map(Held::Own);
        own.chain(self.endpoints().map(|e| Held::Endpoint(e.address)))
    }

    /// The names of its entries (`Zone::entries_of`), in no order, some of them several times.
    pub(super) fn names(&self, own: &Name) -> Vec<Name> {
        let ports = match &self.kind {
            Kind::ClusterIp { ports, .. } => ports.as_slice(),
            Kind::Absent | Kind::Empty(_) | Kind::Headless | Kind::External(_) => &[],
        };
        let mut names = vec![own.clone()];
        names.extend(ports.iter().filter_map(|port| name_of_port(port, own)));
        if self.kind == Kind::Headless {
            for endpoint in self.endpoints() {
                names.extend(own.child(endpoint.label()));
                let ports = endpoint.ports.iter();
                names.extend(ports.filter_map(|port| name_of_port(port, own)));
            }
        }
        names
    }

    fn endpoint(&self, place: Place) -> EndpointRecord<'_> {
        let slice = &self.slices[place.slice as usize];
        let endpoint = &slice.endpoints[place.endpoint as usize];
        EndpointRecord {
            address: endpoint.addresses[place.address as usize],
            hostname: hostname(endpoint, self.pod_names),
            ports: &slice.ports,
        }
    }
}

/// `_<name>._<protocol>.<own>`; `None` for a port without a name.
pub(super) fn name_of_port(port: &EndpointPort, own: &Name) -> Option<Name> {
    if port.name.is_empty() {
        return None;
    }
    own.child(protocol_label(port.protocol))?
        .child(format!("_{}", port.name))
}

const fn protocol_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
        Protocol::Sctp => "_sctp",
    }
}

/// An endpoint's own name. That of a Pod that is no label does not count.
fn hostname(endpoint: &Endpoint, pod_names: bool) -> Option<&str> {
    let is_label = |name: &&str| name.len() <= MAX_LABEL && !name.contains('.');
    let pod = endpoint.pod.as_deref().filter(is_label);
    let own = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
    own.or(pod.filter(|_| pod_names))
}

// An address is no name: the Service has none then (CoreDNS).
fn external(target: &str) -> Kind {
    if target.parse::<IpAddr>().is_ok() {
        return Kind::Absent;
    }
    Name::from_text(target).map_or(Kind::Absent, Kind::External)
}
