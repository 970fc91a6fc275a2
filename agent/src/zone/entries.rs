//! What the kernel may know of the zone: the entries of its names.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use signpost_common::dns::qtype;

use super::{
    Lookup, NS, Name, NameEntry, Pods, Records, Zone,
    lookup::{Host, hosts_of},
    reverse::Holder,
    service::{Kind, ServiceRecords, name_of_port},
};
use crate::model::ObjectName;

/// With more ports and addresses than this, SRV is left to user space: no answer of the kernel holds so many.
const MOST_SERVERS: usize = 32;

impl Zone {
    /// Names that are there whatever the cluster has.
    pub(super) fn fixed(&self) -> BTreeMap<Name, NameEntry> {
        let domain = &self.config.domain;
        let empty = || NameEntry {
            complete: true,
            ttl: self.config.ttl,
            ..NameEntry::default()
        };
        let mut version = NameEntry {
            absent: true,
            user: vec![qtype::SOA],
            ..empty()
        };
        if let Some(name) = domain.child("dns-version") {
            self.take_over(&mut version, &name, qtype::TXT);
        }
        let pods = NameEntry {
            pods: self.config.options.pods == Pods::Insecure && self.guard.is_idle(),
            ..empty()
        };
        let mut ns = empty();
        for address in &self.config.dns {
            ns.push(*address);
        }
        [
            (Some(domain.clone()), self.apex()),
            (domain.child("svc"), empty()),
            (domain.child("pod"), pods),
            (domain.child("dns-version"), version),
            // CoreDNS denies this name, though there is one below it.
            (
                domain.child("dns"),
                NameEntry {
                    absent: true,
                    ..empty()
                },
            ),
            (self.ns_dns(), ns),
        ]
        .into_iter()
        .filter_map(|(name, entry)| Some((name?, entry)))
        .collect()
    }

    /// A namespace's name.
    pub(super) fn namespace(&self) -> NameEntry {
        NameEntry {
            namespace: true,
            complete: true,
            ttl: self.config.ttl,
            ..NameEntry::default()
        }
    }

    /// The zone's own name. Its name servers are Services with the cluster DNS addresses.
    pub(super) fn apex(&self) -> NameEntry {
        let mut entry = NameEntry {
            apex: true,
            complete: true,
            ttl: self.config.ttl,
            ..NameEntry::default()
        };
        self.take_over(&mut entry, &self.config.domain, NS);
        entry
    }

    /// Whether the kernel may know the reverse name of an address: where it leads to a Service's own address or to an
    /// endpoint of a headless Service. The endpoints of other Services are many, and seldom asked for: user space knows
    /// them.
    pub(super) fn has_pointer(&self, address: IpAddr) -> bool {
        let mut holders = self.reverse.holders(address).into_iter();
        holders.any(|holder| match holder {
            Holder::Service(_) => true,
            Holder::Endpoint(service) => {
                let records = self.services.get(service);
                records.is_some_and(|records| records.kind == Kind::Headless)
            }
        })
    }

    /// What the kernel may know of the reverse name of an address.
    pub(super) fn pointer(&self, name: &Name) -> NameEntry {
        let mut entry = NameEntry {
            ttl: self.config.ttl,
            ..NameEntry::default()
        };
        self.take_over(&mut entry, name, qtype::PTR);
        entry
    }

    /// The names of a Service: its own, those of its named ports, and for a headless one those of its endpoints.
    pub(super) fn entries_of(
        &self,
        own: &Name,
        records: &ServiceRecords,
    ) -> BTreeMap<Name, NameEntry> {
        let mut hosts: BTreeMap<Name, Vec<Host>> = BTreeMap::new();
        let mut listed = true;
        match &records.kind {
            Kind::Absent | Kind::Empty(_) => return BTreeMap::new(),
            Kind::External(_) => return [(own.clone(), self.alias(own))].into(),
            Kind::Headless if records.endpoints().len() == 0 => return BTreeMap::new(),
            Kind::ClusterIp { addresses, ports } => {
                // The names of its endpoints are user space's.
                listed = records.endpoints().len() == 0;
                let of_own = hosts.entry(own.clone()).or_default();
                if ports.is_empty() {
                    of_own.extend(hosts_of(addresses, own));
                }
                for port in ports {
                    let of_port = || {
                        addresses.iter().map(|&address| Host {
                            address,
                            port: Some(port.port),
                            target: own.clone(),
                        })
                    };
                    hosts.entry(own.clone()).or_default().extend(of_port());
                    if let Some(name) = name_of_port(port, own) {
                        hosts.entry(name).or_default().extend(of_port());
                    }
                }
            }
            Kind::Headless => {
                hosts.entry(own.clone()).or_default();
                for endpoint in records.endpoints() {
                    let Some(target) = own.child(endpoint.label()) else {
                        continue;
                    };
                    let host = |port| Host {
                        address: endpoint.address,
                        port,
                        target: target.clone(),
                    };
                    let mut add =
                        |name: Name, port| hosts.entry(name).or_default().push(host(port));
                    if endpoint.ports.is_empty() {
                        add(own.clone(), None);
                        add(target.clone(), None);
                    }
                    for port in endpoint.ports {
                        add(own.clone(), Some(port.port));
                        add(target.clone(), Some(port.port));
                        if let Some(name) = name_of_port(port, own) {
                            add(name, Some(port.port));
                        }
                    }
                }
            }
        }
        let entry = |(name, hosts): (Name, Vec<Host>)| {
            let mut entry = self.entry_of_hosts(&hosts);
            entry.service = name == *own;
            entry.listed = entry.service && listed;
            (name, entry)
        };
        hosts.into_iter().map(entry).collect()
    }

