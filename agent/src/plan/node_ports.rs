//! At which of its addresses a node serves NodePorts.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use crate::model::Family;

/// One entry of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddress {
    /// The node's primary addresses, one of each family: what kube-proxy's nftables mode does by default.
    Primary,
    /// The loopback addresses.
    Localhost,
    /// All addresses but the loopback's.
    All,
    /// The addresses in a network. One without a prefix stands for all addresses of its family but the loopback's.
    Network(IpNet),
}

impl FromStr for NodePortAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "primary" => Ok(Self::Primary),
            "localhost" => Ok(Self::Localhost),
            "all" => Ok(Self::All),
            text => text
                .parse()
                .map(Self::Network)
                .map_err(|_| format!("{text:?} is not primary, localhost, all or a network")),
        }
    }
}

impl fmt::Display for NodePortAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::Localhost => f.write_str("localhost"),
            Self::All => f.write_str("all"),
            Self::Network(network) => network.fmt(f),
        }
    }
}

/// Chooses among the addresses that a node has. Where there are networks and none of them is of a family, all of that
/// family's addresses are meant, as in kube-proxy.
pub fn select(
    entries: &[NodePortAddress],
    all: &BTreeSet<IpAddr>,
    primary: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    let networks: Vec<IpNet> = entries
        .iter()
        .filter_map(|entry| match entry {
            NodePortAddress::Network(network) => Some(*network),
            _ => None,
        })
        .collect();
    let only_networks = !networks.is_empty() && networks.len() == entries.len();
    let unnamed = |family: Family| {
        only_networks
            && networks
                .iter()
                .all(|network| Family::of(network.addr()) != family)
    };
    let is_meant = |address: &IpAddr| {
        let outward = !address.is_loopback();
        let by_entry = entries.iter().any(|entry| match entry {
            NodePortAddress::Primary => primary.contains(address),
            NodePortAddress::Localhost => address.is_loopback(),
            NodePortAddress::All => outward,
            NodePortAddress::Network(network) if network.prefix_len() == 0 => {
                outward && network.contains(address)
            }
            NodePortAddress::Network(network) => network.contains(address),
        });
        by_entry || (outward && unnamed(Family::of(*address)))
    };
    all.iter().copied().filter(is_meant).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ALL: [&str; 6] = [
        "127.0.0.1",
        "192.0.2.1",
        "192.0.2.2",
        "198.51.100.1",
        "::1",
        "2001:db8::1",
    ];

    fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[rstest]
    #[case::primary("primary", &["192.0.2.1", "2001:db8::1"])]
    #[case::localhost("localhost", &["127.0.0.1", "::1"])]
    #[case::all("all", &["192.0.2.1", "192.0.2.2", "198.51.100.1", "2001:db8::1"])]
    #[case::everything("all,localhost", &ALL)]
    #[case::keywords_add_up("primary,localhost", &["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"])]
    #[case::network("198.51.100.0/24,2001:db8::/32", &["198.51.100.1", "2001:db8::1"])]
    #[case::loopback_network("127.0.0.0/8,fd00::/8", &["127.0.0.1"])]
    #[case::a_family_without_a_network_is_meant_whole("198.51.100.0/24", &["198.51.100.1", "2001:db8::1"])]
    #[case::but_not_beside_a_keyword("198.51.100.0/24,localhost", &["127.0.0.1", "198.51.100.1", "::1"])]
    #[case::no_prefix_means_no_loopback("0.0.0.0/0,fd00::/8", &["192.0.2.1", "192.0.2.2", "198.51.100.1"])]
    #[case::none("203.0.113.0/24,fd00::/8", &[])]
    fn node_ports_are_served_at(#[case] option: &str, #[case] expected: &[&str]) {
        let entries: Vec<NodePortAddress> = option.split(',').map(|e| e.parse().unwrap()).collect();
        let primary = set(&["192.0.2.1", "2001:db8::1", "203.0.113.9"]);
        assert_eq!(select(&entries, &set(&ALL), &primary), set(expected));
    }

    #[test]
    fn an_entry_is_written_as_it_is_read() {
        for text in ["primary", "localhost", "all", "192.0.2.0/24"] {
            let entry: NodePortAddress = text.parse().unwrap();
            assert_eq!(entry.to_string(), text);
        }
        assert!("eth0".parse::<NodePortAddress>().is_err());
    }
}
