//! Gives a packet its new addresses and ports.

use bytemuck::{AnyBitPattern, NoUninit};
use signpost_common::{Address, Cause, Port, flow::FlowValue};

use crate::{
    headers::{Headers, protocol},
    packet::{Packet, Part},
    sum::Sum,
};

/// Source and destination port, as they lie in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct Ports {
    /// Source port.
    pub source: Port,
    /// Destination port.
    pub destination: Port,
}

/// The end of an IPv4 header, from its checksum on.
#[repr(C)]
#[derive(Clone, Copy, NoUninit, AnyBitPattern)]
struct V4Tail {
    checksum: u16,
    addresses: [[u16; 2]; 2],
}

/// The same with the ports, which follow it: there are no options.
#[repr(C)]
#[derive(Clone, Copy, NoUninit, AnyBitPattern)]
struct V4TailAndPorts {
    tail: V4Tail,
    ports: Ports,
}

/// Length of [`V4Tail`].
const V4_TAIL: u32 = size_of::<V4Tail>() as u32;

const _: () = assert!(V4_TAIL == 10 && size_of::<V4TailAndPorts>() == 14);

/// Replaces the addresses. What this changes in a transport checksum is returned.
///
/// # Errors
/// [`Cause::HelperFailed`].
#[inline(always)]
pub fn addresses(
    packet: &mut impl Packet,
    headers: &Headers,
    source: &Address,
    destination: &Address,
) -> Result<Sum, Cause> {
    let ip = headers.ip();
    if headers.v4 {
        let (difference, tail) = v4_tail(headers, source, destination);
        packet.store(ip + 10, &tail)?;
        Ok(difference)
    } else {
        let difference = Sum::default()
            .replace_address(headers.source.words(), source.words())
            .replace_address(headers.destination.words(), destination.words());
        packet.store(ip + 8, &[source.words(), destination.words()])?;
        Ok(difference)
    }
}

/// Replaces addresses and ports of a TCP or UDP packet by those of its flow.
///
/// # Errors
/// [`Cause::HelperFailed`].
#[inline(never)]
pub fn segment<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    old: Ports,
    flow: &FlowValue,
) -> Result<(), Cause> {
    let udp = headers.protocol == protocol::UDP;
    let checksum = headers.transport + if udp { 6 } else { 16 };
    let new = Ports {
        source: flow.source_port,
        destination: flow.destination_port,
    };
    let difference = if headers.v4 {
        let (difference, tail) = v4_tail(headers, &flow.source, &flow.destination);
        packet.store(
            headers.transport - V4_TAIL,
            &V4TailAndPorts { tail, ports: new },
        )?;
        difference
    } else {
        let difference = addresses(packet, headers, &flow.source, &flow.destination)?;
        if old != new {
            packet.store(headers.transport, &new)?;
        }
        difference
    };
    packet.update_checksum(checksum, difference, Part::PseudoHeader, udp)?;
    if old == new {
        return Ok(());
    }
    let ports = Sum::default()
        .remove16(old.source.wire())
        .add16(new.source.wire())
        .remove16(old.destination.wire())
        .add16(new.destination.wire());
    packet.update_checksum(checksum, ports, Part::Segment, udp)
}

/// The end of an IPv4 header with these addresses, and what that changes in a transport checksum.
#[inline(always)]
fn v4_tail(headers: &Headers, source: &Address, destination: &Address) -> (Sum, V4Tail) {
    let [old_source, old_destination] = [headers.source.words()[3], headers.destination.words()[3]];
    let [source, destination] = [source.words()[3], destination.words()[3]];
    let difference = Sum::default()
        .remove32(old_source)
        .add32(source)
        .remove32(old_destination)
        .add32(destination);
    let tail = V4Tail {
        checksum: difference.update(headers.checksum),
        addresses: [bytemuck::cast(source), bytemuck::cast(destination)],
    };
    (difference, tail)
}
