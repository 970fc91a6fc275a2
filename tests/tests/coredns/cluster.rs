//! Generated clusters.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rand::{Rng, seq::IndexedRandom as _};

use crate::objects::{self, Endpoint, Objects, Port, Service, Slice, To};

/// Namespaces that are always there.
pub(crate) const NAMESPACES: [&str; 7] = ["dev", "prod", "com", "svc", "pod", "dns", "n-1"];
/// Namespaces that come and go, with what is in them staying.
pub(crate) const PASSING: [&str; 2] = ["gone", "lost"];

/// Names of Services and of hosts: few, so that they meet.
pub(crate) const NAMES: [&str; 12] = [
    "ent", "web", "github", "com", "svc", "pod", "a", "dns", "ns", "http", "web-0", "cluster",
];

/// Names that ExternalNames lead to, beside chains.
const TARGETS: [&str; 20] = [
    "www.example.com",
    "missing.example.com",
    "ent.dev.svc.cluster.local",
    "web.prod.svc.cluster.local",
    "a.com.svc.cluster.local",
    "none.dev.svc.cluster.local",
    "web-0.web.dev.svc.cluster.local",
    "http.tcp.ent.dev.svc.cluster.local",
    "10-1-2-3.dev.pod.cluster.local",
    "ns.dns.cluster.local",
    "cluster.local",
    "svc.cluster.local",
    "dev.svc.cluster.local",
    "dns-version.cluster.local",
    "1.0.96.10.in-addr.arpa",
    "192.0.2.1",
    "www.example.com.",
    "ent.dev.svc.cluster.local.",
    "ent",
    "x.cluster.local",
];

/// Sets of ports.
const PORTS: [&[Port]; 7] = [
    &[("", 80, "TCP")],
    &[("http", 80, "TCP")],
    &[("http", 80, "TCP"), ("https", 443, "TCP")],
    &[("dns", 53, "UDP"), ("dns-tcp", 53, "TCP")],
    &[("http", 80, "TCP"), ("tcp", 80, "UDP"), ("a", 9, "SCTP")],
    &[("http", 8080, "TCP"), ("other", 8080, "UDP")],
    &[("web-0", 1, "TCP"), ("x", 65_535, "TCP")],
];

/// A cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) services: Vec<Service>,
    pub(crate) slices: Vec<Slice>,
}

impl Cluster {
    /// Generates one; `round` decides which passing namespaces it has.
    pub(crate) fn generate(random: &mut impl Rng, round: usize) -> Self {
        let mut it = Self {
            namespaces: NAMESPACES.map(str::to_owned).into(),
            services: Vec::new(),
            slices: Vec::new(),
        };
        it.namespaces.insert("x".repeat(63));
        if round == 0 {
            it.namespaces.extend(PASSING.map(str::to_owned));
        } else if round == 2 {
            it.namespaces.insert(PASSING[0].to_owned());
        }
        let mut number = 0;
        // What is in a namespace that is gone can be neither made nor changed.
        for namespace in it.namespaces.clone() {
            if PASSING.contains(&namespace.as_str()) {
                continue;
            }
            for name in NAMES {
                if random.random_bool(0.75) {
                    number += 1;
                    it.add(random, &namespace, name, number);
                }
            }
            if random.random_bool(0.5) {
                it.add_slice(random, &namespace, "orphan", &[("http", 80, "TCP")]);
            }
        }
        it.add_passing();
        it.add_chain();
        it.add_large();
        it
    }

    /// The objects that the API server is to have.
    pub(crate) fn objects(&self) -> Objects {
        let namespaces = self.namespaces.iter().map(|name| objects::namespace(name));
        let services = self.services.iter().map(objects::service);
        let slices = self.slices.iter().map(objects::slice);
        namespaces.chain(services).chain(slices).collect()
    }

    /// Every address in it.
    pub(crate) fn addresses(&self) -> BTreeSet<IpAddr> {
        let endpoints = self.slices.iter().flat_map(|slice| &slice.endpoints);
        let own = self.services.iter().flat_map(|service| match &service.to {
            To::Addresses(addresses) => addresses.clone(),
            To::Endpoints | To::Name(_) => Vec::new(),
        });
        endpoints.map(|e| e.address).chain(own).collect()
    }

