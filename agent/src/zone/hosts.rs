//! Names with addresses that an operator wrote down, as CoreDNS's plugin `hosts` serves them.

use std::{collections::BTreeMap, net::IpAddr};

use signpost_common::dns::qtype;

use super::{Name, Record, RecordData, reverse};

/// Names that are looked up before the zone. The default has none and stands in nobody's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    zones: Vec<Name>,
    fallthrough: Vec<Name>,
    ttl: u32,
    addresses: BTreeMap<Name, Vec<IpAddr>>,
    names: BTreeMap<IpAddr, Vec<Name>>,
}

/// What hosts say to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostsAnswer {
    /// Nothing: whoever comes next is asked.
    Next,
    /// These records.
    Records(Vec<Record>),
    /// The name is here, the type is not. There is no SOA record to it.
    NoData,
    /// The name is not here and should be. Without a SOA record this is SERVFAIL (CoreDNS).
    Failure,
}

impl Default for Hosts {
    fn default() -> Self {
        Self::new(
            &[],
            vec![Name::default()],
            vec![Name::default()],
            3600,
            true,
        )
    }
}

impl Hosts {
    /// With these addresses and their names. Names outside `zones` do not count; names inside that are not among them
    /// are only asked for elsewhere where they are at or below one of `fallthrough`. `reverse` makes the addresses lead
    /// back to their names.
    pub fn new(
        entries: &[(IpAddr, Vec<Name>)],
        zones: Vec<Name>,
        fallthrough: Vec<Name>,
        ttl: u32,
        reverse: bool,
    ) -> Self {
        let mut hosts = Self {
            zones,
            fallthrough,
            ttl,
            addresses: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        for (address, names) in entries {
            for name in names.iter().filter(|name| name.is_in(&hosts.zones)) {
                let known = hosts.addresses.entry(name.clone()).or_default();
                if !known.contains(address) {
                    known.push(*address);
                }
                let back = hosts.names.entry(address.to_canonical()).or_default();
                if reverse && !back.contains(name) {
                    back.push(name.clone());
                }
            }
        }
        hosts.names.retain(|_, names| !names.is_empty());
        hosts
    }

    /// Answers a question.
    pub fn lookup(&self, name: &Name, qtype: u16) -> HostsAnswer {
        if qtype == qtype::PTR {
            let names = reverse::address(name).and_then(|address| self.names.get(&address));
            let pointers = names.into_iter().flatten().cloned().map(RecordData::Ptr);
            let records: Vec<Record> = pointers.map(|data| self.record(data)).collect();
            if records.is_empty() {
                return HostsAnswer::Next;
            }
            return HostsAnswer::Records(records);
        }
        if !name.is_in(&self.zones) {
            return HostsAnswer::Next;
        }
        let Some(addresses) = self.addresses.get(name) else {
            return if name.is_in(&self.fallthrough) {
                HostsAnswer::Next
            } else {
                HostsAnswer::Failure
            };
        };
        let of_type = addresses.iter().filter(|address| match qtype {
            qtype::A => address.is_ipv4(),
            qtype::AAAA => address.is_ipv6(),
            _ => false,
        });
        let records: Vec<Record> = of_type
            .map(|&address| self.record(RecordData::Address(address)))
            .collect();
        if records.is_empty() {
            HostsAnswer::NoData
        } else {
            HostsAnswer::Records(records)
        }
    }

    /// Whether what is said of a name is said here.
    pub fn answers(&self, name: &Name) -> bool {
        self.addresses.contains_key(name)
    }

    /// How many names and addresses there are.
    pub fn len(&self) -> usize {
        self.addresses.values().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Whether the zone is not the first to be asked for a name.
    pub(super) fn concerns(&self, name: &Name) -> bool {
        self.addresses.contains_key(name)
            || reverse::address(name).is_some_and(|address| self.names.contains_key(&address))
            || name.is_in(&self.zones) && !name.is_in(&self.fallthrough)
    }

    /// The names.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.addresses.keys()
    }

    /// Zones in which names that are not here may be denied here.
    pub(super) fn closed(&self) -> impl Iterator<Item = &Name> {
        let zones = self.zones.iter();
        zones.filter(|zone| !zone.is_in(&self.fallthrough))
    }

    fn record(&self, data: RecordData) -> Record {
        Record {
            owner: None,
            ttl: self.ttl,
            data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn hosts(zones: &[&str], fallthrough: &[&str]) -> Hosts {
        let names = |list: &[&str]| list.iter().map(|text| name(text)).collect::<Vec<_>>();
        let entries = [
            ("192.0.2.1".parse().unwrap(), names(&["a.test", "b.test"])),
            ("192.0.2.2".parse().unwrap(), names(&["a.test"])),
            (
                "2001:db8::1".parse().unwrap(),
                names(&["six.test", "out.example"]),
            ),
        ];
        Hosts::new(&entries, names(zones), names(fallthrough), 60, true)
    }

    fn count(answer: HostsAnswer) -> usize {
        match answer {
            HostsAnswer::Records(records) => {
                assert!(records.iter().all(|record| record.ttl == 60));
                records.len()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_has_its_addresses_and_an_address_its_names() {
        let hosts = hosts(&["."], &["."]);
        assert_eq!(count(hosts.lookup(&name("A.test"), qtype::A)), 2);
        assert_eq!(count(hosts.lookup(&name("six.test"), qtype::AAAA)), 1);
        let pointer = name("1.2.0.192.in-addr.arpa");
        assert_eq!(count(hosts.lookup(&pointer, qtype::PTR)), 2);
        assert_eq!(
            hosts.lookup(&name("a.test"), qtype::TXT),
            HostsAnswer::NoData
        );
        assert_eq!(
            hosts.lookup(&name("six.test"), qtype::A),
            HostsAnswer::NoData
        );
    }

    #[test]
    fn what_is_not_there_is_asked_for_elsewhere_only_where_that_is_said() {
        let open = hosts(&["."], &["."]);
        assert_eq!(open.lookup(&name("c.test"), qtype::A), HostsAnswer::Next);
        let closed = hosts(&["test"], &[]);
        assert_eq!(
            closed.lookup(&name("c.test"), qtype::A),
            HostsAnswer::Failure
        );
        assert_eq!(
            closed.lookup(&name("c.example"), qtype::A),
            HostsAnswer::Next
        );
        // It is not in the zone that the hosts are for.
        assert_eq!(
            closed.lookup(&name("out.example"), qtype::AAAA),
            HostsAnswer::Next
        );
        let pointer = name("9.2.0.192.in-addr.arpa");
        assert_eq!(closed.lookup(&pointer, qtype::PTR), HostsAnswer::Next);
    }
}
