//! The interface that has the addresses of Services, so that packets to them are the node's own.

use std::{collections::BTreeSet, io, net::IpAddr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
        LinkMessage,
    },
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::net::if_::if_nametoindex;

use crate::{addresses, dataplane::netlink};

/// The interface. Names that begin so are passed over by those that look for a node's own addresses, Calico for one.
pub const NAME: &str = "dummy-signpost";

/// The interface, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    index: u32,
}

impl Link {
    /// Makes the interface where it is missing.
    ///
    /// # Errors
    /// Where the kernel has no interfaces of kind dummy, or does not allow them.
    pub fn open() -> io::Result<Self> {
        let socket = netlink::open(NETLINK_ROUTE)?;
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(NAME.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
        ];
        match ask(
            &socket,
            NLM_F_CREATE | NLM_F_EXCL,
            RouteNetlinkMessage::NewLink(link),
        ) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            made => made?,
        }
        let index = if_nametoindex(NAME)?;
        // Without a link-local address of its own. Kernels without IPv6 refuse to hear of it.
        let mut silent = LinkMessage::default();
        silent.header.index = index;
        silent.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
        )])];
        if let Err(error) = ask(&socket, 0, RouteNetlinkMessage::SetLink(silent)) {
            tracing::debug!(%error, "interface {NAME} has a link-local address");
        }
        let mut up = LinkMessage::default();
        up.header.index = index;
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        ask(&socket, 0, RouteNetlinkMessage::SetLink(up))?;
        Ok(Self { socket, index })
    }

    /// Whether the interface is there.
    pub fn exists() -> bool {
        if_nametoindex(NAME).is_ok()
    }

    /// Removes the interface with its addresses; whether it was there.
    ///
    /// # Errors
    /// Where the kernel does not allow it.
    pub fn remove() -> io::Result<bool> {
        let Ok(index) = if_nametoindex(NAME) else {
            return Ok(false);
        };
        let mut link = LinkMessage::default();
        link.header.index = index;
        let socket = netlink::open(NETLINK_ROUTE)?;
        ask(&socket, 0, RouteNetlinkMessage::DelLink(link))?;
        Ok(true)
    }

    /// Whether it is still the interface that it was.
    pub fn is_there(&self) -> bool {
        if_nametoindex(NAME) == Ok(self.index)
    }

    /// The addresses that it has.
    ///
    /// # Errors
    /// Where the kernel refuses the list.
    pub fn addresses(&self) -> io::Result<BTreeSet<IpAddr>> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        self.socket
            .send(&netlink::bytes(flags, NetlinkPayload::from(message)), 0)?;
        let mut found = BTreeSet::new();
        netlink::receive(&self.socket, usize::MAX, |_, message| {
            if let RouteNetlinkMessage::NewAddress(message) = message
                && message.header.index == self.index
            {
                found.extend(addresses::address(&message));
            }
        })?;
        Ok(found)
    }

    /// Gives it addresses, those that it has too. Returns those that the kernel refused, by their place.
    ///
    /// # Errors
    /// Where the kernel cannot be talked to.
    pub fn add(&self, addresses: &[IpAddr]) -> io::Result<Vec<(usize, io::Error)>> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.change(addresses, flags, RouteNetlinkMessage::NewAddress)
    }

    /// Takes addresses from it, likewise. One that it has not is as good as gone.
    ///
    /// # Errors
    /// Where the kernel cannot be talked to.
    pub fn delete(&self, addresses: &[IpAddr]) -> io::Result<Vec<(usize, io::Error)>> {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut refused = self.change(addresses, flags, RouteNetlinkMessage::DelAddress)?;
        refused.retain(|(_, error)| error.raw_os_error() != Some(libc::EADDRNOTAVAIL));
        Ok(refused)
    }

    fn change(
        &self,
        addresses: &[IpAddr],
        flags: u16,
        make: impl Fn(AddressMessage) -> RouteNetlinkMessage,
    ) -> io::Result<Vec<(usize, io::Error)>> {
        let requests = addresses.iter().map(|address| {
            let message = make(message(self.index, *address));
            netlink::bytes(flags, NetlinkPayload::from(message))
        });
        netlink::carry_out_all::<RouteNetlinkMessage>(&self.socket, requests)
    }
}

/// Nothing leaves the node with such an address unless it is the destination's too: of IPv4 it counts on this host only, of
/// IPv6 it is deprecated.
fn message(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    match address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = 32;
            message.header.scope = AddressScope::Host;
            message.attributes = vec![
                AddressAttribute::Local(address),
                AddressAttribute::Address(address),
            ];
        }
        IpAddr::V6(_) => {
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX;
            message.header.family = AddressFamily::Inet6;
            message.header.prefix_len = 128;
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes = vec![
                AddressAttribute::Address(address),
                AddressAttribute::CacheInfo(lifetimes),
            ];
        }
    }
    message
}

fn ask(socket: &Socket, flags: u16, message: RouteNetlinkMessage) -> io::Result<()> {
    let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    socket.send(&netlink::bytes(flags, NetlinkPayload::from(message)), 0)?;
    netlink::receive(socket, 1, |_, _: RouteNetlinkMessage| {})
}
