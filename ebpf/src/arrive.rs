//! The programs at tc ingress: what a pod sends, and what comes from other machines.

use core::mem::MaybeUninit;

use signpost_common::{
    Address, Cause,
    dns::Config,
    flow::{FlowKey, FlowValue},
    service::AddressValue,
};

use crate::{
    dns, flow, fragment,
    headers::{Headers, protocol},
    icmp,
    packet::Packet,
    segment::Segment,
    tables::{Tables, opaque},
    through, unserved,
    verdict::Verdict,
};

/// At a pod's interface: answers a DNS question, or translates a packet to a Service address; everything else is none
/// of its business.
///
/// # Errors
/// Why a packet to a Service address is left to the stack.
#[inline(always)]
pub fn from_pod<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Verdict, Cause> {
    arrive(packet, tables, FlowKey::FROM_POD)
}

/// At an uplink or a tunnel: translates a packet to a Service address or NodePort, and the answer to one that left with
/// this node's address.
///
/// # Errors
/// As [`from_pod`].
#[inline(always)]
pub fn from_wire<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Verdict, Cause> {
    if !packet.is_for_host() {
        // Another machine has it too; answered here, it would be answered twice.
        return Ok(Verdict::Continue);
    }
    arrive(packet, tables, FlowKey::FROM_WIRE)
}

#[inline(always)]
fn arrive<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    direction: u8,
) -> Result<Verdict, Cause> {
    let mut place = MaybeUninit::uninit();
    let headers = Headers::empty(&mut place);
    let Ok(true) = headers.read(packet) else {
        // Counting what is not known to concern a Service would make the counter say nothing.
        return Ok(Verdict::Continue);
    };
    if !tables.knows_destination(&headers.destination) {
        return Ok(Verdict::Continue);
    }
    if headers.later_fragment || !flow::is_translated(headers.protocol) {
        let address = tables.address(&headers.destination);
        if address & OURS == 0 {
            return Ok(unserved::address(tables, headers, address));
        }
        let done = if headers.later_fragment {
            fragment::follow(packet, tables, headers, direction)
        } else if icmp::is_icmp(headers) {
            icmp::arriving(packet, tables, headers, direction)
        } else {
            Err(Cause::Protocol)
        };
        return match done {
            Err(Cause::Protocol | Cause::IcmpUnknown)
                if address & AddressValue::CLUSTER_IP != 0 && unserved::is_new(packet, headers) =>
            {
                unserved::port(packet, tables, headers)
            }
            done => unless_the_nodes_own(address, done),
        };
    }
    let segment = match Segment::read(packet, headers) {
        Ok(segment) => segment,
        Err(cause) => {
            let address = tables.address(&headers.destination);
            return if address & OURS == 0 {
                Ok(Verdict::Continue)
            } else {
                unless_the_nodes_own(address, Err(cause))
            };
        }
    };
    let question = direction == FlowKey::FROM_POD
        && headers.protocol == protocol::UDP
        && segment.destination() == dns::PORT
        && !headers.fragment
        && tables
            .config()
            .is_some_and(|config| is_dns(config, &headers.destination));
    if question {
        match dns::answer(packet, tables, headers) {
            Ok(cause) => return Ok(Verdict::Answered(cause)),
            Err(Cause::HelperFailed) => return Err(Cause::HelperFailed),
            Err(cause) => tables.count(cause),
        }
    }
    // Flows come before addresses: most packets to a Service have one, and those of a Service that is gone keep theirs.
    match flow::follow(packet, tables, headers, &segment, direction)? {
        Verdict::Continue => {}
        verdict => return go_on(packet, tables, headers, direction, verdict),
    }
    let address = tables.address(&headers.destination);
    if address & OURS == 0 {
        return Ok(unserved::address(tables, headers, address));
    }
    match flow::open(packet, tables, headers, &segment, address) {
        Err(Cause::NoFrontend) if address & AddressValue::CLUSTER_IP != 0 => {
            unserved::port(packet, tables, headers)
        }
        Ok(verdict) => go_on(packet, tables, headers, direction, verdict),
        done => unless_the_nodes_own(address, done),
    }
}

/// Sends on what only goes through this node. Its flow is where [`flow::follow`] and [`flow::open`] have put it.
#[inline(always)]
fn go_on<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
    verdict: Verdict,
) -> Result<Verdict, Cause> {
    let (FlowKey::FROM_WIRE, Verdict::Rewritten(cause)) = (direction, verdict) else {
        return Ok(verdict);
    };
    let work = tables.work().ok_or(Cause::HelperFailed)?;
    if work.flow.flags & FlowValue::THROUGH == 0 {
        return Ok(verdict);
    }
    through::send_on(packet, headers, &work.flow, cause).unpack()
}

/// Whether an address is one of the cluster's DNS. The verifier would follow each combination of four comparisons, so
/// there is one.
#[inline(always)]
fn is_dns(config: &Config, address: &Address) -> bool {
    let mut differ = 1;
    for one in &config.dns {
        let difference = opaque(one.difference(address).into());
        differ &= (difference + u64::from(u32::MAX)) >> 32;
    }
    differ == 0
}

/// Flags of addresses that packets are translated to or answered from.
const OURS: u32 =
    AddressValue::SERVICE | AddressValue::DNS | AddressValue::NODE | AddressValue::NODE_PORT;

/// What is no Service's at an address of the node is ordinary traffic, and nothing to count.
#[inline(always)]
fn unless_the_nodes_own(address: u32, done: Result<Verdict, Cause>) -> Result<Verdict, Cause> {
    match done {
        Err(
            Cause::NoFrontend
            | Cause::Protocol
            | Cause::FragmentUnknown
            | Cause::IcmpUnknown
            | Cause::IpOptions
            | Cause::TooShort,
        ) if address & (AddressValue::NODE | AddressValue::NODE_PORT) != 0 => Ok(Verdict::Continue),
        done => done,
    }
}
