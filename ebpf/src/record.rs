//! Opens a flow: chooses its backend and records its entries.

use signpost_common::{
    Address, Cause, Port,
    dns::Config,
    flow::{FlowKey, FlowValue},
    service::{AddressValue, FrontendValue, RangeKey, SlotValue},
};

use crate::{
    choose::{self, Set},
    headers::protocol,
    masquerade::random_port,
    rewrite,
    tables::{NotInserted, Tables, forget, recall},
    work::Work,
};

/// How often a backend is chosen for a flow: again where the slots change meanwhile, and where another flow has the
/// same way back already.
const TURNS: u32 = 8;
/// How many of these turns ask for another backend; the others keep it and translate the source port.
const BACKENDS: u32 = 4;

/// Chooses a backend for the key and frontend in the working memory, and records the entries of the flow. A client with
/// affinity keeps the backend that it has. What one turn leaves to the next goes through memory, so that the verifier
/// sees one turn like the other.
///
/// # Errors
/// [`Cause::NoEndpointsRejected`], [`Cause::NoEndpointsDropped`] and [`Cause::SctpPortRejected`] say what the packet
/// gets; for the others it is left to the stack.
#[inline(always)]
pub fn record<T: Tables>(tables: &T, work: &mut Work) -> Result<(), Cause> {
    let check = work.key.check();
    forget(&mut work.attempt, 0);
    forget(&mut work.clashes, 0);
    forget(&mut work.again, 0);
    choose_set(tables, work)?;
    for turn in 0..TURNS {
        let set = Set {
            first: recall(&work.set.first),
            count: recall(&work.set.count),
            avoid_local: recall(&work.set.avoid_local),
        };
        let stays = recall(&work.stays) != 0;
        if !stays {
            let attempt = recall(&work.attempt);
            let Some(slot) = choose::slot(tables, &work.frontend, &set, check, attempt) else {
                if recall(&work.again) != 0 {
                    return Err(Cause::SlotsChanging);
                }
                forget(&mut work.again, 1);
                work.frontend = tables
                    .frontend(&work.frontend_key)
                    .ok_or(Cause::NoFrontend)?;
                choose_set(tables, work)?;
                continue;
            };
            work.slot = slot;
            forget(&mut work.attempt, attempt + 1);
            if set.avoid_local != 0 && work.slot.flags & SlotValue::LOCAL != 0 && turn < BACKENDS {
                continue;
            }
        }
        let clashes = recall(&work.clashes);
        let other_port = clashes > 0 && (stays || set.count == 1 || turn >= BACKENDS);
        write_entries(tables, work, check, other_port);
        write_back(work);
        let leaves_by = leaving_direction(tables, work);
        forget(&mut work.leaves_by, leaves_by);
        if goes_through(tables, work) {
            work.flow.flags |= FlowValue::THROUGH;
        }
        if leaves_by != NOWHERE {
            write_leaving(work);
        }
        if work.key.protocol == protocol::SCTP && changes_port(work) {
            return Err(Cause::SctpPortRejected);
        }
        match insert(tables, work) {
            Ok(()) => {
                if clashes > 0 {
                    tables.count(Cause::FlowClash);
                }
                return Ok(());
            }
            Err(NotInserted::Refused) => return Err(Cause::FlowNotRecorded),
            Err(NotInserted::Exists) => forget(&mut work.clashes, clashes + 1),
        }
    }
    Err(Cause::PortsExhausted)
}

/// The set that this client uses, into the working memory.
#[inline(always)]
fn choose_set(tables: &impl Tables, work: &mut Work) -> Result<(), Cause> {
    let outside = work.key.direction == FlowKey::FROM_WIRE;
    let set = choose::set(tables, &work.frontend, outside);
    if set.count == 0 {
        let any = work.frontend.flags & FrontendValue::ANY_ENDPOINTS != 0;
        return Err(if any {
            Cause::NoEndpointsDropped
        } else {
            Cause::NoEndpointsRejected
        });
    }
    forget(&mut work.set.first, set.first);
    forget(&mut work.set.count, set.count);
    forget(&mut work.set.avoid_local, set.avoid_local);
    Ok(())
}

