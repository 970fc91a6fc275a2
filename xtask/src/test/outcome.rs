//! What came of the tests.

use std::{collections::BTreeMap, fmt::Write as _};

/// Tests that did not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// How many.
    pub(crate) tests: usize,
    /// Why, and what helps.
    pub(crate) reason: String,
}

/// What came of one test program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The program.
    pub(crate) name: String,
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed.
    pub(crate) failed: usize,
    /// Tests that did not run.
    pub(crate) skipped: Vec<Skipped>,
    /// The program ended in a way that no test accounts for.
    pub(crate) broken: bool,
}

impl Outcome {
    /// None of its tests could run.
    pub(crate) fn not_run(name: String, tests: usize, reason: &str) -> Self {
        let skipped = Skipped {
            tests,
            reason: reason.to_owned(),
        };
        Self {
            name,
            skipped: Vec::from_iter(Some(skipped).filter(|s| s.tests > 0)),
            ..Self::default()
        }
    }

    /// Takes in a line that the program printed.
    pub(crate) fn read(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in counts.split(['.', ';']) {
            match part.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    /// How many tests did not run.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped.iter().map(|s| s.tests).sum()
    }

    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed == 0 && self.skipped() == 0 && !self.broken
    }

    /// Both together.
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped.iter().cloned());
        self.broken |= other.broken;
        self
    }
}

/// One line a program, and one for each reason why something did not run.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let width = outcomes
        .iter()
        .map(|o| o.name.len())
        .max()
        .unwrap_or(0)
        .max(5);
    let mut text = format!(
        "\n{:width$} {:>7} {:>7} {:>8}\n",
        "suite", "passed", "failed", "skipped"
    );
    for outcome in outcomes {
        let _ = write!(
            text,
            "{:width$} {:>7} {:>7} {:>8}",
            outcome.name,
            outcome.passed,
            outcome.failed,
            outcome.skipped()
        );
        text.push_str(if outcome.broken {
            "  broke off\n"
        } else {
            "\n"
        });
        let mut reasons = BTreeMap::new();
        for skipped in &outcome.skipped {
            *reasons.entry(&skipped.reason).or_insert(0) += skipped.tests;
        }
        for (reason, tests) in reasons {
            let _ = writeln!(text, "  {tests} not run: {reason}");
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_what_libtest_prints() {
        let mut outcome = Outcome::default();
        outcome.read("running 9 tests");
        outcome.read("test result: FAILED. 6 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.52s");
        outcome.read("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        assert_eq!((outcome.passed, outcome.failed), (7, 2));
    }

    #[test]
    fn the_table_says_why_tests_did_not_run() {
        let outcomes = [
            Outcome {
                name: "agent".to_owned(),
                passed: 3,
                ..Outcome::default()
            },
            Outcome::not_run("tests/it (root)".to_owned(), 2, "needs root"),
        ];
        let table = table(&outcomes);
        assert!(
            table.contains("agent                 3       0        0\n"),
            "{table}"
        );
        assert!(table.contains("  2 not run: needs root\n"), "{table}");
    }
}
