//! From what changed in the registry to what a dataplane has to do. Synchronous: no I/O, no clock.
//!
//! Every Service is planned on its own: where planning one fails, that one keeps what it had and is reported, and
//! the others go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use ipnet::IpNet;

use super::admission::without_external_ips;
use crate::{
    addresses::LocalAddresses,
    dataplane::{NodeAddresses, Refusal, Update, ZoneTerms},
    model::{Event, Family, Kind, ObjectName, Problem, ServiceKind},
    plan::{
        self, HealthCheck, PlanConfig, PortName,
        node_ports::{self, NodePortAddress},
    },
    registry::{Changes, Registry},
    zone::{Name, NameEntry, Options, Zone, ZoneConfig},
};

/// Seconds for which records may be kept (kubeadm's Corefile).
pub const TTL: u32 = 30;
/// The Service whose ClusterIPs are the cluster's DNS addresses, as kubeadm and every CoreDNS chart name it.
const DNS_SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// What is known of a node beforehand.
#[derive(Clone, Debug)]
pub struct Given {
    /// The node's name.
    pub node: Arc<str>,
    /// The cluster's domain.
    pub domain: Name,
    /// Seconds for which its records may be kept.
    pub ttl: u32,
    /// What the operator says of the zone.
    pub options: Arc<Options>,
    /// The cluster's DNS addresses; without them they are learned.
    pub dns: Vec<IpAddr>,
    /// At which of the node's addresses NodePorts are served.
    pub node_ports: Vec<NodePortAddress>,
    /// Whether the external IPs of Services are served.
    pub external_ips: bool,
    /// The networks that ClusterIPs are given out of, where the source does not tell.
    pub service_ranges: BTreeSet<IpNet>,
    /// The dataplane can change the port of a packet of SCTP.
    pub changes_sctp: bool,
}

impl Given {
    /// With the defaults of everything else.
    pub fn new(node: Arc<str>, domain: Name, dns: Vec<IpAddr>) -> Self {
        Self {
            node,
            domain,
            ttl: TTL,
            options: Arc::default(),
            dns,
            node_ports: vec![NodePortAddress::Primary],
            external_ips: true,
            service_ranges: BTreeSet::new(),
            changes_sctp: false,
        }
    }
}

/// What a node must do, and what of it was handed to the dataplane.
#[derive(Debug)]
pub struct Desired {
    plan: PlanConfig,
    learns_dns: bool,
    zone: Zone,
    /// Another configuration of the zone, for the next update.
    configured: Option<(u32, Arc<Options>)>,
    /// The ports of each Service, in order.
    planned: BTreeMap<ObjectName, Box<[PortName]>>,
    health_checks: BTreeMap<ObjectName, Vec<HealthCheck>>,
    /// Service ports that lack endpoints on this node, for clients inside and outside.
    lacks_local: BTreeMap<PortName, (bool, bool)>,
    /// What the authors of Services should know.
    problems: BTreeMap<PortName, Problem>,
    faults: BTreeMap<String, String>,
    node_ports: Vec<NodePortAddress>,
    local: Option<LocalAddresses>,
    node_addresses: Option<NodeAddresses>,
    foreign: BTreeMap<ObjectName, Vec<IpAddr>>,
    external_ips: bool,
    service_ranges: BTreeSet<IpNet>,
    changes_sctp: bool,
    whole: bool,
}

impl Desired {
    /// Nothing is planned yet.
    pub fn new(given: Given) -> Self {
        let Given {
            node,
            domain,
            ttl,
            options,
            dns,
            node_ports,
            external_ips,
            service_ranges,
            changes_sctp,
        } = given;
        Self {
            learns_dns: dns.is_empty(),
            node_ports,
            external_ips,
            service_ranges,
            changes_sctp,
            local: None,
            node_addresses: None,
            foreign: BTreeMap::new(),
            zone: Zone::new(ZoneConfig {
                domain,
                ttl,
                dns: dns.clone(),
                options,
            }),
            configured: None,
            plan: PlanConfig { node, dns },
            planned: BTreeMap::new(),
            health_checks: BTreeMap::new(),
            lacks_local: BTreeMap::new(),
            problems: BTreeMap::new(),
            faults: BTreeMap::new(),
            whole: true,
        }
    }

