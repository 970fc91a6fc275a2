//! The agent's loop: one task owns registry, zone and dataplane, so that names and addresses never skew.
//!
//! Events of the source are taken in as they come; a round then turns what changed into one update of the kernel.
//! A change made now is in the kernel at once; only where there is much churn a round waits, so that many changes are
//! carried out at a time ([`pace`]). The loop calls the kernel directly, so it belongs on a thread of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    addresses::LocalAddresses,
    admin::{Guard, Health, Metrics, ServiceHealth},
    dataplane::{Dataplane, Refusal, Update},
    interfaces::{Interface, InterfaceEvent},
    model::{Event, Family, Kind},
    namespaces::{Namespaces, SocketPod},
    registry::Registry,
    zone::{Options, ZoneConfig},
};

pub mod admission;
pub mod desired;
pub mod notices;
pub mod other_proxy;
pub mod pace;
pub mod report;
pub mod role;
pub mod socket_pods;

#[cfg(test)]
mod tests;

pub use desired::Desired;
use notices::Notices;
use other_proxy::OtherProxy;
use pace::Pace;
use report::Report;
use socket_pods::SocketPods;

/// How often clocks are set and tables swept.
const TICK: Duration = Duration::from_secs(1);
/// What was refused is tried again after so many ticks.
const RETRY_TICKS: u64 = 5;
/// Events taken in at once.
const BATCH: usize = 1024;

/// A dataplane that acts at interfaces of pods and of the node.
pub trait AtInterfaces {
    /// Attaches what does nothing but finish what is begun at other interfaces. [`AtInterfaces::attach`] follows once all
    /// interfaces have that.
    ///
    /// # Errors
    /// Where it cannot be attached.
    fn prepare(&mut self, interface: &Interface) -> anyhow::Result<()>;

    /// Attaches the programs. An interface that has them keeps them.
    ///
    /// # Errors
    /// Where they cannot be attached; what is beyond it is not served.
    fn attach(&mut self, interface: &Interface) -> anyhow::Result<()>;

    /// Forgets an interface that is gone, or is not to have programs any more.
    ///
    /// # Errors
    /// Where something of it cannot be removed.
    fn forget(&mut self, index: u32) -> anyhow::Result<()>;

    /// The indexes of the interfaces that have the programs, those attached by agents before this one too.
    fn attached(&self) -> Vec<u32>;

    /// The interfaces that somebody has taken the programs from. What is attached elsewhere comes back by itself.
    fn lost(&mut self) -> Vec<u32>;

    /// Says of every pod's network namespace what is served at its sockets: of those that are not among them, nothing.
    /// Returns what cannot be carried out.
    fn serve_at_sockets(&mut self, pods: &[SocketPod]) -> Vec<Refusal>;

    /// The addresses that masqueraded packets get where the interface that they leave by has none.
    ///
    /// # Errors
    /// Where they cannot be told to the programs.
    fn set_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()>;
}

/// What the loop hears.
#[derive(Debug)]
pub struct Inputs {
    /// What the source says.
    pub events: mpsc::Receiver<Event>,
    /// Interfaces that come and go.
    pub interfaces: mpsc::Receiver<InterfaceEvent>,
    /// The pods' network namespaces.
    pub namespaces: watch::Receiver<Namespaces>,
    /// The addresses of this node's interfaces, once they are known.
    pub addresses: watch::Receiver<Option<LocalAddresses>>,
    /// Whether the source is in sync with where it reads from.
    pub in_sync: watch::Receiver<bool>,
    /// How long the zone's records may be kept, in seconds, and what the operator says of it.
    pub zone: watch::Receiver<(u32, Arc<Options>)>,
    /// How this node stands to another proxy, once it is known.
    pub other_proxy: watch::Receiver<Option<OtherProxy>>,
}

