//! Who is where in the laboratory of a scenario. Both laboratories have the same names and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use signpost_tests::lab::Cni;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(self, pair: [IpAddr; 2]) -> IpAddr {
        pair[self as usize]
    }
}

/// A node. The control plane has a node of its own, without pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Node {
    /// Routed, in `zone-a`, with a proxy.
    One,
    /// Routed, in `zone-b`, with a proxy.
    Two,
    /// Bridged, in `zone-a`, without a proxy: its pods are only asked.
    Three,
}

impl Node {
    pub(crate) const ALL: [Self; 3] = [Self::One, Self::Two, Self::Three];
    pub(crate) const WITH_PROXY: [Self; 2] = [Self::One, Self::Two];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::One => "node-1",
            Self::Two => "node-2",
            Self::Three => "node-3",
        }
    }

    pub(crate) const fn zone(self) -> &'static str {
        match self {
            Self::One | Self::Three => "zone-a",
            Self::Two => "zone-b",
        }
    }

    pub(crate) const fn cni(self) -> Cni {
        match self {
            Self::One | Self::Two => Cni::Routed,
            Self::Three => Cni::Bridged,
        }
    }

    pub(crate) const fn addresses(self) -> [IpAddr; 2] {
        // The control plane is the laboratory's first node.
        let last = 12 + self as u8;
        [
            IpAddr::V4(Ipv4Addr::new(192, 168, 50, last)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, last as u16)),
        ]
    }

    const fn pod(self, number: u8) -> [IpAddr; 2] {
        let node = 2 + self as u8;
        let (low, high) = (number as u16, node as u16);
        [
            IpAddr::V4(Ipv4Addr::new(10, 244, node, number)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, high, 0, 0, 0, 0, low)),
        ]
    }
}

/// A server that reports. Pods of a node are made in this order, which gives them their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Backend {
    A1,
    A2,
    B1,
    B2,
    C1,
    /// In the network of the first node.
    H1,
    /// In the network of the second node.
    H2,
    /// An address of the first node's pods that no pod has.
    Nobody,
}

impl Backend {
    pub(crate) const PODS: [Self; 5] = [Self::A1, Self::A2, Self::B1, Self::B2, Self::C1];
    pub(crate) const ON_HOSTS: [Self; 2] = [Self::H1, Self::H2];

    pub(crate) const ALL: [Self; 8] = [
        Self::A1,
        Self::A2,
        Self::B1,
        Self::B2,
        Self::C1,
        Self::H1,
        Self::H2,
        Self::Nobody,
    ];

    /// The one of a name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::A1 => "a1",
            Self::A2 => "a2",
            Self::B1 => "b1",
            Self::B2 => "b2",
            Self::C1 => "c1",
            Self::H1 => "h1",
            Self::H2 => "h2",
            Self::Nobody => "nobody",
        }
    }

    pub(crate) const fn node(self) -> Node {
        match self {
            Self::A1 | Self::A2 | Self::H1 | Self::Nobody => Node::One,
            Self::B1 | Self::B2 | Self::H2 => Node::Two,
            Self::C1 => Node::Three,
        }
    }

    pub(crate) const fn addresses(self) -> [IpAddr; 2] {
        let node = self.node();
        match self {
            Self::A1 | Self::B1 | Self::C1 => node.pod(2),
            Self::A2 | Self::B2 => node.pod(3),
            Self::H1 | Self::H2 => node.addresses(),
            Self::Nobody => node.pod(250),
        }
    }
}

/// Ports on which every backend listens, with TCP and UDP.
pub(crate) const BACKEND_PORTS: [u16; 3] = [8080, 8081, 8082];

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Client {
    /// A pod of that node which serves nothing.
    Pod(Node),
    /// A pod that serves.
    Inside(Backend),
    /// A process of the node itself.
    Host(Node),
    /// A machine on the wire, which sends what is for external addresses to that node.
    Outside(Node),
}

impl Client {
    pub(crate) fn addresses(self) -> [IpAddr; 2] {
        match self {
            Self::Pod(node) => node.pod(4),
            Self::Inside(backend) => backend.addresses(),
            Self::Host(node) => node.addresses(),
            Self::Outside(node) => {
                let number = outside_number(node);
                [
                    IpAddr::V4(Ipv4Addr::new(192, 168, 50, number)),
                    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, number.into())),
                ]
            }
        }
    }

    /// The node that it is on, or sends to.
    pub(crate) const fn node(self) -> Node {
        match self {
            Self::Pod(node) | Self::Host(node) | Self::Outside(node) => node,
            Self::Inside(backend) => backend.node(),
        }
    }

    pub(crate) const fn is_pod(self) -> bool {
        matches!(self, Self::Pod(_) | Self::Inside(_))
    }
}

/// The last part of the addresses of the client outside that sends to a node.
pub(crate) const fn outside_number(node: Node) -> u8 {
    100 + node as u8
}

/// The last part of the addresses of [`THE_WORLD`].
pub(crate) const WORLD_NUMBER: u8 = 90;

/// The name of the machine on the wire that answers for every address which no node took.
pub(crate) const THE_WORLD: &str = "the world";
