//! A cluster of generated objects, on a node whose maps are pinned in a folder of its own.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use signpost::{
    agent::desired::{Desired, Given},
    dataplane::{
        Dataplane as _, Handover,
        ebpf::{
            EbpfConfig, EbpfDataplane,
            tables::{
                Addresses, Clocks, Configs, Frontends, LargeAnswers, Members, Names, Slots,
                SmallAnswers,
            },
            view::View,
        },
    },
    model::{
        Endpoint, EndpointPort, EndpointSlice, Event, Kind, Object, ObjectName, Protocol, Service,
        ServiceKind, ServicePort,
    },
    registry::Registry,
    zone::{Name, NameEntry, Options, Zone},
};

use crate::{
    machine::{Done, Kernel, Machine, Program},
    packets::Family,
    world::World,
};

/// The cluster's DNS address and port.
pub(crate) const DNS: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53);

/// A folder on the BPF file system.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("signpost-test-{}-{number}", std::process::id());
        Self(PathBuf::from("/sys/fs/bpf").join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A cluster, and this node of it.
pub(crate) struct Cluster {
    registry: Registry,
    desired: Desired,
    entries: BTreeMap<Name, NameEntry>,
    dataplane: EbpfDataplane,
    kernel: Kernel,
    // Removed last.
    folder: Folder,
}

impl Cluster {
    /// With nothing but the DNS Service.
    pub(crate) fn new() -> Self {
        let folder = Folder::new();
        let domain = Name::from_text("cluster.local").expect("a name");
        let dataplane = EbpfDataplane::open(config(folder.0.clone(), domain.clone()))
            .expect("the dataplane opens; this needs root and a BPF file system on /sys/fs/bpf");
        let mut cluster = Self {
            registry: Registry::default(),
            desired: Desired::new(Given::new("node".into(), domain, vec![DNS.0])),
            entries: BTreeMap::new(),
            kernel: Kernel::over(&folder.0),
            dataplane,
            folder,
        };
        cluster.apply(server(), 1);
        cluster
    }

    /// Carries events out, all the way into the maps.
    pub(crate) fn apply(&mut self, events: Vec<Event>, serial: u32) {
        for event in events {
            self.registry.apply(event);
        }
        if let Some(update) = self.desired.update(&mut self.registry, serial) {
            let report = self.dataplane.apply(&update).expect("an update");
            assert_eq!(report.refused, []);
            for (name, entry) in update.names {
                match entry {
                    Some(entry) => self.entries.insert(name, entry),
                    None => self.entries.remove(&name),
                };
            }
        }
        self.dataplane.in_sync().expect("the clock is written");
    }

    /// Says something else of the zone, with the next events.
    pub(crate) fn configure(&mut self, ttl: u32, options: Options) {
        self.desired.configure(ttl, Arc::new(options));
    }

    pub(crate) fn zone(&self) -> &Zone {
        self.desired.zone()
    }

    /// What the kernel was told of the zone.
    pub(crate) const fn entries(&self) -> &BTreeMap<Name, NameEntry> {
        &self.entries
    }

    /// Runs `from_pod` in the kernel, over the pinned maps.
    pub(crate) fn pod_sends(&mut self, packet: &[u8]) -> Done {
        self.kernel.run(Program::FromPod, packet)
    }

    /// The host's build, over what is in the pinned maps.
    pub(crate) fn host(&self) -> Machine {
        let view = View::open(&self.folder.0).expect("the pinned maps open");
        let mut world = World::default();
        world.addresses.extend(view.all::<Addresses>().unwrap());
        world.frontends.extend(view.all::<Frontends>().unwrap());
        world.slots.extend(view.all::<Slots>().unwrap());
        world.members.extend(view.all::<Members>().unwrap());
        world.names.extend(view.all::<Names>().unwrap());
        let small = view.all::<SmallAnswers>().unwrap();
        world.answers_small.extend(small);
        let large = view.all::<LargeAnswers>().unwrap();
        world.answers_large.extend(large);
        world.config = view.get::<Configs>(&0).unwrap();
        world.in_sync_at = view.get::<Clocks>(&0).unwrap().unwrap_or_default();
        world.now = world.in_sync_at;
        Machine::host(world)
    }
}

/// An agent whose maps are pinned in a folder.
pub(crate) fn config(pin_root: PathBuf, domain: Name) -> EbpfConfig {
    EbpfConfig {
        pin_root,
        domain,
        ttl: 30,
        negative_grace: Duration::from_secs(300),
        handover: Handover::default(),
        dns: true,
        cluster_ranges: Vec::new(),
        masquerade_all: false,
        fast_path: false,
        count_services: false,
        cgroup_root: None,
    }
}

/// The DNS Service.
pub(crate) fn server() -> Vec<Event> {
    let kind = ServiceKind::ClusterIp(vec![DNS.0]);
    let pod = (Family::V4.far_pod(53), 53).into();
    vec![
        namespace("kube-system"),
        service("kube-system", "kube-dns", kind, Protocol::Udp, 53),
        slice("kube-system", "kube-dns", 0, Protocol::Udp, &[(pod, None)]),
    ]
}

/// Few labels, so that they meet: a namespace called `svc`, a Service called like a hostname, and so on.
pub(crate) const LABELS: [&str; 8] = ["dev", "prod", "svc", "pod", "ent", "web", "web-0", "dns"];

/// A namespace with one Service of one endpoint.
pub(crate) fn example() -> Vec<Event> {
    let kind = ServiceKind::ClusterIp(vec![Family::V4.service(20)]);
    let pod = (Family::V4.far_pod(1), 9090).into();
    vec![
        namespace("dev"),
        service("dev", "ent", kind, Protocol::Tcp, 8080),
        slice("dev", "ent", 0, Protocol::Tcp, &[(pod, None)]),
    ]
}

/// What no event changes: a Service, aliases that lead to it over each other, and a headless one.
pub(crate) fn lasting() -> Vec<Event> {
    let kind = ServiceKind::ClusterIp(vec![Family::V4.service(70)]);
    let alias = |to: &str| ServiceKind::ExternalName(format!("{to}.lasting.svc.cluster.local"));
    let pods: Vec<_> = (1..6)
        .map(|n| (SocketAddr::new(Family::V4.far_pod(n), 9090), None))
        .collect();
    let of = |name, kind| service("lasting", name, kind, Protocol::Tcp, 8080);
    vec![
        namespace("lasting"),
        of("own", kind),
        of("a", alias("own")),
        of("b", alias("a")),
        of("c", alias("b")),
        of("d", alias("c")),
        of("e", alias("d")),
        of("self", alias("self")),
        of("set", ServiceKind::Headless),
        slice("lasting", "set", 0, Protocol::Tcp, &pods),
    ]
}

/// Some things that happen to a cluster between two updates.
pub(crate) fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 1..12)
}

