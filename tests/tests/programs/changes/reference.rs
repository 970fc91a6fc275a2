//! What kube-proxy 1.36 (nftables mode) does with a new connection, written down from its rules as naively as possible.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use proptest::prelude::*;
use signpost::model::Protocol;

use super::objects::{Endpoint, FAMILIES, HERE, Objects, Port, Service, WayKind};
use crate::packets::Family;

/// Cookie of the host's network namespace.
pub(crate) const HOST: u64 = 0x1_0000_0007;

/// Numbers of the addresses that this node has.
pub(crate) const OWN: [u8; 3] = [1, 2, 7];

/// How the proxy is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) masquerade_all: bool,
    knows_pods: bool,
}

pub(crate) fn options() -> impl Strategy<Value = Options> {
    (prop::bool::weighted(0.2), any::<bool>()).prop_map(|(masquerade_all, knows_pods)| Options {
        masquerade_all,
        knows_pods,
    })
}

impl Options {
    /// kube-proxy's `clusterCIDR`.
    pub(crate) fn cluster_ranges(self) -> Vec<IpNet> {
        let ranges = ["10.1.0.0/16", "fd01::/32"].map(|text| text.parse().expect("a network"));
        if self.knows_pods {
            ranges.to_vec()
        } else {
            Vec::new()
        }
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    Pod(IpAddr),
    Outside(IpAddr),
    Host,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) client: Client,
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    pub(crate) to: SocketAddr,
}

/// A service port, as kube-proxy counts them.
pub(crate) type PortId = (usize, String, Protocol, bool);

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is nothing to the proxy.
    Untouched,
    Rejected,
    Dropped,
    /// It reaches one of these backends; those on this node are marked.
    Reaches {
        port: PortId,
        backends: BTreeMap<SocketAddr, bool>,
        masqueraded: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ClusterIp,
    NodePort,
    External,
    LoadBalancer,
}

pub(crate) struct Reference<'a> {
    objects: &'a Objects,
    options: Options,
}

impl<'a> Reference<'a> {
    pub(crate) fn new(objects: &'a Objects, options: Options) -> Self {
        Self { objects, options }
    }

    /// Every address and port that leads to a Service.
    pub(crate) fn frontends(&self) -> BTreeSet<(SocketAddr, Protocol, bool)> {
        let mut all = BTreeSet::new();
        for family in FAMILIES {
            for (_, service) in self.served(family) {
                for port in &service.ports {
                    for (_, to) in self.ways(service, port, family) {
                        all.insert((to, port.protocol, family == Family::V6));
                    }
                }
            }
        }
        all
    }

    /// Every service port that there is.
    pub(crate) fn ports(&self) -> BTreeMap<PortId, Option<u32>> {
        let of = |family: Family| {
            self.served(family).flat_map(move |(number, service)| {
                let id = move |port: &Port| (port_id(number, port, family), service.affinity);
                service.ports.iter().map(id)
            })
        };
        FAMILIES.into_iter().flat_map(of).collect()
    }

    /// Whether packets of UDP may stay with an endpoint.
    pub(crate) fn serves(&self, (number, name, protocol, v6): &PortId, at: SocketAddr) -> bool {
        let family = if *v6 { Family::V6 } else { Family::V4 };
        let endpoints = self.endpoints(*number, name, *protocol, family);
        endpoints.get(&at).is_some_and(|e| e.serving != Some(false))
    }

    /// What becomes of a new connection.
    pub(crate) fn fate(&self, look: &Look) -> Fate {
        let served = self.served(look.family);
        let mut found = served.flat_map(|(number, service)| {
            let ports = service.ports.iter().filter(|p| p.protocol == look.protocol);
            ports.flat_map(move |port| {
                let ways = self.ways(service, port, look.family).into_iter();
                let here = ways.filter(|(_, to)| *to == look.to);
                here.map(move |(way, _)| (number, service, port, way))
            })
        });
        match found.next() {
            Some((number, service, port, way)) => self.through(look, number, service, port, way),
            None => self.nobody(look),
        }
    }

