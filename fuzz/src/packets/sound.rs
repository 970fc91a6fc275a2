//! Whether a packet is sound, as etherparse reads it.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// Source and destination of a packet of TCP or UDP that is not a fragment, else of anything with port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) protocol: u8,
}

/// The addresses of a packet. The ports are 0 where it has none; so they are for an ICMP error.
pub(super) fn ends(frame: &[u8]) -> Option<Ends> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination) = addresses(&packet)?;
    let (from, to, protocol) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port(), 6),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port(), 17),
        _ => (0, 0, 0),
    };
    Some(Ends {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
        protocol,
    })
}

/// Whether all checksums are right. `false` for what etherparse does not understand.
pub fn is_sound(frame: &[u8]) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return false;
    };
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header().to_header();
        if header.calc_header_checksum() != header.header_checksum {
            return false;
        }
        if ip.payload().fragmented {
            return true;
        }
    }
    if let Some(NetSlice::Ipv6(ip)) = &packet.net
        && ip.payload().fragmented
    {
        return true;
    }
    let Some((source, destination)) = addresses(&packet) else {
        return false;
    };
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let header = tcp.to_header();
            let sum = match (source, destination) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    header.calc_checksum_ipv4_raw(a.octets(), b.octets(), tcp.payload())
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    header.calc_checksum_ipv6_raw(a.octets(), b.octets(), tcp.payload())
                }
                _ => return false,
            };
            sum.is_ok_and(|sum| sum == header.checksum)
        }
        Some(TransportSlice::Udp(udp)) => {
            let header = udp.to_header();
            let sum = match (source, destination) {
                (IpAddr::V4(_), IpAddr::V4(_)) if header.checksum == 0 => return true,
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    header.calc_checksum_ipv4_raw(a.octets(), b.octets(), udp.payload())
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    header.calc_checksum_ipv6_raw(a.octets(), b.octets(), udp.payload())
                }
                _ => return false,
            };
            sum.is_ok_and(|sum| sum == header.checksum)
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
        }
        Some(TransportSlice::Icmpv6(icmp)) => match (source, destination) {
            (IpAddr::V6(a), IpAddr::V6(b)) => icmp
                .icmp_type()
                .calc_checksum(a.octets(), b.octets(), icmp.payload())
                .is_ok_and(|sum| sum == icmp.checksum()),
            _ => false,
        },
        _ => true,
    }
}

/// The packet that answers one of TCP or UDP: addresses and ports exchanged, which leaves its checksums right. Nothing
/// for fragments and packets with options.
pub(super) fn reversed(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (addresses, transport) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) if !ip.payload().fragmented && ip.header().ihl() == 5 => {
            ([26, 30], 34)
        }
        Some(NetSlice::Ipv6(ip)) if ip.extensions().is_empty() => ([22, 38], 54),
        _ => return None,
    };
    if !matches!(
        packet.transport,
        Some(TransportSlice::Tcp(_) | TransportSlice::Udp(_))
    ) {
        return None;
    }
    let mut reversed = frame.to_vec();
    // The host's address on the way in is what the programs take for theirs.
    reversed[..6].fill(0);
    let [from, to] = addresses;
    exchange(&mut reversed, from, to, to - from);
    exchange(&mut reversed, transport, transport + 2, 2);
    Some(reversed)
}

fn exchange(bytes: &mut [u8], a: usize, b: usize, length: usize) {
    let (front, back) = bytes.split_at_mut(b);
    front[a..a + length].swap_with_slice(&mut back[..length]);
}

fn addresses(packet: &SlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            Some((
                header.source_addr().into(),
                header.destination_addr().into(),
            ))
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            Some((
                header.source_addr().into(),
                header.destination_addr().into(),
            ))
        }
        _ => None,
    }
}
