//! The dataplane of BPF programs: Services and names in maps, programs at interfaces.
//!
//! [`EbpfDataplane`] is what the agent uses; [`view::View`] is what operators' commands read with the agent down.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use ipnet::IpNet;
use serde::Serialize;
use signpost_common::{Address, device::DeviceValue};

use self::{
    abandoned::Abandoned,
    attach::{Attacher, Hook},
    cgroup::HostSockets,
    differ::Differ,
    outside::Outside,
    pins::Pins,
    program::Programs,
    socket_pods::SocketPods,
    stranded::Stranded,
    sweep::Sweeper,
    tables::{
        Clocks, Devices, DnsAlive, KernelTables, OutsideAnswers, OutsideEpoch, Table as _, Tables,
    },
    takeover::AtStart,
};
use super::{Dataplane, Handover, Refusal, Report, Update};
use crate::{
    interfaces::Place,
    namespaces::SocketPod,
    zone::{Name, ZoneConfig},
};

mod abandoned;
pub mod attach;
pub mod cgroup;
pub mod counts;
pub mod differ;
pub mod drain;
pub mod features;
pub mod handing_over;
mod host;
pub mod log;
pub mod outside;
pub mod pins;
pub mod program;
mod sock_diag;
mod socket_pods;
mod stranded;
mod sweep;
pub mod sys;
pub mod tables;
pub mod takeover;
pub mod view;

/// What an instance has to know.
#[derive(Clone, Debug)]
pub struct EbpfConfig {
    /// The instance's folder on a BPF file system, such as `/sys/fs/bpf/signpost`. Made where it is missing.
    pub pin_root: PathBuf,
    /// The cluster domain.
    pub domain: Name,
    /// TTL of the zone's records, in seconds: the SOA record's minimum, and its own TTL up to 300.
    pub ttl: u32,
    /// For how long after [`Dataplane::in_sync`] negative answers are given.
    pub negative_grace: Duration,
    /// DNS questions are answered in the kernel.
    pub dns: bool,
    /// How this node stands to another proxy until [`Dataplane::set_handover`].
    pub handover: Handover,
    /// The networks that pods have their addresses from (kube-proxy's `clusterCIDR`); empty where they are not known.
    pub cluster_ranges: Vec<IpNet>,
    /// All traffic to ClusterIPs is masqueraded.
    pub masquerade_all: bool,
    /// What comes from outside and goes to another node is sent on past the stack.
    pub fast_path: bool,
    /// What goes through each service port is counted ([`View::service_counts`](view::View::service_counts)).
    pub count_services: bool,
    /// Root of the cgroup2 hierarchy: its processes in this network namespace are the host's. `None` where there is
    /// none, see [`cgroup::find_root`].
    pub cgroup_root: Option<PathBuf>,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pressure {
    /// The map.
    pub map: &'static str,
    /// Elements in it, as far as this agent knows: of the LRU maps, as of the last sweep.
    pub elements: usize,
    /// Most elements.
    pub size: u32,
}

/// The dataplane.
#[derive(Debug)]
pub struct EbpfDataplane {
    pins: Pins,
    programs: Programs,
    tables: KernelTables,
    attacher: Attacher,
    sockets: HostSockets,
    socket_pods: SocketPods,
    stranded: Stranded,
    abandoned: Abandoned,
    differ: Differ,
    sweeper: Sweeper,
    draining: bool,
}

impl EbpfDataplane {
    /// Takes over what is pinned, or makes it; loads the programs. Interfaces that have the programs keep them:
    /// see [`EbpfDataplane::attached`].
    ///
    /// # Errors
    /// Where the folder is not on a BPF file system or another agent uses it, or the kernel refuses a map or program.
    pub fn open(config: EbpfConfig) -> anyhow::Result<Self> {
        Self::open_with(config, Hook::of_this_kernel())
    }

