//! Frames: well-formed ones, and ones that are damaged in some place.

use std::net::IpAddr;

use arbitrary::{Result, Unstructured};
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header,
    TcpHeader, UdpHeader, icmpv4, icmpv6,
};

use super::world::{address, port};

/// Longest payload.
const LONGEST: usize = 64;

/// The next frame.
pub(super) fn frame(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    if input.ratio(1, 16)? {
        let length = input.int_in_range(0..=128)?;
        return Ok(input.bytes(length.min(input.len()))?.to_vec());
    }
    let v4 = input.arbitrary()?;
    let (source, destination) = (address(input, v4)?, address(input, v4)?);
    let mut frame = if input.ratio(1, 8)? {
        icmp_error(input, source, destination)?
    } else {
        packet(input, source, destination)?
    };
    if input.ratio(1, 8)? {
        damage(input, &mut frame)?;
    }
    let ethertype: [u8; 2] = if v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let mut whole = vec![0; 6];
    whole.extend([2, 0, 0, 0, 0, 1]);
    whole.extend(ethertype);
    whole.append(&mut frame);
    Ok(whole)
}

fn packet(input: &mut Unstructured<'_>, source: IpAddr, destination: IpAddr) -> Result<Vec<u8>> {
    let (from, to) = (port(input)?, port(input)?);
    let length = input.int_in_range(0..=LONGEST)?;
    let payload = input.bytes(length.min(input.len()))?;
    let segment = if input.arbitrary()? {
        tcp(input, source, destination, (from, to), payload)?
    } else {
        let plain = input.ratio(1, 8)?;
        (
            IpNumber::UDP,
            udp(source, destination, (from, to), payload, plain),
        )
    };
    ip(input, source, destination, segment)
}

fn tcp(
    input: &mut Unstructured<'_>,
    source: IpAddr,
    destination: IpAddr,
    (from, to): (u16, u16),
    payload: &[u8],
) -> Result<(IpNumber, Vec<u8>)> {
    let mut header = TcpHeader::new(from, to, 7, 9);
    [header.syn, header.ack, header.fin, header.rst] = *input.choose(&[
        [true, false, false, false],
        [false, true, false, false],
        [true, true, false, false],
        [false, true, true, false],
        [false, false, false, true],
        [false, false, false, false],
    ])?;
    let sum = match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload)
        }
        _ => Ok(0),
    };
    header.checksum = sum.unwrap_or(0);
    Ok((IpNumber::TCP, [&header.to_bytes(), payload].concat()))
}

fn udp(
    source: IpAddr,
    destination: IpAddr,
    (from, to): (u16, u16),
    payload: &[u8],
    plain: bool,
) -> Vec<u8> {
    let mut header = UdpHeader {
        source_port: from,
        destination_port: to,
        length: 8 + payload.len() as u16,
        checksum: 0,
    };
    let sum = match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) if plain => Ok(0),
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload)
        }
        _ => Ok(0),
    };
    header.checksum = sum.unwrap_or(0);
    [&header.to_bytes(), payload].concat()
}

/// An ICMP error about a packet that went the other way.
fn icmp_error(
    input: &mut Unstructured<'_>,
    source: IpAddr,
    destination: IpAddr,
) -> Result<Vec<u8>> {
    let v4 = source.is_ipv4();
    let asker = if input.ratio(3, 4)? {
        destination
    } else {
        address(input, v4)?
    };
    let asked = address(input, v4)?;
    let mut quote = packet(input, asker, asked)?;
    let least = if v4 { 28 } else { 48 };
    let length = input
        .int_in_range(0..=quote.len())?
        .max(least.min(quote.len()));
    quote.truncate(length);
    let segment = match (source, destination) {
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let kind = if input.arbitrary()? {
                Icmpv6Type::PacketTooBig { mtu: 1400 }
            } else {
                Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
            };
            let header = kind.to_header(a.octets(), b.octets(), &quote);
            let bytes = header.map(|h| h.to_bytes().to_vec()).unwrap_or_default();
            (IpNumber::IPV6_ICMP, [bytes, quote].concat())
        }
        _ => {
            let kind = if input.arbitrary()? {
                icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 }
            } else {
                icmpv4::DestUnreachableHeader::Port
            };
            let kind = Icmpv4Type::DestinationUnreachable(kind);
            let header = etherparse::Icmpv4Header::with_checksum(kind, &quote);
            (IpNumber::ICMP, [&header.to_bytes()[..], &quote].concat())
        }
    };
    ip(input, source, destination, segment)
}

/// A packet around a segment; now and then a fragment of one.
fn ip(
    input: &mut Unstructured<'_>,
    source: IpAddr,
    destination: IpAddr,
    (number, mut segment): (IpNumber, Vec<u8>),
) -> Result<Vec<u8>> {
    let fragment: Option<(u16, bool)> = if input.ratio(1, 8)? {
        let offset = *input.choose(&[0_u16, 0, 1])?;
        Some((offset, input.arbitrary()?))
    } else {
        None
    };
    if let Some((offset, more)) = fragment {
        let cut = 24.min(segment.len());
        if offset > 0 {
            segment.drain(..8.min(cut));
        } else if more {
            segment.truncate(cut);
        }
    }
    let (offset, more) = fragment.unwrap_or_default();
    let offset = IpFragOffset::try_new(offset).unwrap_or(IpFragOffset::ZERO);
    Ok(match (source, destination) {
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let extension = fragment
                .map(|_| {
                    Ipv6FragmentHeader::new(number, offset, more, 5)
                        .to_bytes()
                        .to_vec()
                })
                .unwrap_or_default();
            let header = Ipv6Header {
                payload_length: (extension.len() + segment.len()) as u16,
                next_header: if extension.is_empty() {
                    number
                } else {
                    IpNumber::IPV6_FRAGMENTATION_HEADER
                },
                hop_limit: 64,
                source: a.octets(),
                destination: b.octets(),
                ..Ipv6Header::default()
            };
            [header.to_bytes().to_vec(), extension, segment].concat()
        }
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let length = segment.len() as u16;
            let mut header =
                Ipv4Header::new(length, 64, number, a.octets(), b.octets()).unwrap_or_default();
            header.identification = 5;
            header.more_fragments = more;
            header.fragment_offset = offset;
            header.dont_fragment = fragment.is_none();
            header.header_checksum = header.calc_header_checksum();
            [header.to_bytes().to_vec(), segment].concat()
        }
        _ => segment,
    })
}

/// Cuts it, or changes a byte.
fn damage(input: &mut Unstructured<'_>, packet: &mut Vec<u8>) -> Result<()> {
    if packet.is_empty() {
        return Ok(());
    }
    let at = input.int_in_range(0..=packet.len() - 1)?;
    if input.arbitrary()? {
        packet.truncate(at);
    } else {
        packet[at] = input.arbitrary()?;
    }
    Ok(())
}
