//! What is before the question in an answer: the headers from Ethernet to DNS. They are stored in one piece, because each
//! call of a helper takes as long as some tens of instructions.

use bytemuck::NoUninit;
use signpost_common::Cause;

use super::{UdpHeader, question::DnsHeader};
use crate::{
    headers::{EthernetAddresses, Headers, IPV4, IPV6, Ipv4Header, Ipv6Header, protocol},
    packet::Packet,
    sum::Sum,
};

/// Version 4, and a header of five words.
const V4_VERSION: u8 = 0x45;
/// No packet of ours needs to be cut into fragments (RFC 9715).
const DONT_FRAGMENT: u16 = 0x4000;
/// Version 6, no traffic class, no flow label.
const V6_VERSION: u32 = 0x6000_0000;
/// Time to live of packets that begin here (RFC 1700's recommendation, and what Linux sends).
const TTL: u8 = 64;

/// The UDP and the DNS header.
#[repr(C)]
#[derive(Clone, Copy, Debug, NoUninit)]
pub struct Head {
    /// The UDP header.
    pub udp: UdpHeader,
    /// The DNS header.
    pub dns: DnsHeader,
}

/// Room for the headers; too much for the stack.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Front {
    v4: V4Front,
    v6: V6Front,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, NoUninit)]
struct V4Front {
    /// Not stored. It aligns what follows.
    pad: u16,
    ethernet: EthernetAddresses,
    ethertype: u16,
    ip: Ipv4Header,
    head: Head,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, NoUninit)]
struct V6Front {
    /// As in [`V4Front`].
    pad: u16,
    ethernet: EthernetAddresses,
    ethertype: u16,
    ip: Ipv6Header,
    head: Head,
}

impl Front {
    /// All zero.
    pub const ZERO: Self = Self {
        v4: V4Front {
            pad: 0,
            ethernet: EthernetAddresses::ZERO,
            ethertype: 0,
            ip: Ipv4Header::ZERO,
            head: Head::ZERO,
        },
        v6: V6Front {
            pad: 0,
            ethernet: EthernetAddresses::ZERO,
            ethertype: 0,
            ip: Ipv6Header::ZERO,
            head: Head::ZERO,
        },
    };

    /// Stores the headers of the answer to a packet with these headers: a packet of its own, from where the question was
    /// sent to.
    ///
    /// # Errors
    /// [`Cause::HelperFailed`].
    #[inline(always)]
    pub fn store<P: Packet>(
        &mut self,
        packet: &mut P,
        question: &Headers,
        head: Head,
    ) -> Result<(), Cause> {
        let Ok(ethernet) = packet.load::<EthernetAddresses>(0) else {
            return Err(Cause::HelperFailed);
        };
        if question.v4 {
            self.v4.ethernet = ethernet.exchanged();
            self.v4.ethertype = IPV4.to_be();
            self.v4.ip = v4(question, head.udp.length);
            self.v4.head = head;
            packet.store_behind_pad(&self.v4)
        } else {
            self.v6.ethernet = ethernet.exchanged();
            self.v6.ethertype = IPV6.to_be();
            self.v6.ip.version_flow = V6_VERSION.to_be();
            self.v6.ip.length = head.udp.length;
            self.v6.ip.next = protocol::UDP;
            self.v6.ip.hops = TTL;
            self.v6.ip.source = question.destination.words();
            self.v6.ip.destination = question.source.words();
            self.v6.head = head;
            packet.store_behind_pad(&self.v6)
        }
    }
}

impl Head {
    const ZERO: Self = Self {
        udp: UdpHeader::ZERO,
        dns: DnsHeader::ZERO,
    };
}

#[inline(always)]
fn v4(question: &Headers, udp_length: u16) -> Ipv4Header {
    let length = (u16::from_be(udp_length) + size_of::<Ipv4Header>() as u16).to_be();
    let (source, destination) = (question.destination.words()[3], question.source.words()[3]);
    let identification = question.identification as u16;
    let checksum = Sum::default()
        .add16(u16::from_ne_bytes([V4_VERSION, 0]))
        .add16(length)
        .add16(identification)
        .add16(DONT_FRAGMENT.to_be())
        .add16(u16::from_ne_bytes([TTL, protocol::UDP]))
        .add32(source)
        .add32(destination);
    Ipv4Header {
        version_length: V4_VERSION,
        service: 0,
        length,
        identification,
        fragment: DONT_FRAGMENT.to_be(),
        ttl: TTL,
        protocol: protocol::UDP,
        checksum: !checksum.fold(),
        source,
        destination,
    }
}
