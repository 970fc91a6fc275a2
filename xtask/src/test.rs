//! `cargo xtask test`: every test, and a table of what ran and what could not.

use std::process::ExitCode;

use crate::{progress::Spinner, project, setup};

pub(crate) mod executables;
pub(crate) mod outcome;
mod requirement;
mod run;

use outcome::Outcome;

/// Flags of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose path contains one of these
    filters: Vec<String>,
    /// Leave out the tests that need root
    #[arg(long)]
    unprivileged: bool,
}

/// Builds and runs the tests. Those marked `#[ignore]` are the ones that need root.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    setup::for_build()?;
    let executables = {
        let _spinner = Spinner::new("building the tests");
        executables::build()?
    };

    let mut outcomes = Vec::new();
    for executable in &executables {
        outcomes.push(run::plain(executable, &args.filters)?);
    }
    outcomes.push(run::documentation(&args.filters)?);
    let obstacle = if args.unprivileged {
        Some("left out by --unprivileged".to_owned())
    } else if !project::can_be_root() {
        Some("needs root, and there is no sudo here".to_owned())
    } else {
        setup::bpffs()?;
        requirement::of_the_kernel()
    };
    for executable in &executables {
        outcomes.push(run::privileged(
            executable,
            &args.filters,
            obstacle.as_deref(),
        )?);
    }

    outcomes.retain(|outcome| !outcome.is_empty());
    print!("{}", outcome::table(&outcomes));
    let total = outcomes.iter().fold(Outcome::default(), Outcome::plus);
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed,
        total.failed,
        total.skipped()
    );
    Ok(if total.failed == 0 && !total.broken {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
