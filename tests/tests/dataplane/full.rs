//! Maps of the kernel that are full.

use std::{collections::BTreeSet, net::Ipv4Addr};

use signpost::dataplane::{
    Dataplane as _,
    ebpf::{
        tables::{Addresses, Frontends, Members, Services, Slots},
        view::View,
    },
};
use signpost_common::layout::size;

use super::*;

/// Services beyond those that fit.
const SURPLUS: u32 = 100;

fn service(number: u32) -> (PortName, PortPlan) {
    let at = |first: [u8; 4]| IpAddr::V4(Ipv4Addr::from(u32::from_be_bytes(first) + number));
    let plan = plan(at([10, 64, 0, 0]), std::iter::once(at([10, 128, 0, 0])));
    (port(&format!("service-{number}")), plan)
}

fn update(ports: impl Iterator<Item = (PortName, Option<PortPlan>)>) -> Update {
    Update {
        ports: ports.collect(),
        serial: 7,
        ..Update::default()
    }
}

/// How many elements each map has that a Service is in.
fn elements(instance: &Instance) -> [usize; 5] {
    let view = View::open(instance.root()).unwrap();
    [
        view.all::<Frontends>().unwrap().len(),
        view.all::<Addresses>().unwrap().len(),
        view.all::<Services>().unwrap().len(),
        view.all::<Slots>().unwrap().len(),
        view.all::<Members>().unwrap().len(),
    ]
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn services_that_do_not_fit_are_refused_by_name_until_others_make_room() {
    let instance = Instance::new();
    let mut dataplane = instance.open();
    let full = [size::FRONTENDS as usize; 5];
    let all = (0..size::FRONTENDS + SURPLUS).map(service);
    let report = dataplane
        .apply(&update(all.map(|(name, plan)| (name, Some(plan)))))
        .unwrap();
    let refused: BTreeSet<&str> = report.refused.iter().map(|r| r.object.as_str()).collect();
    assert_eq!(refused.len(), SURPLUS as usize);
    for refusal in &report.refused {
        assert!(refusal.object.contains("prod/service-"), "{refusal:?}");
        assert!(refusal.reason.contains("is full"), "{refusal:?}");
    }
    assert_eq!(elements(&instance), full, "nothing is left of the refused");

    let is_refused = |name: &PortName| {
        let object = name.service.to_string();
        refused
            .iter()
            .any(|text| text.split_whitespace().any(|word| word == object))
    };
    let (refused_ones, served): (Vec<_>, Vec<_>) = (0..size::FRONTENDS + SURPLUS)
        .map(service)
        .partition(|(name, _)| is_refused(name));
    assert_eq!(refused_ones.len(), SURPLUS as usize, "{refused:?}");
    let gone = served.iter().take(SURPLUS as usize);
    dataplane
        .apply(&update(gone.map(|(name, _)| (name.clone(), None))))
        .unwrap();
    dataplane.sweep().unwrap();
    let report = dataplane.apply(&update(std::iter::empty())).unwrap();
    assert_eq!(report.refused, []);
    dataplane.sweep().unwrap();
    assert_eq!(elements(&instance), full);
    let frontends = View::open(instance.root()).unwrap().all::<Frontends>();
    let addresses: BTreeSet<_> = frontends
        .unwrap()
        .iter()
        .map(|(key, _)| key.address)
        .collect();
    for (name, plan) in &refused_ones {
        assert!(
            addresses.contains(&plan.frontends[0].address.into()),
            "{name:?}"
        );
    }
}
