//! The dataplane for kernels without BPF: the kernel's virtual server (IPVS), with nftables beside it, or iptables and ipset
//! where there is no nftables.
//!
//! [`IpvsDataplane`] compares what is wanted with what the kernel has, and changes only that: what an agent before this one
//! has left goes on, and its connections with it. Only this module and those below it know IPVS.

mod bound;
pub mod desired;
pub mod differ;
mod in_sync;
mod iptables;
pub mod kernel;
pub mod link;
mod message;
pub mod remains;
pub mod rules;
pub mod server;
mod servers;
mod settings;
mod stale;
mod tables;
pub mod view;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use anyhow::Context as _;
use ipnet::IpNet;

use self::{
    bound::Bound,
    desired::{Desired, Touched},
    in_sync::InSync,
    kernel::Kernel,
    link::Link,
    rules::{Element, Frame, Set},
    server::Operation,
    servers::Servers,
    tables::{Tables, Writer},
};
use super::{Dataplane, Refusal, Report, Update};
use crate::{
    model::{Family, Protocol},
    probe::Netfilter,
};

/// Tries in the network namespace of the calling thread, which has to be one that nobody uses, whether iptables and ipset can
/// do what nftables would; says with which program.
///
/// # Errors
/// Where they cannot, with what is missing.
pub fn try_iptables() -> anyhow::Result<String> {
    iptables::try_out()
}

pub use in_sync::synced;
pub use kernel::{Timeouts, load_modules};
pub use link::NAME as INTERFACE;

/// Connections of what drains are counted every so many sweeps,
const COUNT: u64 = 5;
/// and what somebody else may have changed is looked at every so many.
const LOOK: u64 = 30;

/// What the dataplane has to know.
#[derive(Clone, Debug)]
pub struct IpvsConfig {
    /// Name of the scheduler, such as `rr`.
    pub scheduler: String,
    /// The node answers ARP only at the interface that has the address.
    pub strict_arp: bool,
    /// When idle connections are forgotten.
    pub timeouts: Timeouts,
    /// The networks that pods have their addresses from; empty where they are not known.
    pub cluster_ranges: Vec<IpNet>,
    /// All traffic to ClusterIPs is masqueraded.
    pub masquerade_all: bool,
    /// What filters and masquerades.
    pub netfilter: Netfilter,
    /// Number of the bit of packets' marks that iptables is told by that one is to be masqueraded, up to 31.
    pub masquerade_bit: u8,
    /// Where the kernel's settings are, such as `/proc/sys`.
    pub proc_sys: PathBuf,
    /// Where operators' commands read what is served.
    pub state_folder: PathBuf,
}

/// The dataplane, of the network namespace of the thread that opens it.
#[derive(Debug)]
pub struct IpvsDataplane {
    state_folder: PathBuf,
    desired: Desired,
    servers: Servers,
    bound: Bound,
    tables: Tables,
    /// Nothing was carried out yet.
    first: bool,
    failed: Touched,
    view_changed: bool,
    sweeps: u64,
    in_sync: InSync,
}

