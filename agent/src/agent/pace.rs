//! When the loop carries out what changed.

use std::time::Duration;

use tokio::time::Instant;

/// After a round the loop rests for so many times as long as the round took: churn costs a fifth of a processor at most,
const REST: u32 = 4;
/// as long as rounds are short. It never rests longer than this.
const LONGEST_REST: Duration = Duration::from_millis(50);

/// When the next round begins.
#[derive(Debug, Default)]
pub struct Pace {
    due: Option<Instant>,
    rested: Option<Instant>,
}

impl Pace {
    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        let rested = self.rested.unwrap_or(now);
        self.due.get_or_insert(rested.max(now));
    }

    /// When the next round begins; `None` where nothing changed since the last one.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A round was made.
    pub fn carried_out(&mut self, begun: Instant, ended: Instant) {
        let rest = (ended.duration_since(begun) * REST).min(LONGEST_REST);
        *self = Self {
            due: None,
            rested: Some(ended + rest),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn a_change_is_due_at_once_where_the_last_one_is_long_ago() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None);
        pace.changed(start);
        assert_eq!(pace.due(), Some(start));
        pace.carried_out(start, start + milliseconds(3));
        assert_eq!(pace.due(), None);
        pace.changed(start + milliseconds(16));
        assert_eq!(pace.due(), Some(start + milliseconds(16)));
    }

    #[test]
    fn changes_that_come_during_the_rest_share_a_round_at_its_end() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.changed(start);
        pace.carried_out(start, start + milliseconds(3));
        for at in [4, 9, 14] {
            pace.changed(start + milliseconds(at));
            assert_eq!(pace.due(), Some(start + milliseconds(15)));
        }
    }

    #[test]
    fn a_change_never_waits_longer_than_the_longest_rest() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let ended = start + milliseconds(1000);
        pace.carried_out(start, ended);
        pace.changed(ended);
        assert_eq!(pace.due(), Some(ended + LONGEST_REST));
    }
}
