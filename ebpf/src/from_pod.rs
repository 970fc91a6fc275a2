//! The program at tc ingress of a pod's interface: what a pod sends.

use core::mem::MaybeUninit;

use signpost_common::{Cause, dns::Config, flow::FlowKey, service::AddressValue};

use crate::{
    dns,
    flow::{self, Segment},
    fragment,
    headers::{Headers, protocol},
    icmp,
    packet::Packet,
    reject::reject,
    tables::{Tables, forget, recall},
    verdict::Verdict,
};

/// Answers a DNS question, or translates a packet to a Service address; everything else is none of its business.
///
/// # Errors
/// Why a packet to a Service address is left to the stack.
#[inline(always)]
pub fn from_pod<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Verdict, Cause> {
    let mut place = MaybeUninit::uninit();
    let headers = Headers::empty(&mut place);
    let Ok(true) = headers.read(packet) else {
        // Counting what is not known to concern a Service would make the counter say nothing.
        return Ok(Verdict::Continue);
    };
    if headers.later_fragment || !flow::is_translated(headers.protocol) {
        let address = tables.address(&headers.destination);
        if address & OURS == 0 {
            return Ok(unserved(tables, headers, address));
        }
        if headers.later_fragment {
            return fragment::follow(packet, tables, headers, FlowKey::FROM_POD);
        }
        if icmp::is_icmp(headers) {
            return icmp::from_pod(packet, tables, headers);
        }
        return Err(Cause::Protocol);
    }
    let segment = match Segment::read(packet, headers) {
        Ok(segment) => segment,
        Err(_) if tables.address(&headers.destination) & OURS == 0 => return Ok(Verdict::Continue),
        Err(cause) => return Err(cause),
    };
    let question = headers.protocol == protocol::UDP
        && segment.destination() == dns::PORT
        && !headers.fragment
        && tables.address(&headers.destination) & AddressValue::DNS != 0;
    if question {
        match dns::answer(packet, tables, headers) {
            Ok(cause) => return Ok(Verdict::SendBack(cause)),
            Err(Cause::HelperFailed) => return Err(Cause::HelperFailed),
            Err(cause) => tables.count(cause),
        }
    }
    // Flows come before addresses: most packets to a Service have one, and those of a Service that is gone keep theirs.
    match flow::follow(packet, tables, headers, &segment, FlowKey::FROM_POD)? {
        Verdict::Continue => {}
        verdict => return Ok(verdict),
    }
    let address = tables.address(&headers.destination);
    if address & OURS == 0 {
        return Ok(unserved(tables, headers, address));
    }
    match flow::open(packet, tables, headers, &segment) {
        Err(Cause::NoFrontend) if address & AddressValue::CLUSTER_IP != 0 => {
            undefined_port(packet, tables, headers)
        }
        result => result,
    }
}

/// Flags of addresses that packets are translated to or answered from.
const OURS: u32 = AddressValue::SERVICE | AddressValue::DNS;

/// An address at which no Service answers, though it may be in a range of theirs.
#[inline(always)]
fn unserved(tables: &impl Tables, headers: &Headers, address: u32) -> Verdict {
    let Some(config) = tables
        .config()
        .filter(|config| address == 0 && config.flags & Config::SERVICE_RANGES != 0)
    else {
        return Verdict::Continue;
    };
    // Which range it is in, and by which bits it is not, is no matter: one branch for the verifier to follow.
    let mut outside = 1;
    for range in &config.service_ranges {
        let mut difference = 0;
        forget(&mut difference, range.difference(&headers.destination));
        outside &= (u64::from(recall(&difference)) + u64::from(u32::MAX)) >> 32;
    }
    if outside == 0 {
        Verdict::Drop(Cause::AddressUnallocated)
    } else {
        Verdict::Continue
    }
}

/// A port of a ClusterIP at which no Service answers. While another proxy is being replaced, the connection may be one
/// that this one has made.
#[inline(always)]
fn undefined_port<P: Packet>(
    packet: &mut P,
    tables: &impl Tables,
    headers: &Headers,
) -> Result<Verdict, Cause> {
    if tables
        .config()
        .is_some_and(|config| config.flags & Config::TAKEOVER != 0)
    {
        return Err(Cause::NoFrontend);
    }
    Ok(match reject(packet, headers)? {
        Verdict::SendBack(_) => Verdict::SendBack(Cause::PortRejected),
        _ => Verdict::Drop(Cause::PortRejected),
    })
}
