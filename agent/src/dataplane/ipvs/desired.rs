//! From plans to what the kernel is to have: virtual servers, addresses, elements of sets. Pure.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    rules::{Element, Set},
    server::{OURS, Server, ServerKey, Terms, WITH_PORT},
};
use crate::{
    dataplane::NodeAddresses,
    model::Family,
    plan::{Backend, Frontend, FrontendKind, PortName, PortPlan},
};

/// What one service port adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Share {
    servers: Vec<(ServerKey, Server)>,
    vips: BTreeSet<IpAddr>,
    elements: BTreeSet<Element>,
    source_ranges: Vec<(ServerKey, Vec<IpNet>)>,
}

/// What is to be looked at after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Virtual servers.
    pub servers: BTreeSet<ServerKey>,
    /// Addresses of Services.
    pub vips: BTreeSet<IpAddr>,
    /// Elements of sets.
    pub elements: BTreeSet<Element>,
}

/// All that the kernel is to have.
#[derive(Debug)]
pub struct Desired {
    scheduler: Arc<str>,
    node: NodeAddresses,
    preferred: BTreeSet<IpAddr>,
    plans: BTreeMap<PortName, PortPlan>,
    shares: BTreeMap<PortName, Share>,
    servers: BTreeMap<ServerKey, (PortName, Server)>,
    vips: BTreeMap<IpAddr, usize>,
    elements: BTreeMap<Element, usize>,
    source_ranges: BTreeMap<ServerKey, Vec<IpNet>>,
}

impl Desired {
    /// Of no Services, with the name of a scheduler.
    pub fn new(scheduler: &str) -> Self {
        Self {
            scheduler: scheduler.into(),
            node: NodeAddresses::default(),
            preferred: BTreeSet::new(),
            plans: BTreeMap::new(),
            shares: BTreeMap::new(),
            servers: BTreeMap::new(),
            vips: BTreeMap::new(),
            elements: BTreeMap::new(),
            source_ranges: BTreeMap::new(),
        }
    }

    /// Takes changes in and says what they touch.
    pub fn change(
        &mut self,
        ports: &BTreeMap<PortName, Option<PortPlan>>,
        node: Option<&NodeAddresses>,
    ) -> Touched {
        let mut changed: BTreeSet<PortName> = ports.keys().cloned().collect();
        for (name, plan) in ports {
            match plan {
                Some(plan) => self.plans.insert(name.clone(), plan.clone()),
                None => self.plans.remove(name),
            };
        }
        if let Some(node) = node.filter(|node| **node != self.node) {
            self.node = node.clone();
            let depends = |plan: &PortPlan| {
                let mut frontends = plan.frontends.iter();
                frontends.any(|f| f.kind != FrontendKind::ClusterIp)
            };
            let depend = self.plans.iter().filter(|(_, plan)| depends(plan));
            changed.extend(depend.map(|(name, _)| name.clone()));
        }
        let mut touched = Touched::default();
        // What goes from one port to another must go first.
        for name in &changed {
            if let Some(share) = self.shares.remove(name) {
                self.take_away(name, share, &mut touched);
            }
        }
        for name in changed {
            if let Some(plan) = self.plans.get(&name) {
                let share = self.share(&name, plan);
                self.add(&name, &share, &mut touched);
                self.shares.insert(name, share);
            }
        }
        touched
    }

    /// Says which addresses packets by the default routes get: they are the node's to whoever lists source ranges.
    pub fn set_preferred(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.preferred.clone_from(addresses);
    }

    /// The virtual server that is wanted under a key.
    pub fn server(&self, key: &ServerKey) -> Option<&Server> {
        self.servers.get(key).map(|(_, server)| server)
    }

    /// Whose virtual server it is.
    pub fn owner(&self, key: &ServerKey) -> Option<&PortName> {
        self.servers.get(key).map(|(owner, _)| owner)
    }

    /// Whether the node is to have this address of a Service.
    pub fn has_vip(&self, address: IpAddr) -> bool {
        self.vips.contains_key(&address)
    }

    /// Whether a set is to have this element.
    pub fn has_element(&self, element: &Element) -> bool {
        self.elements.contains_key(element)
    }

    /// All elements of sets.
    pub fn elements(&self) -> BTreeSet<Element> {
        self.elements.keys().cloned().collect()
    }

    /// Who may use which places. Where the node's own address may, so may the place's: a process of the node that asks it
    /// has it as its source.
    pub fn source_ranges(&self) -> BTreeMap<ServerKey, Vec<IpNet>> {
        let ranges = self.source_ranges.iter();
        ranges
            .map(|(key, ranges)| {
                let mut ranges = ranges.clone();
                let lets_in = |own: &IpAddr| ranges.iter().any(|range| range.contains(own));
                if self.preferred.iter().any(lets_in) {
                    ranges.push(key.address.into());
                }
                (*key, ranges)
            })
            .collect()
    }

    /// The plans, as they were taken in.
    pub const fn plans(&self) -> &BTreeMap<PortName, PortPlan> {
        &self.plans
    }