    fn through(
        &self,
        look: &Look,
        number: usize,
        service: &Service,
        port: &Port,
        way: Way,
    ) -> Fate {
        if way == Way::LoadBalancer && !self.is_let_in(look, service) {
            return Fate::Dropped;
        }
        let external = way != Way::ClusterIp;
        let from_outside = matches!(look.client, Client::Outside(_));
        let local = if external {
            from_outside && service.external_local
        } else {
            service.internal_local
        };
        let endpoints = self.endpoints(number, &port.name, port.protocol, look.family);
        let backends: BTreeMap<SocketAddr, bool> = if local {
            local_set(&endpoints)
        } else {
            self.cluster_set(&endpoints)
        };
        if backends.is_empty() {
            let uses_local = service.internal_local || service.external_local && external;
            let any = uses_local && endpoints.values().any(|e| is_ready(e) || is_ending(e));
            return if any { Fate::Dropped } else { Fate::Rejected };
        }
        let inside = match look.client {
            Client::Pod(a) | Client::Outside(a) => {
                let ranges = self.options.cluster_ranges();
                ranges.is_empty() || ranges.iter().any(|range| range.contains(&a))
            }
            Client::Host => true,
        };
        let masqueraded = if external {
            from_outside && !service.external_local
        } else {
            self.options.masquerade_all || !inside
        };
        Fate::Reaches {
            port: port_id(number, port, look.family),
            backends,
            masqueraded,
        }
    }

    /// An address and port at which no Service answers.
    fn nobody(&self, look: &Look) -> Fate {
        let is_cluster_ip =
            |service: &Service| look.family.service(20 + service.cluster_ip) == look.to.ip();
        let mut served = self.served(look.family);
        if served.any(|(_, service)| is_cluster_ip(service) && !service.ports.is_empty()) {
            return Fate::Rejected;
        }
        // kube-proxy would drop these: a difference on purpose, see `docs/services.md`.
        let mut foreign = self.objects.services.values().filter(|s| s.other_proxy);
        let is_foreign = foreign.any(|s| {
            s.kind.has_cluster_ip() && s.families.contains(&look.family) && is_cluster_ip(s)
        });
        let ranges =
            ["10.96.0.0/16", "fd96::/64"].map(|text| text.parse::<IpNet>().expect("a network"));
        let in_range = ranges.iter().any(|range| range.contains(&look.to.ip()));
        if self.objects.service_cidr && in_range && !is_foreign {
            Fate::Dropped
        } else {
            Fate::Untouched
        }
    }

    /// The Services that kube-proxy's instance of a family serves.
    fn served(&self, family: Family) -> impl Iterator<Item = (usize, &'a Service)> {
        let all = self.objects.services.iter();
        all.filter(move |(_, service)| {
            service.kind.has_cluster_ip()
                && service.families.contains(&family)
                && !service.other_proxy
        })
        .map(|(number, service)| (*number, service))
    }

    /// The most particular way first.
    fn ways(&self, service: &Service, port: &Port, family: Family) -> Vec<(Way, SocketAddr)> {
        let at = |address: IpAddr| SocketAddr::new(address, port.number);
        let mut ways = vec![(Way::ClusterIp, at(family.service(20 + service.cluster_ip)))];
        let of = |kinds: &[WayKind]| -> Vec<SocketAddr> {
            let ways = service.ways.iter().filter(|way| kinds.contains(&way.kind));
            ways.map(|way| at(way.address(family))).collect()
        };
        let balanced = of(&[WayKind::Vip, WayKind::Unset]);
        ways.extend(balanced.into_iter().map(|to| (Way::LoadBalancer, to)));
        let external = of(&[WayKind::External]);
        ways.extend(external.into_iter().map(|to| (Way::External, to)));
        if let Some(number) = port.node_port {
            ways.push((Way::NodePort, SocketAddr::new(self.primary(family), number)));
        }
        ways
    }

    fn primary(&self, family: Family) -> IpAddr {
        family.node(self.objects.node.as_ref().map_or(1, |node| node.primary))
    }