    /// What a dataplane has to do now; `None` where nothing changed. The first one is the whole state, and must not
    /// be asked for before the registry is complete. `serial` is the zone's SOA serial from now on.
    pub fn update(&mut self, registry: &mut Registry, serial: u32) -> Option<Update> {
        let mut changes = registry.take_changes();
        let triggered = std::mem::take(&mut changes.triggered);
        let dns_moved = self.learn_dns(registry);
        let configured = self.configured.take();
        let zone_moved = dns_moved || configured.is_some();
        let node_addresses = self.move_node(registry);
        let whole = std::mem::take(&mut self.whole);
        if whole || zone_moved {
            changes = everything(registry, &self.planned);
        } else if changes.is_empty() && node_addresses.is_none() {
            return None;
        }
        let foreign_addresses = self.move_foreign(registry, &changes.services, whole);
        let services = if changes.node {
            everything(registry, &self.planned).services
        } else {
            changes.services.clone()
        };
        Some(Update {
            ports: self.plan(registry, services),
            names: self.names(registry, &changes, serial, dns_moved, configured),
            zone: (whole || zone_moved).then(|| ZoneTerms {
                ttl: self.zone.config().ttl,
                deniable: self.zone.may_deny(),
            }),
            node_addresses,
            foreign_addresses,
            service_ranges: changes.service_cidrs.then(|| {
                let given = self.service_ranges.iter().copied();
                given.chain(registry.service_ranges()).collect()
            }),
            triggered,
            dns_addresses: (whole || dns_moved).then(|| self.plan.dns.clone()),
            serial,
        })
    }

    /// Takes over another configuration of the zone, with the next update. Returns whether it is another one.
    pub fn configure(&mut self, ttl: u32, options: Arc<Options>) -> bool {
        let config = self.zone.config();
        let differs = (config.ttl, &config.options) != (ttl, &options);
        self.configured = differs.then_some((ttl, options));
        differs
    }

    /// An event with what this node has to do with it.
    pub fn admit(&self, event: Event) -> Event {
        if self.external_ips {
            event
        } else {
            without_external_ips(event)
        }
    }

    /// Takes in the addresses of this node's interfaces.
    pub fn set_local(&mut self, local: LocalAddresses) {
        self.local = Some(local);
    }

    /// The cluster's DNS addresses, given or learned.
    pub fn dns(&self) -> &[IpAddr] {
        &self.plan.dns
    }

    /// The zone.
    pub const fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The addresses at which NodePorts are served, as far as they are known.
    pub fn node_port_addresses(&self) -> BTreeSet<IpAddr> {
        let known = self.node_addresses.as_ref();
        known.map_or_else(BTreeSet::new, |node| node.node_ports.clone())
    }

    /// The health checks of load balancers.
    pub fn health_checks(&self) -> BTreeSet<HealthCheck> {
        self.health_checks.values().flatten().cloned().collect()
    }

    /// How many service ports of a family lack endpoints on this node though a policy asks for them: for clients inside
    /// the cluster, and for those outside.
    pub fn lacks_local(&self, family: Family) -> (usize, usize) {
        let of_family = self
            .lacks_local
            .iter()
            .filter(|(port, _)| port.family == family);
        of_family.fold((0, 0), |(inside, outside), (_, lacks)| {
            (
                inside + usize::from(lacks.0),
                outside + usize::from(lacks.1),
            )
        })
    }

