//! `cargo xtask check`.

use std::process::ExitCode;

use crate::{project, setup, tidy};

/// Flags of `cargo xtask check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Mend formatting and what clippy can mend
    #[arg(long)]
    fix: bool,
}

/// Runs every check, cheapest first.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    setup::for_build()?;
    if args.fix {
        step("fmt", project::cargo().args(["fmt", "--all"]))?;
        step(
            "clippy --fix",
            project::cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--fix",
                "--allow-dirty",
                "--allow-staged",
            ]),
        )?;
    }
    step("fmt", project::cargo().args(["fmt", "--all", "--check"]))?;
    println!("tidy");
    tidy::check(&project::root())?;
    step(
        "clippy",
        project::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    step(
        "documentation",
        project::cargo()
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
                "--quiet",
            ])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    println!("all checks passed");
    Ok(ExitCode::SUCCESS)
}

fn step(name: &str, command: &mut std::process::Command) -> anyhow::Result<()> {
    println!("{name}");
    project::run(command)
}
