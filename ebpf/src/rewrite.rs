//! Gives a packet its new addresses and ports.

use bytemuck::{AnyBitPattern, NoUninit};
use signpost_common::{
    Address, Cause, Port,
    flow::{FlowKey, FlowValue},
};

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

/// The end of an IPv4 header without options, from its TTL on, with the ports behind it.
const V4_TAIL_AND_PORTS: u32 = 12;

/// Length of [`V4Tail`].
const V4_TAIL: u32 = size_of::<V4Tail>() as u32;

const _: () = assert!(V4_TAIL == 10);

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

/// Replaces addresses and ports of a packet by those of its flow. The checksum of SCTP is over neither addresses nor a
/// pseudo-header (RFC 9260 §6.8), and its ports stay as they are.
///
/// # Errors
/// [`Cause::HelperFailed`].
#[inline(always)]
pub fn segment<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    flow: &FlowValue,
) -> Result<(), Cause> {
    let udp = headers.protocol == protocol::UDP;
    let checksum = headers.transport + if udp { 6 } else { 16 };
    let ports = Ports {
        source: flow.source_port,
        destination: flow.destination_port,
    };
    let addresses = Sum::default().add16(flow.addresses_sum);
    if headers.v4 {
        let [low, high] = addresses.update(headers.checksum).to_ne_bytes();
        let tail = [
            [
                u32::from_ne_bytes([headers.ttl, headers.protocol, low, high]),
                flow.source.words()[3],
            ],
            [flow.destination.words()[3], bytemuck::cast(ports)],
        ]
        .map(bytemuck::cast::<_, u64>);
        packet.store(headers.transport - V4_TAIL_AND_PORTS, &tail)?;
    } else {
        packet.store(
            headers.ip() + 8,
            &[flow.source.words(), flow.destination.words()],
        )?;
        packet.store(headers.transport, &ports)?;
    }
    if headers.protocol == protocol::SCTP {
        return Ok(());
    }
    packet.update_checksum(checksum, addresses, Part::PseudoHeader, udp)?;
    if flow.ports_sum == NOTHING {
        return Ok(());
    }
    let ports = Sum::default().add16(flow.ports_sum);
    packet.update_checksum(checksum, ports, Part::Segment, udp)
}

/// Works out what a flow changes in checksums: [`FlowValue::addresses_sum`] and [`FlowValue::ports_sum`].
#[inline(always)]
pub fn sums(key: &FlowKey, flow: &mut FlowValue) {
    flow.addresses_sum = Sum::default()
        .replace_address(key.source.words(), flow.source.words())
        .replace_address(key.destination.words(), flow.destination.words())
        .fold();
    flow.ports_sum = Sum::default()
        .remove16(key.source_port.wire())
        .add16(flow.source_port.wire())
        .remove16(key.destination_port.wire())
        .add16(flow.destination_port.wire())
        .fold();
}

/// The same for the way back, which changes what the way there has changed.
#[inline(always)]
pub fn opposite_sums(flow: &FlowValue, back: &mut FlowValue) {
    back.addresses_sum = opposite(flow.addresses_sum);
    back.ports_sum = opposite(flow.ports_sum);
}

/// A sum with the other sign; zero and [`NOTHING`] are one number.
#[inline(always)]
const fn opposite(sum: u16) -> u16 {
    if sum == NOTHING { NOTHING } else { !sum }
}

/// A sum that changes nothing; never zero, because what is taken away is added inverted.
const NOTHING: u16 = 0xffff;

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
