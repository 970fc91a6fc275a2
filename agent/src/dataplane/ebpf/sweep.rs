//! Removes what the programs recorded and nobody needs any more.

use std::{io, time::Duration};

use signpost_common::flow::{FlowKey, FlowValue, FragmentKey, FragmentValue};
use signpost_ebpf::headers::protocol::UDP;

use super::{
    Pressure,
    sys::{self, Cursor},
    tables::{Flows, Fragments, KernelTables, Table, Tables},
};

/// How long what is at its end is kept.
#[derive(Clone, Copy, Debug)]
struct Ends {
    /// A closed TCP connection or SCTP association, as all that is said of TCP: late segments are still translated.
    closed: Duration,
    /// One of which only one side said that it is done.
    half_closed: Duration,
}

/// The latter as kube-proxy's `tcpCloseWaitTimeout` has it.
const ORDINARY: Ends = Ends {
    closed: Duration::from_secs(10),
    half_closed: Duration::from_secs(3600),
};
/// While the node drains another proxy may give the same port of the node to a connection of its own, which would then need
/// our programs; but [`FlowValue::last_seen`] may be a second behind. And nobody waits an hour for a side that is gone:
/// nf_conntrack keeps such a connection for two minutes (`nf_conntrack_tcp_timeout_fin_wait`).
const DRAINING: Ends = Ends {
    closed: Duration::from_secs(2),
    half_closed: Duration::from_secs(120),
};
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

/// Sweeps between the end of one pass over the maps and the beginning of the next. Even an empty map takes a millisecond,
/// and drives other things out of the processors' caches.
const REST: u32 = 4;
/// Batches of flows in one sweep: changes must not have to wait for a large map.
const BATCHES: usize = 4;

/// Goes over the maps a part at a time.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    cursor: Option<Cursor>,
    rests: u32,
    /// What the pass that is under way has left so far, and what the last one left.
    under_way: usize,
    left: Left,
}

/// What a pass left.
#[derive(Clone, Copy, Debug, Default)]
struct Left {
    flows: usize,
    fragments: usize,
}

impl Sweeper {
    /// How full the maps are, as of the last pass.
    pub(super) fn pressure(&self) -> [Pressure; 2] {
        [
            Pressure {
                map: Flows::NAME,
                elements: self.left.flows,
                size: Flows::SIZE,
            },
            Pressure {
                map: Fragments::NAME,
                elements: self.left.fragments,
                size: Fragments::SIZE,
            },
        ]
    }

    /// Goes on with removing what has expired at `now` (nanoseconds of `CLOCK_MONOTONIC`); returns how many entries went.
    /// While the node drains, everything is looked at every time.
    ///
    /// # Errors
    /// Where the maps cannot be read or changed. The next sweep begins anew.
    pub(super) fn sweep(
        &mut self,
        tables: &mut KernelTables,
        now: u64,
        draining: bool,
    ) -> io::Result<usize> {
        if draining {
            *self = Self {
                left: self.left,
                ..Self::default()
            };
        } else if self.rests > 0 {
            self.rests -= 1;
            return Ok(0);
        }
        let (most, ends) = if draining {
            (usize::MAX, DRAINING)
        } else {
            (BATCHES, ORDINARY)
        };
        let cursor = self.cursor.take();
        if cursor.is_none() {
            self.under_way = 0;
        }
        let (cursor, left, mut deleted) = sweep_flows(tables, cursor, most, now, ends)?;
        self.under_way += left;
        self.cursor = cursor;
        if cursor.is_none() {
            let (fragments, expired) = sweep_fragments(tables, now)?;
            deleted += expired;
            let flows = std::mem::take(&mut self.under_way);
            self.left = Left { flows, fragments };
            self.rests = REST;
        }
        Ok(deleted)
    }
}

/// Returns where to go on, how many of those that were looked at are left, and how many went.
fn sweep_flows(
    tables: &mut KernelTables,
    cursor: Option<Cursor>,
    most: usize,
    now: u64,
    ends: Ends,
) -> io::Result<(Option<Cursor>, usize, usize)> {
    let flows = tables.map::<Flows>()?;
    let mut seen = 0;
    let mut expired: Vec<(FlowKey, FlowValue)> = Vec::new();
    let visit = |keys: &[FlowKey], values: &[FlowValue]| {
        seen += keys.len();
        for (key, value) in keys.iter().zip(values) {
            // Most entries are in use, and then the other one of the pair need not be asked.
            if idle(value.last_seen, now) < shortest(key.protocol, ends) {
                continue;
            }
            let other = sys::lookup(flows, &opposite(key, value))?;
            if is_expired(key, value, other.as_ref(), now, ends) {
                expired.push((*key, *value));
            }
        }
        Ok(())
    };
    let cursor = sys::some_batches(flows, cursor, most, visit)?;
    let deleted = delete_unchanged::<Flows>(tables, &expired)?;
    Ok((cursor, seen - deleted, deleted))
}

