//! The program at tc ingress of a pod's interface: what a pod sends.

use core::mem::MaybeUninit;

use signpost_common::{Cause, flow::FlowKey, service::AddressValue};

use crate::{
    dns, flow, fragment,
    headers::{Headers, protocol},
    icmp,
    packet::Packet,
    tables::Tables,
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
    let address = tables.address(&headers.destination);
    if address & (AddressValue::SERVICE | AddressValue::DNS) == 0 {
        return Ok(Verdict::Continue);
    }
    if headers.later_fragment {
        return fragment::follow(packet, tables, headers, FlowKey::FROM_POD);
    }
    if icmp::is_icmp(headers) {
        return icmp::from_pod(packet, tables, headers);
    }
    if !flow::is_translated(headers.protocol) {
        return Err(Cause::Protocol);
    }
    if address & AddressValue::DNS != 0 && headers.protocol == protocol::UDP && !headers.fragment {
        match dns::answer(packet, tables, headers) {
            Ok(None) => {}
            Ok(Some(cause)) => return Ok(Verdict::SendBack(cause)),
            Err(Cause::HelperFailed) => return Err(Cause::HelperFailed),
            Err(cause) => tables.count(cause),
        }
    }
    match flow::follow(packet, tables, headers, FlowKey::FROM_POD)? {
        Verdict::Continue => flow::open(packet, tables, headers),
        verdict => Ok(verdict),
    }
}
