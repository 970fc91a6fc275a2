//! From objects to what a node must do: the semantics of kube-proxy, once, for every dataplane. Pure.

mod endpoints;
mod frontends;
pub mod node_ports;
mod sctp;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use self::endpoints::{Candidate, Policies};
use crate::{
    model::{Family, ObjectName, Problem, Protocol, ServiceKind},
    registry::Registry,
};

/// Names a service port of one family: the unit of planning, as in kube-proxy (which runs once a family).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The Service.
    pub service: ObjectName,
    /// Name of the port, empty for an unnamed one.
    pub port: Arc<str>,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// The family.
    pub family: Family,
}

/// What must be done for a service port of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// Where clients send to.
    pub frontends: Vec<Frontend>,
    /// The cluster set (`CategorizeEndpoints`), ordered by address and port, without duplicates. Empty where no
    /// policy uses it.
    pub cluster: Vec<Backend>,
    /// The local set, likewise. The cluster's DNS Service always has it: its backend on this node comes first.
    pub local: Vec<Backend>,
    /// Every endpoint of this port, chosen or not, ordered likewise.
    pub members: Vec<Member>,
    /// Clients inside the cluster use the local set.
    pub internal_local: bool,
    /// Clients outside the cluster use the local set.
    pub external_local: bool,
    /// Some endpoint could serve under some policy: an empty set drops instead of rejecting.
    pub any_endpoints: bool,
    /// The sources that may use the load balancer's IPs; empty for all.
    pub source_ranges: Vec<IpNet>,
    /// Session affinity by client IP, in seconds.
    pub affinity_timeout: Option<u32>,
    /// This is the cluster's DNS Service: one of its frontends is a DNS address of the node.
    pub dns: bool,
}

/// The ways to a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// The Service's own address.
    ClusterIp,
    /// A port at this node's addresses.
    NodePort,
    /// An address in `spec.externalIPs`.
    ExternalIp,
    /// An address of the load balancer.
    LoadBalancer,
}

/// A virtual address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Which way it is.
    pub kind: FrontendKind,
    /// The address; that of a NodePort is the unspecified one of the family.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// An endpoint that new connections may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// It is on this node.
    pub local: bool,
}

/// An endpoint, chosen into a set or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Flows that are there may stay.
    pub serving: bool,
    /// It is in one of the sets.
    pub chosen: bool,
    /// It is in the cluster set.
    pub cluster: bool,
    /// It is on this node.
    pub local: bool,
}

/// What planning has to know beside the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanConfig {
    /// This node's name.
    pub node: Arc<str>,
    /// The cluster DNS addresses.
    pub dns: Vec<IpAddr>,
}

/// Plans one Service; empty when it does not exist, is not ours to proxy or has no virtual address.
///
/// There is one plan for each port and family that has a frontend. kube-proxy makes the same choice: it skips Services
/// without a ClusterIP of the family it runs for.
pub fn plan(
    registry: &Registry,
    config: &PlanConfig,
    service: &ObjectName,
) -> Vec<(PortName, PortPlan)> {
    let Some(service) = registry.service(service).filter(|s| s.proxied) else {
        return Vec::new();
    };
    let zone = registry
        .node()
        .and_then(|node| node.labels.get(endpoints::ZONE_LABEL))
        .map_or("", String::as_str);
    let mut plans = Vec::new();
    for family in [Family::V4, Family::V6] {
        for port in &service.ports {
            let reach = frontends::of(registry, service, port, family);
            if reach.frontends.is_empty() {
                continue;
            }
            let dns = reach
                .frontends
                .iter()
                .any(|f| f.kind == FrontendKind::ClusterIp && config.dns.contains(&f.address));
            let policies = Policies {
                internal_local: service.internal_local,
                external_local: reach.external && service.external_local,
                external: reach.external,
                prefer_local: dns,
            };
            let candidates =
                endpoints::of_port(registry, &config.node, &service.name, port, family);
            let sets = policies.choose(&candidates, &config.node, zone);
            let name = PortName {
                service: service.name.clone(),
                port: port.name.clone(),
                protocol: port.protocol,
                family,
            };
            let plan = PortPlan {
                frontends: reach.frontends,
                members: members(&candidates, &sets.cluster, &sets.local),
                any_endpoints: candidates.iter().any(Candidate::is_usable),
                cluster: sets.cluster,
                local: sets.local,
                internal_local: policies.internal_local,
                external_local: policies.external_local,
                source_ranges: reach.source_ranges,
                affinity_timeout: service.affinity_timeout,
                dns,
            };
            plans.push((name, plan));
        }
    }
    plans
}

/// What the health check of a load balancer says of a Service in one family (kube-proxy's `healthCheckNodePort`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// The family.
    pub family: Family,
    /// The port at which it is asked, the same in both families.
    pub port: u16,
    /// Addresses of endpoints on this node that are ready. Those that only terminate do not count, though traffic may
    /// still go to them (KEP-1669).
    pub endpoints: usize,
}

/// The health checks of one Service, by family; empty where it has none.
pub fn health_checks(
    registry: &Registry,
    config: &PlanConfig,
    service: &ObjectName,
) -> Vec<HealthCheck> {
    let Some(service) = registry.service(service).filter(|s| s.proxied) else {
        return Vec::new();
    };
    let port = service.ways_in.health_check_node_port;
    let ServiceKind::ClusterIp(cluster_ips) = &service.kind else {
        return Vec::new();
    };
    let mut checks = Vec::new();
    for family in [Family::V4, Family::V6] {
        if port == 0 || cluster_ips.iter().all(|a| Family::of(*a) != family) {
            continue;
        }
        let mut ready = BTreeSet::new();
        for of_port in &service.ports {
            let candidates =
                endpoints::of_port(registry, &config.node, &service.name, of_port, family);
            let here = candidates.iter().filter(|c| c.endpoint.ready);
            ready.extend(
                here.map(Candidate::backend)
                    .filter(|b| b.local)
                    .map(|b| b.address),
            );
        }
        checks.push(HealthCheck {
            service: service.name.clone(),
            family,
            port,
            endpoints: ready.len(),
        });
    }
    checks
}

impl PortPlan {
    /// What this port's author should know of ways to it that no dataplane can serve whole; `None` where there is
    /// nothing to say.
    pub fn problem(&self, name: &PortName) -> Option<Problem> {
        sctp::problem(name, self)
    }

    /// Whether a policy asks for endpoints on this node, there are none, and there are some elsewhere: for clients inside
    /// the cluster, and for those outside.
    pub const fn lacks_local(&self) -> (bool, bool) {
        let lacks = self.any_endpoints && self.local.is_empty();
        (lacks && self.internal_local, lacks && self.external_local)
    }
}

fn members(candidates: &[Candidate<'_>], cluster: &[Backend], local: &[Backend]) -> Vec<Member> {
    candidates
        .iter()
        .map(|candidate| {
            let backend = candidate.backend();
            Member {
                address: backend.address,
                port: backend.port,
                serving: candidate.endpoint.serving,
                chosen: [cluster, local]
                    .iter()
                    .any(|set| set.binary_search(&backend).is_ok()),
                cluster: cluster.binary_search(&backend).is_ok(),
                local: backend.local,
            }
        })
        .collect()
}
