//! The agent in IPVS mode, and the way between the modes.

use std::{collections::BTreeSet, fs::File, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use super::{super::AtInterfaces, AgentConfig};
use crate::{
    dataplane::{
        Dataplane, Handover, Refusal, Report, Update,
        ebpf::{
            drain::Remaining,
            handing_over::{HandingOver, Removed},
        },
        ipvs::{self, IpvsConfig, IpvsDataplane, Timeouts, remains},
    },
    interfaces::{Interface, Place},
    namespaces::SocketPod,
    probe::{self, Choice, Mode, Netfilter, Probes, Wish},
};

/// How often it is looked at whether the other mode still has connections.
const TURN: Duration = Duration::from_secs(2);

/// The dataplane of the virtual server, with the interfaces that it has to know.
#[derive(Debug)]
pub(super) struct Ipvs {
    dataplane: IpvsDataplane,
    /// Held while the agent runs.
    _lock: Flock<File>,
    known: BTreeSet<u32>,
    outside: BTreeSet<u32>,
}

/// How this node's Services are carried, and what the kernel has.
///
/// # Errors
/// Where the kernel has not what is asked for, with what to do.
pub(super) fn choose(config: &AgentConfig) -> anyhow::Result<(Way, Probes)> {
    let find_out = || {
        let root = &config.instance.bpffs_root;
        probe::node::probe(root, config.cgroup_root.as_deref(), config.ipvs.netfilter)
    };
    if config.mode == Wish::Ipvs {
        ipvs::load_modules();
    }
    let mut probes = find_out();
    if config.mode == Wish::Auto && !probes.obstacles(Mode::Ebpf).is_empty() {
        ipvs::load_modules();
        probes = find_out();
    }
    let Choice {
        mode,
        netfilter,
        reason,
    } = probe::choose(&probes, config.mode);
    let way = match (mode, netfilter) {
        (Some(Mode::Ebpf), _) => Way::Programs,
        (Some(Mode::Ipvs), Some(netfilter)) => Way::VirtualServer(netfilter),
        _ => bail!("Services cannot be carried: {reason}"),
    };
    let with = netfilter.map(Netfilter::text);
    tracing::info!(
        mode = way.mode().name(),
        with,
        reason,
        "how Services are carried"
    );
    Ok((way, probes))
}

/// How Services are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Programs,
    /// With what filters and masquerades beside it.
    VirtualServer(Netfilter),
}

impl Way {
    pub(super) const fn mode(self) -> Mode {
        match self {
            Self::Programs => Mode::Ebpf,
            Self::VirtualServer(_) => Mode::Ipvs,
        }
    }

    /// What filters and masquerades, for people; nothing where programs do.
    pub(super) const fn netfilter(self) -> &'static str {
        match self {
            Self::Programs => "",
            Self::VirtualServer(netfilter) => netfilter.text(),
        }
    }
}

/// Opens the dataplane of the virtual server.
///
/// # Errors
/// Where another agent of this instance runs, or the kernel lacks something.
pub(super) fn open(config: &AgentConfig, netfilter: Netfilter) -> anyhow::Result<Ipvs> {
    let folder = &config.instance.state_folder;
    let file =
        File::open(folder).with_context(|| format!("{} cannot be opened", folder.display()))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| anyhow!("another agent uses {}", folder.display()))?;
    let dataplane = IpvsDataplane::open(IpvsConfig {
        scheduler: config.ipvs.scheduler(),
        strict_arp: config.ipvs.ipvs_strict_arp,
        timeouts: Timeouts {
            tcp: config.ipvs.ipvs_tcp_timeout,
            tcp_fin: config.ipvs.ipvs_tcp_fin_timeout,
            udp: config.ipvs.ipvs_udp_timeout,
        },
        cluster_ranges: config.cluster_cidr.clone(),
        masquerade_all: config.masquerade_all,
        netfilter,
        masquerade_bit: config.ipvs.iptables_masquerade_bit,
        proc_sys: config.proc_sys.clone(),
        state_folder: folder.clone(),
    })?;
    Ok(Ipvs {
        dataplane,
        _lock: lock,
        known: BTreeSet::new(),
        outside: BTreeSet::new(),
    })
}

