//! The differ against maps that are a model: every single write is looked at, and any write can be the last one of an
//! agent.

mod memory;
mod model;
mod names;
mod ports;
mod random;
mod stopped;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::Differ;
use crate::{
    dataplane::{Handover, Report, Update, ebpf::EbpfConfig},
    model::{Family, ObjectName, Protocol},
    plan::{Backend, Frontend, FrontendKind, Member, PortName, PortPlan},
    zone::{Name, NameEntry},
};
use model::Model;

/// Longer than any program runs, in nanoseconds.
const LATER: u64 = 2_000_000_000;

fn open(maps: &mut Model) -> Differ {
    Differ::open(config(), maps).unwrap()
}

fn config() -> EbpfConfig {
    EbpfConfig {
        pin_root: "/nowhere".into(),
        domain: name("cluster.local"),
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

/// Applies an update that the maps have room for.
fn apply(differ: &mut Differ, maps: &mut Model, update: &Update) -> Report {
    let report = differ.apply(maps, update).unwrap();
    assert_eq!(report.refused, []);
    report
}

/// Two sweeps, the second one after all that was retired may go.
fn sweep(differ: &mut Differ, maps: &mut Model) {
    differ.sweep(maps, 1).unwrap();
    differ.sweep(maps, 1 + LATER).unwrap();
}

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn port(service: &str) -> PortName {
    PortName {
        service: ObjectName::new("prod", service),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A plan with one frontend, and backends `10.1.0.N:8080` in the cluster set; those below 100 are local.
fn plan(frontend: &str, backends: &[u8]) -> PortPlan {
    let at = |last: &u8| address(&format!("10.1.0.{last}"));
    let backend = |last: &u8| Backend {
        address: at(last),
        port: 8080,
        local: *last < 100,
    };
    let member = |last: &u8| Member {
        address: at(last),
        port: 8080,
        serving: true,
        chosen: true,
        cluster: true,
        local: *last < 100,
    };
    PortPlan {
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: address(frontend),
            port: 80,
        }],
        cluster: backends.iter().map(backend).collect(),
        local: backends.iter().map(backend).filter(|b| b.local).collect(),
        members: backends.iter().map(member).collect(),
        internal_local: false,
        external_local: false,
        any_endpoints: !backends.is_empty(),
        source_ranges: Vec::new(),
        affinity_timeout: None,
        dns: false,
    }
}

/// An entry of a Service with A records.
fn entry(addresses: &[&str]) -> NameEntry {
    NameEntry {
        service: true,
        complete: true,
        a: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ttl: 30,
        ..NameEntry::default()
    }
}

fn ports<const N: usize>(ports: [(PortName, Option<PortPlan>); N]) -> Update {
    Update {
        ports: BTreeMap::from(ports),
        serial: 7,
        ..Update::default()
    }
}

fn names<const N: usize>(names: [(&str, Option<NameEntry>); N]) -> Update {
    let names = names.map(|(text, entry)| (name(text), entry));
    Update {
        names: BTreeMap::from(names),
        serial: 7,
        ..Update::default()
    }
}
