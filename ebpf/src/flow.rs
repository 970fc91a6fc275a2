//! Flows: what a packet of TCP, UDP or SCTP is translated to, and how that is decided.
//!
//! A flow has a pair of entries at the interface where the client's packets arrive: there, client to Service becomes
//! client to backend; back, backend to client becomes Service to client. Where the client's address has to be hidden from
//! the backend ([`crate::masquerade`]) there is a second pair at the interface where the packets leave. The two pairs
//! cannot be confused: an entry is found by the direction of the program, and both addresses and ports. An entry that
//! would have the key of another flow's is never written over it ([`crate::record`]).

use signpost_common::{
    Address, Cause, FIRST_PORT,
    dns::Config,
    flow::{FlowKey, FlowValue},
    service::{AddressValue, FrontendValue, MemberValue, RangeKey},
};

use crate::{
    affinity,
    choose::dns_pod_alive,
    count, fragment,
    headers::{EthernetAddresses, Headers, protocol},
    masquerade,
    packet::Packet,
    reject::reject,
    rewrite,
    segment::Segment,
    tables::{Tables, forget},
    verdict::{Packed, Verdict},
    work::Work,
};

/// Whether the protocol has flows that are translated.
#[inline(always)]
pub const fn is_translated(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// Gives a packet what its flow says; [`Verdict::Continue`] where there is no flow, or it has to be opened anew. An entry
/// that a packet leaves is forgotten: where its Service is gone, the next packet must not find it.
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
    if work.flow.flags & FlowValue::LET_PASS != 0 {
        let answers = seconds(tables.now()).wrapping_sub(work.flow.left_at);
        work.flow.left_at = 0;
        if answers < FlowValue::LET_PASS_FOR {
            return Err(Cause::NotOpening);
        }
        tables.remove_flow(&work.key);
        return Ok(Verdict::Continue);
    }
    let mut cause = Cause::Reversed;
    if work.flow.flags & FlowValue::FORWARD != 0 {
        cause = Cause::Translated;
        match leaves(tables, headers, segment, work) {
            Leaves::No => {}
            why => {
                tables.remove_flow(&work.key);
                if let Leaves::Because(cause) = why {
                    tables.count(cause);
                }
                return Ok(Verdict::Continue);
            }
        }
    } else if work.flow.flags & FlowValue::MASQUERADE != 0 {
        cause = Cause::Masqueraded;
        let anew = segment.opens || work.flow.source_port.wire() == 0;
        // The way back may have been evicted, and its port be another flow's by now.
        let looks = tables.now().saturating_sub(work.flow.last_seen) > masquerade::LOOKS_EVERY;
        forget(&mut work.keeps, !anew as u32);
        if (anew || looks)
            && let Err(cause) = tables.masquerade(work, packet.device())
        {
            // With its own source it would be answered past this node, and the answer not be understood.
            return Ok(Verdict::Drop(cause));
        }
    } else if segment.accepts() && is_over(tables, work) {
        // The connection was closed and no other one was opened in its place: this one goes past the Service, from the
        // same port to the same backend.
        tables.remove_flow(&work.key);
        return Ok(Verdict::Continue);
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
    if address & (AddressValue::NODE | AddressValue::NODE_PORT) != 0
        && !may_open_at_node(headers, segment)
    {
        return Err(Cause::NotOpening);
    }
    if let Some(config) = tables.config() {
        if config.flags & Config::DRAIN != 0 {
            return Err(Cause::Draining);
        }
        if config.flags & Config::TAKEOVER != 0
            && headers.protocol != protocol::UDP
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
            count::connection(tables, &work.flow.service);
            apply_first(packet, tables, headers, work.key.direction, &work.flow).unpack()
        }
        Err(cause @ (Cause::NoEndpointsRejected | Cause::SctpPortRejected)) => {
            reject(packet, headers, cause)
        }
        Err(Cause::NoEndpointsDropped) => Ok(Verdict::Drop(Cause::NoEndpointsDropped)),
        Err(cause) => Err(cause),
    }
}

/// Whether a packet to an address of the node may be a client's first: the node, and what is masqueraded by others as
/// the node, talk to the network from ports of that address too, and what comes back for them is no client's. For
/// datagrams [`let_answers_pass`] has left an entry then.
#[inline(always)]
fn may_open_at_node(headers: &Headers, segment: &Segment) -> bool {
    headers.protocol == protocol::UDP || segment.opens
}

