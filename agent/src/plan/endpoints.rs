//! Which endpoints new connections may go to: kube-proxy's `CategorizeEndpoints` (KEP-1669, KEP-4444, KEP-3015).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    model::{Endpoint, Family, ObjectName, ServicePort},
    plan::Backend,
    registry::Registry,
};

/// The Node label that says in which zone it is.
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// An endpoint of a service port, whatever its condition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    address: IpAddr,
    port: u16,
    local: bool,
    pub(super) endpoint: &'a Endpoint,
}

/// Who uses which set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policies {
    /// Clients inside the cluster use the local set.
    pub(super) internal_local: bool,
    /// Clients outside the cluster use the local set.
    pub(super) external_local: bool,
    /// There are clients outside the cluster.
    pub(super) external: bool,
    /// The local set is wanted even where no policy asks for it.
    pub(super) prefer_local: bool,
}

/// The endpoints that may get new connections, each set in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sets {
    pub(super) cluster: Vec<Backend>,
    pub(super) local: Vec<Backend>,
}

/// The endpoints of a service port in one family, ordered by address and port, without duplicates.
///
/// The same address and port may be in several slices, for instance while the control plane moves it from one to
/// another; it is one endpoint then. An entry on this node wins (kube-proxy), then one that is ready, then one that
/// serves, then the one of the first slice.
pub(super) fn of_port<'a>(
    registry: &'a Registry,
    node: &str,
    service: &'a ObjectName,
    port: &ServicePort,
    family: Family,
) -> Vec<Candidate<'a>> {
    let mut candidates = BTreeMap::new();
    let slices = registry
        .slices(service)
        .filter(|slice| slice.proxied && slice.family == family);
    for slice in slices {
        let numbers = slice
            .ports
            .iter()
            .filter(|p| p.name == port.name && p.protocol == port.protocol)
            .map(|p| p.port);
        for number in numbers {
            for endpoint in &slice.endpoints {
                // All addresses of an endpoint lead to the same place, so the first one is enough.
                let Some(&address) = endpoint.addresses.first() else {
                    continue;
                };
                let candidate = Candidate {
                    address,
                    port: number,
                    local: endpoint.node.as_deref() == Some(node),
                    endpoint,
                };
                match candidates.entry((address, number)) {
                    Entry::Vacant(place) => {
                        place.insert(candidate);
                    }
                    Entry::Occupied(mut place) => {
                        if candidate.rank() > place.get().rank() {
                            place.insert(candidate);
                        }
                    }
                }
            }
        }
    }
    candidates.into_values().collect()
}

impl Policies {
    /// Chooses the sets. Each falls back to endpoints that terminate but serve where none is ready, the cluster set
    /// whatever the hints say.
    pub(super) fn choose(self, candidates: &[Candidate<'_>], node: &str, zone: &str) -> Sets {
        let cluster = if self.internal_local && !self.external {
            Vec::new()
        } else {
            let topology = Topology::of(candidates, node, zone);
            ready_or_terminating(candidates, |_| true, |c| topology.admits(c))
        };
        let local = if self.internal_local || self.external_local || self.prefer_local {
            ready_or_terminating(candidates, |c| c.local, |_| true)
        } else {
            Vec::new()
        };
        Sets { cluster, local }
    }
}

impl Candidate<'_> {
    /// Some policy may send new connections here.
    pub(super) const fn is_usable(&self) -> bool {
        self.endpoint.ready || (self.endpoint.serving && self.endpoint.terminating)
    }

    pub(super) const fn backend(&self) -> Backend {
        Backend {
            address: self.address,
            port: self.port,
            local: self.local,
        }
    }

    const fn rank(&self) -> (bool, bool, bool) {
        (self.local, self.endpoint.ready, self.endpoint.serving)
    }
}

/// Which hints hold. Hints count only when every ready endpoint has them and one of them names this node or zone:
/// half of the hints would overload the endpoints that have them.
#[derive(Clone, Copy, Debug)]
enum Topology<'a> {
    Anywhere,
    Zone(&'a str),
    Node(&'a str),
}

impl<'a> Topology<'a> {
    fn of(candidates: &[Candidate<'_>], node: &'a str, zone: &'a str) -> Self {
        let hinted = |hints: fn(&Endpoint) -> &[Arc<str>], wanted: &str| {
            let mut ready = candidates
                .iter()
                .filter(|c| c.endpoint.ready)
                .map(|c| hints(c.endpoint));
            ready.clone().all(|hints| !hints.is_empty())
                && ready.any(|hints| hints.iter().any(|hint| **hint == *wanted))
        };
        if hinted(Endpoint::node_hints, node) {
            Self::Node(node)
        } else if hinted(Endpoint::zone_hints, zone) {
            Self::Zone(zone)
        } else {
            Self::Anywhere
        }
    }

    fn admits(self, candidate: &Candidate<'_>) -> bool {
        let (hints, wanted) = match self {
            Self::Anywhere => return true,
            Self::Zone(zone) => (candidate.endpoint.zone_hints(), zone),
            Self::Node(node) => (candidate.endpoint.node_hints(), node),
        };
        hints.iter().any(|hint| **hint == *wanted)
    }
}

fn ready_or_terminating(
    candidates: &[Candidate<'_>],
    eligible: impl Fn(&Candidate<'_>) -> bool,
    preferred: impl Fn(&Candidate<'_>) -> bool,
) -> Vec<Backend> {
    let set = |wanted: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<Backend> {
        candidates
            .iter()
            .filter(|c| eligible(c) && wanted(c))
            .map(Candidate::backend)
            .collect()
    };
    let ready = set(&|c| c.endpoint.ready && preferred(c));
    if !ready.is_empty() {
        return ready;
    }
    set(&|c| c.endpoint.serving && c.endpoint.terminating)
}
