//! Answers to questions, from what the zone keeps of Services.

use std::{collections::BTreeSet, net::IpAddr};

use signpost_common::dns::qtype;

use super::{
    Lookup, Name, Pods, Record, RecordData, Zone,
    options::longest,
    reverse::{self, Holder},
    service::Kind,
};
use crate::model::{EndpointPort, ObjectName};

/// Type NS (RFC 1035 §3.2.2).
pub const NS: u16 = 2;

/// The longest chain of ExternalNames inside the zone; at the next one CoreDNS gives up.
const MAX_CHAIN: usize = 11;

/// What a name in the zone is.
enum Found {
    Nothing,
    /// It exists and has no record of its own.
    Empty,
    Apex,
    Version,
    Hosts(Vec<Host>),
    Alias(Name),
}

/// An address, and what an SRV record says of it.
pub(super) struct Host {
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
    pub(super) target: Name,
}

impl Zone {
    /// Answers a question as CoreDNS with kubeadm's Corefile does. `qtype` is the number of RFC 1035 and its successors.
    ///
    /// Where CoreDNS contradicts itself or the RFCs without any user noticing, this follows the RFCs: SOA of a name
    /// that does not exist is NXDOMAIN (CoreDNS: NODATA); TXT of the apex, `svc`, `pod`, a namespace and `ns.dns`, and
    /// PTR of `ns.dns`, is NODATA (CoreDNS: NXDOMAIN); all names are matched in any letter case.
    pub fn lookup(&self, name: &Name, qtype: u16) -> Lookup {
        if self.is_elsewhere(name) {
            return Lookup::Outside;
        }
        let lookup = match name.below(&self.config.domain) {
            Some(labels) => self.lookup_below(&labels, qtype),
            None => self.pointers(name, qtype),
        };
        if lookup == Lookup::NxDomain && self.config.options.falls_through(name) {
            return Lookup::Outside;
        }
        lookup
    }

    /// Whether a name is of a zone that somebody else has.
    pub fn is_elsewhere(&self, name: &Name) -> bool {
        let length = |zone: &Name| zone.wire().len();
        let Some(zone) = longest(name, &self.config.options.elsewhere) else {
            return false;
        };
        let own = self.own_zone(name);
        own.is_none_or(|own| length(zone) >= length(own))
    }

    fn lookup_below(&self, labels: &[&[u8]], qtype: u16) -> Lookup {
        match (self.find(labels), qtype) {
            (Found::Nothing, _) => Lookup::NxDomain,
            (Found::Apex, qtype::SOA) => self.answer(vec![RecordData::Soa]),
            (Found::Apex, NS) => self.name_servers(),
            (Found::Version, qtype::TXT) => self.answer(vec![RecordData::Txt("1.1.0".to_owned())]),
            (Found::Version, qtype::SOA) => Lookup::NoData,
            // CoreDNS knows this name for TXT only.
            (Found::Version, _) => Lookup::NxDomain,
            (Found::Alias(target), qtype::CNAME) => self.answer(vec![RecordData::Cname(target)]),
            (Found::Alias(target), qtype::A | qtype::AAAA) => self.chase(target, qtype),
            (Found::Hosts(hosts), qtype::A | qtype::AAAA) => {
                non_empty(self.addresses(&hosts, qtype, None), Vec::new())
            }
            (Found::Hosts(hosts), qtype::SRV) => self.servers(&hosts),
            _ => Lookup::NoData,
        }
    }

    fn find(&self, labels: &[&[u8]]) -> Found {
        match labels {
            [] => Found::Apex,
            [b"dns-version"] => Found::Version,
            [b"dns", b"ns"] => Found::Hosts(
                self.config
                    .dns
                    .iter()
                    .filter_map(|&address| {
                        Some(Host {
                            address,
                            port: None,
                            target: self.ns_dns()?,
                        })
                    })
                    .collect(),
            ),
            [b"svc" | b"pod"] => Found::Empty,
            [b"pod", ..] if self.config.options.pods == Pods::Disabled => Found::Nothing,
            [b"svc" | b"pod", namespace, rest @ ..] => {
                let Some(namespace) = text(namespace).filter(|n| self.namespaces.contains(*n))
                else {
                    return Found::Nothing;
                };
                match (labels[0], rest) {
                    (_, []) => Found::Empty,
                    // One or two labels left of a pod's name do not matter.
                    (b"pod", [pod, left @ ..]) if left.len() <= 2 => self.pod(namespace, pod),
                    (b"svc", [service, left @ ..]) => self.service(namespace, service, left),
                    _ => Found::Nothing,
                }
            }
            _ => Found::Nothing,
        }
    }

