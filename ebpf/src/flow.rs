//! Flows: what a packet of TCP or UDP is translated to, and how that is decided and remembered.

use signpost_common::{
    Cause, Port,
    dns::Config,
    flow::{FlowKey, FlowValue},
    service::{FrontendKey, FrontendValue, MemberKey, MemberValue, SlotValue},
};

use crate::{
    choose::{self, Set, dns_pod_alive},
    fragment,
    headers::{EthernetAddresses, Headers, protocol},
    packet::Packet,
    reject::reject,
    rewrite::{self, Ports},
    tables::{NotInserted, Tables, forget, recall},
    verdict::{Packed, Verdict},
};

/// How often a backend is chosen for a flow: again where the slots change meanwhile, and where another flow has the
/// same way back already.
const TURNS: u32 = 8;
/// How many of these turns ask for another backend; the others keep it and translate the source port.
const BACKENDS: u32 = 4;
/// Source ports for clashing flows: above the usual `ip_local_port_range` (32768–60999), so that the pod's own
/// connections do not use them.
const FIRST_PORT: u32 = 61_000;
const PORTS: u32 = 65_536 - FIRST_PORT;

const TCP_FIN: u8 = 1;
const TCP_SYN: u8 = 2;
const TCP_RST: u8 = 4;
const TCP_ACK: u8 = 16;

/// Bytes of a transport header up to the end of its checksum.
const TCP_NEEDED: u32 = 18;
const UDP_NEEDED: u32 = 8;

/// What a transport header says to a flow.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    ports: Ports,
    /// The flags of [`FlowValue`] that this packet adds.
    adds: u32,
    /// The first packet of a TCP connection.
    opens: bool,
}

impl Segment {
    /// Reads the ports, and the flags of TCP. A header that ends before its checksum is too short: it could be read
    /// but not be written.
    ///
    /// # Errors
    /// [`Cause::TooShort`].
    #[inline(always)]
    pub fn read(packet: &impl Packet, headers: &Headers) -> Result<Self, Cause> {
        let tcp = headers.protocol == protocol::TCP;
        let needed = if tcp { TCP_NEEDED } else { UDP_NEEDED };
        if packet.length() < headers.transport + needed {
            return Err(Cause::TooShort);
        }
        let ports = packet.load(headers.transport)?;
        if !tcp {
            return Ok(Self {
                ports,
                adds: FlowValue::ESTABLISHED,
                opens: false,
            });
        }
        let flags: u8 = packet.load(headers.transport + 13)?;
        let opens = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
        let mut adds = 0;
        if flags & TCP_SYN == 0 {
            adds |= FlowValue::ESTABLISHED;
        }
        if flags & TCP_FIN != 0 {
            adds |= FlowValue::FIN;
        }
        if flags & TCP_RST != 0 {
            adds |= FlowValue::RESET;
        }
        Ok(Self { ports, adds, opens })
    }

    /// The destination port.
    #[inline(always)]
    pub const fn destination(&self) -> Port {
        self.ports.destination
    }

    /// Writes the key of this packet's flow.
    #[inline(always)]
    fn write_key(&self, headers: &Headers, direction: u8, key: &mut FlowKey) {
        let ports = bytemuck::cast(self.ports);
        key.write(
            &headers.source,
            &headers.destination,
            ports,
            headers.protocol,
            direction,
        );
    }
}

/// Whether the protocol has flows that are translated.
#[inline(always)]
pub const fn is_translated(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP)
}

/// Working memory for a packet's flow: too much for the stack, which is 512 bytes for a program with all that it calls.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub(crate) key: FlowKey,
    pub(crate) flow: FlowValue,
    frontend_key: FrontendKey,
    frontend: FrontendValue,
    set: Set,
    slot: SlotValue,
    back_key: FlowKey,
    back: FlowValue,
    there: FlowValue,
    attempt: u32,
    clashes: u32,
    again: u32,
}

