//! Which of a node's interfaces get programs, and which. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
};

use super::{Interface, Patterns, Place};
use crate::{addresses::address, dataplane::ipvs::INTERFACE};

/// Kinds of interfaces whose packets begin with the IP header.
const BARE: [LinkLayerType; 8] = [
    LinkLayerType::None,
    LinkLayerType::Rawip,
    LinkLayerType::Ppp,
    LinkLayerType::Tunnel,
    LinkLayerType::Tunnel6,
    LinkLayerType::Sit,
    LinkLayerType::Ipgre,
    LinkLayerType::Ip6gre,
];

/// An interface, as far as it matters.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    index: u32,
    name: String,
    kind: Option<InfoKind>,
    /// The interface that it is a port of.
    controller: Option<u32>,
    /// What this namespace calls the other one that the other end is in.
    beyond: Option<i32>,
    ethernet: bool,
    /// Its packets begin with the IP header.
    bare: bool,
    up: bool,
    loopback: bool,
}

/// The first global addresses of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addresses {
    /// Of IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Of IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// Finds the interfaces that get programs, by index.
pub(super) fn survey(
    links: &[Link],
    addresses: &BTreeMap<u32, Addresses>,
    patterns: &Patterns,
) -> BTreeMap<u32, Interface> {
    let pods: BTreeSet<u32> = links
        .iter()
        .filter(|link| link.is_pods(patterns))
        .map(|link| link.index)
        .collect();
    let bridges: BTreeSet<u32> = links
        .iter()
        .filter(|link| pods.contains(&link.index))
        .filter_map(|link| link.controller)
        .collect();
    let own = |index: u32| addresses.get(&index).copied().unwrap_or_default();
    let of_interface = |link: &Link| {
        if link.name == INTERFACE {
            return None;
        }
        let place = if pods.contains(&link.index) {
            Place::Pod
        } else if link.is_wire(own(link.index), &bridges, patterns) {
            if link.bare { Place::Bare } else { Place::Wire }
        } else {
            return None;
        };
        let [first, second] = [
            own(link.index),
            link.controller.map(own).unwrap_or_default(),
        ];
        Some((
            link.index,
            Interface {
                index: link.index,
                name: link.name.clone(),
                place,
                ethernet: link.ethernet,
                beyond: link.beyond.filter(|_| place == Place::Pod),
                addresses: Addresses {
                    v4: first.v4.or(second.v4),
                    v6: first.v6.or(second.v6),
                },
            },
        ))
    };
    links.iter().filter_map(of_interface).collect()
}

