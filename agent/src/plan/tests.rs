mod live;
mod model;
mod sctp;
mod ways;

use std::collections::BTreeMap;

use rstest::rstest;

use super::*;
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, Event, Hints, Node, Object, Service, ServiceKind,
    ServicePort,
};

/// An endpoint in words: `10.1.0.1 here unready serving terminating zone=a node=n` (serving follows ready).
fn endpoint(words: &str) -> Endpoint {
    let mut words = words.split(' ');
    let mut endpoint = Endpoint {
        addresses: words.next().unwrap().parse::<IpAddr>().unwrap().into(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: Some("there".into()),
        hints: None,
        pod: None,
    };
    let (mut zones, mut nodes) = (Vec::new(), Vec::new());
    for word in words {
        match word.split_once('=') {
            Some(("zone", zone)) => zones.push(zone.into()),
            Some(("node", node)) => nodes.push(node.into()),
            None if word == "here" => endpoint.node = Some("here".into()),
            None if word == "unready" => (endpoint.ready, endpoint.serving) = (false, false),
            None if word == "serving" => endpoint.serving = true,
            None if word == "terminating" => (endpoint.ready, endpoint.terminating) = (false, true),
            _ => panic!("what is {word}?"),
        }
    }
    endpoint.hints = Hints::of(zones, nodes);
    endpoint
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("a", name)
}

fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol,
        port,
        node_port: 0,
    }
}

fn service(addresses: &[&str]) -> Service {
    Service {
        name: name("x"),
        created: 0,
        kind: ServiceKind::ClusterIp(addresses.iter().map(|a| a.parse().unwrap()).collect()),
        ports: vec![port("", Protocol::Tcp, 80)],
        ways_in: Default::default(),
        internal_local: false,
        external_local: false,
        affinity_timeout: None,
        proxied: true,
        labels: Default::default(),
    }
}

fn slice(number: usize, port: (&str, Protocol, u16), endpoints: &[&str]) -> EndpointSlice {
    let endpoints: Vec<_> = endpoints.iter().map(|words| endpoint(words)).collect();
    EndpointSlice {
        name: name(&format!("x-{number}")),
        service: Some("x".into()),
        family: endpoints
            .first()
            .map_or(Family::V4, |e| Family::of(e.addresses[0])),
        ports: vec![EndpointPort {
            name: port.0.into(),
            protocol: port.1,
            port: port.2,
        }],
        endpoints,
        proxied: true,
        triggered: None,
        labels: Default::default(),
    }
}

const HTTP: (&str, Protocol, u16) = ("", Protocol::Tcp, 8080);

fn config() -> PlanConfig {
    PlanConfig {
        node: "here".into(),
        dns: vec!["10.96.0.10".parse().unwrap()],
    }
}

fn registry(service: Service, slices: impl IntoIterator<Item = EndpointSlice>) -> Registry {
    let mut registry = Registry::default();
    let node = Node {
        name: ObjectName::new("", "here"),
        labels: BTreeMap::from([(endpoints::ZONE_LABEL.to_owned(), "z".to_owned())]),
        addresses: Vec::new(),
        leaving: false,
    };
    let objects = slices.into_iter().map(Object::from);
    for object in objects.chain([Object::from(service), Object::Node(node)]) {
        registry.apply(Event::Apply(object, Vec::new()));
    }
    registry
}

fn plans(
    service: Service,
    slices: impl IntoIterator<Item = EndpointSlice>,
) -> Vec<(PortName, PortPlan)> {
    plan(&registry(service, slices), &config(), &name("x"))
}

fn one(mut plans: Vec<(PortName, PortPlan)>) -> PortPlan {
    assert_eq!(plans.len(), 1, "{plans:?}");
    plans.remove(0).1
}

fn last_bytes(set: &[Backend]) -> Vec<u8> {
    let last = |backend: &Backend| match backend.address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    set.iter().map(last).collect()
}

#[rstest]
#[case::all_ready_ones(&["10.1.0.2", "10.1.0.1 here"], &[1, 2], &[1])]
#[case::not_those_that_are_not_ready(&["10.1.0.1", "10.1.0.2 here unready"], &[1], &[])]
#[case::terminating_ones_only_where_none_is_ready(&["10.1.0.1", "10.1.0.2 terminating"], &[1], &[])]
#[case::both_fall_back(&["10.1.0.1 here terminating", "10.1.0.2 terminating"], &[1, 2], &[1])]
#[case::only_the_local_set_falls_back(&["10.1.0.1 here terminating", "10.1.0.2"], &[2], &[1])]
#[case::only_the_cluster_set_falls_back(&["10.1.0.1 here unready", "10.1.0.2 terminating"], &[2], &[])]
#[case::terminating_without_serving_is_no_fallback(&["10.1.0.1 here terminating unready"], &[], &[])]
#[case::serving_without_terminating_is_no_fallback(&["10.1.0.1 here unready serving"], &[], &[])]
#[case::nothing(&[], &[], &[])]
fn sets(#[case] endpoints: &[&str], #[case] cluster: &[u8], #[case] local: &[u8]) {
    let mut service = service(&["10.96.0.1"]);
    service.internal_local = true;
    service.external_local = true;
    service.ports[0].node_port = 30_000;
    let plan = one(plans(service, [slice(1, HTTP, endpoints)]));
    assert_eq!(last_bytes(&plan.cluster), cluster);
    assert_eq!(last_bytes(&plan.local), local);
    assert!(plan.internal_local && plan.external_local);
}