impl Work {
    /// All zero.
    pub const ZERO: Self = Self {
        key: FlowKey::ZERO,
        flow: FlowValue::ZERO,
        frontend_key: FrontendKey::ZERO,
        frontend: FrontendValue::ZERO,
        set: Set {
            first: 0,
            count: 0,
            avoid_local: 0,
        },
        slot: SlotValue::ZERO,
        back_key: FlowKey::ZERO,
        back: FlowValue::ZERO,
        there: FlowValue::ZERO,
        attempt: 0,
        clashes: 0,
        again: 0,
    };
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
    if work.flow.flags & FlowValue::FORWARD != 0 {
        match leaves(tables, headers, segment, &work.flow) {
            Leaves::No => {}
            Leaves::Reopened => return Ok(Verdict::Continue),
            Leaves::Because(cause) => {
                tables.count(cause);
                return Ok(Verdict::Continue);
            }
        }
    }
    let cause = if direction == FlowKey::TO_POD {
        Cause::Reversed
    } else {
        Cause::Translated
    };
    apply(packet, tables, headers, &work.flow, cause)
}

/// Chooses a backend for a new flow, records the flow and gives the packet what it says.
///
/// # Errors
/// Causes for which the packet is left to the stack, and [`Cause::HelperFailed`].
#[inline(always)]
pub fn open<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    segment: &Segment,
) -> Result<Verdict, Cause> {
    open_packed(packet, tables, headers, segment).unpack()
}

#[inline(never)]
fn open_packed<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    segment: &Segment,
) -> Packed {
    Packed::new(open_here(packet, tables, headers, segment))
}

#[inline(always)]
fn open_here<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    segment: &Segment,
) -> Result<Verdict, Cause> {
    let work = tables.work().ok_or(Cause::NotConfigured)?;
    segment.write_key(headers, FlowKey::FROM_POD, &mut work.key);
    work.frontend_key.address = headers.destination;
    work.frontend_key.port = segment.ports.destination;
    work.frontend_key.protocol = headers.protocol;
    work.frontend_key.pad = 0;
    work.frontend = tables
        .frontend(&work.frontend_key)
        .ok_or(Cause::NoFrontend)?;
    if headers.protocol == protocol::TCP && !segment.opens && takes_over(tables) {
        return Err(Cause::Takeover);
    }
    match tables.record(work) {
        Ok(()) => apply_first(packet, tables, headers, &work.flow).unpack(),
        Err(Cause::NoEndpointsRejected) => reject(packet, headers),
        Err(Cause::NoEndpointsDropped) => Ok(Verdict::Drop(Cause::NoEndpointsDropped)),
        Err(cause) => Err(cause),
    }
}

/// Chooses a backend for the key and frontend in the working memory, and records both entries of the flow. What one
/// turn leaves to the next goes through memory, so that the verifier sees one turn like the other.
///
/// # Errors
/// [`Cause::NoEndpointsRejected`] and [`Cause::NoEndpointsDropped`] say what the packet gets; for the others it is left
/// to the stack.
#[inline(always)]
pub fn record<T: Tables>(tables: &T, work: &mut Work) -> Result<(), Cause> {
    let check = work.key.check();
    forget(&mut work.attempt, 0);
    forget(&mut work.clashes, 0);
    forget(&mut work.again, 0);
    for turn in 0..TURNS {
        let set = choose::set(tables, &work.frontend);
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
        let set = Set {
            first: recall(&work.set.first),
            count: recall(&work.set.count),
            avoid_local: recall(&work.set.avoid_local),
        };
        let attempt = recall(&work.attempt);
        let Some(slot) = choose::slot(tables, &work.frontend, &set, check, attempt) else {
            if recall(&work.again) != 0 {
                return Err(Cause::SlotsChanging);
            }
            forget(&mut work.again, 1);
            work.frontend = tables
                .frontend(&work.frontend_key)
                .ok_or(Cause::NoFrontend)?;
            continue;
        };
        work.slot = slot;
        forget(&mut work.attempt, attempt + 1);
        if set.avoid_local != 0 && work.slot.flags & SlotValue::LOCAL != 0 && turn < BACKENDS {
            continue;
        }
        let clashes = recall(&work.clashes);
        let other_port = clashes > 0 && (set.count == 1 || turn >= BACKENDS);
        write_entries(tables, work, check, other_port);
        match insert_back(tables, work) {
            Ok(()) => {
                if clashes > 0 {
                    tables.count(Cause::FlowClash);
                }
                if tables.insert_flow(&work.key, &work.flow, true).is_ok() {
                    return Ok(());
                }
                tables.remove_flow(&work.back_key);
                return Err(Cause::FlowNotRecorded);
            }
            Err(NotInserted::Refused) => return Err(Cause::FlowNotRecorded),
            Err(NotInserted::Exists) => forget(&mut work.clashes, clashes + 1),
        }
    }
    Err(Cause::PortsExhausted)
}

