//! What a test found that is to be kept: lines of JSON in the file that the environment names, as `cargo xtask vm` does.

use std::{fs::File, io::Write as _};

use anyhow::Context as _;
use serde::Serialize;

/// The environment variable with the file's name.
const FILE: &str = "SIGNPOST_REPORT";

/// Whether somebody wants to know: a machine that is there for the tests, where nothing that they need is missing.
pub fn is_wanted() -> bool {
    std::env::var_os(FILE).is_some()
}

/// Keeps a fact, where somebody wants to know.
///
/// # Errors
/// Where the file cannot be written.
pub fn keep(fact: &impl Serialize) -> anyhow::Result<()> {
    let Some(path) = std::env::var_os(FILE) else {
        return Ok(());
    };
    let mut line = serde_json::to_string(fact)?;
    line.push('\n');
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    Ok(file.write_all(line.as_bytes())?)
}
