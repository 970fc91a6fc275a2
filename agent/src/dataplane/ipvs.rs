//! The dataplane for kernels without BPF: the kernel's virtual server (IPVS), with nftables beside it.
//!
//! [`IpvsDataplane`] compares what is wanted with what the kernel has, and changes only that: what an agent before this one
//! has left goes on, and its connections with it. Only this module and those below it know IPVS.

pub mod desired;
pub mod differ;
pub mod kernel;
pub mod link;
mod message;
pub mod remains;
pub mod rules;
pub mod server;
mod settings;
mod stale;
pub mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use ipnet::IpNet;

use self::{
    desired::{Desired, Touched},
    differ::Differ,
    kernel::Kernel,
    link::Link,
    rules::{Element, Frame, Set},
    server::{KnownServer, Operation, ServerKey},
};
use super::{
    Dataplane, Refusal, Report, Update,
    netfilter::{nat_chains, nftables},
};
use crate::model::{Family, Protocol};

pub use kernel::Timeouts;
pub use link::NAME as INTERFACE;

/// Connections of what drains are counted every so many sweeps,
const COUNT: u64 = 5;
/// and what somebody else may have changed is looked at every so many.
const LOOK: u64 = 30;

/// How often the state folder is told that the agent is in sync, and by which file's time.
const SAY: Duration = Duration::from_secs(10);
const IN_SYNC: &str = "in-sync";

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
    /// Where the kernel's settings are, such as `/proc/sys`.
    pub proc_sys: PathBuf,
    /// Where operators' commands read what is served.
    pub state_folder: PathBuf,
}