    /// Service ports where clients inside the cluster get the endpoints of this node alone, though there are others: a
    /// virtual server has one set for all clients.
    pub fn narrowed(&self) -> usize {
        let is_narrowed = |plan: &&PortPlan| {
            plan.external_local && !plan.local.is_empty() && plan.local != plan.cluster
        };
        self.plans.values().filter(is_narrowed).count()
    }

    fn take_away(&mut self, name: &PortName, share: Share, touched: &mut Touched) {
        for (key, _) in share.servers {
            if self.owner(&key) == Some(name) {
                self.servers.remove(&key);
            }
            touched.servers.insert(key);
        }
        for address in share.vips {
            uncount(&mut self.vips, &address);
            touched.vips.insert(address);
        }
        for element in share.elements {
            uncount(&mut self.elements, &element);
            touched.elements.insert(element);
        }
        for (key, _) in share.source_ranges {
            self.source_ranges.remove(&key);
        }
    }

    fn add(&mut self, name: &PortName, share: &Share, touched: &mut Touched) {
        for (key, server) in &share.servers {
            self.servers.insert(*key, (name.clone(), server.clone()));
            touched.servers.insert(*key);
        }
        for address in &share.vips {
            *self.vips.entry(*address).or_default() += 1;
            touched.vips.insert(*address);
        }
        for element in &share.elements {
            *self.elements.entry(element.clone()).or_default() += 1;
            touched.elements.insert(element.clone());
        }
        self.source_ranges
            .extend(share.source_ranges.iter().cloned());
    }

    fn share(&self, name: &PortName, plan: &PortPlan) -> Share {
        let mut share = Share::default();
        let reachable = plan.cluster.iter().chain(&plan.local);
        let here = reachable.filter(|backend| backend.local);
        share.elements.extend(here.map(|backend| {
            let at = SocketAddr::new(backend.address, backend.port);
            Element::hairpin(at, name.protocol)
        }));
        for frontend in &plan.frontends {
            for address in self.addresses(name.family, frontend) {
                let key = ServerKey {
                    protocol: name.protocol,
                    address,
                    port: frontend.port,
                };
                self.serve(&mut share, plan, frontend.kind, key);
            }
        }
        share
    }

    /// The node's addresses for a NodePort: IPVS cannot serve the loopback ones, since nothing leaves with them.
    fn addresses(&self, family: Family, frontend: &Frontend) -> Vec<IpAddr> {
        if frontend.kind != FrontendKind::NodePort {
            return vec![frontend.address];
        }
        let here = self.node.node_ports.iter().copied();
        here.filter(|address| Family::of(*address) == family && !address.is_loopback())
            .collect()
    }

    fn serve(&self, share: &mut Share, plan: &PortPlan, kind: FrontendKind, key: ServerKey) {
        // What the node has anyway keeps what listens there.
        if kind != FrontendKind::NodePort && !self.node.all.contains(&key.address) {
            share.vips.insert(key.address);
        }
        let mut put = |set| share.elements.insert(Element::place(set, &key));
        let (backends, from_outside) = backends(plan, kind);
        if backends.is_empty() {
            let drops = kind == FrontendKind::ClusterIp && plan.lacks_local().0;
            put(if drops { Set::Dropped } else { Set::Rejected });
            return;
        }
        put(Set::Served);
        if !from_outside {
            put(Set::DroppedOutside);
        }
        match kind {
            FrontendKind::ClusterIp => put(Set::ClusterIps),
            _ if !plan.external_local => put(Set::Masqueraded),
            _ => false,
        };
        if kind == FrontendKind::LoadBalancer && !plan.source_ranges.is_empty() {
            share.source_ranges.push((key, plan.source_ranges.clone()));
        }
        let terms = Terms {
            scheduler: Arc::clone(&self.scheduler),
            flags: if &*self.scheduler == "mh" {
                OURS | WITH_PORT
            } else {
                OURS
            },
            persistence: plan.affinity_timeout,
        };
        let destinations: BTreeSet<SocketAddr> = backends
            .iter()
            .map(|backend| SocketAddr::new(backend.address, backend.port))
            .collect();
        let server = Server {
            terms,
            destinations: destinations.into_iter().collect(),
        };
        share.servers.push((key, server));
    }
}

/// The backends of a way to a service port, and whether clients outside the cluster may use them.
///
/// A virtual server has one set of them. Where the policy is Local, that is the local one, and the cluster's where there
/// is none here, for clients inside the cluster only (kubernetes/kubernetes#97081).
fn backends(plan: &PortPlan, kind: FrontendKind) -> (&[Backend], bool) {
    let prefers_local = match kind {
        FrontendKind::ClusterIp if plan.internal_local => return (&plan.local, true),
        FrontendKind::ClusterIp => plan.dns,
        _ => plan.external_local,
    };
    if prefers_local && !plan.local.is_empty() {
        return (&plan.local, true);
    }
    let outside = kind == FrontendKind::ClusterIp || !plan.external_local;
    (&plan.cluster, outside)
}

fn uncount<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
