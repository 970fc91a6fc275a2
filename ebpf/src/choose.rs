//! Which backend a new flow gets.

use signpost_common::{
    dns::DNS_ALIVE_FOR,
    service::{FrontendValue, SlotKey, SlotValue},
};

use crate::tables::Tables;

/// The set of slots that a client uses.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// Index of its first slot.
    pub first: u32,
    /// How many slots it has.
    pub count: u32,
    /// Slots of this node are passed over, because this node's DNS pod is silent: 0 or 1.
    pub avoid_local: u32,
}

/// Whether this node's DNS pod can be counted on. `None`: it never said that it is alive, so it is like any other.
#[inline(always)]
pub fn dns_pod_alive(tables: &impl Tables) -> Option<bool> {
    match tables.dns_alive_at() {
        0 => None,
        at => Some(tables.now().saturating_sub(at) < DNS_ALIVE_FOR),
    }
}

/// The set for a client; `outside` for one whose packets come from another machine.
#[inline(always)]
pub fn set(tables: &impl Tables, frontend: &FrontendValue, outside: bool) -> Set {
    let cluster = Set {
        first: 0,
        count: frontend.cluster,
        avoid_local: 0,
    };
    let local = Set {
        first: SlotKey::LOCAL,
        count: frontend.local,
        avoid_local: 0,
    };
    if frontend.flags & FrontendValue::EXTERNAL != 0 {
        // What a pod sends to its own node's external addresses must reach whom it would reach from further away.
        return if outside && frontend.flags & FrontendValue::EXTERNAL_LOCAL != 0 {
            local
        } else {
            cluster
        };
    }
    if frontend.flags & FrontendValue::INTERNAL_LOCAL != 0 {
        return local;
    }
    if frontend.flags & FrontendValue::DNS == 0 {
        return cluster;
    }
    match dns_pod_alive(tables) {
        Some(true) if local.count > 0 => local,
        Some(false) => Set {
            avoid_local: 1,
            ..cluster
        },
        Some(true) | None => cluster,
    }
}

/// The slot that a flow's hash falls on, or one of the next. `None` where it belongs to somebody else: the frontend was
/// replaced meanwhile.
#[inline(always)]
pub fn slot(
    tables: &impl Tables,
    frontend: &FrontendValue,
    set: &Set,
    hash: u32,
    attempt: u32,
) -> Option<SlotValue> {
    let index = ((hash as u64 * set.count as u64) >> 32) as u32 + attempt;
    let key = SlotKey {
        service: frontend.service,
        generation: frontend.generation,
        index: set.first
            + if index < set.count {
                index
            } else {
                index.checked_rem(set.count)?
            },
    };
    tables
        .slot(&key)
        .filter(|slot| slot.service == key.service && slot.generation == key.generation)
}