/// Once the virtual server is filled: new connections are left to it by the programs that an agent in eBPF mode has pinned,
/// and these go with the last connection that they know.
pub(super) async fn leave_programs(root: PathBuf, mut filled: watch::Receiver<bool>) {
    if filled.wait_for(|filled| *filled).await.is_err() {
        return;
    }
    let begun = {
        let root = root.clone();
        spawn_blocking(move || HandingOver::begin(&root)).await
    };
    let mut left = match begun {
        Ok(Ok(Some(left))) => left,
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => {
            tracing::error!("the programs of the eBPF mode go on serving: {error:#}");
            return;
        }
    };
    tracing::info!("the programs of the eBPF mode keep their connections until these end");
    loop {
        let turned = spawn_blocking(move || {
            let turned = left.turn();
            (left, turned)
        });
        let Ok((back, turned)) = turned.await else {
            return;
        };
        left = back;
        match turned {
            Ok(remaining) if remaining == Remaining::default() => break,
            Ok(_) => {}
            Err(error) => tracing::warn!("connections of the eBPF mode are not counted: {error:#}"),
        }
        sleep(TURN).await;
    }
    match left.end() {
        Ok(Removed { pins, filters }) => {
            tracing::info!(pins, filters, "the eBPF mode has left nothing behind");
        }
        Err(error) => tracing::warn!(?root, "programs of the eBPF mode stay: {error:#}"),
    }
}

/// Whether the virtual server still has connections of the IPVS mode, before the programs come.
pub(super) fn has_connections() -> bool {
    remains::look().is_ok_and(|remains| remains.connections > 0)
}

/// Once the maps are filled: what the IPVS mode has left goes with the last of its connections.
pub(super) async fn leave_virtual_servers(
    mut filled: watch::Receiver<bool>,
    left: watch::Sender<u64>,
) {
    if filled.wait_for(|filled| *filled).await.is_err() {
        return;
    }
    while !left.is_closed() {
        match spawn_blocking(remains::look).await {
            Ok(Ok(remains)) if !remains.is_any() => break,
            Ok(Ok(remains)) if remains.connections == 0 => {
                match spawn_blocking(remains::remove).await {
                    Ok(Ok(removed)) => {
                        tracing::info!(
                            servers = removed.servers,
                            "the IPVS mode has left nothing behind"
                        );
                    }
                    other => tracing::warn!("what the IPVS mode has left stays: {other:?}"),
                }
                break;
            }
            Ok(Ok(remains)) => drop(left.send_replace(remains.connections)),
            other => tracing::warn!("the virtual servers are not counted: {other:?}"),
        }
        sleep(TURN).await;
    }
    left.send_replace(0);
}

impl AtInterfaces for Ipvs {
    fn prepare(&mut self, _: &Interface) -> anyhow::Result<()> {
        // What is told of an interface is whole at once.
        Ok(())
    }

    fn attach(&mut self, interface: &Interface) -> anyhow::Result<()> {
        self.known.insert(interface.index);
        if interface.place != Place::Pod && self.outside.insert(interface.index) {
            self.dataplane.set_outside(&self.outside)?;
        }
        Ok(())
    }

    fn forget(&mut self, index: u32) -> anyhow::Result<()> {
        self.known.remove(&index);
        if self.outside.remove(&index) {
            self.dataplane.set_outside(&self.outside)?;
        }
        Ok(())
    }

    fn attached(&self) -> Vec<u32> {
        self.known.iter().copied().collect()
    }

    fn lost(&mut self) -> Vec<u32> {
        Vec::new()
    }

    fn serve_at_sockets(&mut self, _: &[SocketPod]) -> Vec<Refusal> {
        // What a pod sends passes the node's own stack, whatever its interface is.
        Vec::new()
    }

    fn set_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        self.dataplane.set_preferred(addresses)
    }
}

impl Dataplane for Ipvs {
    fn apply(&mut self, update: &Update) -> anyhow::Result<Report> {
        self.dataplane.apply(update)
    }

    fn host_processes(&self) -> String {
        self.dataplane.host_processes()
    }

    fn set_handover(&mut self, handover: Handover) -> anyhow::Result<()> {
        self.dataplane.set_handover(handover)
    }

    fn in_sync(&mut self) -> anyhow::Result<()> {
        self.dataplane.in_sync()
    }

    fn sweep(&mut self) -> anyhow::Result<Report> {
        self.dataplane.sweep()
    }
}
