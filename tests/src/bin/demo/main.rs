//! The story of signpost on one machine: the example of every service-discovery tutorial, told in numbered steps that
//! check what they show. `cargo xtask demo` builds and starts it.

use std::{path::Path, process::ExitCode};

use clap::Parser;
use signpost_tests::lab::workplace;

mod interrupt;
mod ipvs;
mod keep;
mod names;
mod restart;
mod stage;
mod story;
mod traffic;

use stage::Stage;
use story::Story;

/// Names and addresses from the kernel, shown on this machine.
#[derive(Parser)]
struct Cli {
    /// Leave the laboratory up afterwards
    #[arg(long)]
    keep: bool,
    /// Open a shell in the pod `jump` after the steps
    #[arg(long)]
    shell: bool,
    /// End a laboratory that was left up
    #[arg(long, conflicts_with_all = ["keep", "shell"])]
    stop: bool,
    /// Where the process that was started by `--keep` says how the steps ended
    #[arg(long, hide = true)]
    report: Option<std::os::fd::RawFd>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = if cli.stop {
        keep::stop()
    } else if cli.keep && cli.report.is_none() {
        keep::in_background(cli.shell)
    } else {
        run(&cli)
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the demo broke off: {error:#}");
            workplace::end_all();
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<bool> {
    // Before any other thread is there, so that all of them leave the signals to this one.
    interrupt::watch()?;
    let report = cli.report.map(keep::own).transpose()?;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/enterprise");
    let mut story = Story::new();
    story.say("raising a node: network namespaces, veth pairs, a process behind every pod, an agent, signpost dns");
    let mut stage = Stage::raise(&examples)?;
    tell(&mut story, &mut stage)?;
    let held = story.summary();
    if cli.shell {
        stage.shell()?;
    }
    if let Some(report) = report {
        stage.tell_how_to_enter()?;
        keep::stay(report, held, stage.lab.folder())?;
    }
    Ok(held)
}

fn tell(story: &mut Story, stage: &mut Stage) -> anyhow::Result<()> {
    names::resolv_conf(story, stage)?;
    names::kubernetes(story, stage)?;
    traffic::own_namespace(story, stage)?;
    traffic::other_namespace(story, stage)?;
    traffic::full_name(story, stage)?;
    traffic::replica_removed(story, stage)?;
    names::outside(story, stage)?;
    restart::killed(story, stage)?;
    restart::started_again(story, stage)?;
    if stage.by_programs {
        names::counters(story, stage)
    } else {
        ipvs::virtual_servers(story, stage)
    }
}