#[inline(never)]
fn apply_first<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    flow: &FlowValue,
) -> Packed {
    Packed::new(apply(packet, tables, headers, flow, Cause::FlowCreated))
}

/// Gives a packet what its flow says, and tells its later fragments.
#[inline(always)]
fn apply<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    flow: &FlowValue,
    cause: Cause,
) -> Result<Verdict, Cause> {
    rewrite::segment(packet, headers, flow)?;
    if headers.fragment {
        fragment::remember(tables, headers, flow);
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
fn leaves(tables: &impl Tables, headers: &Headers, segment: &Segment, flow: &FlowValue) -> Leaves {
    if flow.flags & FlowValue::LOCAL_DNS != 0 && dns_pod_alive(tables) == Some(false) {
        return Leaves::Because(Cause::DnsPodSilent);
    }
    let needs = if headers.protocol == protocol::UDP {
        MemberValue::SERVING
    } else if segment.opens {
        if flow.flags & (FlowValue::FIN | FlowValue::RESET) != 0 {
            return Leaves::Reopened;
        }
        MemberValue::CHOSEN
    } else {
        return Leaves::No;
    };
    let member = MemberKey {
        service: flow.service,
        address: flow.destination,
        port: flow.destination_port,
        pad: 0,
    };
    if tables.member(&member) & needs == 0 {
        Leaves::Because(Cause::BackendGone)
    } else {
        Leaves::No
    }
}

#[inline(always)]
fn takes_over(tables: &impl Tables) -> bool {
    tables
        .config()
        .is_some_and(|config| config.flags & Config::TAKEOVER != 0)
}

/// Works out both entries of a flow.
#[inline(always)]
fn write_entries(tables: &impl Tables, work: &mut Work, check: u32, other_port: bool) {
    let Work {
        key,
        frontend,
        slot,
        flow,
        back_key,
        back,
        ..
    } = work;
    let hairpin = slot.address.same(&key.source);
    flow.check = check;
    flow.service = frontend.service;
    // A pod that gets a packet from its own address would answer itself, past the interface.
    flow.source = if hairpin { key.destination } else { key.source };
    flow.source_port = key.source_port;
    if other_port {
        flow.source_port = Port::new((FIRST_PORT + tables.random() % PORTS) as u16);
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

    back_key.source = flow.destination;
    back_key.source_port = flow.destination_port;
    back_key.destination = flow.source;
    back_key.destination_port = flow.source_port;
    back_key.protocol = key.protocol;
    back_key.direction = if hairpin {
        FlowKey::FROM_POD
    } else {
        FlowKey::TO_POD
    };
    back_key.pad = 0;
    back.check = back_key.check();
    back.service = flow.service;
    back.source = key.destination;
    back.source_port = key.destination_port;
    back.destination = key.source;
    back.destination_port = key.source_port;
    back.flags = flow.flags & FlowValue::HAIRPIN;
    back.last_seen = flow.last_seen;
    rewrite::sums(back_key, back);
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
    if tables.flow(&work.back_key, back.check, 0, there)
        && (!there.source.same(&back.source)
            || !there.destination.same(&back.destination)
            || there.source_port != back.source_port
            || there.destination_port != back.destination_port)
    {
        return Err(NotInserted::Exists);
    }
    tables.insert_flow(&work.back_key, &work.back, true)
}