impl Link {
    /// From the kernel's message.
    pub(super) fn of(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let layer = message.header.link_layer_type;
        let mut link = Self {
            index: message.header.index,
            ethernet: layer == LinkLayerType::Ether,
            bare: BARE.contains(&layer),
            up: flags.contains(LinkFlags::Up),
            loopback: flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.beyond = Some(*id),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.clone()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }

    /// A pod's host-side interface: a veth that the patterns name, whose other end is in another namespace.
    fn is_pods(&self, patterns: &Patterns) -> bool {
        self.beyond.is_some()
            && self.kind == Some(InfoKind::Veth)
            && super::matches_any(&patterns.pods, &self.name)
    }

    /// An uplink or a tunnel: what the operator names; else what carries an address that other machines know, or
    /// packets of other nodes. The bridge of this node's pods carries one too, but what comes from other machines
    /// enters by another port of it. An uplink needs no address of its own (unnumbered, with the node's address at the
    /// loopback); the ports of a bond or of another bridge are seen at that.
    fn is_wire(&self, own: Addresses, bridges: &BTreeSet<u32>, patterns: &Patterns) -> bool {
        if !patterns.wires.is_empty() {
            return super::matches_any(&patterns.wires, &self.name);
        }
        let has_address = own != Addresses::default();
        self.up
            && !self.loopback
            && !matches!(self.kind, Some(InfoKind::Dummy))
            && !bridges.contains(&self.index)
            && (has_address || self.is_tunnel() || self.is_unnumbered(bridges))
    }

    /// A device of its own or a bundle of such, without an address.
    fn is_unnumbered(&self, bridges: &BTreeSet<u32>) -> bool {
        let is_uplink = match &self.kind {
            None => true,
            Some(kind) => matches!(kind, InfoKind::Bond | InfoKind::Vlan),
        };
        let is_seen_elsewhere = self
            .controller
            .is_some_and(|controller| !bridges.contains(&controller));
        self.ethernet && is_uplink && !is_seen_elsewhere
    }

    fn is_tunnel(&self) -> bool {
        use InfoKind::{Geneve, GreTap, GreTap6, GreTun, GreTun6, IpIp, SitTun, Vxlan, Wireguard};
        matches!(
            self.kind,
            Some(Geneve | GreTap | GreTap6 | GreTun | GreTun6 | IpIp | SitTun | Vxlan | Wireguard)
        )
    }
}

/// The first global address of each family and interface, in the order in which the kernel lists them: as `MASQUERADE`
/// of netfilter chooses.
pub(super) fn addresses(messages: &[AddressMessage]) -> BTreeMap<u32, Addresses> {
    let mut addresses: BTreeMap<u32, Addresses> = BTreeMap::new();
    for message in messages {
        if message.header.scope != AddressScope::Universe || !is_usable(message) {
            continue;
        }
        let of_interface = addresses.entry(message.header.index).or_default();
        match address(message) {
            Some(IpAddr::V4(v4)) => of_interface.v4 = of_interface.v4.or(Some(v4)),
            Some(IpAddr::V6(v6)) => of_interface.v6 = of_interface.v6.or(Some(v6)),
            None => {}
        }
    }
    addresses
}

/// Not a temporary IPv6 address (RFC 8981), nor one that is not to be used yet or any more.
fn is_usable(message: &AddressMessage) -> bool {
    const NOT: AddressFlags = AddressFlags::Tentative
        .union(AddressFlags::Deprecated)
        .union(AddressFlags::Dadfailed)
        .union(AddressFlags::Secondary);
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        if let AddressAttribute::Flags(all) = attribute {
            flags = *all;
        }
    }
    message.header.family != AddressFamily::Inet6 || !flags.intersects(NOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Addresses = Addresses {
        v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        v6: None,
    };
    const BRIDGE: Addresses = Addresses {
        v4: Some(Ipv4Addr::new(10, 244, 1, 1)),
        v6: None,
    };

    fn link(index: u32, name: &str, kind: InfoKind) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: Some(kind),
            ethernet: true,
            up: true,
            ..Link::default()
        }
    }

    fn bare(link: Link) -> Link {
        Link {
            ethernet: false,
            bare: true,
            ..link
        }
    }

    /// A node with an uplink, a bridge with a pod, tunnels, a dummy that carries an address, a bond without one, and
    /// ports of the bond and of the bridge.
    fn node() -> (Vec<Link>, BTreeMap<u32, Addresses>) {
        let links = vec![
            Link {
                loopback: true,
                ..link(1, "lo", InfoKind::Other(String::new()))
            },
            Link {
                beyond: Some(0),
                ..link(2, "eth0", InfoKind::Veth)
            },
            link(3, "cni0", InfoKind::Bridge),
            Link {
                beyond: Some(0),
                controller: Some(3),
                ..link(4, "veth1a", InfoKind::Veth)
            },
            link(5, "flannel.1", InfoKind::Vxlan),
            link(6, "kube-ipvs0", InfoKind::Dummy),
            link(7, "eth1", InfoKind::Bond),
            Link {
                up: false,
                ..bare(link(8, "tunl0", InfoKind::IpIp))
            },
            bare(link(9, "wg0", InfoKind::Wireguard)),
            bare(link(10, "tun0", InfoKind::Tun)),
            bare(link(11, "tun1", InfoKind::Tun)),
            Link {
                controller: Some(7),
                kind: None,
                ..link(12, "eth2", InfoKind::Bond)
            },
            Link {
                controller: Some(3),
                kind: None,
                ..link(13, "eth3", InfoKind::Bond)
            },
        ];
        let addresses = [(2, NODE), (3, BRIDGE), (6, NODE), (10, NODE)];
        (links, BTreeMap::from(addresses))
    }

    fn found(patterns: &Patterns) -> Vec<(u32, Place, Addresses)> {
        let (links, addresses) = node();
        survey(&links, &addresses, patterns)
            .into_values()
            .map(|i| (i.index, i.place, i.addresses))
            .collect()
    }

    fn patterns(wires: &[&str]) -> Patterns {
        Patterns {
            pods: vec!["veth*".to_owned()],
            wires: wires.iter().copied().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn uplinks_and_tunnels_are_found_and_the_pods_bridge_is_not_one() {
        assert_eq!(
            found(&patterns(&[])),
            [
                (2, Place::Wire, NODE),
                // A bridge's port has the bridge's address, as its packets would leave by the bridge.
                (4, Place::Pod, BRIDGE),
                (5, Place::Wire, Addresses::default()),
                (7, Place::Wire, Addresses::default()),
                (9, Place::Bare, Addresses::default()),
                (10, Place::Bare, NODE),
                // The pods' bridge goes out by it.
                (13, Place::Wire, BRIDGE),
            ]
        );
    }

    #[test]
    fn what_the_operator_names_is_taken_instead_and_pods_stay_pods() {
        assert_eq!(
            found(&patterns(&["eth1", "veth*"])),
            [
                (4, Place::Pod, BRIDGE),
                (7, Place::Wire, Addresses::default()),
            ]
        );
    }
}
