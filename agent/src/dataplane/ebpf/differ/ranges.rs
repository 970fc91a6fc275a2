//! Networks as elements of the map `source_ranges`, and the cluster's own networks among them.

use std::{collections::BTreeSet, io};

use ipnet::IpNet;
use signpost_common::{Address, dns::Network, service::RangeKey};

use super::{
    super::tables::{SourceRanges, Tables},
    batch::{Batch, delete},
};
use crate::dataplane::{Refusal, Report};

/// A network without the service port that it is for: bits and address as in [`RangeKey`].
pub(super) type Range = (u32, Address);

/// The value of every element.
pub(super) const PRESENT: u32 = 1;

/// A network's place in the trie.
pub(super) fn range(network: &IpNet) -> Range {
    let mapped = if network.addr().is_ipv4() { 96 } else { 0 };
    let prefix = u32::from(network.prefix_len());
    (32 + mapped + prefix, network.network().into())
}

/// The key of a service port's network.
pub(super) const fn range_key(service: u32, (bits, address): Range) -> RangeKey {
    RangeKey {
        bits,
        service,
        address,
    }
}

/// A network as the programs compare with it.
pub(super) fn network(network: &IpNet) -> Network {
    let (bits, address) = range(network);
    let word = |index: u32| {
        let ones = (bits - 32).saturating_sub(32 * index).min(32);
        u32::MAX.checked_shl(32 - ones).unwrap_or(0).to_be()
    };
    Network {
        address,
        mask: Address::v6_words([word(0), word(1), word(2), word(3)]),
    }
}

/// The networks that pods have their addresses from.
#[derive(Debug, Default)]
pub(super) struct ClusterRanges {
    wanted: BTreeSet<Range>,
    written: BTreeSet<Range>,
}

impl ClusterRanges {
    /// Nothing is written yet.
    pub(super) fn new(networks: &[IpNet]) -> Self {
        Self {
            wanted: networks.iter().map(range).collect(),
            written: BTreeSet::new(),
        }
    }

    /// Takes in what is in the kernel.
    pub(super) fn found(&mut self, range: Range) {
        self.written.insert(range);
    }

    /// Writes what is missing, removes what is not wanted.
    ///
    /// # Errors
    /// Where the map cannot be changed at all.
    pub(super) fn write(
        &mut self,
        tables: &mut impl Tables,
        report: &mut Report,
    ) -> io::Result<()> {
        let mut batch = Batch::<SourceRanges>::new();
        for range in self.wanted.difference(&self.written) {
            batch.push(0, range_key(RangeKey::CLUSTER, *range), PRESENT);
        }
        let failed = batch.write(tables, report);
        let gone: Vec<RangeKey> = self
            .written
            .difference(&self.wanted)
            .map(|range| range_key(RangeKey::CLUSTER, *range))
            .collect();
        delete::<SourceRanges>(tables, &gone, report)?;
        self.written.clone_from(&self.wanted);
        for (_, key, failed) in failed {
            self.written.remove(&(key.bits, key.address));
            report.refused.push(Refusal {
                object: "networks of --cluster-cidr".to_owned(),
                reason: failed.to_string(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv4_is_one_of_mapped_addresses() {
        let v4: IpNet = "10.96.0.0/12".parse().unwrap();
        assert_eq!(range(&v4), (32 + 96 + 12, Address::v4([10, 96, 0, 0])));
        let found = network(&v4);
        assert_eq!(found.difference(&Address::v4([10, 111, 255, 255])), 0);
        assert_ne!(found.difference(&Address::v4([10, 112, 0, 0])), 0);
    }

    #[test]
    fn a_network_without_a_prefix_contains_its_family() {
        let v4 = network(&"0.0.0.0/0".parse().unwrap());
        assert_eq!(v4.difference(&Address::v4([1, 2, 3, 4])), 0);
        assert_ne!(v4.difference(&Address::v6([1; 16])), 0);
        let v6 = network(&"::/0".parse().unwrap());
        assert_eq!(v6.difference(&Address::v6([1; 16])), 0);
    }

    #[test]
    fn a_network_of_ipv6_ends_within_a_word() {
        let v6 = network(&"fd00:96::/44".parse().unwrap());
        let at = |text: &str| Address::from(text.parse::<std::net::IpAddr>().unwrap());
        assert_eq!(v6.difference(&at("fd00:96:f::1")), 0);
        assert_ne!(v6.difference(&at("fd00:96:10::1")), 0);
    }
}
