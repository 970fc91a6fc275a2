//! Where clients send to: every virtual address of a service port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{
    model::{Family, Service, ServiceKind, ServicePort},
    plan::{Frontend, FrontendKind},
    registry::{Claim, Registry},
};

/// The frontends of a service port in one family.
pub(super) struct Reach {
    /// In order; empty where nothing leads to the port.
    pub(super) frontends: Vec<Frontend>,
    /// Clients outside the cluster have a way in (kube-proxy's `ExternallyAccessible`).
    pub(super) external: bool,
    /// The sources that may use the load balancer's IPs; empty for all.
    pub(super) source_ranges: Vec<IpNet>,
}

/// Collects the frontends of a service port. Without a ClusterIP of the family there are none, as in kube-proxy; what
/// belongs to another Service gives none either.
pub(super) fn of(
    registry: &Registry,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Reach {
    let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
        let addresses = addresses.iter().copied();
        addresses.filter(|a| Family::of(*a) == family).collect()
    };
    let cluster_ips = match &service.kind {
        ServiceKind::ClusterIp(addresses) => of_family(addresses),
        ServiceKind::Headless | ServiceKind::ExternalName(_) => Vec::new(),
    };
    if cluster_ips.is_empty() {
        return Reach {
            frontends: Vec::new(),
            external: false,
            source_ranges: Vec::new(),
        };
    }
    let load_balancer_ips = of_family(&service.ways_in.load_balancer_ips);
    let external_ips = of_family(&service.ways_in.external_ips);
    let external = port.node_port != 0 || !load_balancer_ips.is_empty() || !external_ips.is_empty();
    let source_ranges = source_ranges(registry, service, family, &load_balancer_ips);

    let mut frontends: Vec<Frontend> = Vec::new();
    let mut add = |kind, address, number, claim| {
        let is_new = |f: &Frontend| (f.address, f.port) != (address, number);
        if registry.may_use(&service.name, claim) && frontends.iter().all(is_new) {
            frontends.push(Frontend {
                kind,
                address,
                port: number,
            });
        }
    };
    for address in cluster_ips {
        let claim = Claim::ClusterIp(address);
        add(FrontendKind::ClusterIp, address, port.port, claim);
    }
    if port.node_port != 0 {
        let address = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let claim = Claim::NodePort(port.node_port, port.protocol);
        add(FrontendKind::NodePort, address, port.node_port, claim);
    }
    // An address that is both is subject to the load balancer's source ranges.
    let kinds = [
        (FrontendKind::LoadBalancer, load_balancer_ips),
        (FrontendKind::ExternalIp, external_ips),
    ];
    for (kind, addresses) in kinds {
        for address in addresses {
            let claim = Claim::External(address, port.port, port.protocol);
            add(kind, address, port.port, claim);
        }
    }
    frontends.sort_unstable();
    Reach {
        frontends,
        external,
        source_ranges,
    }
}

/// The ranges of the family. One that has no prefix lets everybody in. Where this node's own IP is let in, so is the
/// load balancer's: a packet of the node to an IP that it has itself as well comes from that IP.
fn source_ranges(
    registry: &Registry,
    service: &Service,
    family: Family,
    load_balancer_ips: &[IpAddr],
) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> = service
        .ways_in
        .source_ranges
        .iter()
        .filter(|range| Family::of(range.addr()) == family)
        .copied()
        .collect();
    if load_balancer_ips.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return Vec::new();
    }
    let node = registry.node().and_then(|node| node.primary(family));
    if node.is_some_and(|node| ranges.iter().any(|range| range.contains(&node))) {
        ranges.extend(load_balancer_ips.iter().map(|ip| IpNet::from(*ip)));
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}
