//! Interfaces, addresses and routes, over netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags},
    link::{InfoData, InfoVeth, LinkAttribute, LinkMessage, MacVlanMode},
    route::{RouteScope, RouteType},
};
use rtnetlink::{
    Handle, LinkBridge, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::namespace::Namespace;

/// An address with the length of its network's prefix.
pub type Prefix = (IpAddr, u8);

/// One end of a veth pair.
#[derive(Clone, Debug)]
pub struct End<'a> {
    /// The namespace that it is in.
    pub namespace: &'a Namespace,
    /// Its name there.
    pub name: &'a str,
    /// Its MAC address; none lets the kernel choose.
    pub mac: Option<[u8; 6]>,
}

/// Makes a veth pair, both ends up.
///
/// # Errors
/// Where a name is taken.
pub fn veth(one: &End<'_>, other: &End<'_>, mtu: u32) -> anyhow::Result<()> {
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(other.name)
        .mtu(mtu)
        .setns_by_fd(other.namespace.fd());
    if let Some(mac) = other.mac {
        peer = peer.address(mac.to_vec());
    }
    let mut link = LinkVeth::new(one.name, other.name)
        .mtu(mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
    if let Some(mac) = one.mac {
        link = link.address(mac.to_vec());
    }
    let link = link.build();
    one.namespace
        .netlink(async |netlink| Ok(netlink.link().add(link).execute().await?))
        .with_context(|| format!("cannot make veth pair {} {}", one.name, other.name))?;
    up(one.namespace, one.name)?;
    up(other.namespace, other.name)
}

/// Makes an interface of another namespace, up, that has a MAC address of its own on a device of this one.
///
/// # Errors
/// Where the kernel lacks macvlan, or the name is taken there.
pub fn macvlan(
    device: (&Namespace, &str),
    (namespace, name): (&Namespace, &str),
    mtu: u32,
) -> anyhow::Result<()> {
    let (owner, device) = device;
    owner
        .netlink(async |netlink| {
            let device = index(&netlink, device).await?;
            let link = LinkMacVlan::new(name, device, MacVlanMode::Bridge)
                .mtu(mtu)
                .setns_by_fd(namespace.fd())
                .build();
            Ok(netlink.link().add(link).execute().await?)
        })
        .with_context(|| format!("cannot make a macvlan interface of {device}"))?;
    up(namespace, name)
}

/// Makes a bridge, up, that forwards at once.
///
/// # Errors
/// Where the name is taken.
pub fn bridge(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    let link = LinkBridge::new(name)
        .forward_delay(0)
        .mcast_snooping(false)
        .build();
    namespace
        .netlink(async |netlink| Ok(netlink.link().add(link).execute().await?))
        .with_context(|| format!("cannot make bridge {name}"))?;
    up(namespace, name)
}

/// Makes an interface a port of a bridge.
///
/// # Errors
/// Where one of them is not there.
pub fn enslave(namespace: &Namespace, name: &str, bridge: &str) -> anyhow::Result<()> {
    namespace.netlink(async |netlink| {
        let bridge = index(&netlink, bridge).await?;
        let link = LinkUnspec::new_with_name(name).controller(bridge).build();
        Ok(netlink.link().set(link).execute().await?)
    })
}

/// Removes an interface; its peer goes with it.
///
/// # Errors
/// Where it is not there.
pub fn remove(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    namespace.netlink(async |netlink| {
        let index = index(&netlink, name).await?;
        Ok(netlink.link().del(index).execute().await?)
    })
}

/// Sets an interface up.
///
/// # Errors
/// Where it is not there.
pub fn up(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    change(namespace, LinkUnspec::new_with_name(name).up().build())
        .with_context(|| format!("cannot set {name} up"))
}

/// Sets the MTU of an interface.
///
/// # Errors
/// Where it is not there.
pub fn set_mtu(namespace: &Namespace, name: &str, mtu: u32) -> anyhow::Result<()> {
    change(namespace, LinkUnspec::new_with_name(name).mtu(mtu).build())
}

/// Gives an interface addresses.
///
/// # Errors
/// Where it is not there or has them already.
pub fn add_addresses(
    namespace: &Namespace,
    name: &str,
    addresses: &[Prefix],
) -> anyhow::Result<()> {
    namespace.netlink(async |netlink| {
        let index = index(&netlink, name).await?;
        for (address, length) in addresses {
            let mut request = netlink.address().add(index, *address, *length);
            if address.is_ipv6() {
                // Else it cannot be used before the kernel has looked for duplicates, which it does later.
                let flags = AddressAttribute::Flags(AddressFlags::Nodad);
                request.message_mut().attributes.push(flags);
            }
            request
                .execute()
                .await
                .with_context(|| format!("cannot add {address}/{length} to {name}"))?;
        }
        Ok(())
    })
}

/// Adds a route over an interface, with or without a gateway.
///
/// # Errors
/// Where it is there already or its gateway cannot be reached.
pub fn add_route(
    namespace: &Namespace,
    (address, length): Prefix,
    gateway: Option<IpAddr>,
    name: &str,
) -> anyhow::Result<()> {
    namespace
        .netlink(async |netlink| {
            let index = index(&netlink, name).await?;
            let mut route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(address, length)?
                .output_interface(index);
            route = match gateway {
                Some(gateway) => route.gateway(gateway)?.onlink(),
                None => route.scope(RouteScope::Link),
            };
            Ok(netlink.route().add(route.build()).execute().await?)
        })
        .with_context(|| format!("cannot add route to {address}/{length} over {name}"))
}

/// Makes every address of a network one of the namespace's own.
///
/// # Errors
/// Where the route is there already.
pub fn add_local_route(namespace: &Namespace, (address, length): Prefix) -> anyhow::Result<()> {
    /// The kernel's table of what is local.
    const LOCAL: u32 = 255;
    namespace
        .netlink(async |netlink| {
            let route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(address, length)?
                .output_interface(index(&netlink, "lo").await?)
                .table_id(LOCAL)
                .kind(RouteType::Local)
                .scope(RouteScope::Host);
            Ok(netlink.route().add(route.build()).execute().await?)
        })
        .with_context(|| format!("cannot make {address}/{length} local"))
}

/// Says for good which MAC address a neighbour has, so that nobody needs to ask.
///
/// # Errors
/// Where the interface is not there.
pub fn add_neighbour(
    namespace: &Namespace,
    name: &str,
    address: IpAddr,
    mac: [u8; 6],
) -> anyhow::Result<()> {
    namespace.netlink(async |netlink| {
        let index = index(&netlink, name).await?;
        let neighbours = netlink.neighbours();
        Ok(neighbours
            .add(index, address)
            .link_layer_address(&mac)
            .execute()
            .await?)
    })
}

/// The MAC address of an interface.
///
/// # Errors
/// Where it is not there.
pub fn mac(namespace: &Namespace, name: &str) -> anyhow::Result<[u8; 6]> {
    namespace.netlink(async |netlink| {
        let link = get(&netlink, name).await?;
        link.attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Address(mac) => mac.try_into().ok(),
                _ => None,
            })
            .with_context(|| format!("{name} has no MAC address"))
    })
}

/// The default route's destination in a family.
pub const fn anywhere(family_of: IpAddr) -> Prefix {
    match family_of {
        IpAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        IpAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    }
}

/// The prefix that is one address.
pub const fn alone(address: IpAddr) -> Prefix {
    match address {
        IpAddr::V4(_) => (address, 32),
        IpAddr::V6(_) => (address, 128),
    }
}

fn change(namespace: &Namespace, link: LinkMessage) -> anyhow::Result<()> {
    namespace.netlink(async |netlink| Ok(netlink.link().set(link).execute().await?))
}

async fn index(netlink: &Handle, name: &str) -> anyhow::Result<u32> {
    Ok(get(netlink, name).await?.header.index)
}

async fn get(netlink: &Handle, name: &str) -> anyhow::Result<LinkMessage> {
    let found = netlink
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await;
    found
        .with_context(|| format!("interface {name}"))?
        .with_context(|| format!("there is no interface {name}"))
}
