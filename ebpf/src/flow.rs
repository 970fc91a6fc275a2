//! Flows: what a packet of TCP or UDP is translated to, and how that is decided.
//!
//! A flow has a pair of entries at the interface where the client's packets arrive: there, client to Service becomes
//! client to backend; back, backend to client becomes Service to client. Where the client's address has to be hidden from
//! the backend ([`crate::masquerade`]) there is a second pair at the interface where the packets leave. The two pairs
//! cannot be confused: an entry is found by the direction of the program, and both addresses and ports. An entry that
//! would have the key of another flow's is never written over it ([`crate::record`]).

use signpost_common::{
    Address, Cause,
    dns::Config,
    flow::{FlowKey, FlowValue},
    service::{AddressValue, FrontendValue, MemberValue, RangeKey},
};

use crate::{
    affinity,
    choose::dns_pod_alive,
    fragment,
    headers::{EthernetAddresses, Headers, protocol},
    packet::Packet,
    reject::reject,
    rewrite,
    segment::Segment,
    tables::Tables,
    verdict::{Packed, Verdict},
    work::Work,
};

/// Whether the protocol has flows that are translated.
#[inline(always)]
pub const fn is_translated(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP)
}

/// Gives a packet what its flow says; [`Verdict::Continue`] where there is no flow, or it has to be opened anew.
///
/// # Errors
/// [`Cause::HelperFailed`].
#[inline(always)]
pub fn follow<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    segment: &Segment,
    direction: u8,
) -> Result<Verdict, Cause> {
    let work = tables.work().ok_or(Cause::NotConfigured)?;
    segment.write_key(headers, direction, &mut work.key);
    if !tables.flow(&work.key, work.key.check(), segment.adds, &mut work.flow) {
        return Ok(Verdict::Continue);
    }
    let mut cause = Cause::Reversed;
    if work.flow.flags & FlowValue::FORWARD != 0 {
        cause = Cause::Translated;
        match leaves(tables, headers, segment, work) {
            Leaves::No => {}
            Leaves::Reopened => return Ok(Verdict::Continue),
            Leaves::Because(cause) => {
                tables.count(cause);
                return Ok(Verdict::Continue);
            }
        }
    } else if work.flow.flags & FlowValue::MASQUERADE != 0 {
        cause = Cause::Masqueraded;
        if (segment.opens || work.flow.source_port.wire() == 0)
            && let Err(cause) = tables.masquerade(work, packet.device())
        {
            // With its own source it would be answered past this node, and the answer not be understood.
            return Ok(Verdict::Drop(cause));
        }
    }
    apply(packet, tables, headers, direction, &work.flow, cause)
}

/// Chooses a backend for a new flow, records the flow and gives the packet what it says. The packet's key is where
/// [`follow`] has put it. `address` is what the destination is to us, as in [`AddressValue`].
///
/// # Errors
/// Causes for which the packet is left to the stack, and [`Cause::HelperFailed`].
#[inline(always)]
pub fn open<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    segment: &Segment,
    address: u32,
) -> Result<Verdict, Cause> {
    open_packed(packet, tables, headers, segment, address).unpack()
}

#[inline(never)]
fn open_packed<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    segment: &Segment,
    address: u32,
) -> Packed {
    Packed::new(open_here(packet, tables, headers, segment, address))
}

#[inline(always)]
fn open_here<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    segment: &Segment,
    address: u32,
) -> Result<Verdict, Cause> {
    let work = tables.work().ok_or(Cause::NotConfigured)?;
    if !find_frontend(tables, work, address) {
        return Err(Cause::NoFrontend);
    }
    if let Some(config) = tables.config() {
        if config.flags & Config::DRAIN != 0 {
            return Err(Cause::Draining);
        }
        if config.flags & Config::TAKEOVER != 0
            && headers.protocol == protocol::TCP
            && !segment.opens
        {
            return Err(Cause::Takeover);
        }
    }
    if !lets_in(tables, work) {
        return Ok(Verdict::Drop(Cause::SourceRefused));
    }
    affinity::recall(tables, work, work.key.direction == FlowKey::FROM_WIRE);
    match tables.record(work) {
        Ok(()) => {
            affinity::remember(tables, work);
            apply_first(packet, tables, headers, work.key.direction, &work.flow).unpack()
        }
        Err(Cause::NoEndpointsRejected) => reject(packet, headers),
        Err(Cause::NoEndpointsDropped) => Ok(Verdict::Drop(Cause::NoEndpointsDropped)),
        Err(cause) => Err(cause),
    }
}

