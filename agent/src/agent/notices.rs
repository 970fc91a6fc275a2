//! What is wrong at the moment: said once when it appears, once when it goes, and counted.

use std::collections::{BTreeMap, BTreeSet};

use crate::{dataplane::Refusal, model::Problem};

/// The problems and refusals that were already said.
#[derive(Debug, Default)]
pub struct Notices {
    problems: BTreeSet<Problem>,
    refusals: BTreeMap<String, String>,
}

impl Notices {
    /// Takes over what is wrong with objects now. Returns how many of them are new.
    pub fn problems(&mut self, now: BTreeSet<Problem>) -> usize {
        let new = now.difference(&self.problems).count();
        for problem in now.difference(&self.problems) {
            tracing::warn!(
                kind = problem.kind,
                object = %problem.object,
                field = problem.field,
                reason = problem.reason,
                "an object cannot be used as it is; the rest of it is"
            );
        }
        for problem in self.problems.difference(&now) {
            tracing::info!(
                kind = problem.kind,
                object = %problem.object,
                field = problem.field,
                reason = problem.reason,
                "a problem is gone"
            );
        }
        self.problems = now;
        new
    }

    /// Takes over what the dataplane refuses now. Returns how many of them are new.
    pub fn refusals(&mut self, now: impl IntoIterator<Item = Refusal>) -> usize {
        let mut new = 0;
        let now: BTreeMap<_, _> = now.into_iter().map(|r| (r.object, r.reason)).collect();
        for (object, reason) in &now {
            if self.refusals.get(object) != Some(reason) {
                tracing::error!(object, reason, "not served by this node's kernel");
                new += 1;
            }
        }
        for object in self.refusals.keys().filter(|o| !now.contains_key(*o)) {
            tracing::info!(object, "served again");
        }
        self.refusals = now;
        new
    }

    /// What is wrong with objects.
    pub const fn current_problems(&self) -> &BTreeSet<Problem> {
        &self.problems
    }

    /// What the dataplane refuses: the object, and why.
    pub const fn current_refusals(&self) -> &BTreeMap<String, String> {
        &self.refusals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    fn problem(field: &str) -> Problem {
        Problem {
            kind: "Service".to_owned(),
            object: ObjectName::new("dev", "ent"),
            field: field.to_owned(),
            reason: "0 is not a port".to_owned(),
        }
    }

    fn refusal(reason: &str) -> Refusal {
        Refusal {
            object: "Service dev/ent".to_owned(),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn what_was_said_is_not_news() {
        let mut notices = Notices::default();
        assert_eq!(notices.problems([problem("a")].into()), 1);
        assert_eq!(notices.problems([problem("a"), problem("b")].into()), 1);
        assert_eq!(notices.problems(BTreeSet::new()), 0);
        assert!(notices.current_problems().is_empty());
    }

    #[test]
    fn a_refusal_for_another_reason_is_news() {
        let mut notices = Notices::default();
        assert_eq!(notices.refusals([refusal("full")]), 1);
        assert_eq!(notices.refusals([refusal("full")]), 0);
        assert_eq!(notices.refusals([refusal("too long")]), 1);
        assert_eq!(notices.current_refusals().len(), 1);
        assert_eq!(notices.refusals([]), 0);
        assert!(notices.current_refusals().is_empty());
    }
}
