//! Fields that several kinds have: addresses, names, protocols.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::model::Protocol;

/// Parses an IP address that packets can be sent to.
///
/// Leading zeros of IPv4 bytes are decimal, as Kubernetes has always read them (CVE-2021-29923: others read them as
/// octal). A v4-mapped IPv6 address is its IPv4 address.
///
/// # Errors
/// What is wrong with the address.
pub fn address(text: &str) -> Result<IpAddr, String> {
    let address = any_address(text).ok_or_else(|| format!("{text:?} is no IP address"))?;
    let why = match address {
        a if a.is_unspecified() => "unspecified",
        a if a.is_loopback() => "a loopback address",
        a if a.is_multicast() => "a multicast address",
        IpAddr::V4(a) if a.is_link_local() => "a link-local address",
        IpAddr::V6(a) if a.is_unicast_link_local() => "a link-local address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        _ => return Ok(address),
    };
    Err(format!("{address} is {why}"))
}

/// Parses a network such as `10.0.0.0/8`, with leading zeros as [`address`] reads them and with white space around it,
/// which the API server lets through. A v4-mapped network is its IPv4 network.
///
/// # Errors
/// What is wrong with the network.
pub fn network(text: &str) -> Result<IpNet, String> {
    let malformed = || format!("{text:?} is no network such as 192.0.2.0/24");
    let (address, prefix) = text.trim().split_once('/').ok_or_else(malformed)?;
    let digits = (1..=3).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_digit());
    let prefix: u8 = prefix
        .parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(malformed)?;
    let mapped = address.contains(':');
    let address = any_address(address).ok_or_else(malformed)?;
    let prefix = if address.is_ipv4() && mapped {
        prefix.checked_sub(96).ok_or_else(malformed)?
    } else {
        prefix
    };
    let network = IpNet::new(address, prefix).map_err(|_| malformed())?;
    Ok(network.trunc())
}

/// Whether a name is a DNS label as RFC 1123 §2.1 has it, in lower case: what Kubernetes asks of Services, Namespaces,
/// hostnames and port names.
pub fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The protocol of a port; TCP where none is named.
pub fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    match name {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("{other:?} is not TCP, UDP or SCTP")),
    }
}

fn any_address(text: &str) -> Option<IpAddr> {
    let plain: Option<IpAddr> = text.parse().ok();
    let address = plain.or_else(|| with_leading_zeros(text).map(IpAddr::V4))?;
    Some(address.to_canonical())
}

fn with_leading_zeros(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("10.96.0.1", "10.96.0.1")]
    #[case("010.096.000.011", "10.96.0.11")]
    #[case("fd00::1", "fd00::1")]
    #[case("::ffff:10.0.0.1", "10.0.0.1")]
    fn an_address_is_read_as_kubernetes_reads_it(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(address(text).unwrap(), expected.parse::<IpAddr>().unwrap());
    }

    #[rstest]
    #[case("10.96.0")]
    #[case("10.96.0.1.2")]
    #[case("10.96.0.256")]
    #[case("10.96.0.+1")]
    #[case("10.96..1")]
    #[case("0x10.1.1.1")]
    #[case("fe80::1%eth0")]
    #[case("example.org")]
    #[case("")]
    #[case("0.0.0.0")]
    #[case("127.0.0.1")]
    #[case("169.254.1.1")]
    #[case("fe80::1")]
    #[case("ff02::1")]
    #[case("255.255.255.255")]
    fn what_no_packet_can_be_sent_to_is_refused(#[case] text: &str) {
        assert!(address(text).is_err());
    }

    #[rstest]
    #[case("10.0.0.0/8", "10.0.0.0/8")]
    #[case(" 192.0.2.77/24 ", "192.0.2.0/24")]
    #[case("010.000.000.000/8", "10.0.0.0/8")]
    #[case("0.0.0.0/0", "0.0.0.0/0")]
    #[case("2001:db8::1/32", "2001:db8::/32")]
    #[case("::ffff:10.0.0.0/104", "10.0.0.0/8")]
    fn a_network_is_read_as_kubernetes_reads_it(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(network(text).unwrap(), expected.parse::<IpNet>().unwrap());
    }

    #[rstest]
    #[case("10.0.0.0")]
    #[case("10.0.0.0/33")]
    #[case("10.0.0.0/+8")]
    #[case("10.0.0.0/")]
    #[case("10.0.0/8")]
    #[case("2001:db8::/129")]
    #[case("::ffff:10.0.0.0/8")]
    #[case("")]
    fn what_is_no_network_is_refused(#[case] text: &str) {
        assert!(network(text).is_err());
    }

    #[rstest]
    #[case("a", true)]
    #[case("0-a", true)]
    #[case("-a", false)]
    #[case("a-", false)]
    #[case("A", false)]
    #[case("a.b", false)]
    #[case("", false)]
    #[case(&"a".repeat(63), true)]
    #[case(&"a".repeat(64), false)]
    fn dns_labels(#[case] name: &str, #[case] usable: bool) {
        assert_eq!(is_dns_label(name), usable);
    }
}