    fn entry_of_hosts(&self, hosts: &[Host]) -> NameEntry {
        let mut entry = NameEntry {
            complete: true,
            ttl: self.config.ttl,
            ..NameEntry::default()
        };
        let mut seen = BTreeSet::new();
        for host in hosts {
            if seen.insert(host.address) {
                entry.push(host.address);
            }
        }
        if hosts.len() > MOST_SERVERS {
            if hosts.iter().any(|host| host.port.is_some()) {
                entry.user.push(qtype::SRV);
            }
        } else if let Lookup::Answer {
            answers,
            additional,
        } = self.servers(hosts)
        {
            let records = Records {
                answers,
                additional,
            };
            entry.set_records(qtype::SRV, records);
        }
        entry
    }

    /// An ExternalName. What is inside the zone is followed to its end, as long as its answer is one and the same
    /// each time: several addresses come in another order from user space.
    fn alias(&self, own: &Name) -> NameEntry {
        let mut entry = NameEntry {
            service: true,
            listed: true,
            complete: true,
            ttl: self.config.ttl,
            ..NameEntry::default()
        };
        self.take_over(&mut entry, own, qtype::CNAME);
        for qtype in [qtype::A, qtype::AAAA] {
            if self.leads_to_a_pod(own) {
                // Nobody tells of such a name that its namespace comes or goes.
                entry.user.push(qtype);
            } else {
                self.take_over(&mut entry, own, qtype);
            }
        }
        entry
    }

    fn leads_to_a_pod(&self, own: &Name) -> bool {
        let Some(service) = self.service_of(own) else {
            return false;
        };
        let way = self.way_of(self.services.get(&service));
        let ends = |service: &ObjectName| match self.services.get(service).map(|r| &r.kind) {
            Some(Kind::External(target)) => target.below(&self.config.domain),
            _ => None,
        };
        let mut all = way.iter().chain([&service]).filter_map(ends);
        all.any(|labels| labels.first() == Some(&&b"pod"[..]))
    }

    /// Puts into an entry what the zone says to a question.
    fn take_over(&self, entry: &mut NameEntry, name: &Name, qtype: u16) {
        match self.lookup(name, qtype) {
            Lookup::Answer {
                answers,
                additional,
            } if answers.iter().filter(|record| record.is_address()).count() <= 1 => {
                let records = Records {
                    answers,
                    additional,
                };
                entry.set_records(qtype, records);
            }
            Lookup::NoData => {}
            Lookup::Answer { .. } | Lookup::Alias { .. } | Lookup::Outside | Lookup::NxDomain => {
                entry.user.push(qtype);
            }
        }
    }

    /// The Services that an alias leads over.
    pub(super) fn way_of(&self, records: Option<&ServiceRecords>) -> BTreeSet<ObjectName> {
        let mut way = BTreeSet::new();
        let mut next = records;
        while let Some(Kind::External(target)) = next.map(|records| &records.kind) {
            let Some(service) = self.service_of(target) else {
                break;
            };
            next = self.services.get(&service);
            if !way.insert(service) {
                break;
            }
        }
        way
    }
}

impl NameEntry {
    /// The records of a type, where they are always the same.
    pub fn records_of(&self, qtype: u16) -> Option<&Records> {
        let place = self.records.binary_search_by_key(&qtype, |(of, _)| *of);
        Some(&self.records[place.ok()?].1)
    }

    fn set_records(&mut self, qtype: u16, records: Records) {
        self.records.reserve_exact(1);
        match self.records.binary_search_by_key(&qtype, |(of, _)| *of) {
            Ok(place) => self.records[place].1 = records,
            Err(place) => self.records.insert(place, (qtype, records)),
        }
    }

    fn push(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(a) => {
                if self.a.is_empty() {
                    self.a.reserve_exact(1);
                }
                self.a.push(a);
            }
            IpAddr::V6(a) => {
                if self.aaaa.is_empty() {
                    self.aaaa.reserve_exact(1);
                }
                self.aaaa.push(a);
            }
        }
    }
}