fn event() -> impl Strategy<Value = Event> {
    let label = || prop::sample::select(&LABELS[..]);
    let kind = prop_oneof![
        3 => (20..60_u8).prop_map(|n| ServiceKind::ClusterIp(vec![Family::V4.service(n)])),
        1 => (20..60_u8).prop_map(|n| ServiceKind::ClusterIp(vec![Family::V6.service(n)])),
        1 => (20..60_u8).prop_map(|n| {
            ServiceKind::ClusterIp(vec![Family::V4.service(n), Family::V6.service(n)])
        }),
        3 => Just(ServiceKind::Headless),
        2 => (label(), label()).prop_map(|(service, namespace)| {
            ServiceKind::ExternalName(format!("{service}.{namespace}.svc.cluster.local"))
        }),
        1 => Just(ServiceKind::ExternalName("example.com".to_owned())),
    ];
    let hostname = prop::option::of(prop::sample::select(&LABELS[4..]));
    let endpoints = |family: Family| {
        let hostname = hostname.clone();
        prop::collection::vec(
            (0..40_u8, hostname).prop_map(move |(n, hostname)| {
                (SocketAddr::new(family.far_pod(n), 9090), hostname)
            }),
            0..50,
        )
    };
    prop_oneof![
        4 => (label(), label(), kind).prop_map(|(namespace, name, kind)| {
            service(namespace, name, kind, Protocol::Tcp, 8080)
        }),
        3 => (label(), label(), endpoints(Family::V4)).prop_map(|(namespace, name, endpoints)| {
            slice(namespace, name, 0, Protocol::Tcp, &endpoints)
        }),
        1 => (label(), label(), endpoints(Family::V6)).prop_map(|(namespace, name, endpoints)| {
            slice(namespace, name, 1, Protocol::Tcp, &endpoints)
        }),
        3 => label().prop_map(namespace),
        1 => label().prop_map(|name| Event::Delete(Kind::Namespace, ObjectName::new("", name))),
        1 => (label(), label()).prop_map(|(namespace, name)| {
            Event::Delete(Kind::Service, ObjectName::new(namespace, name))
        }),
        1 => (label(), label(), 0..2_u8).prop_map(|(namespace, name, n)| {
            Event::Delete(Kind::EndpointSlice, ObjectName::new(namespace, format!("{name}-{n}")))
        }),
    ]
}

fn namespace(name: &str) -> Event {
    Event::Apply(Object::Namespace(ObjectName::new("", name).into()), vec![])
}

fn service(namespace: &str, name: &str, kind: ServiceKind, protocol: Protocol, port: u16) -> Event {
    let service = Service {
        name: ObjectName::new(namespace, name),
        created: 0,
        kind,
        ports: vec![ServicePort {
            name: "main".into(),
            protocol,
            port,
            node_port: 0,
        }],
        ways_in: Default::default(),
        internal_local: false,
        external_local: false,
        affinity_timeout: None,
        proxied: true,
        labels: Default::default(),
    };
    Event::Apply(Object::from(service), vec![])
}

fn slice(
    namespace: &str,
    name: &str,
    number: u8,
    protocol: Protocol,
    endpoints: &[(SocketAddr, Option<&str>)],
) -> Event {
    let endpoint = |(socket, hostname): &(SocketAddr, Option<&str>)| Endpoint {
        addresses: socket.ip().into(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: hostname.map(Into::into),
        node: Some("other".into()),
        hints: None,
        pod: None,
    };
    let slice = EndpointSlice {
        name: ObjectName::new(namespace, format!("{name}-{number}")),
        service: Some(name.into()),
        family: if number == 0 {
            signpost::model::Family::V4
        } else {
            signpost::model::Family::V6
        },
        ports: vec![EndpointPort {
            name: "main".into(),
            protocol,
            port: endpoints.first().map_or(9090, |(socket, _)| socket.port()),
        }],
        endpoints: endpoints.iter().map(endpoint).collect(),
        proxied: true,
        triggered: None,
        labels: Default::default(),
    };
    Event::Apply(Object::from(slice), vec![])
}
