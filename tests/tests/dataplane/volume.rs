use std::{net::Ipv4Addr, time::Instant};

use signpost::{
    dataplane::{
        Dataplane as _,
        ebpf::{tables::Members, view::View},
    },
    model::{
        Endpoint, EndpointPort, EndpointSlice, Event, Object, Service, ServiceKind, ServicePort,
    },
    registry::Registry,
    zone::{Zone, ZoneConfig},
};
use signpost_common::layout::map;

use super::*;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn cluster() -> Update {
    let mut update = Update {
        serial: 7,
        ..Update::default()
    };
    for number in 0..SERVICES {
        let service = format!("service-{number}");
        let virtual_address = std::net::Ipv4Addr::from(0x0a60_0000 + number);
        let first = 0x0a80_0000 + number * ENDPOINTS;
        let backends = (first..first + ENDPOINTS).map(|a| std::net::Ipv4Addr::from(a).into());
        let plan = plan(virtual_address.into(), backends);
        update.ports.insert(port(&service), Some(plan));
        let entry = NameEntry {
            service: true,
            complete: true,
            a: vec![virtual_address],
            ttl: 30,
            ..NameEntry::default()
        };
        let name = name(&format!("{service}.prod.svc.cluster.local"));
        update.names.insert(name, Some(entry));
    }
    update
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn ten_thousand_services_are_written_in_batches_and_found_again() {
    let instance = Instance::new();
    let update = cluster();
    let mut dataplane = instance.open();
    let start = Instant::now();
    let report = dataplane.apply(&update).unwrap();
    let cold = start.elapsed();
    assert_eq!(report.refused, []);
    let expected = SERVICES * (2 * ENDPOINTS + 3 + 3) + 1;
    assert_eq!(report.written, expected as usize);
    drop(dataplane);

    let mut dataplane = instance.open();
    let start = Instant::now();
    let report = dataplane.apply(&update).unwrap();
    let warm = start.elapsed();
    assert_eq!((report.written, report.deleted), (0, 0));

    let view = View::open(instance.root()).unwrap();
    let members = view.all::<Members>().unwrap();
    assert_eq!(members.len(), (SERVICES * ENDPOINTS) as usize);
    let fill = view.fill().unwrap();
    let memory: u64 = fill.iter().map(|f| f.memory).sum();
    let slots = fill.iter().find(|f| f.map == map::SLOTS).unwrap();
    assert_eq!(slots.elements, (SERVICES * ENDPOINTS) as usize);
    let start = Instant::now();
    let report = dataplane.apply(&Update::default()).unwrap();
    let nothing = start.elapsed();
    assert_eq!((report.written, report.deleted), (0, 0));
    println!(
        "cold {cold:?}, again {warm:?}, nothing {nothing:?}, memory of the maps {} KiB",
        memory / 1024
    );
}

/// Bytes of the maps of names and answers with as many names as below.
const NAMES: u64 = 64 << 20;
const HEADLESS: u32 = 250;

/// Ten thousand Services with a named port each, and headless ones of twenty endpoints with hostnames.
fn zone_of_many() -> BTreeMap<Name, Option<NameEntry>> {
    let mut registry = Registry::default();
    let mut apply = |object| registry.apply(Event::Apply(object, vec![]));
    apply(Object::Namespace(ObjectName::new("", "prod").into()));
    let port = ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: 0,
    };
    let service = |name: &str, kind| {
        Object::from(Service {
            name: ObjectName::new("prod", name),
            created: 0,
            kind,
            ports: vec![port.clone()],
            ways_in: Default::default(),
            internal_local: false,
            external_local: false,
            affinity_timeout: None,
            proxied: true,
            labels: Default::default(),
        })
    };
    for number in 0..SERVICES {
        let address = Ipv4Addr::from(0x0a60_0000 + number).into();
        let kind = ServiceKind::ClusterIp(vec![address]);
        apply(service(&format!("service-{number}"), kind));
    }
    for number in 0..HEADLESS {
        let name = format!("set-{number}");
        apply(service(&name, ServiceKind::Headless));
        let endpoint = |n| Endpoint {
            addresses: IpAddr::from(Ipv4Addr::from(0x0a80_0000 + number * 20 + n)).into(),
            ready: true,
            serving: true,
            terminating: false,
            hostname: Some(format!("{name}-{n}").into()),
            node: None,
            hints: None,
            pod: None,
        };
        apply(Object::from(EndpointSlice {
            name: ObjectName::new("prod", format!("{name}-a")),
            service: Some(name.as_str().into()),
            family: Family::V4,
            ports: vec![EndpointPort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 8080,
            }],
            endpoints: (0..20).map(endpoint).collect(),
            proxied: true,
            triggered: None,
            labels: Default::default(),
        }));
    }
    let mut zone = Zone::new(ZoneConfig {
        domain: name("cluster.local"),
        ttl: 30,
        dns: vec![[10, 96, 0, 10].into()],
        options: Default::default(),
    });
    let changes = registry.take_changes();
    zone.update(&registry, &changes, 7)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn many_names_take_no_more_memory_than_planned() {
    let instance = Instance::new();
    let start = Instant::now();
    let update = Update {
        names: zone_of_many(),
        serial: 7,
        ..Update::default()
    };
    let planned = start.elapsed();
    let mut dataplane = instance.open();
    let report = dataplane.apply(&update).unwrap();
    assert_eq!(report.refused, []);
    let view = View::open(instance.root()).unwrap();
    let fill = view.fill().unwrap();
    let of_names = [
        map::NAMES,
        map::NAME_TEXTS,
        map::ANSWERS_SMALL,
        map::ANSWERS_LARGE,
    ];
    let of_names: Vec<_> = fill.iter().filter(|f| of_names.contains(&f.map)).collect();
    for map in &of_names {
        let (name, elements, memory) = (map.map, map.elements, map.memory >> 10);
        println!("{name}: {elements} elements, {memory} KiB");
    }
    let memory: u64 = of_names.iter().map(|f| f.memory).sum();
    println!("planned in {planned:?}, {} KiB", memory >> 10);
    assert!(of_names[0].elements > 2 * (SERVICES + 20 * HEADLESS) as usize);
    assert!(memory <= NAMES, "{memory} bytes");
}
