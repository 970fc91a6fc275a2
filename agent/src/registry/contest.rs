//! What Services claim, and who of them may use it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Claim, Registry};
use crate::model::{Family, ObjectName, Problem, Protocol, Service, ServiceKind};

impl Registry {
    /// Who may use a ClusterIP: the Service that was created first of those that claim it (by name among equals).
    /// A Service that owns the address is not displaced by one that claims it later.
    pub fn owner(&self, address: IpAddr) -> Option<&ObjectName> {
        self.claims.owner(Claim::ClusterIp(address))
    }

    /// Whether a Service may use what it claims: it is the first one, as for a ClusterIP ([`Registry::owner`]), and an
    /// external address is not at the same time a ClusterIP at which another Service serves the port. kube-proxy lets
    /// chance decide.
    pub fn may_use(&self, service: &ObjectName, claim: Claim) -> bool {
        self.claims.owner(claim) == Some(service)
            && !self
                .shadowed
                .get(&claim)
                .is_some_and(|names| names.contains(service))
    }

    /// Takes over the claims of a Service that is new or was `old`.
    pub(super) fn claim(&mut self, old: Option<&Service>, service: &Service) {
        // A claim that stays is not taken back in between: its owner would lose to the next claimant.
        let before = old.map(claims).unwrap_or_default();
        let after = claims(service);
        for claim in &after {
            let renewed = old.filter(|_| before.contains(claim)).map(|o| o.created);
            let lost = self
                .claims
                .add(*claim, renewed, service.created, &service.name);
            self.changes.services.extend(lost);
        }
        if let Some(old) = old {
            for claim in before.difference(&after) {
                let won = self.claims.remove(*claim, old.created, &old.name);
                self.changes.services.extend(won);
            }
        }
    }

    /// Takes back the claims of a Service that is gone.
    pub(super) fn unclaim(&mut self, service: &Service) {
        for claim in claims(service) {
            let won = self.claims.remove(claim, service.created, &service.name);
            self.changes.services.extend(won);
        }
    }

    /// Looks anew which external addresses of these Services, or at their ClusterIPs, are ClusterIPs of others.
    pub(super) fn review<'a>(&mut self, services: impl IntoIterator<Item = &'a Service>) {
        let mut addresses = BTreeSet::new();
        for service in services {
            addresses.extend(cluster_ips(service));
            addresses.extend(external(service));
        }
        for address in addresses {
            self.review_address(address);
        }
    }

    fn review_address(&mut self, address: IpAddr) {
        let owner = self
            .owner(address)
            .and_then(|name| self.service(name))
            .filter(|service| service.proxied);
        let mut now: BTreeMap<Claim, BTreeSet<ObjectName>> = BTreeMap::new();
        for (claim, name) in self.claims.external_at(address) {
            let Claim::External(_, number, protocol) = claim else {
                continue;
            };
            let serves = |service: &Service| {
                let mut ports = service.ports.iter();
                service.name != *name && ports.any(|p| (p.port, p.protocol) == (number, protocol))
            };
            if owner.is_some_and(serves) {
                now.entry(claim).or_default().insert(name.clone());
            }
        }
        let first = Claim::External(address, 0, Protocol::Tcp);
        let last = Claim::External(address, u16::MAX, Protocol::Sctp);
        let before: BTreeMap<Claim, BTreeSet<ObjectName>> = self
            .shadowed
            .range(first..=last)
            .map(|(claim, names)| (*claim, names.clone()))
            .collect();
        if before == now {
            return;
        }
        for (claim, names) in before.into_iter().chain(now.clone()) {
            self.shadowed.remove(&claim);
            self.changes.services.extend(names);
        }
        self.shadowed.extend(now);
    }

    /// One problem for each claim that is in vain.
    pub(super) fn claim_problems(&self) -> impl Iterator<Item = Problem> {
        let contested = self.claims.in_vain().map(|(claim, loser, owner)| {
            let reason = format!(
                "{} already belongs to Service {owner}; give one of the two another one",
                text(claim)
            );
            self.claim_problem(claim, loser, reason)
        });
        let shadowed = self.shadowed.iter().flat_map(move |(claim, names)| {
            names.iter().map(move |name| {
                let reason = format!(
                    "{} is the ClusterIP and a port of another Service, which keeps it",
                    text(*claim)
                );
                self.claim_problem(*claim, name, reason)
            })
        });
        contested.chain(shadowed)
    }

    fn claim_problem(&self, claim: Claim, service: &ObjectName, reason: String) -> Problem {
        let of_load_balancer = |address| {
            let service = self.services.get(service);
            service.is_some_and(|s| s.ways_in.load_balancer_ips.contains(&address))
        };
        let field = match claim {
            Claim::ClusterIp(_) => "spec.clusterIPs",
            Claim::NodePort(..) => "spec.ports.nodePort",
            Claim::External(address, ..) if of_load_balancer(address) => {
                "status.loadBalancer.ingress.ip"
            }
            Claim::External(..) => "spec.externalIPs",
        };
        Problem {
            kind: "Service".to_owned(),
            object: service.clone(),
            field: field.to_owned(),
            reason,
        }
    }
}

/// The ClusterIPs of a Service.
fn cluster_ips(service: &Service) -> &[IpAddr] {
    match &service.kind {
        ServiceKind::ClusterIp(addresses) => addresses,
        ServiceKind::Headless | ServiceKind::ExternalName(_) => &[],
    }
}

/// External and load balancer's IPs of the families that the Service has ClusterIPs of: kube-proxy does nothing in the
/// others.
fn external(service: &Service) -> impl Iterator<Item = IpAddr> {
    let families: BTreeSet<Family> = cluster_ips(service)
        .iter()
        .map(|a| Family::of(*a))
        .collect();
    let ways_in = &service.ways_in;
    let all = ways_in
        .external_ips
        .iter()
        .chain(&ways_in.load_balancer_ips);
    all.copied()
        .filter(move |address| families.contains(&Family::of(*address)))
}

fn claims(service: &Service) -> BTreeSet<Claim> {
    let cluster_ips = cluster_ips(service);
    let mut claims: BTreeSet<_> = cluster_ips.iter().map(|a| Claim::ClusterIp(*a)).collect();
    if cluster_ips.is_empty() || !service.proxied {
        return claims;
    }
    for port in &service.ports {
        claims.extend(external(service).map(|a| Claim::External(a, port.port, port.protocol)));
        if port.node_port != 0 {
            claims.insert(Claim::NodePort(port.node_port, port.protocol));
        }
    }
    claims
}

fn text(claim: Claim) -> String {
    match claim {
        Claim::ClusterIp(address) => address.to_string(),
        Claim::External(address, port, protocol) => format!("{address} port {port}/{protocol}"),
        Claim::NodePort(port, protocol) => format!("NodePort {port}/{protocol}"),
    }
}
