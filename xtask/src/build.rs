//! `cargo xtask build`.

use std::process::ExitCode;

use crate::{project, setup};

/// Flags of `cargo xtask build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build with optimisation
    #[arg(long)]
    release: bool,
}

/// Builds the binary and says where it is.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    setup::for_build()?;
    let mut cargo = project::cargo();
    cargo.args(["build", "--package", "signpost"]);
    if args.release {
        cargo.arg("--release");
    }
    project::run(&mut cargo)?;
    let profile = if args.release { "release" } else { "debug" };
    println!(
        "built {}",
        project::target().join(profile).join("signpost").display()
    );
    Ok(ExitCode::SUCCESS)
}
