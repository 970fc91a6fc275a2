//! Requests to netfilter in the network namespace of the calling thread: over netlink (nfnetlink), and of iptables by its
//! programs.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};

use super::netlink;
use crate::model::Family;

mod batch;
pub mod conntrack;
pub mod ipset;
pub mod iptables;
pub mod nat_chains;
pub mod nftables;
pub mod program;

const fn family(family: Family) -> NetfilterProtoFamily {
    match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    }
}

fn open() -> io::Result<Socket> {
    netlink::open(NETLINK_NETFILTER)
}

/// A message as bytes.
fn bytes(
    flags: u16,
    family: NetfilterProtoFamily,
    resource: u16,
    message: impl Into<NetfilterMessageInner>,
) -> Vec<u8> {
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), message);
    netlink::bytes(flags, NetlinkPayload::from(message))
}

/// Asks for one thing; whether it is there. What is to be done with it is done then.
///
/// # Errors
/// Where the kernel does not allow it, or has no such part of netfilter.
fn exchange(
    family: NetfilterProtoFamily,
    message: impl Into<NetfilterMessageInner>,
) -> io::Result<bool> {
    let socket = open()?;
    socket.send(&bytes(NLM_F_REQUEST | NLM_F_ACK, family, 0, message), 0)?;
    match receive(&socket, 1, |_, _| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads up to the end of a list, or up to so many acknowledgements.
fn receive(
    socket: &Socket,
    acknowledgements: usize,
    visit: impl FnMut(&NetlinkHeader, NetfilterMessage),
) -> io::Result<()> {
    netlink::receive(socket, acknowledgements, visit)
}