/// The loop and all that it owns.
#[derive(Debug)]
pub struct Agent<D> {
    registry: Registry,
    desired: Desired,
    dataplane: D,
    unapplied: Option<Update>,
    applied: bool,
    refused: Vec<Refusal>,
    notices: Notices,
    interfaces: BTreeMap<u32, Interface>,
    unattached: BTreeMap<u32, String>,
    socket_pods: SocketPods,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    guards: Guards,
    /// What has to be known before anything that arrives is translated.
    missing: BTreeSet<Missing>,
    report: Report,
    publish: Box<dyn Publish>,
    /// The Node object was there.
    known_node: bool,
    other_proxy: Option<OtherProxy>,
    /// When the agent started, in milliseconds since 1970.
    started: i64,
    ticks: u64,
}

/// What is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Missing {
    /// All interfaces that were there at the start.
    Interfaces,
    /// The addresses that masqueraded packets get.
    Addresses,
}

/// Where the loop leaves what others read.
pub trait Publish: Send + std::fmt::Debug {
    /// Every event, in order.
    fn event(&mut self, event: &Event);

    /// Whether the source is in contact with what it reads.
    fn in_sync(&mut self, in_sync: bool);

    /// The zone's configuration, before the first names and whenever it changes.
    fn zone(&mut self, config: &ZoneConfig);

    /// What the health checks of load balancers say.
    fn service_health(&mut self, service_health: ServiceHealth);

    /// The maps are filled.
    fn filled(&mut self) {}

    /// The report, whenever it changed; at most once a tick.
    fn report(&mut self, report: &Report);
}

#[derive(Debug)]
struct Guards {
    lists: BTreeMap<Kind, Guard>,
    filled: Option<Guard>,
    attached: Option<Guard>,
}

impl<D: Dataplane + AtInterfaces> Agent<D> {
    /// A loop that has not heard anything yet. `report` says what does not change while the agent runs.
    pub fn new(
        desired: Desired,
        dataplane: D,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        report: Report,
        publish: Box<dyn Publish>,
    ) -> Self {
        let guards = Guards {
            lists: Kind::NEEDED
                .into_iter()
                .map(|kind| (kind, health.guard(format!("first list of kind {kind}"))))
                .collect(),
            filled: Some(health.guard("maps filled")),
            attached: Some(health.guard("programs attached to the pods' interfaces")),
        };
        Self {
            registry: Registry::default(),
            desired,
            dataplane,
            unapplied: None,
            applied: false,
            refused: Vec::new(),
            notices: Notices::default(),
            interfaces: BTreeMap::new(),
            unattached: BTreeMap::new(),
            socket_pods: SocketPods::default(),
            metrics,
            health,
            guards,
            missing: BTreeSet::from([Missing::Interfaces, Missing::Addresses]),
            report,
            publish,
            known_node: false,
            other_proxy: None,
            started: milliseconds(),
            ticks: 0,
        }
    }

