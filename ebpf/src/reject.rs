//! Tells a client that nobody is there for it: ICMP port unreachable, as kube-proxy's REJECT, at once.

use bytemuck::{AnyBitPattern, NoUninit};
use signpost_common::Cause;

use crate::{
    headers::{EthernetAddresses, Headers, Ipv4Header, Ipv6Header, protocol},
    packet::Packet,
    sum::Sum,
    verdict::{Packed, Verdict},
};

/// An ICMP error's own header; the next-hop MTU and such are zero.
#[repr(C)]
#[derive(Clone, Copy, NoUninit, AnyBitPattern)]
struct IcmpHeader {
    kind: u8,
    code: u8,
    checksum: u16,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit, AnyBitPattern)]
struct V4Error {
    ip: Ipv4Header,
    icmp: IcmpHeader,
}

#[repr(C)]
#[derive(Clone, Copy, NoUninit, AnyBitPattern)]
struct V6Error {
    ip: Ipv6Header,
    icmp: IcmpHeader,
}

const _: () = assert!(size_of::<V4Error>() == 28 && size_of::<V6Error>() == 48);

/// Turns a packet into the ICMP error about it, addressed to its sender from the Service's address. The quote ends
/// with the transport header: eight bytes of UDP and others, twenty of TCP; of SCTP twenty as well, up to the tag of an INIT, by
/// which its sender knows its association again. `cause` is what the verdict says.
///
/// # Errors
/// [`Cause::TooShort`] before anything was changed, [`Cause::HelperFailed`] after.
#[inline(always)]
pub fn reject<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    cause: Cause,
) -> Result<Verdict, Cause> {
    if headers.fragment {
        return Ok(Verdict::Drop(cause)); // the later fragments could not be told apart from it
    }
    reject_packed(packet, headers).unpack()?;
    Ok(Verdict::SendBack(cause))
}

#[inline(never)]
fn reject_packed<P: Packet>(packet: &mut P, headers: &Headers) -> Packed {
    Packed::new(reject_here(packet, headers))
}

#[inline(always)]
fn reject_here<P: Packet>(packet: &mut P, headers: &Headers) -> Result<Verdict, Cause> {
    let long = matches!(headers.protocol, protocol::TCP | protocol::SCTP);
    if headers.v4 {
        if long {
            v4::<P, 10>(packet, headers)
        } else {
            v4::<P, 7>(packet, headers)
        }
    } else if long {
        v6::<P, 15>(packet, headers)
    } else {
        v6::<P, 12>(packet, headers)
    }
}

/// `QUOTE` is the length of the quote in words of 32 bits.
#[inline(always)]
fn v4<P: Packet, const QUOTE: usize>(packet: &mut P, headers: &Headers) -> Result<Verdict, Cause>
where
    [u32; QUOTE]: AnyBitPattern,
{
    let quote: [u32; QUOTE] = packet.load(P::IP)?;
    let quoted_length = 4 * QUOTE as u32;
    packet.set_length(P::IP + quoted_length)?;
    packet.insert_before_ip(size_of::<V4Error>() as u32)?;
    let mut icmp = IcmpHeader {
        kind: 3,
        code: 3,
        checksum: 0,
        unused: 0,
    };
    icmp.checksum = !sum(&quote)
        .add16(u16::from_ne_bytes([icmp.kind, icmp.code]))
        .fold();
    let mut ip = Ipv4Header {
        version_length: 0x45,
        service: 0xc0, // internetwork control, as the kernel's own errors
        length: (size_of::<V4Error>() as u16 + quoted_length as u16).to_be(),
        identification: 0,
        fragment: 0x4000_u16.to_be(),
        ttl: 64,
        protocol: protocol::ICMP,
        checksum: 0,
        source: headers.destination.words()[3],
        destination: headers.source.words()[3],
    };
    ip.checksum = !sum(&bytemuck::cast::<Ipv4Header, [u32; 5]>(ip)).fold();
    packet.store(P::IP, &V4Error { ip, icmp })?;
    EthernetAddresses::exchange(packet)?;
    Ok(Verdict::SendBack(Cause::NoEndpointsRejected))
}

/// As [`v4`].
#[inline(always)]
fn v6<P: Packet, const QUOTE: usize>(packet: &mut P, headers: &Headers) -> Result<Verdict, Cause>
where
    [u32; QUOTE]: AnyBitPattern,
{
    let quote: [u32; QUOTE] = packet.load(P::IP)?;
    let quoted_length = 4 * QUOTE as u32;
    packet.set_length(P::IP + quoted_length)?;
    packet.insert_before_ip(size_of::<V6Error>() as u32)?;
    let length = (size_of::<IcmpHeader>() as u16 + quoted_length as u16).to_be();
    let mut icmp = IcmpHeader {
        kind: 1,
        code: 4,
        checksum: 0,
        unused: 0,
    };
    icmp.checksum = !sum(&quote)
        .add16(u16::from_ne_bytes([icmp.kind, icmp.code]))
        .add(sum(&headers.source.words()))
        .add(sum(&headers.destination.words()))
        .add16(length)
        .add16((protocol::ICMP6 as u16).to_be())
        .fold();
    let ip = Ipv6Header {
        version_flow: 0x6000_0000_u32.to_be(),
        length,
        next: protocol::ICMP6,
        hops: 64,
        source: headers.destination.words(),
        destination: headers.source.words(),
    };
    packet.store(P::IP, &V6Error { ip, icmp })?;
    EthernetAddresses::exchange(packet)?;
    Ok(Verdict::SendBack(Cause::NoEndpointsRejected))
}

#[inline(always)]
fn sum<const N: usize>(words: &[u32; N]) -> Sum {
    let mut sum = Sum::default();
    for &word in words {
        sum = sum.add32(word);
    }
    sum
}
