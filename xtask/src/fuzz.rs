//! `cargo xtask fuzz`: arbitrary input for what reads packets, questions, manifests and the feed.

use std::process::ExitCode;

use crate::{
    progress,
    project::{self, run, which},
    setup,
};

/// Its version is pinned: the way that it calls the compiler is part of what is tested.
const CARGO_FUZZ: &str = "0.13.2";

/// Flags of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this target
    target: Option<Target>,
    /// For how long each target runs
    #[arg(long, default_value_t = 10)]
    minutes: u32,
}

/// A target: a file in `fuzz/fuzz_targets`.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// Packets through the programs' logic
    Packets,
    /// DNS questions through the programs' logic
    Questions,
    /// Manifests, objects of the API, and lines of the feed
    Objects,
}

impl Target {
    const ALL: [Self; 3] = [Self::Packets, Self::Questions, Self::Objects];

    const fn name(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Questions => "questions",
            Self::Objects => "objects",
        }
    }

    /// What it is built with. The agent takes long to build with the fuzzer's instrumentation.
    const fn features(self) -> &'static str {
        match self {
            Self::Packets => "fuzzing",
            Self::Questions | Self::Objects => "fuzzing,agent",
        }
    }
}

/// Runs the targets one after the other, with the pinned compiler.
pub(crate) fn fuzz(args: &Args) -> anyhow::Result<ExitCode> {
    setup::for_build()?;
    cargo_fuzz()?;
    for target in Target::ALL {
        if args.target.is_some_and(|only| only != target) {
            continue;
        }
        println!("{}: {} minutes", target.name(), args.minutes);
        run(project::cargo()
            .args(["fuzz", "run", "--fuzz-dir", "fuzz"])
            // The code under test is safe Rust: the invariants find what there is, and no other compiler is needed.
            .args(["--sanitizer", "none", "--no-default-features"])
            .args(["--features", target.features(), target.name(), "--"])
            .arg(format!("-max_total_time={}", u64::from(args.minutes) * 60))
            .args(["-timeout=10", "-max_len=4096"]))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cargo_fuzz() -> anyhow::Result<()> {
    if which("cargo-fuzz").is_some() {
        return Ok(());
    }
    println!(
        "cargo-fuzz is missing: building {CARGO_FUZZ} in {} (about a minute)",
        project::tools().display()
    );
    progress::quietly(
        "building cargo-fuzz",
        project::cargo()
            .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked"])
            .arg("--root")
            .arg(project::tools())
            .env("CARGO_TARGET_DIR", project::tools().join("build")),
    )
}
