//! When the loop carries out what changed.

use std::time::Duration;

use tokio::time::Instant;

/// Churn costs one of so many parts of a processor,
const PART: u32 = 5;
/// but for so long (of time that this part stands for: a fifth of it in rounds) the loop may do more.
const AHEAD: Duration = Duration::from_millis(500);
/// However long rounds take, a change never waits longer than this.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// When the next round begins: at once, as long as rounds have not taken more than their part of the time. One long round
/// alone delays nothing.
#[derive(Debug, Default)]
pub struct Pace {
    due: Option<Instant>,
    /// When the rounds so far have taken no more than their part.
    paid: Option<Instant>,
}

impl Pace {
    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        let begin = match self.paid.and_then(|paid| paid.checked_sub(AHEAD)) {
            Some(begin) => begin.clamp(now, now + LONGEST_WAIT),
            None => now,
        };
        self.due.get_or_insert(begin);
    }

    /// When the next round begins; `None` where nothing changed since the last one.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A round was made.
    pub fn carried_out(&mut self, begun: Instant, ended: Instant) {
        let from = self.paid.map_or(begun, |paid| paid.max(begun));
        *self = Self {
            due: None,
            paid: Some(from + ended.duration_since(begun) * PART),
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
    fn a_change_is_due_at_once() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due(), None);
        pace.changed(start);
        assert_eq!(pace.due(), Some(start));
        pace.changed(start + milliseconds(1));
        assert_eq!(pace.due(), Some(start), "the first change says when");
    }

    #[test]
    fn one_long_round_does_not_delay_the_next() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.changed(start);
        let ended = start + milliseconds(90);
        pace.carried_out(start, ended);
        assert_eq!(pace.due(), None);
        pace.changed(ended);
        assert_eq!(pace.due(), Some(ended));
    }

    #[test]
    fn rounds_without_end_take_a_fifth_of_the_time() {
        let start = Instant::now();
        let (mut now, mut spent) = (start, Duration::ZERO);
        let mut pace = Pace::default();
        while now < start + milliseconds(20_000) {
            pace.changed(now);
            let begun = pace.due().unwrap();
            now = begun + milliseconds(5);
            spent += milliseconds(5);
            pace.carried_out(begun, now);
        }
        let most = (now - start + AHEAD) / PART + milliseconds(5);
        assert!(spent <= most && spent > most / 2, "{spent:?} of {most:?}");
    }

    #[test]
    fn a_change_never_waits_longer_than_the_longest_wait() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let ended = start + milliseconds(10_000);
        pace.carried_out(start, ended);
        pace.changed(ended);
        assert_eq!(pace.due(), Some(ended + LONGEST_WAIT));
    }
}
