//! Requests to netfilter over netlink (nfnetlink), in the network namespace of the calling thread.

use std::io;

use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::model::Family;

pub mod conntrack;
pub mod nat_chains;

const fn family(family: Family) -> NetfilterProtoFamily {
    match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// A message as bytes, filled up to where the next one may begin.
fn bytes(
    flags: u16,
    family: NetfilterProtoFamily,
    resource: u16,
    message: impl Into<NetfilterMessageInner>,
) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), message);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Reads up to the end of a list, or up to so many acknowledgements.
fn receive(
    socket: &Socket,
    mut acknowledgements: usize,
    mut visit: impl FnMut(&NetlinkHeader, NetfilterMessage),
) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => visit(&message.header, inner),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(_) => {
                    acknowledgements = acknowledgements.saturating_sub(1);
                    if acknowledgements == 0 {
                        return Ok(());
                    }
                }
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
