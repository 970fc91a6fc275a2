//! Requests over netlink that wait for their answer, in the network namespace of the calling thread.

use std::io;

use netlink_packet_core::{
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Requests in one datagram: their acknowledgements have to fit into what a socket buffers.
const AT_A_TIME: usize = 64;
/// Where a message's number is.
const NUMBER: std::ops::Range<usize> = 8..12;

/// A socket that talks to the kernel.
///
/// # Errors
/// Where the kernel lacks the protocol, or does not allow it.
pub(super) fn open(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// A message as bytes, filled up to where the next one may begin.
pub(super) fn bytes<T: NetlinkSerializable>(flags: u16, payload: NetlinkPayload<T>) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

/// Reads up to the end of a list, or up to so many acknowledgements.
///
/// # Errors
/// What the kernel answers, and `InvalidData` where that cannot be read.
pub(super) fn receive<T: NetlinkDeserializable>(
    socket: &Socket,
    mut acknowledgements: usize,
    mut visit: impl FnMut(&NetlinkHeader, T),
) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<T>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = aligned(message.header.length as usize);
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

/// Sends many requests that ask for an acknowledgement each, some at a time. Returns those that the kernel refused, by
/// their place.
///
/// # Errors
/// Where the kernel cannot be talked to at all.
pub(super) fn carry_out_all<T: NetlinkDeserializable>(
    socket: &Socket,
    requests: impl IntoIterator<Item = Vec<u8>>,
) -> io::Result<Vec<(usize, io::Error)>> {
    let mut refused = Vec::new();
    let mut requests = requests.into_iter().enumerate().peekable();
    while requests.peek().is_some() {
        let mut datagram = Vec::new();
        let mut waiting = 0;
        for (number, mut request) in requests.by_ref().take(AT_A_TIME) {
            request[NUMBER].copy_from_slice(&(number as u32).to_ne_bytes());
            datagram.append(&mut request);
            waiting += 1;
        }
        socket.send(&datagram, 0)?;
        while waiting > 0 {
            let (bytes, _) = socket.recv_from_full()?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<T>::deserialize(rest).map_err(|error| {
                    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                })?;
                if let NetlinkPayload::Error(error) = &message.payload {
                    waiting -= 1;
                    if error.code.is_some() {
                        refused.push((message.header.sequence_number as usize, error.to_io()));
                    }
                }
                let length = aligned(message.header.length as usize);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
    Ok(refused)
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}
