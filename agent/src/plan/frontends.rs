//! Where clients send to: every virtual address of a service port.

use crate::{
    model::{Family, Service, ServiceKind, ServicePort},
    plan::Frontend,
    registry::Registry,
};

/// The frontends of a service port in one family.
pub(super) struct Reach {
    /// In order; empty where nothing leads to the port.
    pub(super) frontends: Vec<Frontend>,
    /// Clients outside the cluster have a way in (kube-proxy's `ExternallyAccessible`).
    pub(super) external: bool,
}

/// Collects the frontends of a service port. A ClusterIP that belongs to another Service gives none.
pub(super) fn of(
    registry: &Registry,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Reach {
    let cluster_ips = match &service.kind {
        ServiceKind::ClusterIp(addresses) => addresses.as_slice(),
        ServiceKind::Headless | ServiceKind::ExternalName(_) => &[],
    };
    let mut frontends: Vec<_> = cluster_ips
        .iter()
        .filter(|&&address| Family::of(address) == family)
        .filter(|&&address| registry.owner(address) == Some(&service.name))
        .map(|&address| Frontend {
            address,
            port: port.port,
        })
        .collect();
    frontends.sort_unstable();
    Reach {
        frontends,
        external: port.node_port != 0,
    }
}
