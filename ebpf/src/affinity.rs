//! Session affinity: a client of a service port stays with its backend, whichever frontend it uses.

use signpost_common::service::{FrontendValue, MemberValue, SlotValue};

use crate::{
    tables::{Tables, forget},
    work::Work,
};

const SECOND: u64 = 1_000_000_000;

/// Finds out whether the client stays with a backend, which is then in `work.slot`: it used it within the timeout, and
/// the backend may get new flows still; from the local set, where the client uses that. `outside` as for
/// [`crate::choose::set`].
#[inline(never)]
pub(crate) fn recall<T: Tables>(tables: &T, work: &mut Work, outside: bool) {
    let stays = stays(tables, work, outside);
    forget(&mut work.stays, stays as u32);
}

#[inline(always)]
fn stays(tables: &impl Tables, work: &mut Work, outside: bool) -> bool {
    let timeout = work.frontend.affinity_timeout;
    if timeout == 0 {
        return false;
    }
    work.affinity_key.client = work.key.source;
    work.affinity_key.service = work.frontend.service;
    let Some(last) = tables.affinity(&work.affinity_key) else {
        return false;
    };
    if tables.now().saturating_sub(last.last_used) >= timeout as u64 * SECOND {
        return false;
    }
    work.member_key.service = work.frontend.service;
    work.member_key.address = last.address;
    work.member_key.port = last.port;
    let member = tables.member(&work.member_key);
    let local = if work.frontend.flags & FrontendValue::EXTERNAL == 0 {
        work.frontend.flags & FrontendValue::INTERNAL_LOCAL != 0
    } else {
        outside && work.frontend.flags & FrontendValue::EXTERNAL_LOCAL != 0
    };
    let needs = if local {
        MemberValue::CHOSEN | MemberValue::LOCAL
    } else {
        MemberValue::CHOSEN
    };
    if member & needs != needs {
        return false;
    }
    work.slot.address = last.address;
    work.slot.port = last.port;
    work.slot.flags = if member & MemberValue::LOCAL != 0 {
        SlotValue::LOCAL
    } else {
        0
    };
    true
}

/// Remembers the backend of a new flow.
#[inline(never)]
pub(crate) fn remember<T: Tables>(tables: &T, work: &mut Work) {
    if work.frontend.affinity_timeout == 0 {
        return;
    }
    work.affinity_key.client = work.key.source;
    work.affinity_key.service = work.frontend.service;
    work.affinity.check = work.affinity_key.check();
    work.affinity.port = work.slot.port;
    work.affinity.address = work.slot.address;
    work.affinity.last_used = tables.now();
    tables.insert_affinity(&work.affinity_key, &work.affinity);
}