impl IpvsDataplane {
    /// Finds what the kernel has; changes nothing of it but settings, and makes the interface.
    ///
    /// # Errors
    /// Where the kernel lacks something, with what the operator can do.
    pub fn open(config: IpvsConfig) -> anyhow::Result<Self> {
        let kernel = Kernel::open().context(
            "the kernel has no virtual server (IPVS); load module ip_vs: modprobe ip_vs",
        )?;
        if let Ok([major, minor, patch]) = kernel.version() {
            tracing::info!(
                version = format!("{major}.{minor}.{patch}"),
                "the kernel has IPVS"
            );
        }
        let release = settings::release(&config.proc_sys);
        settings::apply(&config.proc_sys, &release, config.strict_arp);
        let scheduler = &config.scheduler;
        kernel.check_scheduler(scheduler).with_context(|| {
            format!(
                "the kernel does not take scheduler {scheduler}; load module ip_vs_{scheduler}, or give another one with \
                 --ipvs-scheduler"
            )
        })?;
        if config.timeouts != Timeouts::default() {
            kernel
                .set_timeouts(config.timeouts)
                .context("the timeouts of IPVS cannot be set")?;
        }
        let link = Link::open().with_context(|| {
            format!(
                "interface {INTERFACE} cannot be made; load module dummy, and give the agent CAP_NET_ADMIN"
            )
        })?;
        let writer = Writer::open(config.netfilter, config.masquerade_bit)?;
        let frame = Frame {
            cluster_ranges: config.cluster_ranges.iter().map(IpNet::trunc).collect(),
            masquerade_all: config.masquerade_all,
            ..Frame::default()
        };
        Ok(Self {
            desired: Desired::new(scheduler),
            state_folder: config.state_folder,
            servers: Servers::new(kernel),
            bound: Bound::new(link),
            tables: Tables::new(writer, frame),
            first: true,
            failed: Touched::default(),
            view_changed: true,
            sweeps: 0,
            in_sync: InSync::default(),
        })
    }

    /// Says by which interfaces clients outside the cluster come.
    ///
    /// # Errors
    /// Where the tables cannot be changed.
    pub fn set_outside(&mut self, interfaces: &BTreeSet<u32>) -> anyhow::Result<()> {
        let elements = [Family::V4, Family::V6]
            .into_iter()
            .flat_map(|family| interfaces.iter().map(move |i| Element::outside(family, *i)));
        let touched = self.tables.replace(Set::Outside, elements.collect());
        if self.first {
            return Ok(());
        }
        self.tables.write(&touched, &self.desired).map(drop)
    }

    /// Says which addresses packets by the default routes get.
    ///
    /// # Errors
    /// Where the tables cannot be changed.
    pub fn set_preferred(&mut self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        self.desired.set_preferred(addresses);
        self.tables.set_source_ranges(self.desired.source_ranges());
        if self.first {
            return Ok(());
        }
        self.tables.write(&BTreeSet::new(), &self.desired).map(drop)
    }

    fn carry_out(&mut self, mut touched: Touched) -> anyhow::Result<Report> {
        let mut report = Report::default();
        for key in &touched.servers {
            self.servers.want(*key, self.desired.server(key).cloned());
            // An address stays as long as connections to it do.
            touched.vips.insert(key.address);
        }
        let changes = self.servers.changes(&touched.servers);
        self.ask(&changes.coming, &mut report)?;
        let (held, wanted): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = {
            let bound = self.bound.addresses();
            let now = |address: &&IpAddr| self.wants(**address) || bound.contains(*address);
            let held = touched.vips.iter().filter(now).copied().collect();
            let wanted = touched.vips.iter().filter(|a| self.wants(**a));
            (held, wanted.copied().collect())
        };
        for address in &held {
            touched.elements.insert(self.tables.hold(*address));
        }
        report.written += self.tables.write(&touched.elements, &self.desired)?;
        self.ask(&changes.going, &mut report)?;
        let gone: Vec<IpAddr> = held
            .iter()
            .filter(|address| !wanted.contains(address) || !self.wants(**address))
            .copied()
            .collect();
        let new: Vec<IpAddr> = wanted.difference(self.bound.addresses()).copied().collect();
        self.bind(&new, &mut report)?;
        self.unbind(&gone, &mut report)?;

        let of_udp = |operation: &Operation| operation.server().protocol == Protocol::Udp;
        if changes.iter().any(of_udp) {
            match stale::forget(self.servers.differ()) {
                Ok(deleted) => report.deleted += deleted,
                Err(error) => {
                    tracing::warn!(%error, "flows of UDP to backends that are gone are not forgotten");
                }
            }
        }
        Ok(report)
    }

    /// Whether this node is to have an address on the interface: while it is a Service's, or connections to it are left.
    fn wants(&self, address: IpAddr) -> bool {
        self.desired.has_vip(address)
            || (self.bound.addresses().contains(&address)
                && self.servers.differ().serves_at(address))
    }

