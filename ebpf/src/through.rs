//! What only goes through this node: a client outside, and a backend on another node. The routing table says where it
//! goes on, and it is sent there past the node's IP stack.

use signpost_common::{Cause, flow::FlowValue};

use crate::{
    headers::{Headers, protocol},
    packet::Packet,
    sum::Sum,
    verdict::{Packed, Verdict},
};

/// Sends a packet on that has its flow's addresses already. What the stack has something to say to is left to it:
/// fragments, and packets whose time is up or that no route is known for.
///
/// # Errors
/// [`Cause::HelperFailed`].
#[inline(never)]
pub fn send_on<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    flow: &FlowValue,
    cause: Cause,
) -> Packed {
    Packed::new(send_on_here(packet, headers, flow, cause))
}

#[inline(always)]
fn send_on_here<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    flow: &FlowValue,
    cause: Cause,
) -> Result<Verdict, Cause> {
    if headers.ttl <= 1 || headers.fragment {
        return Ok(Verdict::Rewritten(cause));
    }
    // Of a packet that stands for several segments: what each of them has of headers.
    let mut headers_length = headers.transport - headers.ip();
    if headers.protocol == protocol::TCP {
        let offset: u8 = packet.load(headers.transport + 12)?;
        headers_length += u32::from(offset >> 4) * 4;
    } else {
        headers_length += 8;
    }
    if !packet.send_on(headers, flow, headers_length) {
        return Ok(Verdict::Rewritten(cause));
    }
    lower_ttl(packet, headers, flow)?;
    Ok(Verdict::Forwarded(cause))
}

/// As every router does (RFC 1812 §5.3.1, RFC 8200 §3).
#[inline(always)]
fn lower_ttl<P: Packet>(packet: &mut P, headers: &Headers, flow: &FlowValue) -> Result<(), Cause> {
    let ttl = headers.ttl - 1;
    if !headers.v4 {
        return packet.store(headers.ip() + 7, &ttl);
    }
    let checksum = Sum::default()
        .add16(flow.addresses_sum)
        .remove16(u16::from_ne_bytes([headers.ttl, headers.protocol]))
        .add16(u16::from_ne_bytes([ttl, headers.protocol]))
        .update(headers.checksum);
    let [low, high] = checksum.to_ne_bytes();
    packet.store(headers.ip() + 8, &[ttl, headers.protocol, low, high])
}
