use std::{collections::BTreeMap, net::IpAddr};

use proptest::prelude::*;

use super::*;
use crate::model::{Family, Protocol, ServiceKind, ServicePort};

fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName::new(namespace, name)
}

fn service(of: &str, created: i64, addresses: &[&str]) -> Service {
    Service {
        name: name(of),
        created,
        kind: ServiceKind::ClusterIp(addresses.iter().map(|a| a.parse().unwrap()).collect()),
        ports: Vec::new(),
        ways_in: Default::default(),
        internal_local: false,
        external_local: false,
        affinity_timeout: None,
        proxied: true,
        labels: Default::default(),
    }
}

fn slice(of: &str, service: Option<&str>) -> EndpointSlice {
    EndpointSlice {
        name: name(of),
        service: service.map(Arc::from),
        family: Family::V4,
        ports: Vec::new(),
        endpoints: Vec::new(),
        proxied: true,
        triggered: None,
        labels: Default::default(),
    }
}

fn node(zone: &str) -> Node {
    Node {
        name: ObjectName::new("", "one"),
        labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
        addresses: Vec::new(),
        leaving: false,
    }
}

fn problem(of: &str) -> Problem {
    Problem {
        kind: "Service".to_owned(),
        object: name(of),
        field: "spec.ports[0].port".to_owned(),
        reason: "must be between 1 and 65535".to_owned(),
    }
}

fn apply_service(registry: &mut Registry, service: Service) {
    registry.apply(Event::Apply(Object::from(service), Vec::new()));
}

fn apply_slice(registry: &mut Registry, slice: EndpointSlice) {
    registry.apply(Event::Apply(Object::from(slice), Vec::new()));
}

fn delete(registry: &mut Registry, of: &str) {
    registry.apply(Event::Delete(Kind::Service, name(of)));
}

fn changed(registry: &mut Registry) -> Vec<String> {
    let changes = registry.take_changes();
    changes.services.iter().map(ToString::to_string).collect()
}

fn owner(registry: &Registry, address: &str) -> Option<String> {
    let owner = registry.owner(address.parse().unwrap());
    owner.map(ToString::to_string)
}

fn settled() -> Registry {
    let mut registry = Registry::default();
    registry.apply(Event::Begin(Kind::Service));
    registry.apply(Event::End(Kind::Service));
    registry
}

#[test]
fn an_object_that_does_not_change_is_no_change() {
    let mut registry = Registry::default();
    for _ in 0..2 {
        apply_service(&mut registry, service("a/x", 1, &["10.0.0.1"]));
        apply_slice(&mut registry, slice("a/x-1", Some("x")));
        registry.apply(Event::Apply(
            Object::Namespace(ObjectName::new("", "a").into()),
            vec![],
        ));
        registry.apply(Event::Apply(Object::Node(node("b")), vec![]));
        let _ = registry.take_changes();
    }
    apply_service(&mut registry, service("a/x", 1, &["10.0.0.1"]));
    apply_slice(&mut registry, slice("a/x-1", Some("x")));
    registry.apply(Event::Apply(Object::Node(node("b")), vec![]));
    assert!(registry.take_changes().is_empty());

    registry.apply(Event::Apply(Object::Node(node("c")), vec![]));
    assert!(registry.take_changes().node);
}

#[test]
fn a_slice_changes_its_service_even_one_that_does_not_exist() {
    let mut registry = Registry::default();
    apply_slice(&mut registry, slice("a/s", Some("x")));
    assert_eq!(changed(&mut registry), ["a/x"]);
    let mut more = slice("a/s", Some("x"));
    more.triggered = Some(1);
    apply_slice(&mut registry, more);
    assert_eq!(changed(&mut registry), ["a/x"]);
    registry.apply(Event::Delete(Kind::EndpointSlice, name("a/s")));
    assert_eq!(changed(&mut registry), ["a/x"]);
    assert_eq!(registry.slices(&name("a/x")).count(), 0);
}

#[test]
fn a_slice_that_moves_changes_both_services() {
    let mut registry = Registry::default();
    apply_slice(&mut registry, slice("a/s", Some("x")));
    let _ = registry.take_changes();
    apply_slice(&mut registry, slice("a/s", Some("y")));
    assert_eq!(changed(&mut registry), ["a/x", "a/y"]);
    assert_eq!(registry.slices(&name("a/x")).count(), 0);
    assert_eq!(registry.slices(&name("a/y")).count(), 1);
    apply_slice(&mut registry, slice("a/s", None));
    assert_eq!(changed(&mut registry), ["a/y"]);
}