    fn ask(&mut self, operations: &[Operation], report: &mut Report) -> anyhow::Result<()> {
        for (key, error) in self.servers.carry_out(operations, report)? {
            self.failed.servers.insert(key);
            let object = self.desired.owner(&key).map_or_else(
                || key.to_string(),
                |owner| format!("{} ({key})", owner.service),
            );
            report.refused.push(Refusal {
                object,
                reason: format!("the kernel's virtual server refused it: {error}"),
            });
        }
        Ok(())
    }

    fn bind(&mut self, addresses: &[IpAddr], report: &mut Report) -> anyhow::Result<()> {
        let refused = self.bound.add(addresses)?;
        report.written += addresses.len() - refused.len();
        for (address, error) in refused {
            self.failed.vips.insert(address);
            report.refused.push(Refusal {
                object: format!("address {address}"),
                reason: format!("interface {INTERFACE} was not given it: {error}"),
            });
        }
        Ok(())
    }

    fn unbind(&mut self, addresses: &[IpAddr], report: &mut Report) -> anyhow::Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        self.bound.remove(addresses)?;
        report.deleted += addresses.len();
        let elements = addresses.iter().map(|a| self.tables.let_go(*a)).collect();
        self.tables.write(&elements, &self.desired).map(drop)
    }
}

impl Dataplane for IpvsDataplane {
    fn apply(&mut self, update: &Update) -> anyhow::Result<Report> {
        let mut touched = self
            .desired
            .change(&update.ports, update.node_addresses.as_ref());
        if let Some(foreign) = &update.foreign_addresses {
            let elements = foreign.iter().map(|a| Element::address(Set::Foreign, *a));
            let changed = self.tables.replace(Set::Foreign, elements.collect());
            touched.elements.extend(changed);
        }
        if let Some(ranges) = &update.service_ranges {
            self.tables.set_service_ranges(ranges);
        }
        self.tables.set_source_ranges(self.desired.source_ranges());
        let failed = std::mem::take(&mut self.failed);
        touched.servers.extend(failed.servers);
        touched.vips.extend(failed.vips);
        if self.first {
            self.servers.read()?;
            touched.servers.extend(self.servers.differ().keys());
            touched.vips.extend(self.servers.addresses());
            touched.vips.extend(self.bound.look()?);
        }
        self.view_changed = true;
        let report = self.carry_out(touched)?;
        if std::mem::take(&mut self.first) {
            // Whoever sees that the agent is ready may ask at once.
            view::write(&self.state_folder, &self.desired)?;
        }
        Ok(report)
    }

    fn host_processes(&self) -> String {
        let text = "served by IPVS, but not at NodePorts of the loopback addresses".to_owned();
        match self.desired.narrowed() {
            0 => text,
            count => format!(
                "{text}; like pods of this node they get only endpoints of this node at the external ways to {count} \
                 service ports with externalTrafficPolicy Local"
            ),
        }
    }

    fn set_handover(&mut self, _: super::Handover) -> anyhow::Result<()> {
        // Connections of another proxy are connection tracking's, which knows them before IPVS does.
        Ok(())
    }

    fn in_sync(&mut self) -> anyhow::Result<()> {
        self.in_sync.say(&self.state_folder)
    }

    fn sweep(&mut self) -> anyhow::Result<Report> {
        self.sweeps += 1;
        let mut touched = Touched::default();
        if self.sweeps.is_multiple_of(COUNT) {
            touched.servers.extend(self.servers.count_draining()?);
        }
        if self.sweeps.is_multiple_of(LOOK) {
            touched.servers.extend(self.servers.look()?);
            touched.vips.extend(self.bound.look()?);
        }
        self.tables.look(&self.desired)?;
        let report = if touched == Touched::default() {
            Report::default()
        } else {
            self.carry_out(touched)?
        };
        if std::mem::take(&mut self.view_changed) {
            view::write(&self.state_folder, &self.desired)?;
        }
        Ok(report)
    }
}