    fn add(&mut self, random: &mut impl Rng, namespace: &str, name: &str, number: u16) {
        let [high, low] = number.to_be_bytes();
        let v4 = IpAddr::from([10, 96, 100 + high, low]);
        let v6 = IpAddr::from(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x100 + number));
        let to = match random.random_range(0..12) {
            0..=2 => To::Addresses(vec![v4]),
            3 => To::Addresses(vec![v6]),
            4 | 5 => To::Addresses(vec![v4, v6]),
            6..=9 => To::Endpoints,
            _ => To::Name((*TARGETS.choose(random).expect("some")).to_owned()),
        };
        let mut ports = (*PORTS.choose(random).expect("some")).to_vec();
        let kind = match &to {
            To::Addresses(_) => ["ClusterIP", "NodePort", "LoadBalancer"]
                .choose(random)
                .copied()
                .expect("some"),
            To::Endpoints => "ClusterIP",
            To::Name(_) => "ExternalName",
        };
        if to == To::Endpoints && random.random_bool(0.2) {
            ports.clear();
        }
        for _ in 0..random.random_range(0..3) {
            let of_slice = match random.random_range(0..8) {
                0 => *PORTS.choose(random).expect("some"),
                1 => &[],
                _ => &ports,
            };
            let of_slice = of_slice.to_vec();
            self.add_slice(random, namespace, name, &of_slice);
        }
        self.services.push(Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            to,
            kind,
            ports,
        });
    }

    fn add_slice(&mut self, random: &mut impl Rng, namespace: &str, service: &str, ports: &[Port]) {
        let v6 = random.random_bool(0.3);
        // Few addresses, so that Services share them; some of them are ClusterIPs.
        let address = |random: &mut _| -> IpAddr {
            let low = Rng::random_range(random, 1..60_u8);
            if v6 {
                let low = if low == 1 { 0 } else { low };
                Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, low.into()).into()
            } else {
                Ipv4Addr::new(10, if low < 5 { 96 } else { 99 }, 100, low).into()
            }
        };
        let some = |random: &mut _, share: f64| -> Option<bool> {
            let said = Rng::random_bool(random, 0.7);
            said.then(|| Rng::random_bool(random, share))
        };
        let mut endpoints = BTreeMap::new();
        for _ in 0..random.random_range(0..7) {
            let address = address(random);
            let hostname = random
                .random_bool(0.4)
                .then(|| (*NAMES.choose(random).expect("some")).to_owned());
            let (ready, serving, terminating) =
                (some(random, 0.8), some(random, 0.8), some(random, 0.2));
            endpoints.insert(
                address,
                Endpoint {
                    address,
                    hostname,
                    ready,
                    serving,
                    terminating,
                    node: None,
                },
            );
        }
        self.push_slice(namespace, service, ports, endpoints.into_values().collect());
    }

    fn push_slice(
        &mut self,
        namespace: &str,
        service: &str,
        ports: &[Port],
        endpoints: Vec<Endpoint>,
    ) {
        let name = format!("{service}-{}", self.slices.len());
        self.slices.push(Slice {
            namespace: namespace.to_owned(),
            name,
            service: service.to_owned(),
            ports: ports.to_vec(),
            endpoints,
        });
    }

    /// What stays the same in namespaces that go.
    fn add_passing(&mut self) {
        for (number, namespace) in (1..).zip(PASSING) {
            let address = IpAddr::from([10, 96, 99, number]);
            self.services.push(Service {
                namespace: namespace.to_owned(),
                name: "ent".to_owned(),
                to: To::Addresses(vec![address]),
                kind: "ClusterIP",
                ports: PORTS[1].to_vec(),
            });
        }
    }

    /// ExternalNames that lead to each other, and one that leads to itself.
    fn add_chain(&mut self) {
        for link in 0..13 {
            let target = match link {
                0 => "ent.chain-end.svc.cluster.local".to_owned(),
                link => format!("c{}.dev.svc.cluster.local", link - 1),
            };
            self.push_external(&format!("c{link}"), target);
        }
        self.push_external("self", "self.dev.svc.cluster.local".to_owned());
        self.namespaces.insert("chain-end".to_owned());
        self.services.push(Service {
            namespace: "chain-end".to_owned(),
            name: "ent".to_owned(),
            to: To::Addresses(vec![
                IpAddr::from([10, 96, 98, 1]),
                IpAddr::from(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x99)),
            ]),
            kind: "ClusterIP",
            ports: PORTS[2].to_vec(),
        });
    }

    fn push_external(&mut self, name: &str, target: String) {
        self.services.push(Service {
            namespace: "dev".to_owned(),
            name: name.to_owned(),
            to: To::Name(target),
            kind: "ExternalName",
            ports: Vec::new(),
        });
    }

    /// Headless Services whose answers fill a datagram, and more.
    fn add_large(&mut self) {
        for (name, count) in [("twenty", 20), ("forty", 40), ("hundreds", 300)] {
            let endpoint = |n: u16| {
                let [high, low] = n.to_be_bytes();
                let mut endpoint = Endpoint::ready(IpAddr::from([10, 97, high, low]));
                endpoint.hostname = n.is_multiple_of(2).then(|| format!("{name}-{n}"));
                endpoint
            };
            let endpoints: Vec<Endpoint> = (1..=count).map(endpoint).collect();
            for part in endpoints.chunks(100) {
                self.push_slice("dev", name, PORTS[1], part.to_vec());
            }
            self.services.push(Service {
                namespace: "dev".to_owned(),
                name: name.to_owned(),
                to: To::Endpoints,
                kind: "ClusterIP",
                ports: PORTS[1].to_vec(),
            });
        }
    }
}
