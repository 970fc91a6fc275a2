//! A packet, wherever it is. Offsets count from its first byte, where most interfaces have an Ethernet header.

use bytemuck::{AnyBitPattern, NoUninit};
use signpost_common::{Cause, flow::FlowValue};

use crate::{dns::Scratch, headers::Headers, sum::Sum, tables::Tables};

/// Length of the Ethernet header.
pub const ETHERNET: u32 = 14;

/// Bytes before an Ethernet header that align what follows it (the kernel's `NET_IP_ALIGN`).
pub const PAD: usize = 2;

/// What of a transport checksum a difference is about. The kernel keeps only the pseudo-header's part of the
/// checksum of a packet that is sent with offload, and a program cannot see whether that is so: it has to say which
/// part changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Ports, lengths in the UDP header, payload.
    Segment,
    /// Addresses and the length in the pseudo-header.
    PseudoHeader,
}

/// What the programs ask of a packet. Everything that changes it may fail and then leaves the packet in an unknown
/// state, which [`Cause::HelperFailed`] says.
pub trait Packet {
    /// Where the IP header begins: [`ETHERNET`], or 0 at interfaces without such a header.
    const IP: u32;

    /// The Ethernet type, such as 0x0800.
    fn ethertype(&self) -> u16;

    /// Index of the interface that the packet comes in by, or is to leave by.
    fn device(&self) -> u32;

    /// Whether the packet is for this machine, by its Ethernet address: others see it as well where a switch floods it.
    fn is_for_host(&self) -> bool;

    /// Bytes of the whole packet, an Ethernet header included.
    fn length(&self) -> u32;

    /// Reads a value at an offset.
    ///
    /// # Errors
    /// [`Cause::TooShort`] past the end.
    fn load<T: AnyBitPattern>(&self, offset: u32) -> Result<T, Cause>;

    /// Reads `length` bytes at an offset into the front of `to`; longer than `to` is [`Cause::TooShort`] as well.
    ///
    /// # Errors
    /// [`Cause::TooShort`] past the end.
    fn load_into<const N: usize>(
        &self,
        offset: u32,
        to: &mut [u8; N],
        length: u32,
    ) -> Result<(), Cause>;

    /// Writes a value at an offset. Checksums are the caller's.
    ///
    /// # Errors
    /// [`Cause::HelperFailed`] past the end.
    fn store<T: NoUninit>(&mut self, offset: u32, value: &T) -> Result<(), Cause>;

    /// Writes a value without its first [`PAD`] bytes to the beginning of the packet: an Ethernet header has a length
    /// that leaves nothing behind it aligned.
    ///
    /// # Errors
    /// [`Cause::HelperFailed`] past the end.
    fn store_behind_pad<T: NoUninit>(&mut self, value: &T) -> Result<(), Cause>;

    /// Writes `length` bytes out of `from`, beginning at its byte `start`.
    ///
    /// # Errors
    /// [`Cause::HelperFailed`] past the end of the packet or of `from`.
    fn store_part<const N: usize>(
        &mut self,
        offset: u32,
        from: &[u8; N],
        start: u32,
        length: u32,
    ) -> Result<(), Cause>;

    /// Makes the packet so many bytes long, cutting or adding at its end.
    ///
    /// # Errors
    /// [`Cause::HelperFailed`] where there is no room.
    fn set_length(&mut self, length: u32) -> Result<(), Cause>;

    /// Makes room for so many bytes before the IP header.
    ///
    /// # Errors
    /// [`Cause::HelperFailed`] where there is no room.
    fn insert_before_ip(&mut self, bytes: u32) -> Result<(), Cause>;

    /// Changes the transport checksum at an offset by a difference. `udp` keeps a zero field zero, which says that
    /// there is no checksum (RFC 768), and never makes one.
    ///
    /// # Errors
    /// [`Cause::HelperFailed`] past the end.
    fn update_checksum(
        &mut self,
        offset: u32,
        difference: Sum,
        part: Part,
        udp: bool,
    ) -> Result<(), Cause>;

    /// Looks up where a packet goes on that came in by its interface and has the addresses and ports of this flow now, and
    /// has it sent there when the program ends. `headers` is what the packet had before, and `headers_length` the bytes of
    /// its IP and transport headers. `false` where the stack has to see the packet: it is for this node, there is no way
    /// or one for smaller packets, or the interface has no Ethernet headers.
    fn send_on(&mut self, headers: &Headers, flow: &FlowValue, headers_length: u32) -> bool;

    /// [`crate::dns::resolve`] of the question in the scratch area; apart, so that the kernel verifies it once and not for
    /// each way that leads to it.
    ///
    /// # Errors
    /// As [`crate::dns::resolve`].
    fn resolve<T: Tables>(&mut self, tables: &T, scratch: &mut Scratch) -> Result<Cause, Cause>;
}
