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

use crate::{
    dataplane::{Refusal, Update},
    model::{Kind, ObjectName, ServiceKind},
    plan::{self, PlanConfig, PortName},
    registry::{Changes, Registry},
    zone::{Name, NameEntry, Zone, ZoneConfig},
};

/// Seconds for which records may be kept (kubeadm's Corefile).
const TTL: u32 = 30;
/// The Service whose ClusterIPs are the cluster's DNS addresses, as kubeadm and every CoreDNS chart name it.
const DNS_SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// What a node must do, and what of it was handed to the dataplane.
#[derive(Debug)]
pub struct Desired {
    plan: PlanConfig,
    learns_dns: bool,
    zone: Zone,
    planned: BTreeMap<ObjectName, BTreeSet<PortName>>,
    faults: BTreeMap<String, String>,
    whole: bool,
}

impl Desired {
    /// For a node and a cluster domain. Without `dns` the cluster's DNS addresses are learned.
    pub fn new(node: Arc<str>, domain: Name, dns: Vec<IpAddr>) -> Self {
        Self {
            learns_dns: dns.is_empty(),
            zone: Zone::new(ZoneConfig {
                domain,
                ttl: TTL,
                dns: dns.clone(),
            }),
            plan: PlanConfig { node, dns },
            planned: BTreeMap::new(),
            faults: BTreeMap::new(),
            whole: true,
        }
    }

    /// What a dataplane has to do now; `None` where nothing changed. The first one is the whole state, and must not
    /// be asked for before the registry is complete. `serial` is the zone's SOA serial from now on.
    pub fn update(&mut self, registry: &mut Registry, serial: u32) -> Option<Update> {
        let mut changes = registry.take_changes();
        let dns_moved = self.learn_dns(registry);
        let whole = std::mem::take(&mut self.whole);
        if whole || dns_moved {
            changes = everything(registry, &self.planned);
        } else if changes.is_empty() {
            return None;
        }
        let services = if changes.node {
            everything(registry, &self.planned).services
        } else {
            changes.services.clone()
        };
        Some(Update {
            ports: self.plan(registry, services),
            names: self.names(registry, &changes, serial, dns_moved),
            node_addresses: changes.node.then(|| {
                registry
                    .node()
                    .map_or_else(Vec::new, |n| n.addresses.clone())
            }),
            dns_addresses: (whole || dns_moved).then(|| self.plan.dns.clone()),
            serial,
        })
    }

    /// The cluster's DNS addresses, given or learned.
    pub fn dns(&self) -> &[IpAddr] {
        &self.plan.dns
    }

    /// The zone.
    pub const fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Objects that could not be turned into a plan because of a fault in this program.
    pub fn faults(&self) -> impl Iterator<Item = Refusal> {
        self.faults.iter().map(|(object, reason)| Refusal {
            object: object.clone(),
            reason: reason.clone(),
        })
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
            let now: BTreeSet<PortName> = planned.iter().map(|(port, _)| port.clone()).collect();
            let before = if now.is_empty() {
                self.planned.remove(&service)
            } else {
                self.planned.insert(service, now.clone())
            };
            let gone = before.into_iter().flatten().filter(|p| !now.contains(p));
            ports.extend(gone.map(|port| (port, None)));
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
    ) -> BTreeMap<Name, Option<NameEntry>> {
        let mut names = BTreeMap::new();
        if dns_moved {
            let config = ZoneConfig {
                dns: self.plan.dns.clone(),
                ..self.zone.config().clone()
            };
            let old = std::mem::replace(&mut self.zone, Zone::new(config));
            names.extend(old.entries().keys().map(|name| (name.clone(), None)));
        }
        let zone = &mut self.zone;
        let all = guarded(&mut self.faults, "zone".to_owned(), || {
            zone.update(registry, changes, serial)
        });
        match all {
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

fn everything(registry: &Registry, planned: &BTreeMap<ObjectName, BTreeSet<PortName>>) -> Changes {
    Changes {
        services: registry
            .services()
            .map(|s| s.name.clone())
            .chain(planned.keys().cloned())
            .collect(),
        namespaces: registry.namespaces().cloned().collect(),
        node: true,
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
