//! What is told of answers while somebody watches (`signpost monitor dns`). Otherwise it costs one look at a word.

use core::mem::offset_of;

use signpost_common::{
    Cause,
    dns::Clock,
    log::{LogHead, QUESTION},
};

use super::{Scratch, WINDOW};
use crate::{packet::Packet, tables::Tables};

// The question lies right behind what is told of it.
const _: () = assert!(
    offset_of!(Scratch, log) == 0
        && offset_of!(Scratch, bytes) == size_of::<LogHead>()
        && QUESTION <= WINDOW
);

/// The beginning of a question that is not told.
pub const UNWATCHED: Clock = 0;

/// When a question begins; [`UNWATCHED`] where nobody watches.
#[inline(always)]
pub fn begin<T: Tables>(tables: &T) -> Clock {
    let until = tables.watched_until();
    if until == UNWATCHED {
        return UNWATCHED;
    }
    let now = tables.clock();
    if now < until { now } else { UNWATCHED }
}

/// Tells of the answer to the question in the scratch area, which is in the packet by now.
#[inline(always)]
pub fn tell<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    scratch: &mut Scratch,
    begun: Clock,
    cause: Cause,
) {
    scratch.log = LogHead {
        at: begun,
        took: tables.clock().wrapping_sub(begun) as u32,
        device: packet.device(),
        client: scratch.headers.source,
        client_port: scratch.udp.source,
        flags: scratch.records.flags,
        answers: scratch.records.answers,
        cause: cause.index() as u16,
    };
    tables.tell(scratch);
}