#[test]
fn slices_come_by_name_and_from_their_own_namespace() {
    let mut registry = Registry::default();
    for of in ["a/2", "a/1", "b/0", "a/3"] {
        apply_slice(&mut registry, slice(of, Some("x")));
    }
    let service = name("a/x");
    let names: Vec<_> = registry.slices(&service).map(|s| &*s.name.name).collect();
    assert_eq!(names, ["1", "2", "3"]);
}

#[test]
fn what_a_full_list_does_not_name_is_gone_at_its_end_and_not_before() {
    let mut registry = settled();
    apply_service(&mut registry, service("a/x", 1, &["10.0.0.1"]));
    apply_service(&mut registry, service("a/y", 1, &["10.0.0.2"]));
    let _ = registry.take_changes();
    registry.apply(Event::Begin(Kind::Service));
    apply_service(&mut registry, service("a/y", 1, &["10.0.0.2"]));
    assert!(registry.service(&name("a/x")).is_some());
    assert!(registry.take_changes().is_empty());
    registry.apply(Event::End(Kind::Service));
    assert!(registry.service(&name("a/x")).is_none());
    assert_eq!(changed(&mut registry), ["a/x"]);
    assert_eq!(owner(&registry, "10.0.0.1"), None);
}

#[test]
fn a_list_that_begins_anew_forgets_what_its_first_try_named() {
    let mut registry = Registry::default();
    registry.apply(Event::Begin(Kind::EndpointSlice));
    apply_slice(&mut registry, slice("a/s", Some("x")));
    registry.apply(Event::Begin(Kind::EndpointSlice));
    registry.apply(Event::End(Kind::EndpointSlice));
    assert_eq!(registry.slices(&name("a/x")).count(), 0);
}

#[test]
fn every_kind_is_relisted() {
    let mut registry = Registry::default();
    registry.apply(Event::Apply(
        Object::Namespace(ObjectName::new("", "a").into()),
        vec![],
    ));
    registry.apply(Event::Apply(Object::Node(node("b")), vec![]));
    let _ = registry.take_changes();
    for kind in Kind::ALL {
        assert!(!registry.is_complete(&[kind]));
        registry.apply(Event::Begin(kind));
        registry.apply(Event::End(kind));
    }
    assert!(registry.is_complete(&Kind::ALL));
    let changes = registry.take_changes();
    assert!(changes.node && changes.namespaces.contains("a"));
    assert!(registry.node().is_none() && !registry.has_namespace("a"));
}

#[test]
fn in_the_first_list_the_oldest_claim_owns_the_address() {
    let mut registry = Registry::default();
    registry.apply(Event::Begin(Kind::Service));
    apply_service(&mut registry, service("a/young", 9, &["10.0.0.1"]));
    apply_service(&mut registry, service("a/old", 2, &["10.0.0.1"]));
    apply_service(&mut registry, service("a/alike", 2, &["10.0.0.1"]));
    registry.apply(Event::End(Kind::Service));
    assert_eq!(owner(&registry, "10.0.0.1").as_deref(), Some("a/alike"));
    let problems = registry.problems();
    let losers: Vec<_> = problems.iter().map(|p| &*p.object.name).collect();
    assert_eq!(losers, ["old", "young"]);
    assert!(problems.iter().all(|p| p.reason.contains("a/alike")));
}

#[test]
fn later_an_owner_is_not_displaced() {
    let mut registry = settled();
    apply_service(&mut registry, service("a/y", 5, &["10.0.0.1"]));
    let _ = registry.take_changes();
    apply_service(&mut registry, service("a/x", 1, &["10.0.0.1"]));
    assert_eq!(changed(&mut registry), ["a/x"]);
    assert_eq!(owner(&registry, "10.0.0.1").as_deref(), Some("a/y"));
}

#[test]
fn the_next_claim_wins_when_the_owner_goes_or_moves() {
    let mut registry = settled();
    apply_service(&mut registry, service("a/y", 5, &["10.0.0.1"]));
    apply_service(&mut registry, service("a/x", 7, &["10.0.0.1"]));
    let _ = registry.take_changes();
    delete(&mut registry, "a/y");
    assert_eq!(changed(&mut registry), ["a/x", "a/y"]);
    assert_eq!(owner(&registry, "10.0.0.1").as_deref(), Some("a/x"));
    assert!(registry.problems().is_empty());

    apply_service(&mut registry, service("a/z", 9, &["10.0.0.1"]));
    let _ = registry.take_changes();
    apply_service(&mut registry, service("a/x", 7, &["10.0.0.2"]));
    assert_eq!(changed(&mut registry), ["a/x", "a/z"]);
    assert_eq!(owner(&registry, "10.0.0.1").as_deref(), Some("a/z"));
}