/// Notes at a datagram that leaves, and is of no flow, that its answers are for whom it comes from, where its source is
/// a way in to a Service: a NodePort from which the node itself sends, or somebody who is masqueraded as it.
///
/// TCP and SCTP say which packet is a connection's first; UDP does not.
#[inline(always)]
pub fn let_answers_pass<T: Tables>(
    tables: &T,
    headers: &Headers,
    segment: &Segment,
    direction: u8,
) {
    let Some(config) = tables.config() else {
        return;
    };
    let port = segment.source().get();
    if port < config.external_ports[0] || port > config.external_ports[1] {
        return;
    }
    let address = tables.address(&headers.source);
    if address & (AddressValue::NODE | AddressValue::NODE_PORT) != 0 {
        let_pass(tables, headers, segment, direction, address);
    }
}

/// Whether a packet that leaves and is of no flow may have one of the ports that only masqueraded flows are given.
#[inline(always)]
pub fn may_take_a_port(headers: &Headers, segment: &Segment) -> bool {
    let begins =
        headers.protocol == protocol::UDP || headers.protocol == protocol::TCP && segment.opens;
    begins && segment.source().get() >= FIRST_PORT
}

/// Makes a flow of what somebody else sends from this node with such a port: a proxy beside us, or a CNI, that has
/// masqueraded it and chose the port by chance. So the port is given to nobody else, and where a flow to the same peer
/// has it, the packet gets another one. Otherwise answers to both would be the same packets.
///
/// # Errors
/// As [`follow`].
#[inline(always)]
pub fn join<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    segment: &Segment,
    direction: u8,
) -> Result<Verdict, Cause> {
    join_packed(packet, tables, headers, segment, direction).unpack()
}

#[inline(never)]
fn join_packed<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    segment: &Segment,
    direction: u8,
) -> Packed {
    Packed::new(join_here(packet, tables, headers, segment, direction))
}

#[inline(always)]
fn join_here<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    segment: &Segment,
    direction: u8,
) -> Result<Verdict, Cause> {
    if !masquerade::is_of_node(tables, &headers.source) {
        return Ok(Verdict::Continue);
    }
    let work = tables.work().ok_or(Cause::NotConfigured)?;
    segment.write_key(headers, direction, &mut work.key);
    work.flow.check = work.key.check();
    work.flow.service = 0;
    work.flow.flags = 0;
    work.flow.source_port = work.key.source_port;
    work.flow.destination = work.key.destination;
    work.flow.destination_port = work.key.destination_port;
    forget(&mut work.keeps, 0);
    match tables.masquerade(work, packet.device()) {
        Ok(()) => apply(
            packet,
            tables,
            headers,
            direction,
            &work.flow,
            Cause::Masqueraded,
        ),
        // Its answers would go to somebody else.
        Err(cause @ Cause::PortsExhausted) => Ok(Verdict::Drop(cause)),
        Err(_) => Ok(Verdict::Continue),
    }
}

/// Whether there is a frontend at the packet's destination, which is `address` to us.
#[inline(always)]
pub(crate) fn is_served<T: Tables>(
    tables: &T,
    headers: &Headers,
    segment: &Segment,
    address: u32,
) -> bool {
    let Some(work) = tables.work() else {
        return false;
    };
    segment.write_key(headers, FlowKey::TO_WIRE, &mut work.key);
    find_frontend(tables, work, address)
}

#[inline(never)]
fn let_pass<T: Tables>(
    tables: &T,
    headers: &Headers,
    segment: &Segment,
    direction: u8,
    address: u32,
) {
    let Some(work) = tables.work() else { return };
    segment.write_answers_key(headers, direction ^ FlowKey::OTHER_WAY, &mut work.key);
    if !find_frontend(tables, work, address) {
        return;
    }
    work.flow.check = work.key.check();
    work.flow.service = work.frontend.service;
    work.flow.source = work.key.source;
    work.flow.source_port = work.key.source_port;
    work.flow.destination = work.key.destination;
    work.flow.destination_port = work.key.destination_port;
    work.flow.flags = FlowValue::LET_PASS;
    work.flow.last_seen = tables.now();
    work.flow.left_at = seconds(work.flow.last_seen);
    // Where there is no room, the answer goes where it went without this.
    let _ = tables.insert_flow(&work.key, &work.flow, true);
    // What is recorded next has none.
    work.flow.left_at = 0;
}

/// A time in nanoseconds, in seconds.
#[inline(always)]
const fn seconds(nanoseconds: u64) -> u32 {
    (nanoseconds / 1_000_000_000) as u32
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
    count::packet(tables, packet, direction, flow);
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
