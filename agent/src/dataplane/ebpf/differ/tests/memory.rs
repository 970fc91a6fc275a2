//! What the agent keeps in memory of a large cluster, and what it takes while it takes it in: every allocation is counted,
//! so that neither creeps up.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io,
    net::Ipv4Addr,
};

use super::*;
use crate::{
    agent::desired::{Desired, Given},
    dataplane::ebpf::tables::{NotWritten, Table, Tables},
    feed::{Feed, Hello},
    model::{
        Endpoint, EndpointPort, EndpointSlice, Event, Kind, Object, Service, ServiceKind,
        ServicePort,
    },
    registry::Registry,
};

const SERVICES: u32 = 2_000;
const ENDPOINTS: u32 = 10;

/// Bytes that may be kept of a Service with its EndpointSlice of ten endpoints, each on a node with a name of its own.
/// Ten thousand of these are to fit into 100 MB, whatever else the process has.
const KEPT: usize = 6_500;
/// The same while everything is taken in at once.
const AT_ONCE: usize = 10_000;

/// Counts what each thread has allocated and not freed.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is the system's allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // What other threads have allocated may be freed here, so the count goes round.
        let live = LIVE.get().wrapping_add(layout.size());
        LIVE.set(live);
        MOST.set(MOST.get().max(live));
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Maps that take everything and have nothing: what is in them is not this process's memory.
struct Kernel;

impl Tables for Kernel {
    fn put<T: Table>(&mut self, _: &[(T::Key, T::Value)]) -> Vec<NotWritten> {
        Vec::new()
    }

    fn delete<T: Table>(&mut self, _: &[T::Key]) -> io::Result<()> {
        Ok(())
    }

    fn for_each<T: Table>(&self, _: &mut dyn FnMut(&T::Key, &T::Value)) -> io::Result<()> {
        Ok(())
    }

    fn get<T: Table>(&self, _: &T::Key) -> io::Result<Option<T::Value>> {
        Ok(None)
    }
}

/// As a source says it: what two objects have in common is there twice.
fn objects(number: u32) -> [Object; 2] {
    let (namespace, name) = (
        format!("team-{}", number % 50),
        format!("service-{number:05}"),
    );
    let service = Service {
        name: ObjectName::new(&*namespace, &*name),
        created: 0,
        kind: ServiceKind::ClusterIp(vec![Ipv4Addr::from_bits(0x0a60_0001 + number).into()]),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
        }],
        ways_in: Default::default(),
        internal_local: false,
        external_local: false,
        affinity_timeout: None,
        proxied: true,
        labels: Default::default(),
    };
    let endpoint = |n: u32| Endpoint {
        addresses: IpAddr::from(Ipv4Addr::from_bits(0x0a80_0000 + number * ENDPOINTS + n)).into(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: Some(format!("node-{n:03}").into()),
        hints: None,
        pod: None,
    };
    let slice = EndpointSlice {
        name: ObjectName::new(&*namespace, format!("{name}-abcde")),
        service: Some(name.into()),
        family: Family::V4,
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
        proxied: true,
        triggered: None,
        labels: Default::default(),
    };
    [service.into(), slice.into()]
}

#[test]
fn services_and_their_endpoints_take_no_more_memory_than_planned() {
    let dns = vec![address("10.96.0.10")];
    let domain = name("cluster.local");
    let hello = Hello {
        domain: domain.clone(),
        ttl: 30,
        dns: dns.clone(),
        options: None,
        takes_answers: true,
        watched: false,
    };
    let before = LIVE.get();
    MOST.set(before);
    let feed = Feed::new(hello, None);
    let mut registry = Registry::default();
    let mut desired = Desired::new(Given::new("here".into(), domain, dns));
    let mut differ = Differ::open(config(), &mut Kernel).unwrap();
    let mut hear = |event: Event| {
        feed.event(&event);
        registry.apply(event);
    };
    Kind::ALL.into_iter().map(Event::Begin).for_each(&mut hear);
    for number in 0..50 {
        let namespace = Object::Namespace(ObjectName::new("", format!("team-{number}")).into());
        hear(Event::Apply(namespace, Vec::new()));
    }
    let all = (0..SERVICES).flat_map(objects);
    all.for_each(|object| hear(Event::Apply(object, Vec::new())));
    Kind::ALL.into_iter().map(Event::End).for_each(&mut hear);
    let of_one = |bytes: usize| (bytes - before) / SERVICES as usize;
    let known = of_one(LIVE.get());

    let update = desired.update(&mut registry, 1).unwrap();
    let planned = of_one(LIVE.get());
    assert_eq!(differ.apply(&mut Kernel, &update).unwrap().refused, []);
    assert_eq!(update.ports.len(), SERVICES as usize);
    drop(update);
    let (kept, most) = (of_one(LIVE.get()), of_one(MOST.get()));
    println!("bytes of a Service: {known} known, {planned} planned, {kept} kept, {most} at most");
    assert!(kept <= KEPT, "{kept} bytes of a Service are kept");
    assert!(most <= AT_ONCE, "{most} bytes of a Service at once");
    drop((feed, registry, desired, differ));
    assert!(of_one(LIVE.get().max(before)) < 10, "it is all given back");
}
