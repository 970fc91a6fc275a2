//! Session affinity: all processes of the host are one client, as their packets would have one source address.

use signpost_common::{
    Address,
    service::{
        AffinityKey, AffinityValue, FrontendValue, MemberKey, MemberValue, SlotKey, SlotValue,
    },
};

use crate::{choose::Set, tables::Tables};

const SECOND: u64 = 1_000_000_000;

/// The backend that a client stays with, as a slot of the set that it uses. `None` where there is no affinity, it has
/// run out, or the set does not have this backend any more.
#[inline(always)]
pub(super) fn backend(
    tables: &impl Tables,
    client: &Address,
    frontend: &FrontendValue,
    set: &Set,
) -> Option<SlotValue> {
    if frontend.affinity_timeout == 0 {
        return None;
    }
    let found = tables.affinity(&key(client, frontend))?;
    let age = tables.now().saturating_sub(found.last_used);
    if age >= frontend.affinity_timeout as u64 * SECOND {
        return None;
    }
    let member = tables.member(&MemberKey {
        service: frontend.service,
        address: found.address,
        port: found.port,
        pad: 0,
    });
    let mut needs = MemberValue::CHOSEN;
    if set.first == SlotKey::LOCAL {
        needs |= MemberValue::LOCAL;
    }
    let local = member & MemberValue::LOCAL != 0;
    if member & needs != needs || (set.avoid_local != 0 && local) {
        return None;
    }
    Some(SlotValue {
        service: frontend.service,
        generation: frontend.generation,
        address: found.address,
        port: found.port,
        flags: if local { SlotValue::LOCAL } else { 0 },
    })
}

/// The client has opened a flow to this backend just now.
#[inline(always)]
pub(super) fn remember(
    tables: &impl Tables,
    client: &Address,
    frontend: &FrontendValue,
    slot: &SlotValue,
) {
    if frontend.affinity_timeout == 0 {
        return;
    }
    let key = key(client, frontend);
    tables.insert_affinity(
        &key,
        &AffinityValue {
            check: key.check(),
            port: slot.port,
            pad: 0,
            address: slot.address,
            last_used: tables.now(),
        },
    );
}

#[inline(always)]
fn key(client: &Address, frontend: &FrontendValue) -> AffinityKey {
    AffinityKey {
        client: *client,
        service: frontend.service,
    }
}
