//! The headers that every program reads first.

use core::mem::MaybeUninit;

use bytemuck::{AnyBitPattern, NoUninit};
use signpost_common::{Address, Cause};

use crate::packet::Packet;

/// IP protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// The IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMP6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Ethernet type of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethernet type of IPv6.
pub const IPV6: u16 = 0x86dd;

/// An IPv4 header without options, fields as they lie in memory (network byte order).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, NoUninit, AnyBitPattern)]
pub struct Ipv4Header {
    /// Version and header length.
    pub version_length: u8,
    /// Type of service.
    pub service: u8,
    /// Length of the packet from here on.
    pub length: u16,
    /// Identification.
    pub identification: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
}

impl Ipv4Header {
    /// All zero.
    pub const ZERO: Self = Self {
        version_length: 0,
        service: 0,
        length: 0,
        identification: 0,
        fragment: 0,
        ttl: 0,
        protocol: 0,
        checksum: 0,
        source: 0,
        destination: 0,
    };
}

/// An IPv6 header, fields as they lie in memory (network byte order).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, NoUninit, AnyBitPattern)]
pub struct Ipv6Header {
    /// Version, traffic class and flow label.
    pub version_flow: u32,
    /// Length of what follows this header.
    pub length: u16,
    /// Protocol of what follows.
    pub next: u8,
    /// Hop limit.
    pub hops: u8,
    /// Source address.
    pub source: [u32; 4],
    /// Destination address.
    pub destination: [u32; 4],
}

impl Ipv6Header {
    /// All zero.
    pub const ZERO: Self = Self {
        version_flow: 0,
        length: 0,
        next: 0,
        hops: 0,
        source: [0; 4],
        destination: [0; 4],
    };
}

/// An IPv6 fragment header (RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, NoUninit, AnyBitPattern)]
struct FragmentHeader {
    next: u8,
    reserved: u8,
    offset_flags: u16,
    identification: u32,
}

/// What a packet's headers say, for both families alike.
#[derive(Clone, Copy, Debug)]
pub struct Headers {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Where the transport header begins.
    pub transport: u32,
    /// Bytes from there to the end of the IP packet.
    pub transport_length: u32,
    /// Identification of the fragmented packet, in network byte order.
    pub identification: u32,
    /// Transport protocol.
    pub protocol: u8,
    /// Whether the family is IPv4.
    pub v4: bool,
    /// Whether this is one of several fragments.
    pub fragment: bool,
    /// Whether this is a fragment after the first: it has no transport header.
    pub later_fragment: bool,
    /// IPv4 header checksum as it lies in memory; 0 for IPv6.
    pub checksum: u16,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Nothing.
    pub pad: u8,
}

impl Headers {
    /// All zero.
    pub const EMPTY: Self = Self {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        transport: 0,
        transport_length: 0,
        identification: 0,
        protocol: 0,
        v4: false,
        fragment: false,
        later_fragment: false,
        checksum: 0,
        ttl: 0,
        pad: 0,
    };

    /// All zero, made in its place word by word: for an assignment of that many words the compiler calls a function that
    /// stores byte by byte.
    #[inline(always)]
    pub fn empty(place: &mut MaybeUninit<Self>) -> &mut Self {
        const WORDS: usize = size_of::<Headers>() / 4;
        const { assert!(size_of::<Headers>() == WORDS * 4 && align_of::<Headers>() == 4) };
        for n in 0..WORDS {
            // SAFETY: inside the place, and aligned.
            unsafe { place.as_mut_ptr().cast::<u32>().add(n).write_volatile(0) };
        }
        // SAFETY: all fields are numbers, addresses and bools, for which zeros are a value.
        unsafe { place.assume_init_mut() }
    }