#[test]
fn a_service_made_anew_under_its_name_keeps_its_address() {
    let mut registry = settled();
    apply_service(&mut registry, service("a/y", 5, &["10.0.0.1"]));
    apply_service(&mut registry, service("a/x", 6, &["10.0.0.1"]));
    apply_service(&mut registry, service("a/y", 9, &["10.0.0.1"]));
    assert_eq!(owner(&registry, "10.0.0.1").as_deref(), Some("a/y"));
    delete(&mut registry, "a/y");
    delete(&mut registry, "a/x");
    assert_eq!(owner(&registry, "10.0.0.1"), None);
}

#[test]
fn problems_last_as_long_as_what_they_are_about() {
    let mut registry = Registry::default();
    let object = || Object::from(service("a/x", 1, &[]));
    registry.apply(Event::Apply(object(), vec![problem("a/x")]));
    assert_eq!(registry.problems().len(), 1);
    registry.apply(Event::Apply(object(), vec![]));
    assert!(registry.problems().is_empty());
    registry.apply(Event::Apply(object(), vec![problem("a/x")]));
    delete(&mut registry, "a/x");
    assert!(registry.problems().is_empty());

    let bad = |problems| Event::Problems {
        kind: "Service".to_owned(),
        object: name("a/bad"),
        problems,
    };
    registry.apply(bad(vec![problem("a/bad")]));
    registry.apply(Event::Begin(Kind::Service));
    registry.apply(bad(vec![problem("a/bad")]));
    registry.apply(Event::End(Kind::Service));
    assert_eq!(registry.problems().len(), 1);
    registry.apply(Event::Begin(Kind::Service));
    registry.apply(Event::End(Kind::Service));
    assert!(registry.problems().is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Apply(usize, i64, Vec<u8>),
    Delete(usize),
    Relist(Vec<(usize, i64, Vec<u8>)>),
}

fn step() -> impl Strategy<Value = Step> {
    let claim = || (0..4usize, 0..3i64, prop::collection::vec(0..3u8, 0..3));
    prop_oneof![
        claim().prop_map(|(s, c, a)| Step::Apply(s, c, a)),
        (0..4usize).prop_map(Step::Delete),
        prop::collection::vec(claim(), 0..4).prop_map(Step::Relist),
    ]
}

fn numbered(service_number: usize, created: i64, addresses: &[u8]) -> Service {
    let mut addresses: Vec<_> = addresses.iter().map(|a| format!("10.0.0.{a}")).collect();
    addresses.sort();
    addresses.dedup();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    service(&format!("a/{service_number}"), created, &addresses)
}

proptest! {
    /// Whatever happens: each address that is claimed has one owner, one of the claimants; an owner that still
    /// claims keeps it after the first list; every change of owner is told.
    #[test]
    fn each_claimed_address_has_one_owner(steps in prop::collection::vec(step(), 1..30)) {
        let mut registry = settled();
        let mut owners: BTreeMap<IpAddr, Option<ObjectName>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Apply(s, c, a) => apply_service(&mut registry, numbered(s, c, &a)),
                Step::Delete(s) => delete(&mut registry, &format!("a/{s}")),
                Step::Relist(services) => {
                    registry.apply(Event::Begin(Kind::Service));
                    for (s, c, a) in services {
                        apply_service(&mut registry, numbered(s, c, &a));
                    }
                    registry.apply(Event::End(Kind::Service));
                }
            }
            let changes = registry.take_changes();
            for last in 0..3u8 {
                let address = IpAddr::from([10, 0, 0, last]);
                let claimants: Vec<_> = registry
                    .services()
                    .filter(|s| matches!(&s.kind, ServiceKind::ClusterIp(a) if a.contains(&address)))
                    .map(|s| s.name.clone())
                    .collect();
                let owner = registry.owner(address).cloned();
                prop_assert_eq!(owner.is_some(), !claimants.is_empty());
                prop_assert!(owner.iter().all(|o| claimants.contains(o)));
                let before = owners.insert(address, owner.clone()).flatten();
                if before != owner {
                    for name in before.iter().chain(&owner) {
                        prop_assert!(changes.services.contains(name));
                    }
                }
                let vain = registry
                    .problems()
                    .iter()
                    .filter(|p| p.reason.starts_with(&format!("{address} ")))
                    .count();
                prop_assert_eq!(vain, claimants.len().saturating_sub(1));
            }
        }
    }
}

