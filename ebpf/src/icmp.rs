//! ICMP errors about translated packets: the packet that they quote, and where they go, are translated with it.
//!
//! The quoted transport checksum is left as it is: a quote need not reach that far (RFC 792: eight bytes), and who
//! gets the error looks at the addresses and ports only (RFC 5927 §4).

use core::mem::MaybeUninit;

use signpost_common::{Address, Cause, flow::FlowValue};

use crate::{
    flow,
    headers::{EthernetAddresses, Headers, protocol},
    packet::{Packet, Part},
    rewrite::{self, Ports},
    sum::Sum,
    tables::Tables,
    verdict::{Packed, Verdict},
};

/// Where an ICMP message's checksum is in it.
const CHECKSUM: u32 = 2;

/// Whether this is ICMP of its family.
#[inline(always)]
pub const fn is_icmp(headers: &Headers) -> bool {
    headers.protocol
        == if headers.v4 {
            protocol::ICMP
        } else {
            protocol::ICMP6
        }
}

/// Whether this message, which is ICMP of its family, asks something: nf_conntrack takes only such for new (echo,
/// timestamp, information and address mask; echo and node information).
///
/// # Errors
/// [`Cause::TooShort`].
#[inline(always)]
pub fn asks(packet: &impl Packet, headers: &Headers) -> Result<bool, Cause> {
    let kind: u8 = packet.load(headers.transport)?;
    Ok(if headers.v4 {
        matches!(kind, 8 | 13 | 15 | 17)
    } else {
        matches!(kind, 128 | 139)
    })
}

/// An error that arrives about a packet which its sender got from us: from a client about a Service's packet, or about a
/// packet with this node's address. It goes to the other end of the flow, about the packet that was sent there. Where a
/// pod is that end itself, it goes back to it.
///
/// # Errors
/// [`Cause::IcmpUnknown`] where the quoted packet is of no flow, and those of reading.
#[inline(always)]
pub fn arriving<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
) -> Result<Verdict, Cause> {
    arriving_packed(packet, tables, headers, direction).unpack()
}

#[inline(never)]
fn arriving_packed<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
) -> Packed {
    Packed::new(arriving_here(packet, tables, headers, direction))
}

#[inline(always)]
fn arriving_here<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
) -> Result<Verdict, Cause> {
    let mut place = MaybeUninit::uninit();
    let quoted = Headers::empty(&mut place);
    let (ports, flow) = read_quote(packet, tables, headers, direction, quoted)?;
    if flow.flags & FlowValue::HAIRPIN == 0 {
        return translate(
            packet,
            headers,
            quoted,
            ports,
            flow,
            &headers.source,
            &flow.destination,
        );
    }
    translate(
        packet,
        headers,
        quoted,
        ports,
        flow,
        &flow.source,
        &flow.destination,
    )?;
    EthernetAddresses::exchange(packet)?;
    Ok(Verdict::SendBack(Cause::IcmpTranslated))
}

/// An error that leaves about a packet which its receiver sent: it is about what the receiver knows again, such as the
/// Service's address, and comes from there where the other end of the flow itself sent it.
///
/// # Errors
/// As [`arriving`].
#[inline(always)]
pub fn leaving<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
) -> Result<Verdict, Cause> {
    leaving_packed(packet, tables, headers, direction).unpack()
}

#[inline(never)]
fn leaving_packed<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
) -> Packed {
    Packed::new(leaving_here(packet, tables, headers, direction))
}

#[inline(always)]
fn leaving_here<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
) -> Result<Verdict, Cause> {
    let mut place = MaybeUninit::uninit();
    let quoted = Headers::empty(&mut place);
    let (ports, flow) = read_quote(packet, tables, headers, direction, quoted)?;
    if flow.source_port.wire() == 0 {
        return Err(Cause::IcmpUnknown); // masqueraded, but nothing of it has left yet
    }
    if flow.flags & FlowValue::LOCAL_DNS != 0 && says_that_nobody_listens(packet, headers)? {
        // Resolvers ask again at once when they hear of it, and are sent to another pod.
        tables.dns_pod_refuses();
    }
    let sender = if headers.source.same(&quoted.destination) {
        &flow.source
    } else {
        &headers.source
    };
    translate(
        packet,
        headers,
        quoted,
        ports,
        flow,
        sender,
        &headers.destination,
    )
}

/// Reads the quoted packet and finds the flow of the packets in the other direction.
#[inline(always)]
fn read_quote<'t, P: Packet, T: Tables>(
    packet: &P,
    tables: &'t T,
    headers: &Headers,
    direction: u8,
    quoted: &mut Headers,
) -> Result<(Ports, &'t FlowValue), Cause> {
    let kind: u8 = packet.load(headers.transport)?;
    if headers.fragment || !is_error(headers.v4, kind) {
        return Err(Cause::IcmpUnknown);
    }
    quoted.read_quoted(packet, headers)?;
    if quoted.later_fragment || !flow::is_translated(quoted.protocol) {
        return Err(Cause::IcmpUnknown);
    }
    let ports: Ports = packet.load(quoted.transport)?;
    let work = tables.work().ok_or(Cause::NotConfigured)?;
    work.key.source = quoted.destination;
    work.key.destination = quoted.source;
    work.key.source_port = ports.destination;
    work.key.destination_port = ports.source;
    work.key.protocol = quoted.protocol;
    work.key.direction = direction;
    work.key.pad = 0;
    if !tables.flow(&work.key, work.key.check(), 0, &mut work.flow) {
        return Err(Cause::IcmpUnknown);
    }
    Ok((ports, &work.flow))
}

/// Destination unreachable, source quench, time exceeded, parameter problem (RFC 792); the error messages of RFC 4443.
#[inline(always)]
const fn is_error(v4: bool, kind: u8) -> bool {
    if v4 {
        matches!(kind, 3 | 4 | 11 | 12)
    } else {
        matches!(kind, 1..=4)
    }
}

/// Port unreachable.
#[inline(always)]
fn says_that_nobody_listens(packet: &impl Packet, headers: &Headers) -> Result<bool, Cause> {
    let (kind, code): (u8, u8) = (
        packet.load(headers.transport)?,
        packet.load(headers.transport + 1)?,
    );
    Ok((kind, code) == if headers.v4 { (3, 3) } else { (1, 4) })
}

/// Makes the quote what the other end of the flow sent, and the message what comes from `sender` to `receiver`.
#[inline(always)]
fn translate<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    quoted: &Headers,
    ports: Ports,
    flow: &FlowValue,
    sender: &Address,
    receiver: &Address,
) -> Result<Verdict, Cause> {
    let new = Ports {
        source: flow.destination_port,
        destination: flow.source_port,
    };
    let addresses = rewrite::addresses(packet, quoted, &flow.destination, &flow.source)?;
    packet.store(quoted.transport, &new)?;
    let mut difference = Sum::default()
        .remove16(ports.source.wire())
        .add16(new.source.wire())
        .remove16(ports.destination.wire())
        .add16(new.destination.wire());
    if !headers.v4 {
        // In IPv4 the quoted header's own checksum makes up for the addresses.
        difference = difference.add(addresses);
    }
    packet.update_checksum(
        headers.transport + CHECKSUM,
        difference,
        Part::Segment,
        false,
    )?;
    let outer = rewrite::addresses(packet, headers, sender, receiver)?;
    if !headers.v4 {
        packet.update_checksum(
            headers.transport + CHECKSUM,
            outer,
            Part::PseudoHeader,
            false,
        )?;
    }
    Ok(Verdict::Rewritten(Cause::IcmpTranslated))
}
