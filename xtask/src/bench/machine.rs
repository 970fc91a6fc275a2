//! Benchmarks that need a kernel with IPVS: in a virtual machine.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};

use super::Args;
use crate::{project, vm};

/// The kernel.
const KERNEL: &str = "6.1";

/// How many Services there are.
const SERVICES: &str = "5000";

/// Runs them there; returns the report.
pub(super) fn measure(built: &Path, args: &Args) -> anyhow::Result<Vec<u8>> {
    let bench = built.join("bench");
    let tools = Command::new(&bench)
        .arg("tools")
        .output()
        .with_context(|| bench.display().to_string())?;
    ensure!(
        tools.status.success(),
        "the peers cannot be built: {}",
        String::from_utf8_lossy(&tools.stderr)
    );
    let tools = String::from_utf8_lossy(&tools.stdout);
    let taken = vec![
        bench.clone(),
        built.join("signpost"),
        Path::new(tools.trim()).join("kube-proxy"),
        // Which folder is the target folder is told by this file.
        project::target().join("CACHEDIR.TAG"),
    ];
    let signpost = format!("SIGNPOST_BIN={}", built.join("signpost").display());
    let command = [
        "env",
        &signpost,
        &bench.display().to_string(),
        "run",
        &args.suite,
        "--pairs",
        &args.pairs.to_string(),
        "--services",
        args.services.as_deref().unwrap_or(SERVICES),
    ];
    let command = command.map(str::to_owned).to_vec();
    let report = vm::run_command(KERNEL, taken, command)?;
    let text = fs::read_to_string(&report).with_context(|| report.display().to_string())?;
    let last = text
        .lines()
        .last()
        .context("the machine has left no report")?;
    Ok(last.as_bytes().to_vec())
}