/// Works out the client's entry of a flow. Apart, as those below, so that the stack is used by one after the other.
#[inline(never)]
fn write_entries<T: Tables>(tables: &T, work: &mut Work, check: u32, other_port: bool) {
    let Work {
        key,
        frontend_key,
        frontend,
        slot,
        flow,
        ..
    } = work;
    let from_pod = key.direction == FlowKey::FROM_POD;
    let hairpin = from_pod && slot.address.same(&key.source);
    flow.check = check;
    flow.service = frontend.service;
    // A pod that gets a packet from its own address would answer itself, past the interface.
    flow.source = if hairpin { key.destination } else { key.source };
    flow.source_port = key.source_port;
    // At a NodePort that is the node's own address: from the same port, a process of the host may talk to this backend.
    let of_host = hairpin && !frontend_key.address.same(&key.destination);
    if other_port || of_host {
        flow.source_port = Port::new(random_port(tables));
    }
    flow.destination = slot.address;
    flow.destination_port = slot.port;
    flow.flags = FlowValue::FORWARD;
    if hairpin {
        flow.flags |= FlowValue::HAIRPIN;
    }
    if frontend.flags & FrontendValue::DNS != 0 && slot.flags & SlotValue::LOCAL != 0 {
        flow.flags |= FlowValue::LOCAL_DNS;
    }
    flow.last_seen = tables.now();
    rewrite::sums(key, flow);
}

/// Works out the entry for the way back.
#[inline(never)]
fn write_back(work: &mut Work) {
    let Work {
        key,
        flow,
        back_key,
        back,
        ..
    } = work;
    flow.write_opposite(key, back_key);
    back.check = back_key.check();
    back.service = flow.service;
    back.source = key.destination;
    back.source_port = key.destination_port;
    back.destination = key.source;
    back.destination_port = key.source_port;
    back.flags = flow.flags & (FlowValue::HAIRPIN | FlowValue::LOCAL_DNS);
    back.last_seen = flow.last_seen;
    rewrite::opposite_sums(flow, back);
}

/// Works out the entry for the interface that the flow leaves by.
#[inline(never)]
fn write_leaving(work: &mut Work) {
    let direction = work.leaves_by as u8;
    let Work {
        key,
        flow,
        leaving_key,
        leaving,
        ..
    } = work;
    leaving_key.source = flow.source;
    leaving_key.source_port = flow.source_port;
    leaving_key.destination = flow.destination;
    leaving_key.destination_port = flow.destination_port;
    leaving_key.protocol = key.protocol;
    leaving_key.direction = direction;
    leaving_key.pad = 0;
    leaving.check = leaving_key.check();
    leaving.service = flow.service;
    leaving.source = Address::UNSPECIFIED;
    leaving.source_port = Port::new(0);
    leaving.destination = flow.destination;
    leaving.destination_port = flow.destination_port;
    leaving.flags = FlowValue::MASQUERADE | flow.flags & FlowValue::THROUGH;
    leaving.last_seen = flow.last_seen;
}

/// Whether packets of the flow get another port; masqueraded ones do.
#[inline(always)]
fn changes_port(work: &Work) -> bool {
    work.flow.source_port != work.key.source_port
        || work.flow.destination_port != work.key.destination_port
        || recall(&work.leaves_by) != NOWHERE
}

/// [`Work::leaves_by`] of a flow that is not masqueraded.
const NOWHERE: u32 = FlowKey::FROM_POD as u32;

/// Which program masquerades the flow; [`NOWHERE`] for none. A backend that is this node itself gets the
/// packet without its leaving by any interface, and netfilter would not masquerade it either.
#[inline(always)]
fn leaving_direction(tables: &impl Tables, work: &mut Work) -> u32 {
    if !is_masqueraded(tables, work) || tables.address(&work.slot.address) & AddressValue::NODE != 0
    {
        NOWHERE
    } else if work.slot.flags & SlotValue::LOCAL != 0 {
        FlowKey::TO_POD as u32
    } else {
        FlowKey::TO_WIRE as u32
    }
}