/// Returns how many are left, and how many went.
fn sweep_fragments(tables: &mut KernelTables, now: u64) -> io::Result<(usize, usize)> {
    let mut left = 0;
    let mut stale: Vec<(FragmentKey, FragmentValue)> = Vec::new();
    tables.for_each::<Fragments>(&mut |key, value| {
        if idle(value.last_seen, now) >= FRAGMENTS {
            stale.push((*key, *value));
        } else {
            left += 1;
        }
    })?;
    let deleted = delete_unchanged::<Fragments>(tables, &stale)?;
    Ok((left + stale.len() - deleted, deleted))
}

/// Deletes elements, but those that programs have written meanwhile: a client may use a port again at the moment when its
/// last connection from there is forgotten. Returns how many went.
fn delete_unchanged<T: Table>(
    tables: &KernelTables,
    elements: &[(T::Key, T::Value)],
) -> io::Result<usize>
where
    T::Value: PartialEq,
{
    let map = tables.map::<T>()?;
    let mut deleted = 0;
    for (key, before) in elements {
        deleted += usize::from(sys::delete_if(map, key, |now: &T::Value| now == before)?);
    }
    Ok(deleted)
}

/// The key of the pair's other entry.
pub(super) fn opposite(key: &FlowKey, value: &FlowValue) -> FlowKey {
    let mut opposite = FlowKey::ZERO;
    value.write_opposite(key, &mut opposite);
    opposite
}

/// A pair expires together: the side that was used last keeps both. An entry whose other one is gone, or belongs to
/// another flow by now, stands alone.
fn is_expired(
    key: &FlowKey,
    value: &FlowValue,
    other: Option<&FlowValue>,
    now: u64,
    ends: Ends,
) -> bool {
    let other = other.filter(|other| opposite(&opposite(key, value), other) == *key);
    let last_seen = value
        .last_seen
        .max(other.map_or(0, |other| other.last_seen));
    let other_flags = other.map_or(GONE, |other| other.flags);
    idle(last_seen, now) >= timeout(key.protocol, value.flags, other_flags, ends)
}

fn timeout(protocol: u8, flags: u32, other: u32, ends: Ends) -> Duration {
    let either = flags | other;
    if protocol == UDP {
        let both = flags & other;
        return if both & FlowValue::ESTABLISHED != 0 {
            UDP_ANSWERED
        } else {
            UDP_UNANSWERED
        };
    }
    if is_closed(flags, other) {
        ends.closed
    } else if either & FlowValue::ESTABLISHED == 0 {
        TCP_OPENING
    } else if either & FlowValue::FIN != 0 {
        ends.half_closed
    } else {
        TCP_ESTABLISHED
    }
}

/// What stands for the flags of an entry that is gone: nothing is said in its direction any more.
pub(super) const GONE: u32 = FlowValue::FIN;

/// Whether a TCP connection with these flags of its two entries is at its end.
pub(super) const fn is_closed(flags: u32, other: u32) -> bool {
    (flags | other) & FlowValue::RESET != 0 || flags & other & FlowValue::FIN != 0
}

fn shortest(protocol: u8, ends: Ends) -> Duration {
    if protocol == UDP {
        UDP_UNANSWERED
    } else {
        ends.closed
    }
}

fn idle(last_seen: u64, now: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(last_seen))
}

#[cfg(test)]
mod tests {
    use signpost_common::{Address, Port};
    use signpost_ebpf::headers::protocol::{SCTP, TCP};

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000_000 * SECOND;

    /// Both entries of a flow, used so many seconds ago, with these flags.
    fn pair(protocol: u8, ages: [u64; 2], flags: [u32; 2]) -> [(FlowKey, FlowValue); 2] {
        let [client, service, backend] = [1, 2, 3].map(|last| Address::v4([10, 0, 0, last]));
        let port = Port::new(80);
        let key = FlowKey {
            protocol,
            source_port: port,
            destination_port: port,
            ..FlowKey::ZERO
        };
        let value = FlowValue {
            source_port: port,
            destination_port: port,
            ..FlowValue::ZERO
        };
        let forward_key = FlowKey {
            source: client,
            destination: service,
            ..key
        };
        let forward = FlowValue {
            source: client,
            destination: backend,
            flags: flags[0] | FlowValue::FORWARD,
            last_seen: NOW - ages[0] * SECOND,
            ..value
        };
        let back_key = FlowKey {
            source: backend,
            destination: client,
            direction: FlowKey::TO_POD,
            ..key
        };
        let back = FlowValue {
            source: service,
            destination: client,
            flags: flags[1],
            last_seen: NOW - ages[1] * SECOND,
            ..value
        };
        [(forward_key, forward), (back_key, back)]
    }