    /// As [`EbpfDataplane::open`], with another way of attaching than the kernel's best one.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(config: EbpfConfig, hook: Hook) -> anyhow::Result<Self> {
        raise_memlock_limit();
        let draining = config.handover.drain;
        let pins = Pins::open(&config.pin_root)?;
        let (mut tables, same_maps) = pins.maps()?;
        let root = config.cgroup_root.clone();
        let count_services = config.count_services;
        if !count_services {
            // What is counted later begins anew.
            counts::clear(&mut tables).context("cannot clear what service ports were used")?;
        }
        let mut differ = Differ::open(config, &mut tables)?;
        let mut programs = Programs::load(&pins, count_services)?;
        let host = host::cookie(None, root.as_deref(), &mut programs);
        // Without the cookie no process is one of the host's.
        differ.set_host(*host.as_ref().unwrap_or(&0));
        let socket_pods = SocketPods::open(root.clone(), &tables)
            .context("cannot read which pods are served at their sockets")?;
        if !socket_pods.is_empty() {
            differ.look_at_pods_sockets(&mut tables)?;
        }
        let root = host.and(root.ok_or_else(|| host::NO_CGROUP.to_owned()));
        let attacher = Attacher::take_over(hook, &pins, &programs, same_maps)?;
        let sockets = HostSockets::open(root, &pins, &mut programs, same_maps);
        let mut stranded = Stranded::default();
        stranded.probe();
        Ok(Self {
            pins,
            programs,
            tables,
            attacher,
            sockets,
            socket_pods,
            stranded,
            abandoned: Abandoned::default(),
            differ,
            sweeper: Sweeper::default(),
            draining,
        })
    }

    /// Attaches the programs of a place to an interface, in the calling thread's network namespace. Nothing happens where
    /// they are attached.
    ///
    /// # Errors
    /// Where they cannot be attached, with the reason; what is beyond the interface is not served then.
    pub fn attach(&mut self, ifindex: u32, name: &str, place: Place) -> anyhow::Result<()> {
        self.attacher
            .attach(&self.pins, &mut self.programs, ifindex, name, place)
    }

    /// Attaches to an interface the program alone for what leaves by it: before any other interface of a node gets a
    /// program for what arrives, so that what one translates the other finishes.
    ///
    /// # Errors
    /// As [`EbpfDataplane::attach`].
    pub fn prepare(&mut self, ifindex: u32, name: &str, place: Place) -> anyhow::Result<()> {
        self.attacher
            .prepare(&self.pins, &mut self.programs, ifindex, name, place)
    }

    /// Says which addresses masqueraded packets get when they leave by an interface, or by those without one of the
    /// family ([`DeviceValue::ANY`]).
    ///
    /// # Errors
    /// Where the map cannot be changed.
    pub fn set_device(
        &mut self,
        ifindex: u32,
        v4: Option<Ipv4Addr>,
        v6: Option<Ipv6Addr>,
    ) -> anyhow::Result<()> {
        if v4.is_none() && v6.is_none() {
            return Ok(self.tables.delete::<Devices>(&[ifindex])?);
        }
        let device = DeviceValue {
            v4: v4.map_or(Address::UNSPECIFIED, |v4| IpAddr::from(v4).into()),
            v6: v6.map_or(Address::UNSPECIFIED, |v6| IpAddr::from(v6).into()),
        };
        // Answers to masqueraded packets come there.
        for address in [&device.v4, &device.v6] {
            self.differ
                .cover(&mut self.tables, address)
                .context("cannot say that packets to an interface's addresses are looked at")?;
        }
        match self.tables.put::<Devices>(&[(ifindex, device)]).pop() {
            Some(failed) => Err(failed.error).context("cannot write an interface's addresses"),
            None => Ok(()),
        }
    }

    /// Detaches the programs from an interface, which may be gone.
    ///
    /// # Errors
    /// Where a pin cannot be removed.
    pub fn detach(&mut self, ifindex: u32) -> anyhow::Result<()> {
        self.tables.delete::<Devices>(&[ifindex])?;
        self.attacher
            .detach(&self.pins, &mut self.programs, ifindex)
    }

    /// The interfaces that have the programs, by index: those attached by agents before this one too, until they are
    /// detached.
    pub fn attached(&self) -> &BTreeMap<u32, String> {
        self.attacher.attached()
    }

    /// Gives processes of the host their programs again where somebody has detached them, and tells the interfaces whose
    /// programs somebody has detached.
    pub fn look_again(&mut self) -> Vec<u32> {
        self.sockets.look_again(&self.pins, &mut self.programs);
        self.attacher.lost(&self.pins)
    }

    /// Serves these pods at their sockets, and no others. Returns those that cannot be served so, with the reason.
    pub fn serve_pods(&mut self, pods: &[SocketPod]) -> Vec<Refusal> {
        self.socket_pods
            .serve(pods, &mut self.tables, &mut self.differ, &mut self.programs)
    }

