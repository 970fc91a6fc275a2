//! The programs at tc egress: what a pod gets, and what goes to other machines.

use core::mem::MaybeUninit;

use signpost_common::{Cause, flow::FlowKey};

use crate::{
    flow, fragment,
    headers::{Headers, protocol},
    icmp,
    packet::Packet,
    segment::Segment,
    tables::Tables,
    unserved,
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

/// At an uplink or a tunnel: as [`to_pod`]. What the host itself sends to a ClusterIP where nobody is, it gets back as
/// an error.
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
    let may_follow = tables.knows_source(&headers.source, direction);
    if headers.later_fragment {
        if !may_follow {
            return Ok(Verdict::Continue);
        }
        return match fragment::follow(packet, tables, headers, direction) {
            Err(Cause::FragmentUnknown) => Ok(Verdict::Continue),
            done => done,
        };
    }
    if !flow::is_translated(headers.protocol) {
        let done = if icmp::is_icmp(headers) {
            icmp::leaving(packet, tables, headers, direction)
        } else {
            Err(Cause::Protocol)
        };
        return match done {
            Err(Cause::Protocol | Cause::IcmpUnknown)
                if direction == FlowKey::TO_WIRE && unserved::is_new(packet, headers) =>
            {
                unserved::leaving(packet, tables, headers, None)
            }
            Err(Cause::Protocol | Cause::IcmpUnknown | Cause::TooShort | Cause::IpOptions) => {
                Ok(Verdict::Continue)
            }
            done => done,
        };
    }
    let Ok(segment) = Segment::read(packet, headers) else {
        return Ok(Verdict::Continue);
    };
    let followed = if may_follow {
        flow::follow(packet, tables, headers, &segment, direction)?
    } else {
        Verdict::Continue
    };
    match followed {
        Verdict::Continue => {}
        verdict => return Ok(verdict),
    }
    if flow::may_take_a_port(headers, &segment) {
        match flow::join(packet, tables, headers, &segment, direction)? {
            Verdict::Continue => {}
            verdict => return Ok(verdict),
        }
    }
    if headers.protocol != protocol::UDP {
        return Ok(Verdict::Continue);
    }
    flow::let_answers_pass(tables, headers, &segment, direction);
    if direction == FlowKey::TO_WIRE {
        unserved::leaving(packet, tables, headers, Some(&segment))
    } else {
        Ok(Verdict::Continue)
    }
}