/// Whether both sides of the flow are reached by uplinks or tunnels, and its packets in both directions are addressed to
/// this node: then the stack sees all of them or none.
#[inline(always)]
fn goes_through(tables: &impl Tables, work: &Work) -> bool {
    work.key.direction == FlowKey::FROM_WIRE
        && recall(&work.leaves_by) == FlowKey::TO_WIRE as u32
        && tables
            .config()
            .is_some_and(|config| config.flags & Config::FAST_PATH != 0)
}

/// Whether kube-proxy would masquerade the flow.
#[inline(always)]
fn is_masqueraded(tables: &impl Tables, work: &mut Work) -> bool {
    let from_wire = work.key.direction == FlowKey::FROM_WIRE;
    // A client that is its own backend: from a pod it is a hairpin, which is translated at one interface.
    if work.slot.address.same(&work.key.source) {
        return from_wire;
    }
    let flags = work.frontend.flags;
    if flags & FrontendValue::EXTERNAL != 0 {
        return from_wire && flags & FrontendValue::EXTERNAL_LOCAL == 0;
    }
    let Some(config) = tables.config() else {
        return false;
    };
    if config.flags & Config::MASQUERADE_ALL != 0 {
        return true;
    }
    if config.flags & Config::CLUSTER_RANGES == 0 {
        return false;
    }
    work.range_key.bits = RangeKey::ALL_BITS;
    work.range_key.service = RangeKey::CLUSTER;
    work.range_key.address = work.key.source;
    !tables.in_range(&work.range_key)
}

/// Records the entries of a flow, the client's own last, so that no packet finds a part of them.
#[inline(always)]
fn insert(tables: &impl Tables, work: &mut Work) -> Result<(), NotInserted> {
    insert_back(tables, work)?;
    let mut done = Ok(());
    if recall(&work.leaves_by) != NOWHERE {
        done = insert_leaving(tables, work);
    }
    if done.is_ok() {
        done = tables.insert_flow(&work.key, &work.flow, true);
    }
    if done.is_err() {
        tables.remove_flow(&work.back_key);
    }
    done
}

/// Records the entry for the way back, where nobody else has it: two Services may share a backend and be asked from
/// one client port, and each reply must come from the address that was asked.
#[inline(always)]
fn insert_back(tables: &impl Tables, work: &mut Work) -> Result<(), NotInserted> {
    match tables.insert_flow(&work.back_key, &work.back, false) {
        Err(NotInserted::Exists) => {}
        done => return done,
    }
    let Work { back, there, .. } = work;
    if tables.peek_flow(&work.back_key, back.check, there)
        && (!there.source.same(&back.source)
            || !there.destination.same(&back.destination)
            || there.source_port != back.source_port
            || there.destination_port != back.destination_port)
    {
        return Err(NotInserted::Exists);
    }
    tables.insert_flow(&work.back_key, &work.back, true)
}

/// Records the entry for the interface that the flow leaves by. One that is there already keeps its source, so that a
/// connection goes on whose other entries were evicted.
#[inline(always)]
fn insert_leaving(tables: &impl Tables, work: &mut Work) -> Result<(), NotInserted> {
    match tables.insert_flow(&work.leaving_key, &work.leaving, false) {
        Err(NotInserted::Exists) => {}
        done => return done,
    }
    let Work { leaving, there, .. } = work;
    if !tables.peek_flow(&work.leaving_key, leaving.check, there) {
        return tables.insert_flow(&work.leaving_key, leaving, true);
    }
    if there.flags & FlowValue::MASQUERADE == 0 {
        return Err(NotInserted::Exists);
    }
    // Written anew, so that nobody takes it for expired before the packet leaves.
    there.last_seen = leaving.last_seen;
    tables.insert_flow(&work.leaving_key, there, true)
}
