use std::time::Instant;

use signpost::dataplane::{
    Dataplane as _,
    ebpf::{tables::Members, view::View},
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
    println!(
        "cold {cold:?}, again {warm:?}, memory of the maps {} KiB",
        memory / 1024
    );

    let start = Instant::now();
    let report = dataplane.apply(&Update::default()).unwrap();
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "an empty update costs nothing"
    );
    assert_eq!((report.written, report.deleted), (0, 0));
    if !cfg!(debug_assertions) {
        assert!(cold < Duration::from_secs(1), "{cold:?}");
    }
}
