//! Removes what the programs recorded and nobody needs any more.

use std::{io, time::Duration};

use signpost_common::flow::{FlowKey, FlowValue, FragmentKey};

use super::{
    Pressure, sys,
    tables::{Flows, Fragments, KernelTables, Table, Tables},
};

/// A closed TCP connection: late segments are still translated.
const TCP_CLOSED: Duration = Duration::from_secs(10);
/// A TCP connection of which only one side said that it is done (kube-proxy's `tcpCloseWaitTimeout`).
const TCP_HALF_CLOSED: Duration = Duration::from_secs(3600);
/// A TCP connection (kube-proxy's `tcpEstablishedTimeout`).
const TCP_ESTABLISHED: Duration = Duration::from_secs(24 * 3600);
/// A TCP connection that never came about.
const TCP_OPENING: Duration = Duration::from_secs(60);
/// UDP with several packets in both directions, as nf_conntrack's `udp_timeout_stream` was for most of its life.
const UDP_ANSWERED: Duration = Duration::from_secs(180);
/// UDP that nobody answered.
const UDP_UNANSWERED: Duration = Duration::from_secs(30);
/// Fragments of one packet (RFC 791 §3.2 and Linux's `ipfrag_time`: 30 s).
const FRAGMENTS: Duration = Duration::from_secs(30);

const TCP: u8 = 6;

/// What a sweep left and took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    /// Entries that went.
    pub(super) deleted: usize,
    flows: usize,
    fragments: usize,
}

impl Left {
    /// As figures of pressure.
    pub(super) fn pressure(&self) -> [Pressure; 2] {
        [
            Pressure {
                map: Flows::NAME,
                elements: self.flows,
                size: Flows::SIZE,
            },
            Pressure {
                map: Fragments::NAME,
                elements: self.fragments,
                size: Fragments::SIZE,
            },
        ]
    }
}

/// Removes flows and fragments that have expired at `now` (nanoseconds of `CLOCK_MONOTONIC`).
///
/// # Errors
/// Where the maps cannot be read or changed.
pub(super) fn sweep(tables: &mut KernelTables, now: u64) -> io::Result<Left> {
    let mut left = Left::default();
    let flows = tables.map::<Flows>()?;
    let mut expired: Vec<FlowKey> = Vec::new();
    sys::for_each_batch(flows, |keys: &[FlowKey], values: &[FlowValue]| {
        left.flows += keys.len();
        for (key, value) in keys.iter().zip(values) {
            // Most entries are in use, and then the other one of the pair need not be asked.
            if idle(value.last_seen, now) < shortest(key.protocol) {
                continue;
            }
            let other = sys::lookup(flows, &opposite(key, value))?;
            if is_expired(key, value, other.as_ref(), now) {
                expired.push(*key);
            }
        }
        Ok(())
    })?;
    let mut stale: Vec<FragmentKey> = Vec::new();
    tables.for_each::<Fragments>(&mut |key, value| {
        left.fragments += 1;
        if idle(value.last_seen, now) >= FRAGMENTS {
            stale.push(*key);
        }
    })?;
    tables.delete::<Flows>(&expired)?;
    tables.delete::<Fragments>(&stale)?;
    left.flows -= expired.len();
    left.fragments -= stale.len();
    left.deleted = expired.len() + stale.len();
    Ok(left)
}

/// The key of the pair's other entry.
fn opposite(key: &FlowKey, value: &FlowValue) -> FlowKey {
    let to_pod = value.flags & (FlowValue::FORWARD | FlowValue::HAIRPIN) == FlowValue::FORWARD;
    FlowKey {
        source: value.destination,
        destination: value.source,
        source_port: value.destination_port,
        destination_port: value.source_port,
        protocol: key.protocol,
        direction: if to_pod {
            FlowKey::TO_POD
        } else {
            FlowKey::FROM_POD
        },
        pad: 0,
    }
}

/// A pair expires together: the side that was used last keeps both. An entry whose other one is gone, or belongs to
/// another flow by now, stands alone.
fn is_expired(key: &FlowKey, value: &FlowValue, other: Option<&FlowValue>, now: u64) -> bool {
    let other = other.filter(|other| opposite(&opposite(key, value), other) == *key);
    let last_seen = value
        .last_seen
        .max(other.map_or(0, |other| other.last_seen));
    let other_flags = other.map_or(0, |other| other.flags);
    idle(last_seen, now) >= timeout(key.protocol, value.flags, other_flags)
}

fn timeout(protocol: u8, flags: u32, other: u32) -> Duration {
    let either = flags | other;
    if protocol != TCP {
        let both = flags & other;
        return if both & FlowValue::ESTABLISHED != 0 {
            UDP_ANSWERED
        } else {
            UDP_UNANSWERED
        };
    }
    if either & FlowValue::RESET != 0 || flags & other & FlowValue::FIN != 0 {
        TCP_CLOSED
    } else if either & FlowValue::ESTABLISHED == 0 {
        TCP_OPENING
    } else if either & FlowValue::FIN != 0 {
        TCP_HALF_CLOSED
    } else {
        TCP_ESTABLISHED
    }
}

fn shortest(protocol: u8) -> Duration {
    if protocol == TCP {
        TCP_CLOSED
    } else {
        UDP_UNANSWERED
    }
}

fn idle(last_seen: u64, now: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(last_seen))
}
