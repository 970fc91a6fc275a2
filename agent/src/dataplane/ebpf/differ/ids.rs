//! Numbers of service ports.

use std::collections::HashSet;

/// Gives out service ids: ever increasing, so that a flow that outlives its Service does not find another one under
/// its number.
#[derive(Debug, Default)]
pub(super) struct Ids {
    last: u32,
    used: HashSet<u32>,
}

impl Ids {
    /// Counts an id as used.
    pub(super) fn take(&mut self, id: u32) {
        self.used.insert(id);
        self.skip(id);
    }

    /// An id that something in the kernel still names: the ones given out from now on come after it.
    pub(super) fn skip(&mut self, id: u32) {
        self.last = self.last.max(id);
    }

    /// A new id, never 0.
    pub(super) fn next(&mut self) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if self.last != 0 && self.used.insert(self.last) {
                return self.last;
            }
        }
    }

    /// The id is free again, once the numbers have gone round.
    pub(super) fn release(&mut self, id: u32) {
        self.used.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_was_released_is_not_given_out_again_soon() {
        let mut ids = Ids::default();
        let first = ids.next();
        ids.release(first);
        assert_ne!(ids.next(), first);
    }

    #[test]
    fn ids_go_round_past_zero_and_past_those_in_use() {
        let mut ids = Ids::default();
        ids.take(1);
        ids.take(u32::MAX);
        assert_eq!(ids.next(), 2);
    }

    #[test]
    fn ids_begin_after_what_the_kernel_still_names() {
        let mut ids = Ids::default();
        ids.skip(41);
        assert_eq!(ids.next(), 42);
    }
}
