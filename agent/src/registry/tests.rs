use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::Family;

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
        internal_local: false,
        external_local: false,
        affinity_timeout: None,
        proxied: true,
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
    }
}

fn node(zone: &str) -> Node {
    Node {
        name: ObjectName::new("", "one"),
        labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
        addresses: Vec::new(),
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
    registry.apply(Event::Apply(Object::Service(service), Vec::new()));
}

fn apply_slice(registry: &mut Registry, slice: EndpointSlice) {
    registry.apply(Event::Apply(Object::EndpointSlice(slice), Vec::new()));
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
            Object::Namespace(ObjectName::new("", "a")),
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
        Object::Namespace(ObjectName::new("", "a")),
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
    let object = || Object::Service(service("a/x", 1, &[]));
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
                    .filter(|s| super::addresses(s).contains(&address))
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