    /// Reads the headers. `false` for what is neither IPv4 nor IPv6.
    ///
    /// # Errors
    /// [`Cause::TooShort`], and [`Cause::IpOptions`] for IP options and extension headers other than fragment.
    #[inline(always)]
    pub fn read<P: Packet>(&mut self, packet: &P) -> Result<bool, Cause> {
        match packet.ethertype() {
            IPV4 => self.read_v4(packet, P::IP)?,
            IPV6 => self.read_v6(packet, P::IP)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads the headers of the packet that an ICMP error quotes, of the same family as the error.
    ///
    /// # Errors
    /// As [`Headers::read`].
    #[inline(always)]
    pub fn read_quoted(&mut self, packet: &impl Packet, error: &Self) -> Result<(), Cause> {
        let at = error.transport + 8;
        if error.v4 {
            self.read_v4(packet, at)
        } else {
            self.read_v6(packet, at)
        }
    }

    /// Where the IP header begins, when the transport header begins where this says.
    #[inline(always)]
    pub const fn ip(&self) -> u32 {
        self.transport
            - if self.v4 {
                size_of::<Ipv4Header>() as u32
            } else {
                self.v6_length()
            }
    }

    const fn v6_length(&self) -> u32 {
        size_of::<Ipv6Header>() as u32
            + if self.fragment {
                size_of::<FragmentHeader>() as u32
            } else {
                0
            }
    }

    #[inline(always)]
    fn read_v4(&mut self, packet: &impl Packet, at: u32) -> Result<(), Cause> {
        let header: Ipv4Header = packet.load(at)?;
        if header.version_length != 0x45 {
            return Err(Cause::IpOptions);
        }
        let fragment = u16::from_be(header.fragment);
        self.source = Address::v4_word(header.source);
        self.destination = Address::v4_word(header.destination);
        self.transport = at + size_of::<Ipv4Header>() as u32;
        self.transport_length =
            (u16::from_be(header.length) as u32).wrapping_sub(size_of::<Ipv4Header>() as u32);
        self.identification = header.identification as u32;
        self.protocol = header.protocol;
        self.v4 = true;
        self.fragment = fragment & 0x3fff != 0;
        self.later_fragment = fragment & 0x1fff != 0;
        self.checksum = header.checksum;
        self.ttl = header.ttl;
        Ok(())
    }

    #[inline(always)]
    fn read_v6(&mut self, packet: &impl Packet, at: u32) -> Result<(), Cause> {
        let header: Ipv6Header = packet.load(at)?;
        self.source = Address::v6_words(header.source);
        self.destination = Address::v6_words(header.destination);
        self.transport = at + size_of::<Ipv6Header>() as u32;
        self.transport_length = u16::from_be(header.length) as u32;
        self.identification = 0;
        self.ttl = header.hops;
        self.protocol = header.next;
        self.v4 = false;
        self.fragment = false;
        self.later_fragment = false;
        self.checksum = 0;
        if header.next == protocol::FRAGMENT {
            let fragment: FragmentHeader = packet.load(self.transport)?;
            let offset_flags = u16::from_be(fragment.offset_flags);
            self.transport += size_of::<FragmentHeader>() as u32;
            self.transport_length = self
                .transport_length
                .wrapping_sub(size_of::<FragmentHeader>() as u32);
            self.identification = fragment.identification;
            self.protocol = fragment.next;
            self.fragment = true;
            self.later_fragment = offset_flags & 0xfff8 != 0;
        }
        match self.protocol {
            // Hop-by-hop, routing, fragment once more, ESP, authentication, destination options, mobility, HIP, shim6.
            0 | 43 | protocol::FRAGMENT | 50 | 51 | 60 | 135 | 139 | 140 => Err(Cause::IpOptions),
            _ => Ok(()),
        }
    }
}

/// The Ethernet addresses of a packet, destination first.
#[repr(C)]
#[derive(Clone, Copy, Debug, NoUninit, AnyBitPattern)]
pub struct EthernetAddresses {
    halves: [u16; 6],
}

impl EthernetAddresses {
    /// All zero.
    pub const ZERO: Self = Self { halves: [0; 6] };

    /// Exchanged.
    #[inline(always)]
    #[must_use]
    pub fn exchanged(self) -> Self {
        let [a, b, c, d, e, f] = self.halves;
        Self {
            halves: [d, e, f, a, b, c],
        }
    }

    /// Exchanges those of a packet that has them.
    ///
    /// # Errors
    /// As loading and storing.
    #[inline(always)]
    pub fn exchange<P: Packet>(packet: &mut P) -> Result<(), Cause> {
        if P::IP == 0 {
            return Ok(());
        }
        let addresses: Self = packet.load(0)?;
        packet.store(0, &addresses.exchanged())
    }
}

const _: () = {
    assert!(
        size_of::<Ipv4Header>() == 20
            && size_of::<Ipv6Header>() == 40
            && size_of::<FragmentHeader>() == 8
    );
};
