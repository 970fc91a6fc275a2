//! Filters in front of the tables: which addresses may have anything to do with a Service. Most packets have not, and a
//! filter that fits into a processor's cache says so in less time than a look-up.
//!
//! A filter may say yes where the table says no, never the other way: whoever writes to a table writes to its filter
//! first. Nothing is ever taken out of a filter, so that flows outlive the Services that they are of.

use crate::{Address, check::products, dns::Network, flow::FlowKey};

/// Words of the map `destinations`: a bit for each of half a million classes of networks.
pub const DESTINATION_WORDS: u32 = 8192;
/// Lines of the map `sources`.
pub const SOURCE_LINES: u32 = 1024;

/// Value of the map `sources` (an array of [`SOURCE_LINES`]), as long as a line of a processor's cache: a byte for each
/// class of addresses. Bytes, because programs write them, and on several processors at once.
pub type SourceLine = [u8; 64];

/// Where the bit of a destination is: the index of its word in the map `destinations`, and the word with that bit.
///
/// Addresses that differ in the last eight bits only share a bit: the ranges of ClusterIPs are large, and everything in
/// them is ours to answer.
#[inline(always)]
pub fn destination(address: &Address) -> (u32, u64) {
    let bit = network(address) >> (32 - (DESTINATION_WORDS * 64).ilog2());
    (bit / 64, 1 << (bit % 64))
}

/// Where the byte of a source is: the index of its line in the map `sources`, and its place there. `direction` is that of
/// the keys that have the source.
///
/// The pods of a node have addresses side by side, and so have their bytes.
#[inline(always)]
pub fn source(address: &Address, direction: u8) -> (u32, u32) {
    const LINE: u32 = size_of::<SourceLine>() as u32;
    let last = u32::from_be(address.words()[3]) & 0xff;
    // Twice the addresses of such a network, so that the two directions do not overlap.
    let apart = ((direction & FlowKey::FROM_WIRE) as u32) << 8;
    let place = (network(address).wrapping_add(last).wrapping_add(apart)) % (SOURCE_LINES * LINE);
    (place / LINE, place % LINE)
}

/// The contents of the map `destinations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destinations {
    words: [u64; DESTINATION_WORDS as usize],
}

impl Default for Destinations {
    fn default() -> Self {
        Self {
            words: [0; DESTINATION_WORDS as usize],
        }
    }
}

impl Destinations {
    /// The words, by index.
    pub const fn words(&self) -> &[u64] {
        &self.words
    }

    /// Adds the bits of a word.
    pub const fn add(&mut self, index: u32, bits: u64) {
        self.words[index as usize] |= bits;
    }

    /// Takes in an address.
    pub fn cover(&mut self, address: &Address) {
        let (index, bit) = destination(address);
        self.add(index, bit);
    }

    /// Takes in all addresses of a network. One that is larger than a range of ClusterIPs can be (2^20 addresses) is not
    /// counted out: then every address may be ours.
    pub fn cover_network(&mut self, network: &Network) {
        const MOST: u128 = 1 << 20;
        let bits = |address: &Address| u128::from_be_bytes(address.octets());
        let (first, last) = (bits(&network.address), !bits(&network.mask));
        if last >= MOST {
            self.words = [u64::MAX; DESTINATION_WORDS as usize];
            return;
        }
        for n in (0..=last).step_by(256) {
            self.cover(&Address::v6((first + n).to_be_bytes()));
        }
    }

    /// Whether an address may be one of those that were taken in.
    pub fn has(&self, address: &Address) -> bool {
        let (index, bit) = destination(address);
        self.words[index as usize] & bit != 0
    }
}

/// A number for all addresses that differ in the last eight bits only.
#[inline(always)]
fn network(address: &Address) -> u32 {
    let [a, b, c, d] = address.words();
    products(&[[a, b], [c, u32::from_be(d) >> 8]])
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn network(text: &str, bits: u32) -> Network {
        Network {
            address: address(text),
            mask: Address::v6((u128::MAX << (128 - bits)).to_be_bytes()),
        }
    }

    #[test]
    fn what_was_taken_in_is_found_and_most_else_is_not() {
        let mut destinations = Destinations::default();
        assert!(!destinations.has(&address("10.96.0.10")));
        destinations.cover(&address("10.96.0.10"));
        assert!(destinations.has(&address("10.96.0.10")));
        let found = (0..=255_u8)
            .flat_map(|a| (0..=255_u8).map(move |b| Address::v4([10, a, b, 1])))
            .filter(|other| destinations.has(other))
            .count();
        assert!((1..10).contains(&found), "{found}");
    }

    #[test]
    fn every_address_of_a_network_is_covered() {
        for (range, bits, inside) in [
            ("10.96.0.0", 96 + 12, ["10.96.0.0", "10.111.255.255"]),
            ("10.43.0.0", 96 + 16, ["10.43.0.1", "10.43.255.254"]),
            ("10.43.7.128", 96 + 25, ["10.43.7.128", "10.43.7.255"]),
            ("fd00:96::", 108, ["fd00:96::", "fd00:96::f:ffff"]),
        ] {
            let mut destinations = Destinations::default();
            destinations.cover_network(&network(range, bits));
            for inside in inside {
                assert!(destinations.has(&address(inside)), "{inside} of {range}");
            }
            let covered: u32 = destinations.words().iter().map(|w| w.count_ones()).sum();
            assert!(covered <= 4096, "{covered}");
        }
    }

    #[test]
    fn a_network_that_is_too_large_to_count_covers_everything() {
        let mut destinations = Destinations::default();
        destinations.cover_network(&network("fd00::", 64));
        assert!(destinations.has(&address("192.0.2.1")));
    }

    #[test]
    fn sources_have_their_bytes_in_the_map_and_neighbours_side_by_side() {
        for direction in [FlowKey::TO_POD, FlowKey::TO_WIRE] {
            let mut lines = std::collections::BTreeSet::new();
            for last in 0..=255 {
                let (line, place) = source(&Address::v4([10, 244, 1, last]), direction);
                assert!(line < SOURCE_LINES && place < 64);
                lines.insert(line);
            }
            assert!(lines.len() <= 5, "{lines:?}");
        }
        let of = |direction| source(&Address::v4([10, 244, 1, 7]), direction);
        assert_ne!(of(FlowKey::TO_POD), of(FlowKey::TO_WIRE));
    }
}