/// Finds the frontend that a packet is for: at its very destination, else a NodePort. Apart, so that the stack is used
/// by one after the other.
#[inline(never)]
fn find_frontend<T: Tables>(tables: &T, work: &mut Work, address: u32) -> bool {
    work.frontend_key.address = work.key.destination;
    work.frontend_key.port = work.key.destination_port;
    work.frontend_key.protocol = work.key.protocol;
    work.frontend_key.pad = 0;
    if address & AddressValue::SERVICE != 0
        && let Some(frontend) = tables.frontend(&work.frontend_key)
    {
        work.frontend = frontend;
        return true;
    }
    if address & AddressValue::NODE_PORT == 0 {
        return false;
    }
    work.frontend_key.address = if work.key.destination.is_v4() {
        Address::v4([0; 4])
    } else {
        Address::UNSPECIFIED
    };
    match tables.frontend(&work.frontend_key) {
        Some(frontend) => {
            work.frontend = frontend;
            true
        }
        None => false,
    }
}

/// Whether the source ranges of the Service have the client in them.
#[inline(always)]
fn lets_in(tables: &impl Tables, work: &mut Work) -> bool {
    if work.frontend.flags & FrontendValue::SOURCE_RANGES == 0 {
        return true;
    }
    work.range_key.bits = RangeKey::ALL_BITS;
    work.range_key.service = work.frontend.service;
    work.range_key.address = work.key.source;
    tables.in_range(&work.range_key)
}

#[inline(never)]
fn apply_first<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
    flow: &FlowValue,
) -> Packed {
    Packed::new(apply(
        packet,
        tables,
        headers,
        direction,
        flow,
        Cause::FlowCreated,
    ))
}

/// Gives a packet what its flow says, and tells its later fragments.
#[inline(always)]
fn apply<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
    flow: &FlowValue,
    cause: Cause,
) -> Result<Verdict, Cause> {
    rewrite::segment(packet, headers, flow)?;
    if headers.fragment {
        fragment::remember(tables, headers, direction, flow);
    }
    if flow.flags & FlowValue::HAIRPIN == 0 {
        return Ok(Verdict::Rewritten(cause));
    }
    EthernetAddresses::exchange(packet)?;
    Ok(Verdict::SendBack(Cause::Hairpin))
}

/// Whether a packet leaves the flow that is recorded for it.
enum Leaves {
    No,
    /// It opens a connection where the last one was closed.
    Reopened,
    Because(Cause),
}

#[inline(always)]
fn leaves(tables: &impl Tables, headers: &Headers, segment: &Segment, work: &mut Work) -> Leaves {
    if work.flow.flags & FlowValue::LOCAL_DNS != 0 && dns_pod_alive(tables) == Some(false) {
        return Leaves::Because(Cause::DnsPodSilent);
    }
    let needs = if headers.protocol == protocol::UDP {
        MemberValue::SERVING
    } else if segment.opens {
        if is_over(tables, work) {
            return Leaves::Reopened;
        }
        MemberValue::CHOSEN
    } else {
        return Leaves::No;
    };
    work.member_key.service = work.flow.service;
    work.member_key.address = work.flow.destination;
    work.member_key.port = work.flow.destination_port;
    if tables.member(&work.member_key) & needs == 0 {
        Leaves::Because(Cause::BackendGone)
    } else {
        Leaves::No
    }
}

/// Whether either side has said that the connection is at its end.
#[inline(never)]
fn is_over<T: Tables>(tables: &T, work: &mut Work) -> bool {
    let Work {
        key,
        flow,
        there_key,
        there,
        ..
    } = work;
    flow.write_opposite(key, there_key);
    let mut flags = flow.flags;
    if tables.peek_flow(there_key, there_key.check(), there) {
        flags |= there.flags;
    }
    flags & (FlowValue::FIN | FlowValue::RESET) != 0
}
