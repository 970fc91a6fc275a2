//! Masquerade: what leaves the node gets the address of the interface that it leaves by as its source, and a port that
//! no other flow to the same backend has.
//!
//! [`crate::record`] leaves an entry without a source; the first packet that leaves completes it, because only then the
//! interface is known. Changed earlier, the packet would come in with an address of the node itself as its source, which
//! the stack drops. The way back is found at the same interface by backend, address and port; it makes the client the
//! destination again, before the stack sees the packet.
//!
//! Others masquerade too: another proxy, the CNI. What leaves with a port of ours and without our doing becomes a flow as
//! well ([`crate::flow::join`]).

use signpost_common::{
    Address, Cause, FIRST_PORT, Port, device::DeviceValue, flow::FlowValue, service::AddressValue,
};

use crate::{
    rewrite,
    tables::{NotInserted, Tables, forget, recall},
    work::Work,
};

/// How many ports there are for flows that cannot keep their own.
const PORTS: u32 = u16::MAX as u32 - FIRST_PORT as u32 + 1;

/// Nanoseconds after which a flow that is in use looks for its way back. The map may have evicted it alone: where nobody
/// answers, only the way there is used.
pub(crate) const LOOKS_EVERY: u64 = 1_000_000_000;

/// How many ports are tried.
const TRIES: u32 = 32;
/// The unit of [`Work::over_for`], in nanoseconds: it counts to 71 minutes.
const MICROSECOND: u64 = 1000;

/// One of the source ports.
#[inline(always)]
pub(crate) fn random_port(tables: &impl Tables) -> u16 {
    nth_port(tables.random())
}

/// Gives the masqueraded flow in the working memory its source, and records its way back. A flow that has one keeps
/// it: the connection that its SYN opens is then as new as any.
///
/// With `work.keeps` the flow is in use. It goes on as it is, unless its way back is another flow's by now.
///
/// Which port, the flow's hash says at first, so that two packets that come at once find the same; then chance. A port
/// whose connection is over is taken where no other is found, the one that has been over for longest.
///
/// # Errors
/// [`Cause::NoMasqueradeAddress`], [`Cause::PortsExhausted`], [`Cause::FlowNotRecorded`].
#[inline(always)]
pub fn complete<T: Tables>(tables: &T, work: &mut Work, device: u32) -> Result<(), Cause> {
    if recall(&work.keeps) != 0 && has_way_back(tables, work) {
        return Ok(());
    }
    let v4 = work.flow.destination.is_v4();
    let mut address = if is_of_node(tables, &work.key.source) {
        work.key.source
    } else {
        address_of(tables, device, v4)
    };
    if address.same(&Address::UNSPECIFIED) {
        address = address_of(tables, DeviceValue::ANY, v4);
    }
    if address.same(&Address::UNSPECIFIED) {
        return Err(Cause::NoMasqueradeAddress);
    }
    work.flow.source = address;
    work.flow.flags = FlowValue::MASQUERADE | work.flow.flags & FlowValue::THROUGH;
    work.flow.last_seen = tables.now();
    write_back(work);
    forget(&mut work.second_best, 0);
    forget(&mut work.over_for, 0);
    let first = match work.flow.source_port.get() {
        0 => nth_port(work.flow.check),
        port => port,
    };
    set_port(work, first);
    for _ in 0..TRIES {
        match tables.insert_flow(&work.back_key, &work.back, false) {
            Ok(()) => return finish(tables, work),
            Err(NotInserted::Refused) => return Err(Cause::FlowNotRecorded),
            Err(NotInserted::Exists) => {}
        }
        if is_own(tables, work) {
            return replace(tables, work);
        }
        note_if_over(tables, work);
        set_port(work, random_port(tables));
    }
    let port = recall(&work.second_best) as u16;
    if port == 0 {
        return Err(Cause::PortsExhausted);
    }
    set_port(work, port);
    if tables.peek_flow(&work.back_key, work.back.check, &mut work.there) {
        work.there
            .write_opposite(&work.back_key, &mut work.there_key);
        tables.remove_flow(&work.there_key);
    }
    replace(tables, work)
}

