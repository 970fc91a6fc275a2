//! The first process of a virtual machine, and what its kernel calls to load a module.

use std::{env, fs, path::Path, process::ExitCode};

use anyhow::Context as _;
use xtask::errand::{Errand, FILE};

mod commands;
mod machine;
mod modules;

fn main() -> ExitCode {
    let mut arguments = env::args();
    let called = arguments.next().unwrap_or_default();
    if Path::new(&called).ends_with("modprobe") {
        return modules::probe(arguments);
    }
    if std::process::id() != 1 {
        eprintln!("this is the first process of a virtual machine: `cargo xtask vm` starts it");
        return ExitCode::FAILURE;
    }
    if let Err(error) = work() {
        // The kernel's console is all that there is for sure.
        eprintln!("vm-guest: {error:#}");
    }
    machine::power_off()
}

fn work() -> anyhow::Result<()> {
    machine::prepare()?;
    let errand = fs::read_to_string(FILE).context(FILE)?;
    let errand: Errand = serde_json::from_str(&errand).context(FILE)?;
    let index = modules::index()?;
    for module in &errand.modules {
        if let Err(error) = modules::load(&index, module) {
            eprintln!("vm-guest: module {module}: {error:#}");
        }
    }
    commands::run_all(&errand.commands)
}