    /// The map that `signpost dns` writes the *dns alive* clock to, for [`std::os::fd::AsFd`] passing over a socket.
    ///
    /// # Errors
    /// None once the dataplane is open.
    pub fn dns_alive_fd(&self) -> anyhow::Result<BorrowedFd<'_>> {
        Ok(self.tables.map::<DnsAlive>()?)
    }

    /// Keeps clear of what another proxy's connections have. Before programs are attached.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn keep_clear(&mut self, of: &AtStart) -> anyhow::Result<()> {
        takeover::keep_ports(&mut self.tables, &of.entries, now()?)
            .context("cannot keep the ports of another proxy's connections")
    }

    /// What keeps answers of the DNS server's cache for the programs. `on` is false where none are to be kept.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn outside(&self, zone: &ZoneConfig, on: bool) -> anyhow::Result<Outside> {
        let answers = self.tables.map::<OutsideAnswers>()?.try_clone_to_owned()?;
        let epoch = self.tables.map::<OutsideEpoch>()?.try_clone_to_owned()?;
        let maps = [(OutsideAnswers::NAME, answers), (OutsideEpoch::NAME, epoch)];
        Outside::of_kernel(maps, *self.differ.keys(), zone, on)
    }

    /// How full each map is.
    pub fn pressure(&self) -> Vec<Pressure> {
        let mut pressure = self.differ.pressure();
        pressure.extend(self.sweeper.pressure());
        pressure.push(self.abandoned.pressure());
        pressure
    }

    fn write_clock(&mut self, clock: u64) -> anyhow::Result<()> {
        match self.tables.put::<Clocks>(&[(0, clock)]).pop() {
            Some(failed) => Err(failed.error).context("cannot write the clock of the last sync"),
            None => Ok(()),
        }
    }
}

impl Dataplane for EbpfDataplane {
    fn apply(&mut self, update: &Update) -> anyhow::Result<Report> {
        let report = self.differ.apply(&mut self.tables, update)?;
        if !self.differ.may_deny() {
            self.write_clock(0)?;
        }
        self.stranded.stop(
            self.differ.take_stopped(),
            &mut self.tables,
            self.socket_pods.with_datagrams(),
        );
        self.sockets.catch_up(&self.pins, &mut self.programs);
        self.attacher.catch_up(&self.pins, &self.programs)?;
        Ok(report)
    }

    fn host_processes(&self) -> String {
        let text = self.sockets.text();
        match self.stranded.trouble() {
            Some(why) if self.sockets.are_served() => format!(
                "{text}, but connected UDP sockets stay with backends that serve no more: {why}"
            ),
            _ => text,
        }
    }

    fn set_handover(&mut self, handover: Handover) -> anyhow::Result<()> {
        self.draining = handover.drain;
        self.differ.set_handover(&mut self.tables, handover)
    }

    fn in_sync(&mut self) -> anyhow::Result<()> {
        // A name that could not be written is one that the kernel would deny.
        self.write_clock(if self.differ.may_deny() { now()? } else { 0 })
    }

    fn sweep(&mut self) -> anyhow::Result<Report> {
        let now = now()?;
        let mut report = self.differ.sweep(&mut self.tables, now)?;
        self.stranded
            .look(&mut self.tables, self.socket_pods.with_datagrams());
        if self.draining {
            report.deleted += drain::leave_datagrams(&mut self.tables)
                .context("cannot leave flows to the other proxy")?;
        }
        report.deleted += self
            .sweeper
            .sweep(&mut self.tables, now, self.draining)
            .context("cannot sweep the flows")?;
        let pods = self.socket_pods.namespaces();
        match self.abandoned.sweep(&mut self.tables, pods) {
            Ok(deleted) => report.deleted += deleted,
            // They go when the map has to make room.
            Err(error) => tracing::debug!(%error, "closed sockets of the host are not forgotten"),
        }
        Ok(report)
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds, the kernel programs' clock.
fn now() -> anyhow::Result<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(time).as_nanos() as u64)
}

/// Kernels before 5.11 account maps to the locked memory of a process. Later ones do not, so failing is harmless.
fn raise_memlock_limit() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%error, "the limit of locked memory stays as it is");
    }
}