    /// Whether the pair expires; both entries must agree.
    fn expires(protocol: u8, ages: [u64; 2], flags: [u32; 2]) -> bool {
        let [(forward_key, forward), (back_key, back)] = pair(protocol, ages, flags);
        assert_eq!(opposite(&forward_key, &forward), back_key);
        assert_eq!(opposite(&back_key, &back), forward_key);
        let one = is_expired(&forward_key, &forward, Some(&back), NOW, ORDINARY);
        let other = is_expired(&back_key, &back, Some(&forward), NOW, ORDINARY);
        assert_eq!(one, other);
        one
    }

    #[test]
    fn each_state_of_a_flow_has_its_time() {
        const EST: u32 = FlowValue::ESTABLISHED;
        const FIN: u32 = EST | FlowValue::FIN;
        for (protocol, flags, seconds) in [
            (TCP, [0, 0], 60),
            (TCP, [EST, EST], 24 * 3600),
            (TCP, [FIN, EST], 3600),
            (TCP, [FIN, FIN], 10),
            (TCP, [EST, FlowValue::RESET], 10),
            (SCTP, [EST, EST], 24 * 3600),
            (SCTP, [FIN, FIN], 10),
            (UDP, [0, EST], 30),
            (UDP, [EST, EST], 180),
        ] {
            assert!(
                !expires(protocol, [seconds - 1; 2], flags),
                "{protocol} {flags:?}"
            );
            assert!(
                expires(protocol, [seconds; 2], flags),
                "{protocol} {flags:?}"
            );
        }
    }

    #[test]
    fn a_node_that_drains_does_not_wait_long_for_a_side_that_is_gone() {
        const EST: u32 = FlowValue::ESTABLISHED;
        const FIN: u32 = EST | FlowValue::FIN;
        for (flags, other, seconds) in [(FIN, EST, 120), (FIN, FIN, 2), (EST, EST, 24 * 3600)] {
            let kept = timeout(TCP, flags, other, DRAINING);
            assert_eq!(kept, Duration::from_secs(seconds), "{flags} {other}");
        }
    }

    #[test]
    fn the_side_that_was_used_last_keeps_both() {
        assert!(!expires(UDP, [31, 29], [0, 0]));
        assert!(!expires(UDP, [29, 31], [0, 0]));
    }

    #[test]
    fn an_entry_whose_other_one_belongs_to_another_flow_stands_alone() {
        let [(key, value), (_, back)] = pair(UDP, [31, 0], [0, 0]);
        let of_another = FlowValue {
            destination_port: Port::new(81),
            ..back
        };
        assert!(is_expired(&key, &value, Some(&of_another), NOW, ORDINARY));
        assert!(is_expired(&key, &value, None, NOW, ORDINARY));
        assert!(!is_expired(&key, &value, Some(&back), NOW, ORDINARY));
    }

    #[test]
    fn a_connection_of_which_one_entry_is_left_ends_with_its_side() {
        let [(key, value), _] = pair(TCP, [11, 0], [FlowValue::ESTABLISHED, 0]);
        assert!(!is_expired(&key, &value, None, NOW, ORDINARY));
        let [(key, value), _] = pair(TCP, [11, 0], [FlowValue::FIN, 0]);
        assert!(is_expired(&key, &value, None, NOW, ORDINARY));
    }

    #[test]
    fn both_entries_of_a_hairpin_flow_are_from_the_pod() {
        let [(key, value), _] = pair(TCP, [0, 0], [FlowValue::HAIRPIN, 0]);
        assert_eq!(opposite(&key, &value).direction, FlowKey::FROM_POD);
    }

    #[test]
    fn both_entries_of_a_flow_are_at_one_interface() {
        for (one, other) in [
            (FlowKey::FROM_POD, FlowKey::TO_POD),
            (FlowKey::FROM_WIRE, FlowKey::TO_WIRE),
        ] {
            let [(key, value), (_, back)] = pair(TCP, [0, 0], [0, 0]);
            for (one, other) in [(one, other), (other, one)] {
                let key = FlowKey {
                    direction: one,
                    ..key
                };
                let opposite_key = opposite(&key, &value);
                assert_eq!(opposite_key.direction, other);
                assert_eq!(opposite(&opposite_key, &back), key);
            }
        }
    }
}