    fn service(&self, namespace: &str, service: &[u8], left: &[&[u8]]) -> Found {
        let Some(service) = text(service) else {
            return Found::Nothing;
        };
        let object = ObjectName::new(namespace, service);
        let (Some(records), Some(own)) = (self.services.get(&object), self.service_name(&object))
        else {
            return Found::Nothing;
        };
        let any = ("", "");
        let (endpoint, (port, protocol)) = match left {
            [] => (None, any),
            [endpoint] => (text(endpoint), any),
            [protocol, port] => match (text(port), text(protocol)) {
                (Some(port), Some(protocol)) => (None, (bare(port), bare(protocol))),
                _ => return Found::Nothing,
            },
            _ => return Found::Nothing,
        };
        let asked = |p: &&EndpointPort| {
            (port.is_empty() || p.name.eq_ignore_ascii_case(port))
                && (protocol.is_empty() || p.protocol.to_string().eq_ignore_ascii_case(protocol))
        };
        let mut hosts = Vec::new();
        match &records.kind {
            Kind::Absent | Kind::Empty(_) => return Found::Nothing,
            // A port and a protocol that ask for all ask for nothing (CoreDNS).
            Kind::External(target) if left.len() != 1 && (port, protocol) == any => {
                return Found::Alias(target.clone());
            }
            Kind::External(_) => return Found::Nothing,
            Kind::ClusterIp { addresses, ports } if left.len() != 1 => {
                let mut ports = ports.iter().filter(asked).peekable();
                if ports.peek().is_none() {
                    // The name exists whatever its ports are; a port's name does not.
                    return if left.is_empty() {
                        Found::Hosts(hosts_of(addresses, &own))
                    } else {
                        Found::Nothing
                    };
                }
                for port in ports {
                    hosts.extend(addresses.iter().map(|&address| Host {
                        address,
                        port: Some(port.port),
                        target: own.clone(),
                    }));
                }
                return Found::Hosts(hosts);
            }
            Kind::ClusterIp { .. } | Kind::Headless => {}
        }
        if left.len() == 1 && endpoint.is_none() {
            return Found::Nothing;
        }
        for record in records.endpoints() {
            let label = record.label();
            if endpoint.is_some_and(|e| e != label) {
                continue;
            }
            let Some(target) = own.child(label) else {
                continue;
            };
            let host = |port| Host {
                address: record.address,
                port,
                target: target.clone(),
            };
            // An endpoint without any port has an address all the same.
            if record.ports.is_empty() && port.is_empty() && protocol.is_empty() {
                hosts.push(host(None));
            }
            hosts.extend(
                record
                    .ports
                    .iter()
                    .filter(asked)
                    .map(|p| host(Some(p.port))),
            );
        }
        if hosts.is_empty() {
            Found::Nothing
        } else {
            Found::Hosts(hosts)
        }
    }

    fn pod(&self, namespace: &str, label: &[u8]) -> Found {
        let Some(label) = text(label).filter(|l| !l.contains(['.', ':'])) else {
            return Found::Nothing;
        };
        let dashes = label.bytes().filter(|&b| b == b'-').count();
        let address = if dashes == 3 && !label.contains("--") {
            label.replace('-', ".").parse().map(IpAddr::V4).ok()
        } else {
            let address = label.replace('-', ":").parse().map(IpAddr::V6).ok();
            address.map(|a: IpAddr| a.to_canonical())
        };
        let target = (|| {
            let pods = self.config.domain.child("pod")?;
            pods.child(namespace)?.child(label)
        })();
        let verified = |address: &IpAddr| {
            let pods = self.pods.get(namespace);
            self.config.options.pods != Pods::Verified
                || pods.is_some_and(|pods| pods.contains(address))
        };
        match (address.filter(verified), target) {
            (Some(address), Some(target)) => Found::Hosts(vec![Host {
                address,
                port: Some(0),
                target,
            }]),
            _ => Found::Nothing,
        }
    }

    /// Follows an alias: inside the zone to its end, outside of it is the caller's part. An alias that leads nowhere
    /// inside the zone is NODATA, without the CNAME.
    fn chase(&self, target: Name, qtype: u16) -> Lookup {
        let mut chain = vec![self.record(None, RecordData::Cname(target.clone()))];
        let mut current = target;
        loop {
            let Some(labels) = current.below(&self.config.domain) else {
                return Lookup::Alias {
                    answers: chain,
                    target: current,
                };
            };
            match self.find(&labels) {
                Found::Hosts(hosts) => {
                    return non_empty(self.addresses(&hosts, qtype, Some(&current)), chain);
                }
                Found::Alias(next) if chain.len() < MAX_CHAIN => {
                    chain.push(self.record(Some(current), RecordData::Cname(next.clone())));
                    current = next;
                }
                _ => return Lookup::NoData,
            }
        }
    }