#[rstest]
#[case::zone(&["10.1.0.1 zone=z", "10.1.0.2 zone=y"], &[1])]
#[case::several_zones(&["10.1.0.1 zone=y zone=z", "10.1.0.2 zone=y"], &[1])]
#[case::no_hint_for_our_zone(&["10.1.0.1 zone=x", "10.1.0.2 zone=y"], &[1, 2])]
#[case::one_ready_endpoint_without_hint(&["10.1.0.1 zone=z", "10.1.0.2 zone=y", "10.1.0.3"], &[1, 2, 3])]
#[case::endpoints_that_are_not_ready_do_not_count(&["10.1.0.1 zone=z", "10.1.0.2 zone=y", "10.1.0.3 unready"], &[1])]
#[case::nor_does_their_hint(&["10.1.0.1 unready zone=z", "10.1.0.2 zone=y"], &[2])]
#[case::node_before_zone(&["10.1.0.1 zone=z node=there", "10.1.0.2 zone=z node=here"], &[2])]
#[case::zone_where_no_node_hint_is_ours(&["10.1.0.1 zone=z node=there", "10.1.0.2 zone=y node=other"], &[1])]
#[case::node_hints_must_be_complete_too(&["10.1.0.1 zone=z node=here", "10.1.0.2 zone=z"], &[1, 2])]
#[case::the_terminating_fallback_ignores_hints(&["10.1.0.1 terminating zone=z", "10.1.0.2 terminating zone=y"], &[1, 2])]
fn hints(#[case] endpoints: &[&str], #[case] cluster: &[u8]) {
    let plan = one(plans(service(&["10.96.0.1"]), [slice(1, HTTP, endpoints)]));
    assert_eq!(last_bytes(&plan.cluster), cluster);
    assert_eq!(plan.local, []);
}

#[test]
fn hints_do_not_narrow_the_local_set() {
    let mut service = service(&["10.96.0.1"]);
    service.internal_local = true;
    let endpoints = ["10.1.0.1 here zone=y", "10.1.0.2 zone=z"];
    let plan = one(plans(service, [slice(1, HTTP, &endpoints)]));
    assert_eq!(last_bytes(&plan.local), [1]);
    assert_eq!(
        plan.cluster,
        [],
        "nobody uses it without an external way in"
    );
}

#[test]
fn a_changed_zone_label_changes_the_set() {
    let endpoints = ["10.1.0.1 zone=z", "10.1.0.2 zone=y"];
    let mut registry = registry(service(&["10.96.0.1"]), [slice(1, HTTP, &endpoints)]);
    let mut node = registry.node().unwrap().clone();
    for (zone, expected) in [("y", vec![2]), ("", vec![1, 2])] {
        node.labels
            .insert(endpoints::ZONE_LABEL.to_owned(), zone.to_owned());
        registry.apply(Event::Apply(Object::Node(node.clone()), Vec::new()));
        let plan = one(plan(&registry, &config(), &name("x")));
        assert_eq!(last_bytes(&plan.cluster), expected);
    }
}

#[rstest]
#[case::ready_anywhere("10.1.0.1", true)]
#[case::terminating_anywhere("10.1.0.1 terminating", true)]
#[case::not_ready("10.1.0.1 here unready", false)]
#[case::serving_alone("10.1.0.1 here unready serving", false)]
fn an_empty_set_drops_where_some_endpoint_could_serve(#[case] words: &str, #[case] any: bool) {
    let mut service = service(&["10.96.0.1"]);
    service.internal_local = true;
    let plan = one(plans(service, [slice(1, HTTP, &[words])]));
    assert_eq!(plan.any_endpoints, any);
    assert_eq!(plan.local, []);
}

#[test]
fn every_endpoint_is_a_member_with_its_state() {
    let endpoints = [
        "10.1.0.4 unready",
        "10.1.0.3 terminating",
        "10.1.0.2 here",
        "10.1.0.1",
    ];
    let plan = one(plans(service(&["10.96.0.1"]), [slice(1, HTTP, &endpoints)]));
    let members: Vec<_> = plan
        .members
        .iter()
        .map(|m| (m.port, m.serving, m.chosen, m.local))
        .collect();
    assert_eq!(
        members,
        [
            (8080, true, true, false),
            (8080, true, true, true),
            (8080, true, false, false),
            (8080, false, false, false)
        ]
    );
}

