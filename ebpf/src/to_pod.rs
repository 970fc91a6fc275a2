//! The program at tc egress of a pod's interface: what a pod gets.

use core::mem::MaybeUninit;

use signpost_common::{Cause, flow::FlowKey};

use crate::{
    flow::{self, Segment},
    fragment,
    headers::Headers,
    icmp,
    packet::Packet,
    tables::Tables,
    verdict::Verdict,
};

/// Gives a backend's packet the Service's address as its source again; everything else is none of its business.
///
/// # Errors
/// Why a packet of a known flow is left to the stack.
#[inline(always)]
pub fn to_pod<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Verdict, Cause> {
    let mut place = MaybeUninit::uninit();
    let headers = Headers::empty(&mut place);
    let Ok(true) = headers.read(packet) else {
        return Ok(Verdict::Continue);
    };
    if headers.later_fragment {
        return match fragment::follow(packet, tables, headers, FlowKey::TO_POD) {
            Err(Cause::FragmentUnknown) => Ok(Verdict::Continue),
            done => done,
        };
    }
    if icmp::is_icmp(headers) {
        return match icmp::to_pod(packet, tables, headers) {
            Err(Cause::IcmpUnknown | Cause::TooShort | Cause::IpOptions) => Ok(Verdict::Continue),
            done => done,
        };
    }
    if !flow::is_translated(headers.protocol) {
        return Ok(Verdict::Continue);
    }
    let Ok(segment) = Segment::read(packet, headers) else {
        return Ok(Verdict::Continue);
    };
    flow::follow(packet, tables, headers, &segment, FlowKey::TO_POD)
}