    fn addresses(&self, hosts: &[Host], qtype: u16, owner: Option<&Name>) -> Vec<Record> {
        let mut seen = BTreeSet::new();
        hosts
            .iter()
            .map(|h| h.address)
            .filter(|a| a.is_ipv4() == (qtype == qtype::A) && seen.insert(*a))
            .map(|a| self.record(owner.cloned(), RecordData::Address(a)))
            .collect()
    }

    /// The answer to SRV.
    pub(super) fn servers(&self, hosts: &[Host]) -> Lookup {
        // Ports without a number weigh too, and so do duplicates (CoreDNS).
        let weight = u16::try_from(100 / hosts.len().max(1)).unwrap_or(1).max(1);
        let (mut targets, mut owners) = (BTreeSet::new(), BTreeSet::new());
        let mut answers = Vec::with_capacity(hosts.len());
        let mut additional = Vec::with_capacity(hosts.len());
        for host in hosts {
            let Some(port) = host.port else { continue };
            if targets.insert((&host.target, port)) {
                let data = RecordData::Srv {
                    priority: 0,
                    weight,
                    port,
                    target: host.target.clone(),
                };
                answers.push(self.record(None, data));
            }
            if owners.insert((&host.target, host.address)) {
                let owner = Some(host.target.clone());
                additional.push(self.record(owner, RecordData::Address(host.address)));
            }
        }
        if answers.is_empty() {
            return Lookup::NoData;
        }
        Lookup::Answer {
            answers,
            additional,
        }
    }

    /// The Services that hold the cluster DNS addresses, else `ns.dns`, and their addresses.
    fn name_servers(&self) -> Lookup {
        let (mut answers, mut additional) = (Vec::new(), Vec::new());
        for &address in &self.config.dns {
            let service =
                self.reverse
                    .holders(address)
                    .into_iter()
                    .find_map(|holder| match holder {
                        Holder::Service(service) => self.service_name(service),
                        Holder::Endpoint(_) => None,
                    });
            let Some(server) = service.or_else(|| self.ns_dns()) else {
                continue;
            };
            let record = self.record(None, RecordData::Ns(server.clone()));
            if !answers.contains(&record) {
                answers.push(record);
            }
            additional.push(self.record(Some(server), RecordData::Address(address)));
        }
        if answers.is_empty() {
            return Lookup::NoData;
        }
        Lookup::Answer {
            answers,
            additional,
        }
    }

    fn pointers(&self, name: &Name, qtype: u16) -> Lookup {
        let options = &self.config.options;
        let Some(zone) = longest(name, &options.reverse) else {
            return Lookup::Outside;
        };
        let missing = match options.falls_through(name) {
            true => Lookup::Outside,
            false if name == zone => Lookup::NoData,
            false => Lookup::NxDomain,
        };
        let Some(address) = reverse::address(name).filter(|_| qtype == qtype::PTR) else {
            return missing;
        };
        let mut names = Vec::new();
        for holder in self.reverse.holders(address) {
            match holder {
                Holder::Service(service) => {
                    names.extend(self.service_name(service));
                    break;
                }
                Holder::Endpoint(service) => {
                    let (Some(own), Some(records)) =
                        (self.service_name(service), self.services.get(service))
                    else {
                        continue;
                    };
                    for endpoint in records.endpoints_at(address) {
                        if let Some(name) = own.child(endpoint.label())
                            && !names.contains(&name)
                        {
                            names.push(name);
                        }
                    }
                }
            }
        }
        if names.is_empty() {
            return missing;
        }
        self.answer(names.into_iter().map(RecordData::Ptr).collect())
    }

    fn answer(&self, data: Vec<RecordData>) -> Lookup {
        Lookup::Answer {
            answers: data.into_iter().map(|d| self.record(None, d)).collect(),
            additional: Vec::new(),
        }
    }

    fn record(&self, owner: Option<Name>, data: RecordData) -> Record {
        Record {
            owner,
            ttl: self.config.ttl,
            data,
        }
    }
}

/// A Service's own addresses, without a port.
pub(super) fn hosts_of(addresses: &[IpAddr], own: &Name) -> Vec<Host> {
    addresses
        .iter()
        .map(|&address| Host {
            address,
            port: None,
            target: own.clone(),
        })
        .collect()
}

fn non_empty(records: Vec<Record>, mut chain: Vec<Record>) -> Lookup {
    if records.is_empty() {
        return Lookup::NoData;
    }
    chain.extend(records);
    Lookup::Answer {
        answers: chain,
        additional: Vec::new(),
    }
}

fn text(label: &[u8]) -> Option<&str> {
    std::str::from_utf8(label).ok()
}

/// Without the underscore of `_http` and `_tcp`. Nothing left of it asks for all.
fn bare(label: &str) -> &str {
    label.strip_prefix('_').unwrap_or(label)
}
