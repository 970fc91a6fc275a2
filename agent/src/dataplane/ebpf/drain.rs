//! Leaving a node to another proxy: known connections go on through our programs, new ones are left to it.
//!
//! That a node drains is said by an empty folder beside the maps, so that it outlives the agent but neither a reboot nor
//! `signpost cleanup`. Another one says that it does so for a dataplane without BPF.

use std::{
    collections::HashMap,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use signpost_common::{
    Address, Port,
    dns::Config,
    flow::{FlowKey, FlowValue},
    socket::SocketKey,
};
use signpost_ebpf::headers::protocol::{TCP, UDP};

use super::{
    pins,
    sweep::{GONE, is_closed, opposite},
    sys,
    tables::{Configs, Flows, KernelTables, Sockets, Table as _, Tables as _},
    view::View,
};

/// What a node that drains still serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Connections of TCP and associations of SCTP that are not at their end.
    pub connections: u64,
    /// Flows of UDP.
    pub datagrams: u64,
}

/// Whether a node is to drain.
pub fn is_on(root: &Path) -> bool {
    mark(root).exists()
}

/// Says that a node is to drain, or is not any more. An agent that runs carries it out; `by_itself` is for when none does.
///
/// # Errors
/// Where nothing is pinned, or nobody may change it.
pub fn set(root: &Path, on: bool, by_itself: bool) -> anyhow::Result<()> {
    let mark = mark(root);
    let done = if on {
        fs::create_dir(&mark)
    } else {
        fs::remove_dir(&mark)
    };
    match done {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && !on => {}
        done => done.with_context(|| {
            let mark = mark.display();
            format!("{mark} cannot be changed; has an agent ever run with this --bpffs-root?")
        })?,
    }
    if by_itself {
        write(root, on).context("the programs cannot be told")?;
    }
    Ok(())
}

/// Whether new connections were left to a dataplane without BPF. What the maps say of Services is as old as that.
pub fn is_handed_over(root: &Path) -> bool {
    handed_over(root).exists()
}

/// Leaves new connections to a dataplane without BPF.
///
/// # Errors
/// Where nothing is pinned, or nobody may change it.
pub(super) fn hand_over(root: &Path) -> anyhow::Result<()> {
    let mark = handed_over(root);
    fs::create_dir_all(&mark).with_context(|| format!("{} cannot be made", mark.display()))?;
    write(root, true).context("the programs cannot be told")
}

/// Says that the maps are true again.
///
/// # Errors
/// Where nobody may change it.
pub fn take_back(root: &Path) -> io::Result<()> {
    match fs::remove_dir(handed_over(root)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Whether the programs leave new connections alone.
///
/// # Errors
/// Where the map cannot be read.
pub fn is_carried_out(view: &View) -> io::Result<bool> {
    let config = view.get::<Configs>(&0)?;
    Ok(config.is_some_and(|config| config.flags & Config::DRAIN != 0))
}

/// What is still served, as counts and one by one.
///
/// # Errors
/// Where the maps cannot be read.
pub fn remaining(view: &View) -> io::Result<(Remaining, Vec<OpenFlow>)> {
    let flows: HashMap<FlowKey, FlowValue> = view.all::<Flows>()?.into_iter().collect();
    let mut remaining = Remaining::default();
    let mut open = Vec::new();
    for (key, value) in &flows {
        if value.flags & FlowValue::FORWARD == 0 && !has_another_port(key, value) {
            continue;
        }
        let other = flows.get(&opposite(key, value));
        if key.protocol == UDP {
            remaining.datagrams += 1;
        } else if is_closed(value.flags, other.map_or(GONE, |other| other.flags)) {
            continue;
        } else {
            remaining.connections += 1;
        }
        open.push(OpenFlow {
            key: *key,
            value: *value,
            other: other.copied(),
        });
    }
    Ok((remaining, open))
}

/// A flow that goes through the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlow {
    key: FlowKey,
    value: FlowValue,
    other: Option<FlowValue>,
}

impl fmt::Display for OpenFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, other } = self;
        let socket = |address: Address, port: Port| SocketAddr::new(address.into(), port.get());
        let protocol: &str = match key.protocol {
            TCP => "TCP",
            UDP => "UDP",
            _ => "SCTP",
        };
        write!(
            f,
            "{protocol} {} to {} (as {} to {}",
            socket(key.source, key.source_port),
            socket(key.destination, key.destination_port),
            socket(value.source, value.source_port),
            socket(value.destination, value.destination_port),
        )?;
        if value.flags & FlowValue::FORWARD == 0 {
            f.write_str(", another proxy's that got a port of ours")?;
        }
        let ended = |flags: u32| flags & FlowValue::FIN != 0;
        if ended(value.flags) {
            f.write_str(", the client has closed it")?;
        }
        match other {
            None => f.write_str(", its answers are forgotten")?,
            Some(other) if ended(other.flags) => f.write_str(", the server has closed it")?,
            Some(_) => {}
        }
        f.write_str(")")
    }
}

/// Whether the flow is another proxy's, and goes on only with the port that our programs gave it.
fn has_another_port(key: &FlowKey, value: &FlowValue) -> bool {
    value.flags & FlowValue::MASQUERADE != 0
        && value.source == key.source
        && value.source_port != key.source_port
}

/// Forgets where datagrams go: the next one of a flow is left to the other proxy, while answers that are under way still
/// get the Service's address. Returns how many elements went.
pub(super) fn leave_datagrams(tables: &mut KernelTables) -> io::Result<usize> {
    let mut flows = Vec::new();
    tables.for_each::<Flows>(&mut |key, value| {
        if key.protocol == UDP && value.flags & FlowValue::FORWARD != 0 {
            flows.push(*key);
        }
    })?;
    let mut sockets = Vec::new();
    tables.for_each::<Sockets>(&mut |key, _| {
        if key.direction == SocketKey::TO_BACKEND {
            sockets.push(*key);
        }
    })?;
    tables.delete::<Flows>(&flows)?;
    tables.delete::<Sockets>(&sockets)?;
    Ok(flows.len() + sockets.len())
}

fn mark(root: &Path) -> PathBuf {
    root.join("drain")
}

fn handed_over(root: &Path) -> PathBuf {
    root.join("handed-over")
}

fn write(root: &Path, on: bool) -> io::Result<()> {
    let map = sys::open_pinned(&pins::maps_folder(&pins::folder(root)).join(Configs::NAME))?;
    let mut tables = KernelTables::new([(Configs::NAME, map)].into());
    let Some(mut config) = tables.get::<Configs>(&0)? else {
        return Ok(());
    };
    config.flags &= !Config::DRAIN;
    if on {
        config.flags |= Config::DRAIN;
    }
    let failed = tables.put::<Configs>(&[(0, config)]).pop();
    failed.map_or(Ok(()), |failed| Err(failed.error))
}
