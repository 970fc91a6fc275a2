//! Session affinity: a client of a service port stays with its backend, whichever frontend it uses. All processes of
//! the host are one client, as their packets would have one source address.

use signpost_common::{
    Address,
    service::{
        AffinityKey, AffinityValue, FrontendValue, MemberKey, MemberValue, SlotKey, SlotValue,
    },
};

use crate::{
    choose::{self, Set},
    tables::{Tables, forget},
    work::Work,
};

const SECOND: u64 = 1_000_000_000;

/// Finds out whether the client of a packet stays with a backend, which is then in `work.slot`. `outside` as for
/// [`crate::choose::set`].
#[inline(never)]
pub(crate) fn recall<T: Tables>(tables: &T, work: &mut Work, outside: bool) {
    forget(&mut work.stays, 0);
    if work.frontend.affinity_timeout == 0 {
        return;
    }
    let set = choose::set(tables, &work.frontend, outside);
    let Work {
        key,
        frontend,
        affinity_key,
        member_key,
        ..
    } = work;
    write_key(&key.source, frontend, affinity_key);
    if let Some(slot) = backend(tables, affinity_key, frontend, &set, member_key) {
        work.slot = slot;
        forget(&mut work.stays, 1);
    }
}

/// Remembers the backend of a packet's new flow.
#[inline(never)]
pub(crate) fn remember<T: Tables>(tables: &T, work: &mut Work) {
    if work.frontend.affinity_timeout == 0 {
        return;
    }
    let Work {
        key,
        frontend,
        slot,
        affinity_key,
        affinity,
        ..
    } = work;
    write_key(&key.source, frontend, affinity_key);
    insert(tables, affinity_key, slot, affinity);
}

/// As [`recall`], for a process at its socket.
#[inline(always)]
pub(crate) fn of_socket(
    tables: &impl Tables,
    client: &Address,
    frontend: &FrontendValue,
    set: &Set,
) -> Option<SlotValue> {
    if frontend.affinity_timeout == 0 {
        return None;
    }
    let mut key = AffinityKey::ZERO;
    write_key(client, frontend, &mut key);
    let mut member_key = MemberKey::ZERO;
    backend(tables, &key, frontend, set, &mut member_key)
}

/// As [`remember`], for a process at its socket.
#[inline(always)]
pub(crate) fn remember_of_socket(
    tables: &impl Tables,
    client: &Address,
    frontend: &FrontendValue,
    slot: &SlotValue,
) {
    if frontend.affinity_timeout == 0 {
        return;
    }
    let mut key = AffinityKey::ZERO;
    write_key(client, frontend, &mut key);
    let mut value = AffinityValue::ZERO;
    insert(tables, &key, slot, &mut value);
}

/// The backend that a client used within the timeout, as a slot of the set that it uses now. `None` where there is none,
/// or the set does not have this backend any more. `member_key` is room for a key.
#[inline(always)]
fn backend(
    tables: &impl Tables,
    key: &AffinityKey,
    frontend: &FrontendValue,
    set: &Set,
    member_key: &mut MemberKey,
) -> Option<SlotValue> {
    let last = tables.affinity(key)?;
    let age = tables.now().saturating_sub(last.last_used);
    if age >= frontend.affinity_timeout as u64 * SECOND {
        return None;
    }
    member_key.service = frontend.service;
    member_key.address = last.address;
    member_key.port = last.port;
    let member = tables.member(member_key);
    let needs = if set.first == SlotKey::LOCAL {
        MemberValue::CHOSEN | MemberValue::LOCAL
    } else {
        MemberValue::CLUSTER
    };
    let local = member & MemberValue::LOCAL != 0;
    if member & needs != needs || (set.avoid_local != 0 && local) {
        return None;
    }
    Some(SlotValue {
        service: frontend.service,
        generation: frontend.generation,
        address: last.address,
        port: last.port,
        flags: if local { SlotValue::LOCAL } else { 0 },
    })
}

#[inline(always)]
fn insert(tables: &impl Tables, key: &AffinityKey, slot: &SlotValue, value: &mut AffinityValue) {
    value.check = key.check();
    value.port = slot.port;
    value.address = slot.address;
    value.last_used = tables.now();
    tables.insert_affinity(key, value);
}

#[inline(always)]
fn write_key(client: &Address, frontend: &FrontendValue, key: &mut AffinityKey) {
    key.client = *client;
    key.service = frontend.service;
}