/// The dataplane, of the network namespace of the thread that opens it.
#[derive(Debug)]
pub struct IpvsDataplane {
    config: IpvsConfig,
    kernel: Kernel,
    link: Link,
    desired: Desired,
    differ: Differ,
    frame: Frame,
    /// The tables are as `written` and `frame` say.
    has_tables: bool,
    written: BTreeSet<Element>,
    /// Elements that are not of plans: addresses that are there, interfaces, addresses that others serve.
    own: BTreeSet<Element>,
    bound: BTreeSet<IpAddr>,
    /// Nothing was carried out yet.
    first: bool,
    failed: Touched,
    view_changed: bool,
    sweeps: u64,
    said_in_sync: Option<Instant>,
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
        check_scheduler(&kernel, scheduler).with_context(|| {
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
        for family in [Family::V4, Family::V6] {
            nat_chains::has_table(family, rules::TABLE)
                .context("the kernel has no nftables; load module nf_tables")?;
        }
        let frame = Frame {
            cluster_ranges: config.cluster_ranges.iter().map(IpNet::trunc).collect(),
            masquerade_all: config.masquerade_all,
            ..Frame::default()
        };
        Ok(Self {
            desired: Desired::new(scheduler),
            config,
            kernel,
            link,
            differ: Differ::default(),
            frame,
            has_tables: false,
            written: BTreeSet::new(),
            own: BTreeSet::new(),
            bound: BTreeSet::new(),
            first: true,
            failed: Touched::default(),
            view_changed: true,
            sweeps: 0,
            said_in_sync: None,
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
        let touched = self.replace_own(Set::Outside, elements.collect());
        if self.first {
            return Ok(());
        }
        self.write_tables(&touched).map(drop)
    }

    /// Replaces what is in one of the sets that are not of plans; returns what changed.
    fn replace_own(&mut self, set: Set, elements: BTreeSet<Element>) -> BTreeSet<Element> {
        let before: BTreeSet<Element> = self.own.extract_if(.., |e| e.set == set).collect();
        let touched = before.symmetric_difference(&elements).cloned().collect();
        self.own.extend(elements);
        touched
    }

    /// What is to be looked at where nothing is known.
    fn everything(&self) -> Touched {
        let mut touched = Touched {
            servers: self.differ.keys().into_iter().collect(),
            vips: self.bound.clone(),
            elements: BTreeSet::new(),
        };
        touched
            .vips
            .extend(self.differ.known().keys().map(|key| key.address));
        touched
    }

    fn carry_out(&mut self, mut touched: Touched) -> anyhow::Result<Report> {
        let mut report = Report::default();
        for key in &touched.servers {
            self.differ.want(*key, self.desired.server(key).cloned());
            // An address stays as long as connections to it do.
            touched.vips.insert(key.address);
        }
        let operations: Vec<Operation> = touched
            .servers
            .iter()
            .flat_map(|key| self.differ.operations(key))
            .collect();
        let (going, coming): (Vec<Operation>, Vec<Operation>) =
            operations.into_iter().partition(is_going);

        // What comes is served before it can be reached; what goes cannot be reached when it is not served any more.
        self.ask(&coming, &mut report)?;
        let (held, wanted): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = {
            let now = |address: &&IpAddr| self.wants(**address) || self.bound.contains(*address);
            let held = touched.vips.iter().filter(now).copied().collect();
            let wanted = touched.vips.iter().filter(|a| self.wants(**a));
            (held, wanted.copied().collect())
        };
        for address in &held {
            touched.elements.insert(self.hold(*address));
        }
        report.written += self.write_tables(&touched.elements)?;
        self.ask(&going, &mut report)?;
        let gone: Vec<IpAddr> = held
            .iter()
            .filter(|address| !wanted.contains(address) || !self.wants(**address))
            .copied()
            .collect();
        let new: Vec<IpAddr> = wanted.difference(&self.bound).copied().collect();
        self.bind(&new, &mut report)?;
        self.unbind(&gone, &mut report)?;

        let of_udp = |operation: &Operation| operation.server().protocol == Protocol::Udp;
        if coming.iter().chain(&going).any(of_udp) {
            match stale::forget(&self.differ) {
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
            || (self.bound.contains(&address) && self.differ.serves_at(address))
    }

    fn hold(&mut self, address: IpAddr) -> Element {
        let element = Element::address(Set::Vips, address);
        self.own.insert(element.clone());
        element
    }

    /// Asks for changes of virtual servers. What is refused is looked at again, and tried once more.
    fn ask(&mut self, operations: &[Operation], report: &mut Report) -> anyhow::Result<()> {
        const CONTEXT: &str = "the virtual servers cannot be changed";
        let refused = self.kernel.carry_out(operations).context(CONTEXT)?;
        let again: BTreeSet<ServerKey> = refused
            .iter()
            .map(|(number, _)| *operations[*number].server())
            .collect();
        for operation in operations {
            if !again.contains(operation.server()) {
                self.differ.carried_out(operation);
                count(report, operation);
            }
        }
        for key in again {
            let known = self.look_up(&key)?;
            self.differ.know(key, known);
            let operations = self.differ.operations(&key);
            let refused = self.kernel.carry_out(&operations).context(CONTEXT)?;
            let Some((number, error)) = refused.first() else {
                for operation in &operations {
                    self.differ.carried_out(operation);
                    count(report, operation);
                }
                continue;
            };
            let known = self.look_up(&key)?;
            tracing::debug!(operation = ?operations[*number], %error, "refused");
            self.differ.know(key, known);
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

    fn look_up(&self, key: &ServerKey) -> anyhow::Result<Option<KnownServer>> {
        let servers = self
            .kernel
            .servers()
            .context("cannot list the virtual servers")?;
        let Some((_, terms)) = servers.into_iter().find(|(found, _)| found == key) else {
            return Ok(None);
        };
        let destinations = self
            .kernel
            .destinations(key)
            .context("cannot list destinations")?;
        Ok(Some(KnownServer {
            terms,
            destinations,
        }))
    }

    fn bind(&mut self, addresses: &[IpAddr], report: &mut Report) -> anyhow::Result<()> {
        let refused = self
            .link
            .add(addresses)
            .with_context(|| format!("interface {INTERFACE} cannot be given addresses"))?;
        self.bound.extend(addresses);
        report.written += addresses.len() - refused.len();
        for (number, error) in refused {
            let address = addresses[number];
            self.bound.remove(&address);
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
        for (number, error) in self
            .link
            .delete(addresses)
            .context("addresses cannot be removed")?
        {
            tracing::warn!(address = %addresses[number], %error, "stays on interface {INTERFACE}");
        }
        report.deleted += addresses.len();
        let mut elements = BTreeSet::new();
        for address in addresses {
            self.bound.remove(address);
            let element = Element::address(Set::Vips, *address);
            self.own.remove(&element);
            elements.insert(element);
        }
        self.write_tables(&elements).map(drop)
    }

    /// Makes the tables right as far as these elements go; returns how many were written.
    fn write_tables(&mut self, touched: &BTreeSet<Element>) -> anyhow::Result<usize> {
        if self.has_tables {
            let wants = |e: &&Element| self.desired.has_element(e) || self.own.contains(*e);
            let (wanted, unwanted): (Vec<&Element>, Vec<&Element>) =
                touched.iter().partition(wants);
            let new: Vec<Element> = wanted
                .into_iter()
                .filter(|e| !self.written.contains(*e))
                .cloned()
                .collect();
            let gone: Vec<Element> = unwanted
                .into_iter()
                .filter(|e| self.written.contains(*e))
                .cloned()
                .collect();
            let mut changes = rules::added(&new);
            changes.extend(rules::deleted(&gone));
            match nftables::carry_out(&changes) {
                Ok(()) => {
                    for element in &gone {
                        self.written.remove(element);
                    }
                    let count = new.len() + gone.len();
                    self.written.extend(new);
                    return Ok(count);
                }
                Err(error) => {
                    tracing::warn!(%error, "somebody has changed tables {}; they are made anew", rules::TABLE);
                }
            }
        }
        self.make_tables()
    }

    fn make_tables(&mut self) -> anyhow::Result<usize> {
        let mut elements = self.desired.elements();
        elements.extend(self.own.iter().cloned());
        self.has_tables = false;
        nftables::carry_out(&rules::whole(&self.frame, &elements))
            .with_context(|| format!("tables {} of nftables cannot be made", rules::TABLE))?;
        self.has_tables = true;
        let count = elements.len();
        self.written = elements;
        Ok(count)
    }

    /// What somebody else may have changed.
    fn look(&mut self) -> anyhow::Result<Touched> {
        let mut touched = Touched::default();
        let servers: BTreeMap<ServerKey, _> = self.kernel.servers()?.into_iter().collect();
        let known = self.differ.known();
        let gone = known.keys().filter(|key| !servers.contains_key(*key));
        let changed = servers
            .iter()
            .filter(|(key, terms)| known.get(key).is_none_or(|known| known.terms != **terms))
            .map(|(key, _)| key);
        touched.servers.extend(gone.chain(changed));
        for key in &touched.servers {
            let known = match servers.get(key) {
                None => None,
                Some(terms) => Some(KnownServer {
                    terms: terms.clone(),
                    destinations: self.kernel.destinations(key)?,
                }),
            };
            self.differ.know(*key, known);
        }
        if !self.link.is_there() {
            tracing::warn!("somebody has removed interface {INTERFACE}; it is made anew");
            self.link = Link::open()?;
        }
        let there = self.link.addresses()?;
        touched.vips.extend(self.bound.symmetric_difference(&there));
        self.bound = there;
        Ok(touched)
    }

    /// Counts the connections of what drains.
    fn drained(&mut self) -> anyhow::Result<Touched> {
        let mut touched = Touched::default();
        for key in self.differ.draining() {
            let Some(known) = self.differ.known().get(&key) else {
                continue;
            };
            let known = KnownServer {
                terms: known.terms.clone(),
                destinations: self.kernel.destinations(&key)?,
            };
            self.differ.know(key, Some(known));
            touched.servers.insert(key);
        }
        Ok(touched)
    }
}

impl Dataplane for IpvsDataplane {
    fn apply(&mut self, update: &Update) -> anyhow::Result<Report> {
        let mut touched = self
            .desired
            .change(&update.ports, update.node_addresses.as_ref());
        if let Some(foreign) = &update.foreign_addresses {
            let elements = foreign.iter().map(|a| Element::address(Set::Foreign, *a));
            let changed = self.replace_own(Set::Foreign, elements.collect());
            touched.elements.extend(changed);
        }
        let frame = Frame {
            service_ranges: update
                .service_ranges
                .as_ref()
                .unwrap_or(&self.frame.service_ranges)
                .clone(),
            source_ranges: self.desired.source_ranges().clone(),
            ..self.frame.clone()
        };
        if frame != self.frame {
            self.frame = frame;
            self.has_tables = false;
        }
        let failed = std::mem::take(&mut self.failed);
        touched.servers.extend(failed.servers);
        touched.vips.extend(failed.vips);
        if self.first {
            self.differ.set_known(
                self.kernel
                    .all()
                    .context("cannot list the virtual servers")?,
            );
            self.bound = self.link.addresses().context("cannot list the addresses")?;
            let everything = self.everything();
            touched.servers.extend(everything.servers);
            touched.vips.extend(everything.vips);
        }
        self.view_changed = true;
        let report = self.carry_out(touched)?;
        self.first = false;
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
        // Names are not answered by the kernel; operators want to know.
        if self.said_in_sync.is_none_or(|said| said.elapsed() > SAY) {
            fs::write(self.config.state_folder.join(IN_SYNC), "")
                .context("--state-folder cannot be written")?;
            self.said_in_sync = Some(Instant::now());
        }
        Ok(())
    }

    fn sweep(&mut self) -> anyhow::Result<Report> {
        self.sweeps += 1;
        let mut touched = Touched::default();
        if self.sweeps.is_multiple_of(COUNT) {
            touched = self.drained()?;
        }
        if self.sweeps.is_multiple_of(LOOK) {
            let looked = self.look()?;
            touched.servers.extend(looked.servers);
            touched.vips.extend(looked.vips);
        }
        let has_tables = [Family::V4, Family::V6]
            .into_iter()
            .all(|family| nat_chains::has_table(family, rules::TABLE).unwrap_or(true));
        if !has_tables {
            tracing::warn!(
                "somebody has removed tables {}; they are made anew",
                rules::TABLE
            );
            self.make_tables()?;
        }
        let report = if touched == Touched::default() {
            Report::default()
        } else {
            self.carry_out(touched)?
        };
        if std::mem::take(&mut self.view_changed) {
            view::write(&self.config.state_folder, &self.desired)?;
        }
        Ok(report)
    }
}

/// When an agent in IPVS mode was last in sync with its source, to some seconds; `None` for never.
pub fn synced(state_folder: &Path) -> Option<SystemTime> {
    fs::metadata(state_folder.join(IN_SYNC))
        .ok()?
        .modified()
        .ok()
}

fn is_going(operation: &Operation) -> bool {
    match operation {
        Operation::DeleteServer(_) | Operation::DeleteDestination(..) => true,
        Operation::SetDestination(_, _, weight) => *weight == 0,
        _ => false,
    }
}

const fn count(report: &mut Report, operation: &Operation) {
    match operation {
        Operation::DeleteServer(_) | Operation::DeleteDestination(..) => report.deleted += 1,
        _ => report.written += 1,
    }
}

/// Loads the modules that IPVS mode needs, where this process can.
pub fn load_modules() {
    if matches!(Kernel::open(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        let loaded = Command::new("modprobe")
            .args(["-q", "-a", "ip_vs", "dummy"])
            .status();
        tracing::debug!(?loaded, "modules ip_vs and dummy");
    }
}

/// A virtual server at an address of nobody (RFC 5737) is made and deleted.
fn check_scheduler(kernel: &Kernel, scheduler: &str) -> anyhow::Result<()> {
    let key = ServerKey {
        protocol: Protocol::Tcp,
        address: IpAddr::from([198, 51, 100, 0]),
        port: 20_000,
    };
    let terms = server::Terms {
        scheduler: scheduler.into(),
        flags: server::OURS,
        persistence: None,
    };
    let both = [
        Operation::AddServer(key, terms),
        Operation::DeleteServer(key),
    ];
    for (number, error) in kernel.carry_out(&both)? {
        // One that a process left that was killed in between.
        if number == 0 && error.raw_os_error() != Some(libc::EEXIST) {
            return Err(error.into());
        }
    }
    Ok(())
}
