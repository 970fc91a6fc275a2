//! Programs that are fed with scripts. They work on the network namespace of the calling thread.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

/// What a program says; `None` where it is not there or fails.
pub fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(said)
}

/// Gives a script to a program.
///
/// # Errors
/// Where it cannot be run or refuses the script, with its words.
pub fn feed(program: &str, arguments: &[&str], script: &str) -> anyhow::Result<()> {
    let context = || format!("{program} cannot be run");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(context)?;
    let written: io::Result<()> = child
        .stdin
        .take()
        .map_or(Ok(()), |mut input| input.write_all(script.as_bytes()));
    let output = child.wait_with_output().with_context(context)?;
    ensure!(
        output.status.success(),
        "{program} refused: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    written.with_context(context)
}