#[rstest]
#[case::local_wins(&["10.1.0.1", "10.1.0.1 here"], true, true)]
#[case::whichever_comes_first(&["10.1.0.1 here", "10.1.0.1"], true, true)]
#[case::local_wins_even_unready(&["10.1.0.1", "10.1.0.1 here unready"], true, false)]
#[case::then_ready_wins(&["10.1.0.1 unready", "10.1.0.1", "10.1.0.1 terminating"], false, true)]
fn an_endpoint_in_several_slices_is_one(
    #[case] endpoints: &[&str],
    #[case] local: bool,
    #[case] ready: bool,
) {
    let slices = endpoints
        .iter()
        .enumerate()
        .map(|(number, words)| slice(number, HTTP, &[words]));
    let plan = one(plans(service(&["10.96.0.1"]), slices));
    assert_eq!(plan.members.len(), 1);
    assert_eq!(
        (plan.members[0].local, plan.members[0].chosen),
        (local, ready)
    );
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let mut service = service(&["10.96.0.1"]);
    service.ports = vec![
        port("dns", Protocol::Udp, 53),
        port("dns-tcp", Protocol::Tcp, 53),
        port("metrics", Protocol::Tcp, 9153),
    ];
    let slices = [
        slice(1, ("dns", Protocol::Udp, 5353), &["10.1.0.1"]),
        slice(2, ("dns-tcp", Protocol::Tcp, 5354), &["10.1.0.2"]),
        slice(3, ("dns", Protocol::Tcp, 5355), &["10.1.0.3"]),
        slice(4, ("dns", Protocol::Udp, 5356), &["10.1.0.1"]),
    ];
    let plans = plans(service, slices);
    let found: Vec<_> = plans
        .iter()
        .map(|(name, plan)| {
            let ports: Vec<_> = plan.cluster.iter().map(|b| b.port).collect();
            (&*name.port, plan.frontends[0].port, ports)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("dns", 53, vec![5353, 5356]),
            ("dns-tcp", 53, vec![5354]),
            ("metrics", 9153, vec![])
        ]
    );
}

#[test]
fn families_are_planned_apart() {
    let slices = [
        slice(1, HTTP, &["10.1.0.1", "10.1.0.2"]),
        slice(2, HTTP, &["fd00::3"]),
    ];
    let plans = plans(service(&["fd00:96::1", "10.96.0.1"]), slices.clone());
    let sets: Vec<_> = plans
        .iter()
        .map(|(name, plan)| (name.family, last_bytes(&plan.cluster)))
        .collect();
    assert_eq!(
        sets,
        [(Family::V4, vec![1, 2]), (Family::V6, vec![3])],
        "in the order of families, whatever the order of addresses"
    );
    assert_eq!(
        super::tests::plans(service(&["10.96.0.1"]), slices).len(),
        1
    );
}

#[rstest]
#[case::label(|s: &mut Service| s.proxied = false)]
#[case::headless(|s: &mut Service| s.kind = ServiceKind::Headless)]
#[case::external_name(|s: &mut Service| s.kind = ServiceKind::ExternalName("example.org".to_owned()))]
#[case::no_address(|s: &mut Service| s.kind = ServiceKind::ClusterIp(Vec::new()))]
#[case::no_port(|s: &mut Service| s.ports.clear())]
fn some_services_are_not_ours_to_proxy(#[case] change: fn(&mut Service)) {
    let mut service = service(&["10.96.0.1"]);
    change(&mut service);
    assert_eq!(plans(service, [slice(1, HTTP, &["10.1.0.1"])]), []);
}

#[test]
fn a_slice_that_another_proxy_claims_is_left_out() {
    let mut foreign = slice(1, HTTP, &["10.1.0.1"]);
    foreign.proxied = false;
    let plan = one(plans(
        service(&["10.96.0.1"]),
        [foreign, slice(2, HTTP, &["10.1.0.2"])],
    ));
    assert_eq!(last_bytes(&plan.cluster), [2]);
}

#[test]
fn an_address_that_belongs_to_another_service_is_no_frontend() {
    let mut older = service(&["10.96.0.1"]);
    older.name = name("w");
    let mut registry = registry(service(&["10.96.0.1", "fd00:96::1"]), []);
    registry.apply(Event::Apply(Object::from(older), Vec::new()));
    let plans = plan(&registry, &config(), &name("x"));
    assert_eq!(plans.len(), 1);
    assert_eq!(plans[0].0.family, Family::V6);
}

#[test]
fn the_cluster_dns_is_told_by_its_address_and_has_a_local_set() {
    let endpoints = ["10.1.0.1 here", "10.1.0.2"];
    let dns = one(plans(
        service(&["10.96.0.10"]),
        [slice(1, HTTP, &endpoints)],
    ));
    assert!(dns.dns);
    assert_eq!(last_bytes(&dns.cluster), [1, 2]);
    assert_eq!(last_bytes(&dns.local), [1]);
    assert!(!dns.internal_local);
}

#[test]
fn an_external_policy_counts_only_with_a_way_in() {
    let mut service = service(&["10.96.0.1"]);
    service.external_local = true;
    service.affinity_timeout = Some(10_800);
    let plan = one(plans(service, [slice(1, HTTP, &["10.1.0.1 here"])]));
    assert!(!plan.external_local);
    assert_eq!(plan.local, []);
    assert_eq!(plan.affinity_timeout, Some(10_800));
}
