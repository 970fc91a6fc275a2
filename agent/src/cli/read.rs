//! The commands that read: from the pinned maps to what is printed.

pub(super) mod ipvs;

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use signpost_common::layout::map;
use signpost_ebpf::host::Memory;

use super::{
    ReadArgs,
    backend::backend_rows,
    counters::{changes, counter_rows},
    names::name_rows,
    output::{Format, json, rows},
    print,
    service::service_rows,
    status::{MapStatus, Status},
};
use crate::{
    agent::report::{self, Report},
    dataplane::{
        ebpf::{
            tables::{
                Clocks, Configs, DnsAlive, Flows, Frontends, LargeAnswers, Members, NameTexts,
                Names, Services, SmallAnswers,
            },
            view::View,
        },
        ipvs::view::View as VirtualServers,
    },
};

/// Seconds between two readings of `counters --watch`.
const WATCH: Duration = Duration::from_secs(1);

/// `signpost service list`.
///
/// # Errors
/// Where the pins cannot be read.
pub(super) fn services(read: &ReadArgs) -> anyhow::Result<String> {
    if ipvs::is_on(read) {
        let view = virtual_servers(read)?;
        return rows(read.output.output, &ipvs::services(&view));
    }
    let view = open(read)?;
    let found = service_rows(view.all::<Services>()?, view.all::<Frontends>()?);
    rows(read.output.output, &found)
}

/// `signpost backend list`.
///
/// # Errors
/// Where the pins cannot be read.
pub(super) fn backends(read: &ReadArgs) -> anyhow::Result<String> {
    if ipvs::is_on(read) {
        let view = virtual_servers(read)?;
        return rows(read.output.output, &ipvs::backends(&view));
    }
    let view = open(read)?;
    let found = backend_rows(
        view.all::<Services>()?,
        view.all::<Members>()?,
        view.all::<Flows>()?,
    );
    rows(read.output.output, &found)
}

/// `signpost dns list`.
///
/// # Errors
/// Where the pins cannot be read.
pub(super) fn names(read: &ReadArgs) -> anyhow::Result<String> {
    if ipvs::is_on(read) {
        return ipvs::nothing("names");
    }
    let view = open(read)?;
    let found = name_rows(
        view.all::<Names>()?,
        view.all::<NameTexts>()?,
        view.all::<SmallAnswers>()?,
        view.all::<LargeAnswers>()?,
    );
    rows(read.output.output, &found)
}

/// `signpost counters`.
///
/// # Errors
/// Where the pins cannot be read.
pub(super) fn counters(read: &ReadArgs) -> anyhow::Result<String> {
    if ipvs::is_on(read) {
        return ipvs::nothing("counters of causes");
    }
    rows(read.output.output, &counter_rows(&open(read)?.counters()?))
}

/// `signpost counters --watch`: prints what changed every second, until the reader goes away.
///
/// # Errors
/// Where the pins cannot be read.
pub(super) fn watch(read: &ReadArgs) -> anyhow::Result<ExitCode> {
    let mut before = open(read)?.counters()?;
    let mut at = Instant::now();
    loop {
        thread::sleep(WATCH);
        // Opened anew each time: an agent of another version makes new maps.
        let after = open(read)?.counters()?;
        let text = match read.output.output {
            Format::Table => changes(&before, &after, at.elapsed()) + "\n",
            Format::Json => serde_json::to_string(&counter_rows(&after))? + "\n",
        };
        print(&text)?;
        (before, at) = (after, Instant::now());
    }
}

/// `signpost status`: exit status 1 where something needs attention.
///
/// # Errors
/// Where the pins cannot be read.
pub(super) fn status(read: &ReadArgs) -> anyhow::Result<ExitCode> {
    let status = judged(read)?;
    print(&match read.output.output {
        Format::Table => status.text(),
        Format::Json => json(&status)?,
    })?;
    Ok(if status.attention.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The tables that the kernel answers names from, as they are now.
///
/// # Errors
/// Where the pins cannot be read.
pub(super) fn tables(read: &ReadArgs) -> anyhow::Result<Memory> {
    let view = open(read)?;
    let mut tables = Memory::default();
    tables.config = view.get::<Configs>(&0)?;
    tables.names = view.all::<Names>()?.into_iter().collect();
    tables.answers_small = view.all::<SmallAnswers>()?.into_iter().collect();
    tables.answers_large = view.all::<LargeAnswers>()?.into_iter().collect();
    tables.in_sync_at = view.get::<Clocks>(&0)?.unwrap_or(0);
    tables.dns_alive_at = view.get::<DnsAlive>(&0)?.unwrap_or(0);
    tables.now = now()?;
    Ok(tables)
}

fn judged(read: &ReadArgs) -> anyhow::Result<Status> {
    if ipvs::is_on(read) {
        return ipvs::status(read, &virtual_servers(read)?);
    }
    let root = &read.instance.bpffs_root;
    let view = open(read)?;
    let report = Report::read(&read.instance.state_folder)?;
    let report = report.filter(|report| report.instance == *root);
    let now = now()?;
    let age = |clock: Option<u64>| {
        let set = clock.filter(|at| *at != 0)?;
        Some(Duration::from_nanos(now.saturating_sub(set)).as_secs_f64())
    };
    let maps: Vec<MapStatus> = view
        .fill()?
        .into_iter()
        .map(|f| MapStatus::new(f.map.to_owned(), f.elements as u64, f.size.into(), f.memory))
        .collect();
    let count = |map| {
        let found = maps.iter().find(|m: &&MapStatus| m.map == map);
        found.map_or(0, |m| m.entries)
    };
    let mut status = Status {
        instance: root.clone(),
        agent_alive: report::is_alive(&read.instance),
        interfaces: interfaces(report.as_ref(), &view),
        agent: report,
        in_sync_age: age(view.get::<Clocks>(&0)?),
        negative_grace: view
            .get::<Configs>(&0)?
            .map_or(0, |config| config.negative_grace),
        dns_alive_age: age(view.get::<DnsAlive>(&0)?),
        services: count(map::SERVICES),
        backends: count(map::MEMBERS),
        names: count(map::NAMES),
        // A flow has two entries.
        flows: count(map::FLOWS) / 2,
        maps,
        attention: Vec::new(),
    };
    status.judge();
    Ok(status)
}

/// The interfaces by name, as far as an agent has said them: only it knows the namespace that they are in.
fn interfaces(report: Option<&Report>, view: &View) -> Vec<String> {
    match report {
        Some(report) if !report.interfaces.is_empty() => report.interfaces.clone(),
        _ => {
            let indexes = view.interfaces().iter();
            indexes.map(|index| format!("index {index}")).collect()
        }
    }
}

fn virtual_servers(read: &ReadArgs) -> anyhow::Result<VirtualServers> {
    VirtualServers::open(&read.instance.state_folder)
}

fn open(read: &ReadArgs) -> anyhow::Result<View> {
    View::open(&read.instance.bpffs_root)
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of what is in the maps.
fn now() -> anyhow::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(time).as_nanos() as u64)
}
