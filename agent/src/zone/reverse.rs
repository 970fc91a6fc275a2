//! Reverse names (`in-addr.arpa`, `ip6.arpa`) and whose addresses they lead to.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Bound,
};

use super::Name;
use crate::model::ObjectName;

/// Whose an address is. A ClusterIP counts before endpoints (CoreDNS).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// The Service with this ClusterIP.
    Service(ObjectName),
    /// A Service with a ready endpoint that has this address; the Service itself need not exist.
    Endpoint(ObjectName),
}

/// Addresses and their holders.
#[derive(Debug, Default)]
pub(super) struct Reverse(BTreeSet<(IpAddr, Holder)>);

impl Reverse {
    pub(super) fn insert(&mut self, address: IpAddr, holder: Holder) {
        self.0.insert((address, holder));
    }

    pub(super) fn remove(&mut self, address: IpAddr, holder: Holder) {
        self.0.remove(&(address, holder));
    }

    /// The holders of an address, a ClusterIP's first.
    pub(super) fn holders(&self, address: IpAddr) -> impl Iterator<Item = &Holder> {
        let first = (address, Holder::Service(ObjectName::new("", "")));
        self.0
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(a, _)| *a == address)
            .map(|(_, holder)| holder)
    }
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
