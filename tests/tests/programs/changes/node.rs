//! The agent's way from events to maps: registry, plan, zone and differ.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use signpost::{
    addresses::LocalAddresses,
    agent::desired::{Desired, Given},
    dataplane::{
        Handover,
        ebpf::{EbpfConfig, differ::Differ},
    },
    model::Event,
    registry::Registry,
    zone::Name,
};

use super::{
    objects::{FAMILIES, HERE, Objects},
    reference::{HOST, OWN, Options},
    tables::Maps,
};

/// Longer than any program runs, in nanoseconds.
const LATER: u64 = 2_000_000_000;

pub(crate) struct Node {
    registry: Registry,
    desired: Desired,
    differ: Differ,
    maps: Maps,
}

impl Node {
    /// An agent that finds these maps.
    pub(crate) fn start(mut maps: Maps, options: Options, objects: &Objects) -> Self {
        let domain = Name::from_text("cluster.local").expect("a name");
        let config = EbpfConfig {
            pin_root: "/nowhere".into(),
            domain: domain.clone(),
            ttl: 30,
            negative_grace: Duration::from_secs(300),
            dns: true,
            handover: Handover::default(),
            cluster_ranges: options.cluster_ranges(),
            masquerade_all: options.masquerade_all,
            fast_path: false,
            cgroup_root: None,
            count_services: false,
        };
        let mut differ = Differ::open(config, &mut maps).expect("the differ opens");
        differ.set_host(HOST);
        let mut desired = Desired::new(Given::new(HERE.into(), domain, Vec::new()));
        let preferred = FAMILIES.map(|f| f.node(1));
        let own = FAMILIES.iter().flat_map(|f| OWN.map(|n| f.node(n)));
        let loopback: [IpAddr; 2] = [[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
        desired.set_local(LocalAddresses {
            all: own.chain(loopback).collect(),
            preferred: BTreeSet::from(preferred),
        });
        let mut node = Self {
            registry: Registry::default(),
            desired,
            differ,
            maps,
        };
        node.take_in(objects.listed());
        node.update();
        node
    }

    pub(crate) fn take_in(&mut self, events: Vec<Event>) {
        for event in events {
            self.registry.apply(event);
        }
    }

    /// Carries out what has changed.
    pub(crate) fn update(&mut self) {
        let Some(update) = self.desired.update(&mut self.registry, 7) else {
            return;
        };
        let report = self
            .differ
            .apply(&mut self.maps, &update)
            .expect("an update");
        assert_eq!(report.refused, []);
        assert_eq!(self.desired.faults().count(), 0);
    }

    /// Removes what nothing leads to any more.
    pub(crate) fn sweep(&mut self) {
        for now in [1, 1 + LATER] {
            self.differ.sweep(&mut self.maps, now).expect("a sweep");
        }
    }

    pub(crate) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// What is left of an agent that is gone.
    pub(crate) fn into_maps(self) -> Maps {
        self.maps
    }
}
