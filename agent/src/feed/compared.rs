//! Whether a DNS server goes by the same configuration of the zone as the agent: otherwise the kernel and the server would
//! answer one question in two ways.

use std::time::{Duration, Instant};

use crate::model::{Event, ObjectName, Problem};

/// Both read a changed file within a second or two of each other, and a ConfigMap reaches their Pods one by one.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a server's configuration compares with the agent's over time.
#[derive(Debug, Default)]
pub(super) struct Compared {
    since: Option<Instant>,
    differs: bool,
}

impl Compared {
    /// Takes in whether both are the same now. Returns whether they differ, where that is news.
    pub(super) fn look(&mut self, same: bool, now: Instant) -> Option<bool> {
        let since = *self.since.get_or_insert(now);
        if same {
            self.since = None;
        }
        let differs = !same && (self.differs || now.duration_since(since) >= PATIENCE);
        let news = differs != self.differs;
        self.differs = differs;
        news.then_some(differs)
    }

    /// Whether they were found to differ.
    pub(super) const fn differs(&self) -> bool {
        self.differs
    }
}

/// What the agent's source of events is told of it.
pub(super) fn event(differs: bool) -> Event {
    let (kind, object) = ("DnsConfig".to_owned(), ObjectName::new("", "signpost-dns"));
    let problem = || {
        Problem {
        kind: kind.clone(),
        object: object.clone(),
        field: "--dns-config".to_owned(),
        reason: "this node's `signpost dns` goes by another file than the agent, so that the kernel and it may answer \
                 a question in two ways; give both the same"
            .to_owned(),
    }
    };
    Event::Problems {
        problems: differs.then(problem).into_iter().collect(),
        kind: kind.clone(),
        object: object.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_difference_that_lasts_is_news_and_its_end_is_at_once() {
        let start = Instant::now();
        let mut compared = Compared::default();
        let mut at = |seconds, same| compared.look(same, start + Duration::from_secs(seconds));
        assert_eq!(at(0, true), None);
        assert_eq!(at(1, false), None);
        assert_eq!(at(10, false), None);
        assert_eq!(at(10, true), None);
        assert_eq!(at(11, false), None);
        assert_eq!(at(20, false), None);
        assert_eq!(at(21, false), Some(true));
        assert_eq!(at(22, false), None);
        assert_eq!(at(23, true), Some(false));
        assert_eq!(at(24, false), None);
    }

    #[test]
    fn a_problem_is_told_and_taken_back_under_one_name() {
        for (differs, count) in [(true, 1), (false, 0)] {
            let Event::Problems { kind, problems, .. } = event(differs) else {
                panic!("no problems");
            };
            assert_eq!((kind.as_str(), problems.len()), ("DnsConfig", count));
        }
    }
}
