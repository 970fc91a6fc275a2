//! The programs at tc egress: what a pod gets, and what goes to other machines.

use core::mem::MaybeUninit;

use signpost_common::{Cause, flow::FlowKey};

use crate::{
    flow, fragment, headers::Headers, icmp, packet::Packet, segment::Segment, tables::Tables,
    verdict::Verdict,
};

/// At a pod's interface: gives a backend's packet the Service's address as its source again, and a masqueraded flow's
/// packet this node's; everything else is none of its business.
///
/// # Errors
/// Why a packet of a known flow is left to the stack.
#[inline(always)]
pub fn to_pod<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Verdict, Cause> {
    leave(packet, tables, FlowKey::TO_POD)
}

/// At an uplink or a tunnel: as [`to_pod`].
///
/// # Errors
/// As [`to_pod`].
#[inline(always)]
pub fn to_wire<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Verdict, Cause> {
    leave(packet, tables, FlowKey::TO_WIRE)
}

#[inline(always)]
fn leave<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    direction: u8,
) -> Result<Verdict, Cause> {
    let mut place = MaybeUninit::uninit();
    let headers = Headers::empty(&mut place);
    let Ok(true) = headers.read(packet) else {
        return Ok(Verdict::Continue);
    };
    if headers.later_fragment {
        return match fragment::follow(packet, tables, headers, direction) {
            Err(Cause::FragmentUnknown) => Ok(Verdict::Continue),
            done => done,
        };
    }
    if icmp::is_icmp(headers) {
        return match icmp::leaving(packet, tables, headers, direction) {
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
    flow::follow(packet, tables, headers, &segment, direction)
}
