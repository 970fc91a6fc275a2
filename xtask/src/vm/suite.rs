//! The test programs that run on other kernels, and what comes of them.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use xtask::errand::Command;

use super::Work;
use crate::{
    progress::Spinner,
    project,
    test::{
        executables::{self, Executable},
        outcome::{Outcome, Skipped},
    },
};

/// Suites of `tests/tests`, with what of them runs: all where there is no filter.
const SUITES: [(&str, &[&str]); 3] = [("programs", &[]), ("dataplane", &[]), ("ipvs", &[])];

/// Words in the paths of tests that need what no machine has: compilers.
const NOT_THERE: [&str; 3] = ["api_server", "migration", "musl"];

/// A command with its name, and how many tests of it do not run.
pub(super) struct Part {
    name: String,
    pub(super) command: Command,
    skipped: Vec<Skipped>,
}

impl Part {
    pub(super) fn new(name: &str, command: Command) -> Self {
        Self {
            name: name.to_owned(),
            command,
            skipped: Vec::new(),
        }
    }
}

/// The programs that tests start.
pub(super) fn programs_of_the_laboratory() -> Vec<PathBuf> {
    let built = project::target().join("debug");
    let programs = ["signpost", "lab-pod"].map(|name| built.join(name));
    programs.into_iter().filter(|path| path.is_file()).collect()
}

/// What commands there find in their environment.
pub(super) fn environment() -> Vec<(String, String)> {
    let built = project::target().join("debug/signpost");
    let variables = [
        ("SIGNPOST_BIN", built.display().to_string()),
        ("RUST_BACKTRACE", "1".to_owned()),
    ];
    variables
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
}

/// Builds the suites and says what is to run of them.
pub(super) fn work(suites: &[String], filters: &[String]) -> anyhow::Result<Work> {
    let mut wanted: Vec<&str> = suites.iter().map(String::as_str).collect();
    if wanted.is_empty() {
        wanted = SUITES.map(|(name, _)| name).to_vec();
    }
    let executables = {
        let _spinner = Spinner::new("building the tests");
        executables::build_some(&wanted)?
    };
    let mut work = Work {
        programs: programs_of_the_laboratory(),
        parts: Vec::new(),
    };
    for executable in &executables {
        let preset = SUITES
            .iter()
            .find(|(name, _)| executable.name.ends_with(&format!("/{name}")));
        let filters = match preset {
            Some((_, preset)) if filters.is_empty() => {
                preset.iter().copied().map(str::to_owned).collect()
            }
            _ => filters.to_vec(),
        };
        if let Some(part) = part(executable, &filters)? {
            work.programs.push(executable.path.clone());
            work.parts.push(part);
        }
    }
    ensure!(!work.parts.is_empty(), "no test has such a name");
    Ok(work)
}

/// A test program with its arguments; none where no test is left.
fn part(executable: &Executable, filters: &[String]) -> anyhow::Result<Option<Part>> {
    let tests = executable.list(filters, Some("--ignored"))?;
    let mut arguments = vec!["--ignored".to_owned()];
    arguments.extend_from_slice(filters);
    let mut skipped = 0;
    for test in &tests {
        let mut words = test
            .split("::")
            .flat_map(|part| std::iter::once(part).chain(part.split('_')));
        if words.any(|word| NOT_THERE.contains(&word)) {
            arguments.extend(["--skip".to_owned(), test.clone()]);
            skipped += 1;
        }
    }
    if tests.len() == skipped {
        return Ok(None);
    }
    let folder = executable.folder.display().to_string();
    let mut environment = environment();
    environment.push(("CARGO_MANIFEST_DIR".to_owned(), folder.clone()));
    let mut part = Part::new(
        &executable.name,
        Command {
            program: executable.path.display().to_string(),
            arguments,
            environment,
            folder,
        },
    );
    if skipped > 0 {
        part.skipped.push(Skipped {
            tests: skipped,
            reason: "needs a compiler or a control plane, which the machine has not".to_owned(),
        });
    }
    Ok(Some(part))
}

/// What a machine has said so far.
pub(super) struct Hearing<'a> {
    kernel: &'a str,
    parts: &'a [Part],
    /// Everything is shown at once.
    show: bool,
    running: Option<(usize, Outcome, String, Spinner)>,
    done: usize,
    outcomes: Vec<Outcome>,
    status: i32,
}

impl<'a> Hearing<'a> {
    pub(super) fn new(kernel: &'a str, parts: &'a [Part], show: bool) -> Self {
        Self {
            kernel,
            parts,
            show,
            running: None,
            done: 0,
            outcomes: Vec::new(),
            status: 0,
        }
    }

    pub(super) fn begins(&mut self, number: usize) {
        let Some(part) = self.parts.get(number) else {
            return;
        };
        let name = format!("{}: {}", self.kernel, part.name);
        let outcome = Outcome {
            name: name.clone(),
            skipped: part.skipped.clone(),
            ..Outcome::default()
        };
        self.done = 0;
        self.running = Some((number, outcome, String::new(), Spinner::new(name)));
    }

    pub(super) fn line(&mut self, line: &str) {
        if self.show {
            println!("{line}");
        }
        let Some((_, outcome, output, spinner)) = &mut self.running else {
            return;
        };
        if line.starts_with("test ") && line.contains(" ... ") {
            self.done += 1;
            spinner.say(format!("{}: {} done", outcome.name, self.done));
        }
        outcome.read(line);
        output.push_str(line);
        output.push('\n');
    }

    pub(super) fn ended(&mut self, number: usize, status: i32) {
        let Some((running, mut outcome, output, spinner)) = self.running.take() else {
            return;
        };
        drop(spinner);
        outcome.broken = running != number || (status != 0 && outcome.failed == 0);
        if status != 0 && !self.show {
            println!("{output}\n{}: exit status {status}", outcome.name);
        }
        self.status = self.status.max(status);
        self.outcomes.push(outcome);
    }

    /// What came of all. Fails where the machine ended before its work.
    pub(super) fn finish(self) -> anyhow::Result<(Vec<Outcome>, i32)> {
        if let Some((_, outcome, output, _)) = self.running {
            println!("{output}");
            bail!("the machine ended while {} ran", outcome.name);
        }
        if self.outcomes.len() < self.parts.len() {
            bail!("the machine ended before its work");
        }
        Ok((self.outcomes, self.status))
    }
}
