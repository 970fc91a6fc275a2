//! Where the programs are that the laboratory runs.

use std::{env, path::PathBuf, process::Command, sync::OnceLock};

use anyhow::{Context as _, ensure};

use crate::report;

/// The `signpost` binary: `$SIGNPOST_BIN`, else the one in the folder where cargo put the program that runs now. Cargo
/// builds it anew where it is what started us, because it only does so by itself for programs of the same package.
///
/// # Errors
/// Where there is none.
pub fn signpost() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    if let Some(path) = env::var_os("SIGNPOST_BIN") {
        return Ok(path.into());
    }
    let path = beside_us("signpost")?;
    let built = BUILT.get_or_init(|| build(&path).map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)?;
    ensure!(
        path.is_file(),
        "{} is not there: cargo build --package signpost",
        path.display()
    );
    Ok(path)
}

/// The program behind the pods of the laboratory.
///
/// # Errors
/// Where there is none.
pub fn lab_pod() -> anyhow::Result<PathBuf> {
    let path = beside_us("lab-pod")?;
    ensure!(
        path.is_file(),
        "{} is not there: cargo build --package signpost-tests",
        path.display()
    );
    Ok(path)
}

/// The demo.
///
/// # Errors
/// Where there is none.
pub fn demo() -> anyhow::Result<PathBuf> {
    let path = beside_us("demo")?;
    ensure!(
        path.is_file(),
        "{} is not there: cargo build --package signpost-tests",
        path.display()
    );
    Ok(path)
}

/// Why the IPVS mode cannot be tried here.
///
/// # Panics
/// In a virtual machine that is there for it: tests that are skipped would pass.
pub fn obstacle_to_ipvs() -> Option<String> {
    // A module that is there is loaded by who asks for it, if it is root.
    let _ = Command::new("modprobe")
        .args(["-a", "ip_vs", "dummy"])
        .status();
    let obstacle = match std::fs::exists("/proc/net/ip_vs") {
        Ok(true) if Command::new("ipvsadm").arg("-v").output().is_ok() => return None,
        Ok(true) => "there is no ipvsadm",
        _ => "the kernel has no ip_vs",
    };
    assert!(!report::is_wanted(), "{obstacle}");
    eprintln!("skipped: {obstacle}; it has both in cargo xtask vm");
    Some(obstacle.to_owned())
}

fn beside_us(name: &str) -> anyhow::Result<PathBuf> {
    let us = env::current_exe()?;
    let mut folder = us.parent().context("no folder")?;
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().context("no folder")?;
    }
    Ok(folder.join(name))
}

fn build(path: &std::path::Path) -> anyhow::Result<()> {
    let Some(cargo) = env::var_os("CARGO") else {
        return Ok(());
    };
    let mut command = Command::new(cargo);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // The whole workspace, so that dependencies have the same features as they had for us.
        .args(["build", "--quiet", "--workspace", "--bin", "signpost"]);
    // What cargo has told us of our package would make build scripts run anew.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let of_package = text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_");
        if of_package || text == "OUT_DIR" {
            command.env_remove(name);
        }
    }
    if path
        .parent()
        .is_some_and(|folder| folder.ends_with("release"))
    {
        command.arg("--release");
    }
    let output = command.output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "signpost does not build: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
