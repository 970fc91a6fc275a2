//! `signpost drain`: leaves a node to another proxy, connection by connection.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use clap::Args;

use crate::{
    agent::report::is_alive,
    config::Instance,
    dataplane::ebpf::{
        drain::{self, OpenFlow, Remaining},
        view::View,
    },
};

/// The agent asks every second.
const PATIENCE: Duration = Duration::from_secs(15);
const TURN: Duration = Duration::from_millis(200);
/// How many of the flows that are left are named.
const SHOWN: usize = 10;

/// Flags of `signpost drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    #[command(flatten)]
    instance: Instance,

    /// Serve new connections again
    #[arg(long, conflicts_with = "wait")]
    undo: bool,

    /// Wait until no connection is left, for so many seconds at most; the exit status is 1 where some are
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

/// From now on new connections pass by the programs, to the rules of another proxy that must be there already; those that
/// are known go on. Agents that start later keep to it, until `--undo`, `signpost cleanup` or a reboot.
///
/// # Errors
/// Where nothing is pinned, the agent does not carry it out, or connections are left after the wait.
pub fn run(args: &DrainArgs) -> anyhow::Result<String> {
    let root = &args.instance.bpffs_root;
    let on = !args.undo;
    View::open(root)?;
    drain::set(root, on, !is_alive(&args.instance))?;
    let begun = Instant::now();
    while drain::is_carried_out(&View::open(root)?)? != on {
        ensure!(
            begun.elapsed() < PATIENCE,
            "the agent does not carry it out; see its log"
        );
        thread::sleep(TURN);
    }
    if !on {
        return Ok("new connections are served again\n".to_owned());
    }
    let begun = Instant::now();
    let wait = args.wait.map(Duration::from_secs);
    let (remaining, open) = loop {
        let (remaining, open) = drain::remaining(&View::open(root)?)?;
        let waits = wait.is_some_and(|wait| begun.elapsed() < wait);
        if !waits || open.is_empty() {
            break (remaining, open);
        }
        thread::sleep(TURN);
    };
    ensure!(
        wait.is_none() || open.is_empty(),
        "{} still go through this node's programs; `signpost cleanup` would cut them:{}",
        text(remaining),
        some(&open),
    );
    let mut said = "new connections are left to the other proxy\n".to_owned();
    if open.is_empty() {
        said.push_str("none is left of the others: `signpost cleanup` cuts nothing\n");
    } else {
        let _ = writeln!(
            said,
            "{} go on until they end; `signpost drain --wait SECONDS` waits for that",
            text(remaining)
        );
    }
    Ok(said)
}

/// The first ones, a line each.
fn some(open: &[OpenFlow]) -> String {
    let mut text = String::new();
    for flow in open.iter().take(SHOWN) {
        let _ = write!(text, "\n  {flow}");
    }
    if open.len() > SHOWN {
        text.push_str("\n  ...");
    }
    text
}

fn text(remaining: Remaining) -> String {
    let Remaining {
        connections,
        datagrams,
    } = remaining;
    format!("{connections} connections and {datagrams} flows of UDP")
}
