//! Runs one test program and reads what it says.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::Context as _;

use super::{
    executables::Executable,
    outcome::{Outcome, Skipped},
    requirement,
};
use crate::{progress::Spinner, project};

const WHY_ROOT: &str = "for tests with network namespaces and BPF programs";

/// Runs the tests that need nothing.
pub(super) fn plain(executable: &Executable, filters: &[String]) -> anyhow::Result<Outcome> {
    if executable.list(filters, None)?.is_empty() {
        return Ok(Outcome::default());
    }
    let mut command = executable.command(None);
    command.args(filters);
    let mut outcome = run(&executable.name, &mut command)?;
    // Counted when their turn comes.
    outcome.skipped.clear();
    Ok(outcome)
}

/// Runs the tests that need root, or says why not.
pub(super) fn privileged(
    executable: &Executable,
    filters: &[String],
    obstacle: Option<&str>,
) -> anyhow::Result<Outcome> {
    let name = format!("{} (root)", executable.name);
    let tests = executable.list(filters, Some("--ignored"))?;
    if let Some(reason) = obstacle {
        return Ok(Outcome::not_run(name, tests.len(), reason));
    }
    let mut skipped: Vec<Skipped> = Vec::new();
    let mut command = executable.command(Some(WHY_ROOT).filter(|_| !tests.is_empty()));
    command.arg("--ignored").args(filters);
    let mut left = tests.len();
    for test in &tests {
        if let Some(reason) = requirement::missing(test) {
            command.args(["--skip", test]);
            skipped.push(Skipped { tests: 1, reason });
            left -= 1;
        }
    }
    let mut outcome = if left == 0 {
        Outcome {
            name,
            ..Outcome::default()
        }
    } else {
        run(&name, &mut command)?
    };
    outcome.skipped = skipped;
    Ok(outcome)
}

/// Runs the examples in the documentation.
pub(super) fn documentation(filters: &[String]) -> anyhow::Result<Outcome> {
    let mut cargo = project::cargo();
    cargo
        .args(["test", "--workspace", "--doc", "--quiet", "--"])
        .args(filters);
    let mut outcome = run("documentation", &mut cargo)?;
    outcome.skipped.clear();
    Ok(outcome)
}

/// Runs tests beside a spinner that tells how far they are; shows their output where one fails.
fn run(name: &str, command: &mut Command) -> anyhow::Result<Outcome> {
    let spinner = Spinner::new(name.to_owned());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", project::line(command)))?;
    let stderr = child.stderr.take().context("no pipe")?;
    let stderr = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default());
    let mut outcome = Outcome {
        name: name.to_owned(),
        ..Outcome::default()
    };
    let mut output = String::new();
    let mut done = 0;
    for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
        let line = line?;
        if line.starts_with("test ") && line.contains(" ... ") {
            done += 1;
            spinner.say(format!("{name}: {done} done"));
        }
        outcome.read(&line);
        output.push_str(&line);
        output.push('\n');
    }
    let status = child.wait()?;
    drop(spinner);
    outcome.broken = !status.success() && outcome.failed == 0;
    if !status.success() {
        println!("{output}");
        println!("{}", stderr.join().unwrap_or_default());
        println!("{name}: {status}");
    }
    Ok(outcome)
}