    /// Runs until `stop`. What is in the kernel stays there, and goes on working.
    ///
    /// # Errors
    /// Where an input ends before that.
    pub async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let mut pace = Pace::default();
        loop {
            let due = pace.due();
            tokio::select! {
                () = stop.cancelled() => break,
                count = inputs.events.recv_many(&mut batch, BATCH) => {
                    anyhow::ensure!(count > 0, "the source ended");
                    batch.drain(..).for_each(|event| self.take_in(event));
                    pace.changed(Instant::now());
                }
                event = inputs.interfaces.recv() => match event {
                    Some(event) => self.interface(event),
                    None => anyhow::bail!("the watch of network interfaces ended"),
                },
                changed = inputs.namespaces.changed() => {
                    anyhow::ensure!(changed.is_ok(), "the watch of the pods' network namespaces ended");
                    self.namespaces(inputs.namespaces.borrow_and_update().clone());
                    self.notice();
                }
                changed = inputs.in_sync.changed() => {
                    anyhow::ensure!(changed.is_ok(), "the source ended");
                    self.publish.in_sync(*inputs.in_sync.borrow());
                }
                changed = inputs.addresses.changed() => {
                    anyhow::ensure!(changed.is_ok(), "the watch of this node's addresses ended");
                    self.addresses(inputs.addresses.borrow_and_update().clone());
                    pace.changed(Instant::now());
                }
                Ok(()) = inputs.zone.changed() => {
                    let (ttl, options) = inputs.zone.borrow_and_update().clone();
                    if self.desired.configure(ttl, options) {
                        pace.changed(Instant::now());
                    }
                }
                changed = inputs.other_proxy.changed() => {
                    anyhow::ensure!(changed.is_ok(), "the watch of other proxies ended");
                    self.other_proxy(inputs.other_proxy.borrow_and_update().clone());
                }
                _ = tick.tick() => self.tick(*inputs.in_sync.borrow()),
                () = until(due) => {
                    let begun = Instant::now();
                    self.round(*inputs.in_sync.borrow());
                    pace.carried_out(begun, Instant::now());
                }
            }
            self.health.turn();
        }
        tracing::info!("the agent ends; the kernel goes on with what it has");
        Ok(())
    }

    fn take_in(&mut self, event: Event) {
        let event = self.desired.admit(event);
        self.metrics.event(&event);
        self.publish.event(&event);
        let kind = match &event {
            Event::Apply(object, _) => Some(object.kind()),
            Event::Delete(kind, _) => Some(*kind),
            Event::Begin(_) | Event::End(_) | Event::Problems { .. } => None,
        };
        if let Some(kind) = kind {
            self.metrics.proxy().queued(kind);
        }
        self.health.queued();
        let registry = &mut self.registry;
        if catch_unwind(AssertUnwindSafe(|| registry.apply(event))).is_err() {
            tracing::error!("an event was lost through a fault in signpost; please report it");
        }
    }

    fn addresses(&mut self, addresses: Option<LocalAddresses>) {
        if let Some(addresses) = addresses {
            if let Err(error) = self.dataplane.set_addresses(&addresses.preferred) {
                tracing::warn!("masqueraded packets keep the address that they had: {error:#}");
            }
            self.desired.set_local(addresses);
            self.missing.remove(&Missing::Addresses);
            self.begin();
        }
    }

    fn other_proxy(&mut self, other_proxy: Option<OtherProxy>) {
        if let Some(other_proxy) = other_proxy {
            if let Err(error) = self.dataplane.set_handover(other_proxy.handover()) {
                tracing::warn!("the programs cannot be told of another proxy: {error:#}");
            }
            self.other_proxy = Some(other_proxy);
        }
    }

    /// One update of the kernel with all that changed.
    fn round(&mut self, in_sync: bool) {
        let registry = &self.registry;
        let listed: Vec<Kind> = self
            .guards
            .lists
            .keys()
            .copied()
            .filter(|kind| registry.is_complete(&[*kind]))
            .collect();
        for kind in listed {
            if let Some(guard) = self.guards.lists.remove(&kind) {
                guard.done();
            }
        }
        if !self.registry.is_complete(&Kind::NEEDED) {
            return;
        }
        let before = self.desired.zone().config().clone();
        if let Some(update) = self.desired.update(&mut self.registry, now()) {
            merge(&mut self.unapplied, update);
        }
        if *self.desired.zone().config() != before {
            self.publish.zone(self.desired.zone().config());
        }
        let done = self.apply();
        if done {
            self.health.updated();
        }
        if done && in_sync && !self.applied {
            self.say_in_sync();
        }
        self.tell();
        self.applied |= self.unapplied.is_none();
        self.notice();
    }

    /// Tells the probes and the health checks of load balancers what they say from now on.
    fn tell(&mut self) {
        self.known_node |= self.registry.node().is_some();
        let eligible = match self.registry.node() {
            Some(node) => !node.leaving,
            // A Node that was never there is nobody's; one that is gone is.
            None => !self.known_node,
        };
        self.health.set_node_eligible(eligible);
        let metrics = self.metrics.proxy();
        for family in [Family::V4, Family::V6] {
            metrics.no_local(family, self.desired.lacks_local(family));
        }
        self.publish.service_health(ServiceHealth {
            checks: self.desired.health_checks(),
            addresses: self.desired.node_port_addresses(),
        });
    }

    /// Carries out what is not yet carried out. Returns whether nothing is left.
    fn apply(&mut self) -> bool {
        let Some(update) = self.unapplied.take() else {
            return true;
        };
        let begun = std::time::Instant::now();
        match self.dataplane.apply(&update) {
            Ok(done) => {
                let whole = self.guards.filled.is_some();
                self.metrics
                    .apply(begun.elapsed(), Some((done.written, done.deleted)));
                // What was triggered before the agent came was not its to carry out.
                let triggered = update.triggered.iter().copied();
                let triggered: Vec<_> = triggered
                    .filter(|trigger| trigger.at >= self.started)
                    .collect();
                self.metrics
                    .proxy()
                    .synced(begun.elapsed(), whole, &triggered);
                tracing::debug!(
                    ports = update.ports.len(),
                    names = update.names.len(),
                    written = done.written,
                    deleted = done.deleted,
                    refused = done.refused.len(),
                    "the kernel is up to date"
                );
                self.refused = done.refused;
                if let Some(guard) = self.guards.filled.take() {
                    tracing::info!(
                        ports = update.ports.len(),
                        names = update.names.len(),
                        milliseconds = begun.elapsed().as_millis() as u64,
                        "the maps are filled"
                    );
                    guard.done();
                    self.publish.filled();
                }
                true
            }
            Err(error) => {
                self.metrics.apply(begun.elapsed(), None);
                tracing::error!("the kernel cannot be updated, trying again: {error:#}");
                self.unapplied = Some(update);
                false
            }
        }
    }

    fn tick(&mut self, in_sync: bool) {
        self.ticks += 1;
        self.metrics.in_sync(in_sync);
        if self.ticks.is_multiple_of(RETRY_TICKS) {
            self.retry();
        }
        if self.unapplied.is_some() {
            if self.apply() {
                self.health.updated();
            }
            self.applied |= self.unapplied.is_none();
            self.notice();
        }
        // An element that is not in the kernel yet must not be denied for longer than a moment.
        if in_sync && self.applied && self.unapplied.is_none() {
            self.say_in_sync();
        }
        if self.applied {
            match self.dataplane.sweep() {
                Ok(swept) => self.metrics.swept(swept.deleted),
                Err(error) => tracing::warn!("expired flows cannot be swept: {error:#}"),
            }
        }
        self.write_report();
    }

    fn retry(&mut self) {
        let lost = self.dataplane.lost();
        for interface in lost.iter().filter_map(|index| self.interfaces.get(index)) {
            tracing::warn!(
                interface = interface.name,
                "somebody has detached the programs; they come back"
            );
        }
        let again: Vec<Interface> = self
            .unattached
            .keys()
            .chain(&lost)
            .filter_map(|index| self.interfaces.get(index).cloned())
            .collect();
        for interface in again {
            self.attach(interface);
        }
        self.serve_sockets();
        if !self.refused.is_empty() && self.unapplied.is_none() {
            self.unapplied = Some(Update {
                serial: self.desired.zone().serial(),
                ..Update::default()
            });
        }
        self.notice();
    }

    fn say_in_sync(&mut self) {
        if let Err(error) = self.dataplane.in_sync() {
            tracing::warn!("the clock of the last sync cannot be set: {error:#}");
        }
    }

    fn interface(&mut self, event: InterfaceEvent) {
        match event {
            InterfaceEvent::Added(interface) => self.attach(interface),
            InterfaceEvent::Removed(index) => {
                self.unattached.remove(&index);
                if let Some(interface) = self.interfaces.remove(&index) {
                    self.forget(index, &interface.name);
                }
            }
            InterfaceEvent::Listed => {
                for index in self.dataplane.attached() {
                    if !self.interfaces.contains_key(&index) {
                        self.forget(index, "of an agent before this one");
                    }
                }
                self.missing.remove(&Missing::Interfaces);
                self.begin();
            }
        }
        self.serve_sockets();
        self.notice();
    }

    fn forget(&mut self, index: u32, name: &str) {
        if let Err(error) = self.dataplane.forget(index) {
            tracing::warn!(
                interface = name,
                index,
                "left behind by an interface that is gone: {error:#}"
            );
        }
    }

    /// Attaches the programs to all interfaces, once what leaves by any of them is finished there. A packet that is
    /// translated where it arrives, and leaves with its own source although it was to be masqueraded, would be lost.
    fn begin(&mut self) {
        if !self.missing.is_empty() {
            return;
        }
        let Some(guard) = self.guards.attached.take() else {
            return;
        };
        for interface in self.interfaces.values() {
            if let Err(error) = self.dataplane.prepare(interface) {
                let reason = format!("{error:#}");
                self.unattached.insert(interface.index, reason);
            }
        }
        for interface in self.interfaces.clone().into_values() {
            self.attach(interface);
        }
        guard.done();
        self.serve_sockets();
    }

    fn attach(&mut self, interface: Interface) {
        if !self.missing.is_empty() {
            self.interfaces.insert(interface.index, interface);
            return;
        }
        match self.dataplane.attach(&interface) {
            Ok(()) => {
                tracing::debug!(interface = interface.name, "programs attached");
                self.unattached.remove(&interface.index);
            }
            Err(error) => {
                self.unattached
                    .insert(interface.index, format!("{error:#}"));
            }
        }
        self.interfaces.insert(interface.index, interface);
    }

    /// Says what is wrong now, once.
    fn notice(&mut self) {
        let mut problems: BTreeSet<_> = self.registry.problems();
        problems.extend(self.desired.problems());
        let new = self.notices.problems(problems);
        let problems = self.notices.current_problems();
        self.metrics
            .problems(problems.iter().map(|p| p.kind.as_str()), new);

        let unattached = self.unattached.iter().filter_map(|(index, reason)| {
            let name = &self.interfaces.get(index)?.name;
            Some(Refusal {
                object: format!("interface {name}"),
                reason: reason.clone(),
            })
        });
        let refused = self.refused.iter().cloned();
        let all = refused
            .chain(unattached)
            .chain(self.socket_pods.refused())
            .chain(self.desired.faults());
        let new = self.notices.refusals(all);
        self.metrics
            .refusals(self.notices.current_refusals().len(), new);

        self.metrics
            .interfaces(self.interfaces.len() - self.unattached.len());
        for kind in Kind::ALL {
            self.metrics.objects(kind, self.registry.count(kind));
        }
    }

    fn write_report(&mut self) {
        let attached = self
            .interfaces
            .values()
            .filter(|i| !self.unattached.contains_key(&i.index));
        let report = Report {
            dns: self.desired.dns().to_vec(),
            pending: self.health.pending(),
            interfaces: attached.map(|i| i.name.clone()).collect(),
            host_processes: self.dataplane.host_processes(),
            pod_sockets: self.socket_pods.text(),
            other_proxy: self.other_proxy.clone(),
            problems: self.notices.current_problems().iter().cloned().collect(),
            refusals: self.notices.current_refusals().clone(),
            ..self.report.clone()
        };
        if report != self.report || self.ticks == 1 {
            self.report = report;
            self.publish.report(&self.report);
        }
    }
}

/// Until it is due; for ever where nothing is. What is due already does not wait for the timer, which counts in
/// milliseconds.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) if due <= Instant::now() => {}
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

fn milliseconds() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

/// Adds a later update to one that was not carried out.
fn merge(unapplied: &mut Option<Update>, update: Update) {
    match unapplied {
        None => *unapplied = Some(update),
        Some(earlier) => {
            let Update {
                ports,
                names,
                node_addresses,
                dns_addresses,
                foreign_addresses,
                service_ranges,
                zone,
                triggered,
                serial,
            } = update;
            earlier.ports.extend(ports);
            earlier.names.extend(names);
            earlier.node_addresses = node_addresses.or(earlier.node_addresses.take());
            earlier.foreign_addresses = foreign_addresses.or(earlier.foreign_addresses.take());
            earlier.triggered.extend(triggered);
            earlier.service_ranges = service_ranges.or(earlier.service_ranges.take());
            earlier.zone = zone.or(earlier.zone);
            earlier.dns_addresses = dns_addresses.or(earlier.dns_addresses.take());
            earlier.serial = serial;
        }
    }
}

/// Seconds since 1970: the zone's SOA serial.
fn now() -> u32 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as u32)
}
