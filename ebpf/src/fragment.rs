//! Fragments after the first: they have no ports, and follow what the first one met.

use signpost_common::{
    Cause,
    flow::{FlowValue, FragmentKey, FragmentValue},
};

use crate::{
    headers::{EthernetAddresses, Headers},
    packet::Packet,
    rewrite,
    tables::Tables,
    verdict::{Packed, Verdict},
};

/// Remembers what the first fragment of a packet got, for those that follow.
#[inline(never)]
pub fn remember(tables: &impl Tables, headers: &Headers, direction: u8, flow: &FlowValue) {
    let value = FragmentValue {
        source: flow.source,
        destination: flow.destination,
        last_seen: tables.now(),
        flags: flow.flags & FlowValue::HAIRPIN,
        pad: 0,
    };
    tables.insert_fragment(&key(headers, direction), &value);
}

/// Translates a fragment after the first.
///
/// # Errors
/// [`Cause::FragmentUnknown`], [`Cause::HelperFailed`].
#[inline(always)]
pub fn follow<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
) -> Result<Verdict, Cause> {
    follow_packed(packet, tables, headers, direction).unpack()
}

#[inline(never)]
fn follow_packed<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
) -> Packed {
    Packed::new(follow_here(packet, tables, headers, direction))
}

#[inline(always)]
fn follow_here<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
    direction: u8,
) -> Result<Verdict, Cause> {
    let first = tables
        .fragment(&key(headers, direction))
        .ok_or(Cause::FragmentUnknown)?;
    rewrite::addresses(packet, headers, &first.source, &first.destination)?;
    if first.flags & FlowValue::HAIRPIN == 0 {
        return Ok(Verdict::Rewritten(Cause::FragmentTranslated));
    }
    EthernetAddresses::exchange(packet)?;
    Ok(Verdict::SendBack(Cause::FragmentTranslated))
}

#[inline(always)]
fn key(headers: &Headers, direction: u8) -> FragmentKey {
    FragmentKey {
        source: headers.source,
        destination: headers.destination,
        identification: headers.identification,
        protocol: headers.protocol,
        direction,
        pad: 0,
    }
}