    /// What the authors of Services should know of ways that cannot be served.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        self.problems.values().cloned()
    }

    /// Objects that could not be turned into a plan because of a fault in this program.
    pub fn faults(&self) -> impl Iterator<Item = Refusal> {
        self.faults.iter().map(|(object, reason)| Refusal {
            object: object.clone(),
            reason: reason.clone(),
        })
    }

    /// This node's addresses where they changed. Without a Node object that has any, its primary ones are those that the
    /// kubelet would give it.
    fn move_node(&mut self, registry: &Registry) -> Option<NodeAddresses> {
        let local = self.local.as_ref()?;
        let mut primary: BTreeSet<IpAddr> = [Family::V4, Family::V6]
            .into_iter()
            .filter_map(|family| registry.node()?.primary(family))
            .collect();
        if primary.is_empty() {
            primary.clone_from(&local.preferred);
        }
        let now = NodeAddresses {
            node_ports: node_ports::select(&self.node_ports, &local.all, &primary),
            all: local.all.clone(),
        };
        if self.node_addresses.as_ref() == Some(&now) {
            return None;
        }
        self.node_addresses = Some(now.clone());
        Some(now)
    }

    /// The ClusterIPs of Services that are not ours to proxy, where they changed.
    fn move_foreign(
        &mut self,
        registry: &Registry,
        changed: &BTreeSet<ObjectName>,
        whole: bool,
    ) -> Option<BTreeSet<IpAddr>> {
        let mut moved = whole;
        for name in changed {
            let service = registry.service(name).filter(|service| !service.proxied);
            let now = match service.map(|service| &service.kind) {
                Some(ServiceKind::ClusterIp(addresses)) => Some(addresses.clone()),
                _ => None,
            };
            let before = match now.clone() {
                Some(addresses) => self.foreign.insert(name.clone(), addresses),
                None => self.foreign.remove(name),
            };
            moved |= before != now;
        }
        moved.then(|| self.foreign.values().flatten().copied().collect())
    }

    fn learn_dns(&mut self, registry: &Registry) -> bool {
        if !self.learns_dns {
            return false;
        }
        let name = ObjectName::new(DNS_SERVICE.0, DNS_SERVICE.1);
        let learned: Vec<IpAddr> = match registry.service(&name).map(|s| &s.kind) {
            Some(ServiceKind::ClusterIp(addresses)) => addresses
                .iter()
                .copied()
                .filter(|address| registry.owner(*address) == Some(&name))
                .collect(),
            _ => Vec::new(),
        };
        if learned == self.plan.dns {
            return false;
        }
        tracing::info!(addresses = ?learned, "the cluster's DNS addresses are those of Service {name}");
        self.plan.dns = learned;
        true
    }

    fn plan(
        &mut self,
        registry: &Registry,
        services: BTreeSet<ObjectName>,
    ) -> BTreeMap<PortName, Option<plan::PortPlan>> {
        let mut ports = BTreeMap::new();
        for service in services {
            let config = &self.plan;
            let label = format!("Service {service}");
            let planned = guarded(&mut self.faults, label, || {
                plan::plan(registry, config, &service)
            });
            let Some(planned) = planned else { continue };
            let checks = plan::health_checks(registry, config, &service);
            if checks.is_empty() {
                self.health_checks.remove(&service);
            } else {
                self.health_checks.insert(service.clone(), checks);
            }
            let mut now: Vec<PortName> = planned.iter().map(|(port, _)| port.clone()).collect();
            now.sort_unstable();
            let before = self.planned.remove(&service).unwrap_or_default();
            let gone = before.into_iter();
            let gone: Vec<PortName> = gone.filter(|p| now.binary_search(p).is_err()).collect();
            if !now.is_empty() {
                self.planned.insert(service, now.into());
            }
            for port in gone {
                self.lacks_local.remove(&port);
                self.problems.remove(&port);
                ports.insert(port, None);
            }
            for (port, plan) in &planned {
                match plan.problem(port).filter(|_| !self.changes_sctp) {
                    None => drop(self.problems.remove(port)),
                    Some(problem) => drop(self.problems.insert(port.clone(), problem)),
                }
                match plan.lacks_local() {
                    (false, false) => drop(self.lacks_local.remove(port)),
                    lacks => drop(self.lacks_local.insert(port.clone(), lacks)),
                }
            }
            ports.extend(planned.into_iter().map(|(port, plan)| (port, Some(plan))));
        }
        ports
    }

    fn names(
        &mut self,
        registry: &Registry,
        changes: &Changes,
        serial: u32,
        dns_moved: bool,
        configured: Option<(u32, Arc<Options>)>,
    ) -> BTreeMap<Name, Option<NameEntry>> {
        let mut names = BTreeMap::new();
        if dns_moved || configured.is_some() {
            let mut config = ZoneConfig {
                dns: self.plan.dns.clone(),
                ..self.zone.config().clone()
            };
            if let Some((ttl, options)) = configured {
                config.ttl = ttl;
                config.options = options;
            }
            let old = std::mem::replace(&mut self.zone, Zone::new(config));
            names.extend(old.names().map(|name| (name.clone(), None)));
        }
        let zone = &mut self.zone;
        let all = guarded(&mut self.faults, "zone".to_owned(), || {
            zone.update(registry, changes, serial)
        });
        match all {
            // Moving them costs memory, and at the start they are many.
            Some(changed) if names.is_empty() => names = changed,
            Some(changed) => names.extend(changed),
            // One of the changes cannot be digested: take them in one by one, so that the others are.
            None => {
                for part in parts(changes) {
                    let label = format!("zone of {}", describe(&part));
                    let zone = &mut self.zone;
                    let changed = guarded(&mut self.faults, label, || {
                        zone.update(registry, &part, serial)
                    });
                    names.extend(changed.unwrap_or_default());
                }
            }
        }
        names
    }
}

fn everything(registry: &Registry, planned: &BTreeMap<ObjectName, Box<[PortName]>>) -> Changes {
    Changes {
        services: registry
            .services()
            .map(|s| s.name.clone())
            .chain(planned.keys().cloned())
            .collect(),
        namespaces: registry.namespaces().cloned().collect(),
        node: true,
        service_cidrs: true,
        // The kernel passes on what is verified.
        pods: BTreeSet::new(),
        triggered: Vec::new(),
    }
}

fn parts(changes: &Changes) -> Vec<Changes> {
    let services = changes.services.iter().map(|service| Changes {
        services: [service.clone()].into(),
        ..Changes::default()
    });
    let namespaces = changes.namespaces.iter().map(|namespace| Changes {
        namespaces: [namespace.clone()].into(),
        ..Changes::default()
    });
    namespaces.chain(services).collect()
}

fn describe(part: &Changes) -> String {
    let services = part.services.iter().map(|s| format!("Service {s}"));
    let namespaces = part
        .namespaces
        .iter()
        .map(|n| format!("{} {n}", Kind::Namespace));
    services.chain(namespaces).collect::<Vec<_>>().join(", ")
}

/// Runs `work`; a panic becomes a fault under `label`, success clears it.
fn guarded<T>(
    faults: &mut BTreeMap<String, String>,
    label: String,
    work: impl FnOnce() -> T,
) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => {
            faults.remove(&label);
            Some(result)
        }
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no text");
            faults.insert(
                label,
                format!("a fault in signpost, please report it: {text}"),
            );
            None
        }
    }
}