#[inline(always)]
const fn nth_port(number: u32) -> u16 {
    FIRST_PORT + (number % PORTS) as u16
}

#[inline(always)]
fn address_of(tables: &impl Tables, device: u32, v4: bool) -> Address {
    match tables.device(device) {
        Some(device) if v4 => device.v4,
        Some(device) => device.v6,
        None => Address::UNSPECIFIED,
    }
}

/// Whether the way back of a flow that is in use is there, or could be put there again.
#[inline(always)]
fn has_way_back(tables: &impl Tables, work: &mut Work) -> bool {
    write_back(work);
    let port = work.flow.source_port.get();
    set_port(work, port);
    match tables.insert_flow(&work.back_key, &work.back, false) {
        Ok(()) => true,
        Err(NotInserted::Refused) => false,
        Err(NotInserted::Exists) => is_own(tables, work),
    }
}

/// Whether an address is this node's: what comes from there needs no other one.
#[inline(always)]
pub(crate) fn is_of_node(tables: &impl Tables, address: &Address) -> bool {
    tables.address(address) & (AddressValue::NODE | AddressValue::NODE_PORT) != 0
}

/// The way back, apart from its port.
#[inline(always)]
fn write_back(work: &mut Work) {
    let Work {
        key,
        flow,
        back_key,
        back,
        ..
    } = work;
    flow.write_opposite(key, back_key);
    back.service = flow.service;
    back.source = flow.destination;
    back.source_port = flow.destination_port;
    back.destination = key.source;
    back.destination_port = key.source_port;
    back.flags = flow.flags & FlowValue::THROUGH;
    back.last_seen = flow.last_seen;
}

#[inline(always)]
fn set_port(work: &mut Work, port: u16) {
    let port = Port::new(port);
    work.flow.source_port = port;
    work.back_key.destination_port = port;
    work.back.check = work.back_key.check();
    rewrite::sums(&work.back_key, &mut work.back);
}

/// Whether the way back that is there is this flow's own: another packet of it was faster, or the connection is opened
/// anew. An element that is another one's by now is as good as none.
#[inline(always)]
fn is_own(tables: &impl Tables, work: &mut Work) -> bool {
    !tables.peek_flow(&work.back_key, work.back.check, &mut work.there)
        || work.there.destination.same(&work.back.destination)
            && work.there.destination_port == work.back.destination_port
}

/// Notes the port whose connection has been over for longest. The way back in `work.there` has it.
#[inline(always)]
fn note_if_over(tables: &impl Tables, work: &mut Work) {
    let (flags, last_seen) = (work.there.flags, work.there.last_seen);
    work.there
        .write_opposite(&work.back_key, &mut work.there_key);
    if !tables.peek_flow(&work.there_key, work.there_key.check(), &mut work.there) {
        return;
    }
    let other = work.there.flags;
    let over = (flags | other) & FlowValue::RESET != 0 || flags & other & FlowValue::FIN != 0;
    if !over {
        return;
    }
    let over_for = (work.flow.last_seen.saturating_sub(last_seen) / MICROSECOND) as u32;
    if recall(&work.second_best) == 0 || over_for > recall(&work.over_for) {
        forget(&mut work.second_best, work.flow.source_port.get() as u32);
        forget(&mut work.over_for, over_for);
    }
}

#[inline(always)]
fn replace(tables: &impl Tables, work: &mut Work) -> Result<(), Cause> {
    match tables.insert_flow(&work.back_key, &work.back, true) {
        Ok(()) => finish(tables, work),
        Err(_) => Err(Cause::FlowNotRecorded),
    }
}

#[inline(always)]
fn finish(tables: &impl Tables, work: &mut Work) -> Result<(), Cause> {
    rewrite::sums(&work.key, &mut work.flow);
    tables
        .insert_flow(&work.key, &work.flow, true)
        .map_err(|_| Cause::FlowNotRecorded)
}