    fn is_let_in(&self, look: &Look, service: &Service) -> bool {
        let ranges = service.ranges.iter();
        let ranges = ranges.map(|text| text.trim().parse::<IpNet>().expect("a network"));
        let v6 = look.family == Family::V6;
        let ranges: Vec<IpNet> = ranges.filter(|r| r.addr().is_ipv6() == v6).collect();
        let source = match look.client {
            Client::Pod(address) | Client::Outside(address) => Some(address),
            // To an address of its own, a machine comes under that address.
            Client::Host if OWN.iter().any(|n| look.family.node(*n) == look.to.ip()) => {
                Some(look.to.ip())
            }
            // Without a Node object it is not known under which address the node would come.
            Client::Host => {
                let node = self.objects.node.as_ref();
                node.map(|node| look.family.node(node.primary))
            }
        };
        let contain = |source: IpAddr| ranges.iter().any(|range| range.contains(&source));
        ranges.is_empty() || source.is_some_and(contain)
    }

    /// The endpoints of a service port. Of entries of one address, one on this node wins, then one that is ready, then one
    /// that serves (kube-proxy lets chance decide between these), then that of the first slice.
    fn endpoints(
        &self,
        service: usize,
        name: &str,
        protocol: Protocol,
        family: Family,
    ) -> BTreeMap<SocketAddr, &'a Endpoint> {
        let rank = |e: &Endpoint| (e.here, is_ready(e), e.serving != Some(false));
        let mut endpoints: BTreeMap<SocketAddr, &Endpoint> = BTreeMap::new();
        let slices = self.objects.slices.values();
        for slice in
            slices.filter(|s| s.service == Some(service) && s.family == Some(family) && !s.headless)
        {
            let ports = slice.ports.iter();
            for port in ports.filter(|p| p.name == name && p.protocol == protocol) {
                for endpoint in &slice.endpoints {
                    let at = SocketAddr::new(endpoint.address(family), port.number);
                    let known = endpoints.entry(at).or_insert(endpoint);
                    if rank(endpoint) > rank(known) {
                        *known = endpoint;
                    }
                }
            }
        }
        endpoints
    }

    fn cluster_set(
        &self,
        endpoints: &BTreeMap<SocketAddr, &Endpoint>,
    ) -> BTreeMap<SocketAddr, bool> {
        let ready: Vec<(&SocketAddr, &&Endpoint)> =
            endpoints.iter().filter(|(_, e)| is_ready(e)).collect();
        if ready.is_empty() {
            return chosen(endpoints, is_ending);
        }
        let zone = self.objects.node.as_ref().and_then(|node| node.zone);
        let for_node = |e: &Endpoint| e.nodes.contains(&HERE);
        let for_zone = |e: &Endpoint| zone.is_some_and(|zone| e.zones.contains(&zone));
        if ready.iter().all(|(_, e)| !e.nodes.is_empty()) && ready.iter().any(|(_, e)| for_node(e))
        {
            return chosen(endpoints, |e| is_ready(e) && for_node(e));
        }
        if ready.iter().all(|(_, e)| !e.zones.is_empty()) && ready.iter().any(|(_, e)| for_zone(e))
        {
            return chosen(endpoints, |e| is_ready(e) && for_zone(e));
        }
        chosen(endpoints, is_ready)
    }
}

fn port_id(number: usize, port: &Port, family: Family) -> PortId {
    (
        number,
        port.name.clone(),
        port.protocol,
        family == Family::V6,
    )
}

fn local_set(endpoints: &BTreeMap<SocketAddr, &Endpoint>) -> BTreeMap<SocketAddr, bool> {
    let ready = chosen(endpoints, |e| e.here && is_ready(e));
    if ready.is_empty() {
        chosen(endpoints, |e| e.here && is_ending(e))
    } else {
        ready
    }
}

fn chosen(
    endpoints: &BTreeMap<SocketAddr, &Endpoint>,
    is_chosen: impl Fn(&Endpoint) -> bool,
) -> BTreeMap<SocketAddr, bool> {
    let chosen = endpoints.iter().filter(|(_, e)| is_chosen(e));
    chosen.map(|(at, e)| (*at, e.here)).collect()
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.ready != Some(false)
}

fn is_ending(endpoint: &Endpoint) -> bool {
    endpoint.serving != Some(false) && endpoint.terminating == Some(true)
}
