//! The zone of a running server, kept up by what its source says.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    feed::{Hello, KINDS},
    model::{Event, Kind, ObjectName, ServiceKind},
    registry::{Changes, Registry},
    zone::{Name, Options, Pods, Zone, ZoneConfig},
};

/// Changes are taken over together when none came for so long,
const QUIET: Duration = Duration::from_millis(5);
/// or when the first one waits for so long.
const PATIENCE: Duration = Duration::from_millis(100);
/// Events taken in at once.
const BATCH: usize = 1024;
/// Questions that wait for the whole zone at a time.
const WAITING: usize = 8192;
/// The Service whose ClusterIPs are the cluster's DNS addresses where nobody says them.
const DNS_SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// Another configuration of the zone.
#[derive(Debug)]
pub(super) struct Configured {
    /// The cluster domain, where the file says it; an agent's word counts more.
    pub(super) domain: Option<Name>,
    /// Seconds for which records may be kept.
    pub(super) ttl: u32,
    /// What the operator says.
    pub(super) options: Arc<Options>,
}

/// What answers are made from.
#[derive(Debug)]
pub(super) struct State {
    inner: RwLock<Inner>,
    configured: watch::Sender<()>,
    complete: watch::Sender<bool>,
    places: Semaphore,
}

/// The zone, and whether it is all there is.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) zone: Zone,
    /// Every list was complete at least once. Before that no name of a cluster object may be denied.
    pub(super) synced: bool,
    /// Likewise of Pods, which are listed only where their names are verified.
    pub(super) pods_synced: bool,
    /// What the agent goes by ([`Options::digest`]).
    pub(super) of_agent: Option<u64>,
}

impl State {
    pub(super) fn new(config: ZoneConfig) -> Self {
        let zone = Zone::answering(config);
        Self {
            inner: RwLock::new(Inner {
                zone,
                synced: false,
                pods_synced: false,
                of_agent: None,
            }),
            configured: watch::Sender::default(),
            complete: watch::Sender::default(),
            places: Semaphore::new(WAITING),
        }
    }

    /// Changes with every other configuration of the zone, when that counts.
    pub(super) fn configured(&self) -> watch::Receiver<()> {
        self.configured.subscribe()
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_synced(&self) -> bool {
        self.read().synced
    }

    /// Waits until every name is known that the server may be asked for, unless too many wait already.
    pub(super) async fn complete(&self) {
        if *self.complete.borrow() {
            return;
        }
        if let Ok(_place) = self.places.try_acquire() {
            // Its sender is here, so it does not end.
            let _ = self.complete.subscribe().wait_for(|&is| is).await;
        }
    }

    /// Follows a source until it ends. `hellos` bring an agent's configuration of the zone, `zones` the operator's; the
    /// DNS addresses are learned where `learn_dns` says so.
    pub(super) async fn follow(
        &self,
        mut events: mpsc::Receiver<Event>,
        mut hellos: mpsc::Receiver<Hello>,
        mut zones: mpsc::Receiver<Configured>,
        learn_dns: bool,
    ) {
        let mut registry = Registry::default();
        let mut batch = Vec::with_capacity(BATCH);
        let mut waiting: Option<(Instant, Instant)> = None;
        let mut has_agent = false;
        loop {
            let due = waiting.map(|(first, last)| (first + PATIENCE).min(last + QUIET));
            tokio::select! {
                count = events.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    batch.drain(..).for_each(|event| registry.apply(event));
                    let now = Instant::now();
                    waiting = Some((waiting.map_or(now, |(first, _)| first), now));
                }
                Some(hello) = hellos.recv() => {
                    has_agent = true;
                    self.inner.write().unwrap_or_else(PoisonError::into_inner).of_agent = hello.options;
                    let options = self.read().zone.config().options.clone();
                    self.configure(&registry, ZoneConfig {
                        domain: hello.domain,
                        ttl: hello.ttl,
                        dns: hello.dns,
                        options,
                    });
                }
                Some(configured) = zones.recv() => {
                    let old = self.read().zone.config().clone();
                    let domain = configured.domain.filter(|_| !has_agent);
                    self.configure(&registry, ZoneConfig {
                        domain: domain.unwrap_or(old.domain),
                        ttl: configured.ttl,
                        dns: old.dns,
                        options: configured.options,
                    });
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    waiting = None;
                    self.take_over(&mut registry, learn_dns);
                }
            }
        }
    }

    fn take_over(&self, registry: &mut Registry, learn_dns: bool) {
        let changes = registry.take_changes();
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.zone.update(registry, &changes, now());
        if registry.is_complete(&KINDS) && !inner.synced {
            tracing::info!(
                services = inner.zone.services().count(),
                "the zone is complete"
            );
            inner.synced = true;
        }
        inner.pods_synced |= registry.is_complete(&[Kind::Pod]);
        self.complete.send_replace(inner.is_complete());
        if learn_dns {
            let dns = learned(registry);
            if dns != inner.zone.config().dns {
                let config = ZoneConfig {
                    dns,
                    ..inner.zone.config().clone()
                };
                drop(inner);
                self.configure(registry, config);
            }
        }
    }

    fn configure(&self, registry: &Registry, config: ZoneConfig) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if *inner.zone.config() == config {
            return;
        }
        tracing::info!(domain = %config.domain, ttl = config.ttl, dns = ?config.dns, "the zone is configured");
        let mut services: BTreeSet<ObjectName> = inner.zone.services().cloned().collect();
        services.extend(registry.services().map(|service| service.name.clone()));
        let everything = Changes {
            services,
            namespaces: registry.namespaces().cloned().collect(),
            pods: registry.pods().cloned().collect(),
            node: false,
            ..Changes::default()
        };
        inner.zone = Zone::answering(config);
        inner.zone.update(registry, &everything, now());
        self.complete.send_replace(inner.is_complete());
        drop(inner);
        self.configured.send_replace(());
    }
}

impl Inner {
    fn is_complete(&self) -> bool {
        let verifies = self.zone.config().options.pods == Pods::Verified;
        self.synced && (self.pods_synced || !verifies)
    }
}

fn learned(registry: &Registry) -> Vec<IpAddr> {
    let name = ObjectName::new(DNS_SERVICE.0, DNS_SERVICE.1);
    match registry.service(&name).map(|service| &service.kind) {
        Some(ServiceKind::ClusterIp(addresses)) => addresses.clone(),
        _ => Vec::new(),
    }
}

fn now() -> u32 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as u32)
}
