//! Packets that no socket would send: the fragments of a datagram, the last one first.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
};

use anyhow::Context as _;
use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, PacketBuilder,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

/// Bytes of the datagram in each packet, a multiple of eight.
const PART: usize = 1368;

/// Sends a datagram out of the calling thread's network namespace in fragments, the last one first, as a network may
/// deliver them.
///
/// # Errors
/// Where the addresses are of two families, or the kernel does not send.
pub fn send_in_reverse(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> anyhow::Result<()> {
    let datagram = datagram(from, to, payload)?;
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(
        family,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )?;
    if to.is_ipv6() {
        include_header(&socket)?;
    }
    let destination = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    for (number, part) in datagram.chunks(PART).enumerate().rev() {
        let offset = IpFragOffset::try_new((number * PART / 8).try_into()?)?;
        let more = (number + 1) * PART < datagram.len();
        let packet = fragment(from.ip(), to.ip(), offset, more, part)?;
        sendto(socket.as_raw_fd(), &packet, &destination, MsgFlags::empty())?;
    }
    Ok(())
}

/// The UDP header with its checksum, and the payload.
fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (header, builder) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 64);
            (Ipv4Header::MIN_LEN, builder)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let builder = PacketBuilder::ipv6(from.octets(), to.octets(), 64);
            (Ipv6Header::LEN, builder)
        }
        _ => anyhow::bail!("two families in one datagram"),
    };
    let mut packet = Vec::new();
    let builder = builder.udp(from.port(), to.port());
    builder.write(&mut packet, payload)?;
    Ok(packet.split_off(header))
}

fn fragment(
    from: IpAddr,
    to: IpAddr,
    offset: IpFragOffset,
    more: bool,
    part: &[u8],
) -> anyhow::Result<Vec<u8>> {
    const IDENTIFICATION: u16 = 0x5f5f;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = part.len().try_into()?;
            let mut header =
                Ipv4Header::new(length, 64, IpNumber::UDP, from.octets(), to.octets())?;
            header.identification = IDENTIFICATION;
            header.dont_fragment = false;
            header.more_fragments = more;
            header.fragment_offset = offset;
            header.header_checksum = header.calc_header_checksum();
            Ok([&header.to_bytes()[..], part].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let fragment =
                Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, IDENTIFICATION.into());
            let fragment = fragment.to_bytes();
            let header = Ipv6Header {
                payload_length: (fragment.len() + part.len()).try_into()?,
                next_header: IpNumber::IPV6_FRAGMENTATION_HEADER,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            Ok([&header.to_bytes()[..], &fragment[..], part].concat())
        }
        _ => anyhow::bail!("two families in one packet"),
    }
}

/// What is sent begins with the IPv6 header.
fn include_header(socket: &impl std::os::fd::AsRawFd) -> anyhow::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a number of the length that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_HDRINCL,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error()).context("no raw socket with its own header")
    }
}
