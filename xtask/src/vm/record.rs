//! What runs on a kernel have shown, kept in `target/vm/<kernel>/record.json`. A later run of a suite replaces what an
//! earlier one of it showed.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::kernel::Kernel;
use crate::{project, test::outcome::Outcome};

const FILE: &str = "record.json";

/// Everything that is known of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// `uname -r`.
    pub(crate) release: String,
    /// What `signpost doctor` says there.
    pub(crate) features: Vec<Feature>,
    /// The programs, by name.
    pub(crate) programs: BTreeMap<String, Program>,
    /// The suites, by name.
    pub(crate) suites: BTreeMap<String, Suite>,
}

/// A row of `signpost doctor -o json`; more is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Feature {
    pub(crate) title: String,
    pub(crate) there: bool,
    pub(crate) level: String,
    pub(crate) follows: String,
}

/// What the verifier said of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Instructions that it looked at.
    pub(crate) verified: u64,
    /// Milliseconds that loading took.
    pub(crate) milliseconds: u64,
}

/// What came of a suite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suite {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// How many of it did not run.
    #[serde(default)]
    pub(crate) left_out: usize,
    /// Those that ran.
    #[serde(default)]
    pub(crate) tests: Vec<String>,
}

/// A line of the machine's report.
#[derive(Deserialize)]
struct Line {
    program: String,
    #[serde(flatten)]
    verified: Program,
}

/// What `signpost doctor -o json` prints.
#[derive(Deserialize)]
struct Diagnosis {
    features: Vec<Feature>,
}

impl Record {
    /// What earlier runs have left; nothing where there was none.
    pub(crate) fn read(kernel: Kernel) -> anyhow::Result<Self> {
        let file = folder(kernel).join(FILE);
        match fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            text => serde_json::from_slice(&text?).with_context(|| file.display().to_string()),
        }
    }

    /// Keeps it.
    pub(crate) fn write(&self, kernel: Kernel) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        Ok(fs::write(folder(kernel).join(FILE), text)?)
    }

    /// Takes in what `signpost doctor -o json` has printed.
    pub(crate) fn diagnosed(&mut self, text: &str) -> anyhow::Result<()> {
        let diagnosis: Diagnosis =
            serde_json::from_str(text).context("`signpost doctor` did not print JSON")?;
        self.features = diagnosis.features;
        Ok(())
    }

    /// Takes in what tests have kept. Lines that are not of the verifier are somebody else's.
    pub(crate) fn reported(&mut self, lines: &str) {
        let lines = lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        self.programs
            .extend(lines.map(|line: Line| (line.program, line.verified)));
    }

    /// Takes in what came of a suite. What shows less of it than an earlier run did does not replace that.
    pub(crate) fn ran(
        &mut self,
        suite: &str,
        outcome: &Outcome,
        left_out: usize,
        tests: Vec<String>,
    ) {
        let came = Suite {
            passed: outcome.passed,
            failed: outcome.failed + usize::from(outcome.broken),
            left_out,
            tests,
        };
        let known = self.suites.get(suite);
        if known.is_none_or(|known| known.tests.len() <= came.tests.len() || came.failed > 0) {
            self.suites.insert(suite.to_owned(), came);
        }
    }
}

fn folder(kernel: Kernel) -> std::path::PathBuf {
    let folder = Path::new("vm").join(kernel.name);
    project::target().join(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_is_taken_in() {
        let mut record = Record::default();
        record.reported("{\"program\":\"from_pod\",\"verified\":7,\"milliseconds\":3}\n{\"other\":1}\nnothing\n");
        assert_eq!(record.programs["from_pod"].verified, 7);
        assert_eq!(record.programs.len(), 1);
        let row = r#"{"kernel":"6.1","features":[{"title":"TCX","there":false,"level":"less","follows":"x","found":"y"}]}"#;
        record.diagnosed(row).unwrap();
        assert!(!record.features[0].there);
        assert!(record.diagnosed("nothing").is_err());
    }
}
