//! Reverse names (`in-addr.arpa`, `ip6.arpa`) and whose addresses they lead to.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::Name;
use crate::model::ObjectName;

/// Whose an address is. A ClusterIP counts before endpoints (CoreDNS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder<'a> {
    /// The Service with this ClusterIP.
    Service(&'a ObjectName),
    /// A Service with a ready endpoint that has this address; the Service itself need not exist.
    Endpoint(&'a ObjectName),
}

/// An address of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    /// Its ClusterIP.
    Own(IpAddr),
    /// That of a ready endpoint.
    Endpoint(IpAddr),
}

impl Held {
    pub(super) const fn address(self) -> IpAddr {
        match self {
            Self::Own(address) | Self::Endpoint(address) => address,
        }
    }
}

/// Addresses and their holders. There are as many as endpoints, so a Service stands here as a number.
#[derive(Debug, Default)]
pub(super) struct Reverse {
    v4: BTreeSet<([u8; 4], Mark)>,
    v6: BTreeSet<([u8; 16], Mark)>,
    services: BTreeMap<u32, ObjectName>,
    last: u32,
}

/// Twice a Service's number, and one more for an endpoint.
type Mark = u32;

impl Reverse {
    /// A number for a Service that has none yet.
    pub(super) fn enter(&mut self, service: ObjectName) -> u32 {
        loop {
            self.last = (self.last + 1) & (u32::MAX >> 1);
            if let Entry::Vacant(place) = self.services.entry(self.last) {
                place.insert(service);
                return self.last;
            }
        }
    }

    /// The Service has no addresses any more.
    pub(super) fn leave(&mut self, service: u32) {
        self.services.remove(&service);
    }

    pub(super) fn insert(&mut self, held: Held, service: u32) {
        match held.address() {
            IpAddr::V4(address) => self.v4.insert((address.octets(), mark(held, service))),
            IpAddr::V6(address) => self.v6.insert((address.octets(), mark(held, service))),
        };
    }

    pub(super) fn remove(&mut self, held: Held, service: u32) {
        match held.address() {
            IpAddr::V4(address) => self.v4.remove(&(address.octets(), mark(held, service))),
            IpAddr::V6(address) => self.v6.remove(&(address.octets(), mark(held, service))),
        };
    }

    /// The holders of an address in order, a ClusterIP's first.
    pub(super) fn holders(&self, address: IpAddr) -> Vec<Holder<'_>> {
        let mut holders: Vec<Holder<'_>> = match address {
            IpAddr::V4(address) => self.named(marks(&self.v4, address.octets())).collect(),
            IpAddr::V6(address) => self.named(marks(&self.v6, address.octets())).collect(),
        };
        holders.sort_unstable();
        holders
    }

    fn named(&self, marks: impl Iterator<Item = Mark>) -> impl Iterator<Item = Holder<'_>> {
        marks.filter_map(|mark| {
            let service = self.services.get(&(mark / 2))?;
            Some(if mark.is_multiple_of(2) {
                Holder::Service(service)
            } else {
                Holder::Endpoint(service)
            })
        })
    }
}

const fn mark(held: Held, service: u32) -> Mark {
    2 * service + matches!(held, Held::Endpoint(_)) as u32
}

fn marks<A: Copy + Ord>(all: &BTreeSet<(A, Mark)>, address: A) -> impl Iterator<Item = Mark> {
    let of_address = all.range((address, Mark::MIN)..=(address, Mark::MAX));
    of_address.map(|(_, mark)| *mark)
}

/// The address that a complete reverse name stands for (RFC 1035 §3.5, RFC 3596 §2.5). An IPv4-mapped one is the IPv4
/// address, as in CoreDNS.
pub(super) fn address(name: &Name) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = name.labels().collect();
    match labels.as_slice() {
        [quad @ .., b"in-addr", b"arpa"] if quad.len() == 4 => {
            let mut octets = [0; 4];
            for (octet, label) in octets.iter_mut().rev().zip(quad) {
                *octet = decimal(label)?;
            }
            Some(Ipv4Addr::from(octets).into())
        }
        [nibbles @ .., b"ip6", b"arpa"] if nibbles.len() == 32 => {
            let mut bits = 0u128;
            for label in nibbles.iter().rev() {
                let [digit] = label else { return None };
                bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bits)).to_canonical())
        }
        _ => None,
    }
}

/// The reverse name of an address.
pub(super) fn name(address: IpAddr) -> Option<Name> {
    let (zone, labels): (&str, Vec<String>) = match address {
        IpAddr::V4(address) => (
            "in-addr",
            address.octets().iter().map(u8::to_string).collect(),
        ),
        IpAddr::V6(address) => {
            let digits = format!("{:032x}", u128::from(address));
            ("ip6", digits.chars().map(String::from).collect())
        }
    };
    let top = Name::default().child("arpa")?.child(zone)?;
    labels.iter().try_fold(top, |name, label| name.child(label))
}

fn decimal(label: &[u8]) -> Option<u8> {
    if label.len() > 1 && label[0] == b'0' || !label.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(label).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<IpAddr> {
        address(&Name::from_text(text).unwrap())
    }

    #[test]
    fn a_complete_reverse_name_is_an_address() {
        assert_eq!(
            of("10.0.96.10.in-addr.arpa"),
            Some("10.96.0.10".parse().unwrap())
        );
        let nibbles = |ip: Ipv6Addr| {
            format!("{:032x}", u128::from(ip))
                .chars()
                .rev()
                .fold(String::new(), |name, digit| format!("{name}{digit}."))
                + "IP6.arpa"
        };
        for (ip, address) in [("fd00::1a", "fd00::1a"), ("::ffff:10.96.0.1", "10.96.0.1")] {
            assert_eq!(of(&nibbles(ip.parse().unwrap())), address.parse().ok());
        }
    }

    #[test]
    fn an_address_has_the_name_that_stands_for_it() {
        for text in ["10.96.0.10", "0.0.0.0", "fd00::1a", "::"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(super::address(&name(address).unwrap()), Some(address));
        }
    }

    #[test]
    fn what_is_no_complete_address_has_no_holder() {
        for text in [
            "in-addr.arpa",
            "96.10.in-addr.arpa",
            "1.10.0.96.10.in-addr.arpa",
            "01.0.96.10.in-addr.arpa",
            "256.0.96.10.in-addr.arpa",
            "+1.0.96.10.in-addr.arpa",
            "1.ip6.arpa",
            "cluster.local",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
