//! `signpost monitor dns`: who asks what, while somebody watches.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, ensure};
use hickory_proto::rr::RecordType;
use serde_json::Value;
use signpost_tests::lab::{Agent, Cni, dns, process::Process, upstream::NAME, wait};

use crate::{names::Names, small::PROGRAMMED};

const SERVER: &str = "10.96.0.10:53";

/// A command that watches, and what it prints.
struct Monitor {
    process: Process,
    printed: PathBuf,
}

impl Monitor {
    fn start(agent: &Agent, flags: &[&str]) -> anyhow::Result<Self> {
        let number = rand::random::<u32>();
        let printed = agent.node().folder().join(format!("monitor-{number}"));
        let mut command = agent.command("monitor dns")?;
        command
            .args(["-o", "json", "--run-folder"])
            .arg(agent.run_folder())
            .args(flags);
        let process = command.background(&printed)?;
        Ok(Self { process, printed })
    }

    fn text(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.printed)?)
    }

    fn rows(&self) -> anyhow::Result<Vec<Value>> {
        let text = self.text()?;
        // The last line may not be there in full yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let json = whole.lines().filter(|line| line.starts_with('{'));
        Ok(json.map(serde_json::from_str).collect::<Result<_, _>>()?)
    }

    /// Asks until the question is shown with this answerer.
    fn until(
        &self,
        names: &Names,
        (name, kind): (&str, RecordType),
        by: &str,
    ) -> anyhow::Result<Value> {
        let plain = name.trim_end_matches('.');
        let seen = wait::until("a line about the question", PROGRAMMED, || {
            let server: SocketAddr = SERVER.parse()?;
            names.jump.run(|| dns::ask(server, name, kind))??;
            let rows = self.rows()?;
            let row = rows.iter().find(|row| {
                row["name"] == plain && row["type"] == kind.to_string() && row["by"] == by
            });
            row.cloned().context("not yet")
        });
        seen.with_context(|| format!("{name} by {by}:\n{}", self.text().unwrap_or_default()))
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn answers_are_shown_wherever_they_come_from() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    let monitor = Monitor::start(&names.agent, &[])?;
    let jump = names.jump.v4().to_string();
    for (name, kind, by, code, records) in [
        (
            "ent.dev.svc.cluster.local.",
            RecordType::A,
            "kernel",
            "NOERROR",
            1,
        ),
        (
            "nope.dev.svc.cluster.local.",
            RecordType::A,
            "kernel",
            "NXDOMAIN",
            0,
        ),
        (
            "ent.prod.svc.cluster.local.",
            RecordType::AAAA,
            "kernel",
            "NOERROR",
            0,
        ),
        (
            "2001-db8--1.dev.pod.cluster.local.",
            RecordType::AAAA,
            "zone",
            "NOERROR",
            1,
        ),
        (NAME, RecordType::MX, "upstream", "NOERROR", 0),
        (NAME, RecordType::A, "kernel-cache", "NOERROR", 1),
    ] {
        let row = monitor.until(&names, (name, kind), by)?;
        assert_eq!(row["rcode"], code, "{row}");
        assert_eq!(row["records"], records, "{row}");
        assert_eq!(row["client"], jump.as_str(), "{row}");
        assert_eq!(row["protocol"], "udp", "{row}");
        assert!(row["microseconds"].as_f64() > Some(0.0), "{row}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn one_watches_at_a_time_and_what_was_killed_leaves_nothing_on() -> anyhow::Result<()> {
    let names = Names::start(Cni::Routed)?;
    let monitor = Monitor::start(
        &names.agent,
        &["--name", "*.prod.svc.*", "--rcode", "noerror"],
    )?;
    let asked = ("ent.prod.svc.cluster.local.", RecordType::A);
    monitor.until(&names, asked, "kernel")?;
    let others = monitor
        .rows()?
        .into_iter()
        .filter(|row| row["rcode"] != "NOERROR");
    assert_eq!(others.count(), 0);
    let mut second = Monitor::start(&names.agent, &[])?;
    wait::until("an error", PROGRAMMED, || {
        ensure!(!second.process.is_running(), "it runs");
        ensure!(second.text()?.contains("somebody else watches"));
        Ok(())
    })?;
    // Killed, so that nothing is switched off by it.
    drop(monitor.process);
    let again = Monitor::start(&names.agent, &["--pod", &names.jump.v4().to_string()])?;
    again.until(&names, asked, "kernel")?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_kernel_is_watched_without_an_agent_too() -> anyhow::Result<()> {
    let mut names = Names::start(Cni::Routed)?;
    names.agent.kill();
    let monitor = Monitor::start(&names.agent, &[])?;
    let asked = ("ent.prod.svc.cluster.local.", RecordType::A);
    monitor.until(&names, asked, "kernel")?;
    assert!(monitor.text()?.contains("the agent cannot be heard"));
    Ok(())
}
