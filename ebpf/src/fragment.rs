//! Fragments after the first: they have no ports, and follow what the first one met.
//!
//! One that comes before its first follows the last packet in fragments from the same sender to the same receiver,
//! where all of them went one way lately. Should the first then go another way, the packet is never put together: its
//! parts are at two places, and without a first part nobody delivers anything.

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
    let mut value = FragmentValue {
        source: flow.source,
        destination: flow.destination,
        last_seen: tables.now(),
        flags: flow.flags & FlowValue::HAIRPIN,
        check: 0,
    };
    let mut key = key(headers, direction);
    value.check = key.check();
    tables.insert_fragment(&key, &value);
    key.identification = 0;
    key.kind = FragmentKey::LAST;
    value.check = key.check();
    if let Some(last) = tables.fragment(&key) {
        let is_recent = value.last_seen.saturating_sub(last.last_seen) < FragmentValue::LAST_FOR;
        let is_same = last.source.same(&value.source) && last.destination.same(&value.destination);
        if is_recent && (last.flags & FragmentValue::SEVERAL != 0 || !is_same) {
            value.flags |= FragmentValue::SEVERAL;
        }
    }
    tables.insert_fragment(&key, &value);
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
    let first = find(tables, headers, direction).ok_or(Cause::FragmentUnknown)?;
    rewrite::addresses(packet, headers, &first.source, &first.destination)?;
    if first.flags & FlowValue::HAIRPIN == 0 {
        return Ok(Verdict::Rewritten(Cause::FragmentTranslated));
    }
    EthernetAddresses::exchange(packet)?;
    Ok(Verdict::SendBack(Cause::FragmentTranslated))
}

#[inline(always)]
fn find(tables: &impl Tables, headers: &Headers, direction: u8) -> Option<FragmentValue> {
    let mut key = key(headers, direction);
    if let Some(first) = tables.fragment(&key) {
        return Some(first);
    }
    key.identification = 0;
    key.kind = FragmentKey::LAST;
    let last = tables.fragment(&key)?;
    let is_recent = tables.now().saturating_sub(last.last_seen) < FragmentValue::LAST_FOR;
    (is_recent && last.flags & FragmentValue::SEVERAL == 0).then_some(last)
}

#[inline(always)]
fn key(headers: &Headers, direction: u8) -> FragmentKey {
    FragmentKey {
        source: headers.source,
        destination: headers.destination,
        identification: headers.identification,
        protocol: headers.protocol,
        direction,
        kind: FragmentKey::PACKET,
    }
}