/// A Service with a port, a NodePort and an external IP.
fn open_service(of: &str, created: i64, cluster_ip: &str, external: &str) -> Service {
    let mut service = service(of, created, &[cluster_ip]);
    service.ports = vec![ServicePort {
        name: "".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: 30_080,
    }];
    service.ways_in.external_ips = vec![external.parse().unwrap()];
    service
}

fn at(external: &str) -> Claim {
    Claim::External(external.parse().unwrap(), 80, Protocol::Tcp)
}

#[test]
fn an_external_address_or_node_port_that_two_services_claim_is_the_older_one_s() {
    let mut registry = settled();
    apply_service(
        &mut registry,
        open_service("a/old", 1, "10.0.0.1", "192.0.2.1"),
    );
    apply_service(
        &mut registry,
        open_service("a/new", 2, "10.0.0.2", "192.0.2.1"),
    );
    let _ = changed(&mut registry);
    let node_port = Claim::NodePort(30_080, Protocol::Tcp);
    for claim in [at("192.0.2.1"), node_port] {
        assert!(registry.may_use(&name("a/old"), claim));
        assert!(!registry.may_use(&name("a/new"), claim));
    }
    let problems = registry.problems();
    let fields: Vec<_> = problems
        .iter()
        .map(|p| (&*p.object.name, &*p.field))
        .collect();
    assert_eq!(
        fields,
        [("new", "spec.externalIPs"), ("new", "spec.ports.nodePort")]
    );

    delete(&mut registry, "a/old");
    assert_eq!(changed(&mut registry), ["a/new", "a/old"]);
    assert!(registry.may_use(&name("a/new"), node_port));
    assert_eq!(registry.problems().len(), 0);
}

#[test]
fn another_port_of_an_external_address_may_be_another_service_s() {
    let mut registry = settled();
    apply_service(
        &mut registry,
        open_service("a/one", 1, "10.0.0.1", "192.0.2.1"),
    );
    let mut other = open_service("a/two", 2, "10.0.0.2", "192.0.2.1");
    (other.ports[0].port, other.ports[0].node_port) = (81, 0);
    apply_service(&mut registry, other);
    let claim = Claim::External("192.0.2.1".parse().unwrap(), 81, Protocol::Tcp);
    assert!(registry.may_use(&name("a/two"), claim));
    assert_eq!(registry.problems().len(), 0);
}

#[test]
fn an_external_address_never_takes_the_port_of_a_cluster_ip() {
    let mut registry = settled();
    apply_service(
        &mut registry,
        open_service("a/thief", 1, "10.0.0.9", "10.0.0.1"),
    );
    assert!(registry.may_use(&name("a/thief"), at("10.0.0.1")));
    let _ = changed(&mut registry);

    let mut victim = open_service("a/victim", 2, "10.0.0.1", "192.0.2.1");
    victim.ports[0].node_port = 0;
    apply_service(&mut registry, victim.clone());
    assert_eq!(changed(&mut registry), ["a/thief", "a/victim"]);
    assert!(!registry.may_use(&name("a/thief"), at("10.0.0.1")));
    let problems = registry.problems();
    assert_eq!(problems.first().unwrap().object, name("a/thief"));
    assert_eq!(problems.len(), 1);

    victim.ports[0].port = 81;
    apply_service(&mut registry, victim);
    assert_eq!(changed(&mut registry), ["a/thief", "a/victim"]);
    assert!(registry.may_use(&name("a/thief"), at("10.0.0.1")));
    assert_eq!(registry.problems().len(), 0);
}

#[test]
fn a_service_of_another_proxy_claims_no_way_in() {
    let mut registry = settled();
    let mut foreign = open_service("a/foreign", 1, "10.0.0.1", "192.0.2.1");
    foreign.proxied = false;
    apply_service(&mut registry, foreign.clone());
    apply_service(
        &mut registry,
        open_service("a/own", 2, "10.0.0.2", "192.0.2.1"),
    );
    assert!(registry.may_use(&name("a/own"), at("192.0.2.1")));
    foreign.proxied = true;
    apply_service(&mut registry, foreign);
    assert!(
        registry.may_use(&name("a/own"), at("192.0.2.1")),
        "it was first"
    );
}
