//! `cargo xtask demo`: builds the demo and starts it as root.

use std::process::ExitCode;

use crate::{project, setup};

/// Flags of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the laboratory up afterwards; `--stop` ends it
    #[arg(long, conflicts_with = "stop")]
    keep: bool,
    /// Open a shell in the pod `jump` after the steps
    #[arg(long, conflicts_with = "stop")]
    shell: bool,
    /// End a laboratory that `--keep` left up
    #[arg(long)]
    stop: bool,
}

/// Builds what the demo needs, then hands over to it.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    setup::for_build()?;
    setup::bpffs()?;
    println!("building signpost and the laboratory");
    project::run(project::cargo().args(["build", "--quiet", "--workspace", "--bins"]))?;
    let program = project::target().join("debug/demo");
    let mut demo = project::as_root(
        program,
        "to make network namespaces and load BPF programs for the demo",
    );
    for (flag, on) in [
        ("--keep", args.keep),
        ("--shell", args.shell),
        ("--stop", args.stop),
    ] {
        if on {
            demo.arg(flag);
        }
    }
    Ok(if demo.status()?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
