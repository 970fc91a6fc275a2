//! The sets of the table, and their elements.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::TABLE;
use crate::{
    dataplane::{
        ipvs::server::ServerKey,
        netfilter::nftables::{self as nft, Change, Fate, Field},
    },
    model::{Family, Protocol},
};

/// The sets of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Addresses of Services that this node has on its own interface.
    Vips,
    /// Places with a virtual server that has backends.
    Served,
    /// Places where nobody can serve: rejected.
    Rejected,
    /// Places whose policy finds nobody on this node: dropped.
    Dropped,
    /// Those that are dropped only to clients outside the cluster.
    DroppedOutside,
    /// Places that are always masqueraded.
    Masqueraded,
    /// Places at ClusterIPs, masqueraded to clients outside the cluster.
    ClusterIps,
    /// Backends that may ask for themselves.
    Hairpin,
    /// Interfaces that clients outside the cluster come by.
    Outside,
    /// ClusterIPs that somebody else serves.
    Foreign,
}

impl Set {
    /// Every set.
    pub const ALL: [Self; 10] = [
        Self::Vips,
        Self::Served,
        Self::Rejected,
        Self::Dropped,
        Self::DroppedOutside,
        Self::Masqueraded,
        Self::ClusterIps,
        Self::Hairpin,
        Self::Outside,
        Self::Foreign,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vips => "vips",
            Self::Served => "served",
            Self::Rejected => "rejected",
            Self::Dropped => "dropped",
            Self::DroppedOutside => "dropped-outside",
            Self::Masqueraded => "masqueraded",
            Self::ClusterIps => "cluster-ips",
            Self::Hairpin => "hairpin",
            Self::Outside => "outside",
            Self::Foreign => "foreign",
        }
    }

    /// What its elements are made of, in the order of the registers.
    pub(in crate::dataplane::ipvs) const fn fields(self) -> &'static [Field] {
        match self {
            Self::Vips | Self::Foreign => &[Field::Destination],
            Self::Hairpin => &HAIRPIN,
            Self::Outside => &[Field::Interface],
            _ => &PLACE,
        }
    }
}

/// A place, as packets have it,
pub(super) const PLACE: [Field; 3] = [Field::Destination, Field::Protocol, Field::Port];
/// and as the first packet of their connection had it.
pub(super) const ORIGINAL: [Field; 3] = [
    Field::OriginalDestination,
    Field::Protocol,
    Field::OriginalPort,
];

/// Who reaches itself, as the packet leaves.
pub(super) const HAIRPIN: [Field; 4] = [
    Field::Source,
    Field::Destination,
    Field::Protocol,
    Field::Port,
];

/// An element of a set, as it is in the registers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The table's family.
    pub family: Family,
    /// The set.
    pub set: Set,
    pub(in crate::dataplane::ipvs) key: Vec<u8>,
}

impl Element {
    /// A place in one of the sets of places.
    pub fn place(set: Set, key: &ServerKey) -> Self {
        Self {
            family: Family::of(key.address),
            set,
            key: place(key),
        }
    }

    /// An address in one of the sets of addresses.
    pub fn address(set: Set, address: IpAddr) -> Self {
        Self {
            family: Family::of(address),
            set,
            key: octets(address),
        }
    }

    /// A backend that may ask for itself.
    pub fn hairpin(backend: SocketAddr, protocol: Protocol) -> Self {
        let address = backend.ip();
        let mut key = octets(address);
        key.extend(place(&ServerKey {
            protocol,
            address,
            port: backend.port(),
        }));
        Self {
            family: Family::of(address),
            set: Set::Hairpin,
            key,
        }
    }

    /// An interface that clients outside the cluster come by, in one family.
    pub fn outside(family: Family, index: u32) -> Self {
        Self {
            family,
            set: Set::Outside,
            key: index.to_ne_bytes().to_vec(),
        }
    }
}

/// Lets elements come or go.
pub fn change<'a>(fate: Fate, elements: impl IntoIterator<Item = &'a Element>) -> Vec<Change> {
    let mut sets: BTreeMap<(Family, Set), Vec<&[u8]>> = BTreeMap::new();
    for element in elements {
        let set = sets.entry((element.family, element.set)).or_default();
        set.push(&element.key);
    }
    sets.into_iter()
        .flat_map(|((family, set), keys)| nft::elements(family, TABLE, set.name(), fate, keys))
        .collect()
}

/// A place, as the registers have it.
pub(super) fn place(key: &ServerKey) -> Vec<u8> {
    let mut bytes = octets(key.address);
    bytes.extend([key.protocol.number(), 0, 0, 0]);
    bytes.extend(key.port.to_be_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// An address likewise.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
