use std::net::Ipv4Addr;

use rstest::rstest;

use super::*;
use crate::model::{ObjectName, Protocol};

const CLUSTER_IP: &str = "10.96.0.1";
const NODE: &str = "192.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn backend(last: u8, local: bool) -> Backend {
    Backend {
        address: IpAddr::from([10, 1, 0, last]),
        port: 8080,
        local,
    }
}

fn frontend(kind: FrontendKind, address: &str, port: u16) -> Frontend {
    Frontend {
        kind,
        address: ip(address),
        port,
    }
}

/// With a NodePort, an external IP and a load balancer's, and two backends, the first of them here.
fn plan() -> PortPlan {
    PortPlan {
        frontends: vec![
            frontend(FrontendKind::ClusterIp, CLUSTER_IP, 80),
            frontend(FrontendKind::NodePort, "0.0.0.0", 30_080),
            frontend(FrontendKind::ExternalIp, "198.18.0.1", 80),
            frontend(FrontendKind::LoadBalancer, "198.19.0.1", 80),
        ],
        cluster: vec![backend(1, true), backend(2, false)],
        local: vec![backend(1, true)],
        members: Vec::new(),
        internal_local: false,
        external_local: false,
        any_endpoints: true,
        source_ranges: Vec::new(),
        affinity_timeout: None,
        dns: false,
    }
}

fn name(service: &str) -> PortName {
    PortName {
        service: ObjectName::new("a", service),
        port: "".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

fn node(all: &[&str]) -> NodeAddresses {
    let all: BTreeSet<IpAddr> = all.iter().map(|a| ip(a)).collect();
    NodeAddresses {
        node_ports: all.clone(),
        all,
    }
}

fn desired(plan: PortPlan) -> Desired {
    let mut desired = Desired::new("rr");
    let ports = BTreeMap::from([(name("s"), Some(plan))]);
    desired.change(&ports, Some(&node(&["127.0.0.1", NODE])));
    desired
}

fn key(address: &str, port: u16) -> ServerKey {
    ServerKey {
        protocol: Protocol::Tcp,
        address: ip(address),
        port,
    }
}

/// Last bytes of the backends at a place; `None` where there is no virtual server.
fn at(desired: &Desired, address: &str, port: u16) -> Option<Vec<u8>> {
    let server = desired.server(&key(address, port))?;
    let last = |to: &SocketAddr| match to.ip() {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => unreachable!("they are of IPv4"),
    };
    Some(server.destinations.iter().map(last).collect())
}

fn hairpin(backend: &str) -> Element {
    Element::hairpin(backend.parse().unwrap(), Protocol::Tcp)
}

fn is_in(desired: &Desired, set: Set, address: &str, port: u16) -> bool {
    desired.has_element(&Element::place(set, &key(address, port)))
}

const WAYS: [(&str, u16); 4] = [
    (CLUSTER_IP, 80),
    (NODE, 30_080),
    ("198.18.0.1", 80),
    ("198.19.0.1", 80),
];

#[test]
fn every_way_has_a_virtual_server_and_every_address_but_the_nodes_is_bound() {
    let desired = desired(plan());
    for (address, port) in WAYS {
        assert_eq!(at(&desired, address, port), Some(vec![1, 2]), "{address}");
        assert!(is_in(&desired, Set::Served, address, port));
        assert_eq!(desired.has_vip(ip(address)), address != NODE, "{address}");
    }
    assert_eq!(at(&desired, "127.0.0.1", 30_080), None);
    let from_outside = WAYS.map(|(address, port)| is_in(&desired, Set::Masqueraded, address, port));
    assert_eq!(from_outside, [false, true, true, true]);
    assert!(is_in(&desired, Set::ClusterIps, CLUSTER_IP, 80));
    assert!(desired.has_element(&hairpin("10.1.0.1:8080")));
    assert!(!desired.has_element(&hairpin("10.1.0.2:8080")));
}

#[test]
fn an_address_that_the_node_has_anyway_is_not_bound() {
    let mut desired = desired(plan());
    let touched = desired.change(&BTreeMap::new(), Some(&node(&[NODE, "198.18.0.1"])));
    assert!(!desired.has_vip(ip("198.18.0.1")));
    assert!(touched.vips.contains(&ip("198.18.0.1")));
    assert!(at(&desired, "198.18.0.1", 80).is_some(), "it is served");
    assert!(
        at(&desired, "198.18.0.1", 30_080).is_some(),
        "so are NodePorts"
    );
}

#[rstest]
#[case::somebody_is_here(&[1], &[1, 2], &[1], false)]
#[case::nobody_is_here(&[], &[2], &[2], true)]
fn an_external_policy_local_keeps_sources_and_drops_who_is_outside_where_nobody_is_here(
    #[case] local: &[u8],
    #[case] cluster: &[u8],
    #[case] expected: &[u8],
    #[case] dropped: bool,
) {
    let mut plan = plan();
    plan.external_local = true;
    plan.local = local.iter().map(|last| backend(*last, true)).collect();
    plan.cluster = cluster
        .iter()
        .map(|last| backend(*last, *last == 1))
        .collect();
    let desired = desired(plan);
    for (address, port) in &WAYS[1..] {
        assert_eq!(at(&desired, address, *port).as_deref(), Some(expected));
        assert_eq!(
            is_in(&desired, Set::DroppedOutside, address, *port),
            dropped
        );
        assert!(!is_in(&desired, Set::Masqueraded, address, *port));
    }
    assert_eq!(at(&desired, CLUSTER_IP, 80).as_deref(), Some(cluster));
    assert!(!is_in(&desired, Set::DroppedOutside, CLUSTER_IP, 80));
}

#[test]
fn an_internal_policy_local_drops_where_nobody_is_here() {
    let mut plan = plan();
    plan.internal_local = true;
    assert_eq!(at(&desired(plan.clone()), CLUSTER_IP, 80), Some(vec![1]));
    plan.local.clear();
    let desired = desired(plan);
    assert_eq!(at(&desired, CLUSTER_IP, 80), None);
    assert!(is_in(&desired, Set::Dropped, CLUSTER_IP, 80));
    assert!(!is_in(&desired, Set::Served, CLUSTER_IP, 80));
    assert!(desired.has_vip(ip(CLUSTER_IP)), "so that it can be dropped");
    assert_eq!(at(&desired, NODE, 30_080), Some(vec![1, 2]));
}

#[test]
fn without_endpoints_every_way_is_rejected() {
    let mut plan = plan();
    plan.cluster.clear();
    plan.local.clear();
    plan.any_endpoints = false;
    let desired = desired(plan);
    for (address, port) in WAYS {
        assert_eq!(at(&desired, address, port), None);
        assert!(is_in(&desired, Set::Rejected, address, port), "{address}");
    }
}

#[test]
fn the_dns_service_prefers_the_pod_of_this_node() {
    let mut plan = plan();
    plan.dns = true;
    assert_eq!(at(&desired(plan.clone()), CLUSTER_IP, 80), Some(vec![1]));
    plan.local.clear();
    assert_eq!(at(&desired(plan), CLUSTER_IP, 80), Some(vec![1, 2]));
}

#[test]
fn source_ranges_are_the_load_balancers_only() {
    let mut plan = plan();
    plan.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    let mut desired = desired(plan.clone());
    let ranges: Vec<_> = desired.source_ranges().into_keys().collect();
    assert_eq!(ranges, [key("198.19.0.1", 80)]);
    plan.source_ranges.clear();
    desired.change(&BTreeMap::from([(name("s"), Some(plan))]), None);
    assert!(desired.source_ranges().is_empty());
}

#[test]
fn where_the_nodes_own_address_is_let_in_so_is_the_load_balancers() {
    let mut plan = plan();
    plan.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    let mut desired = desired(plan);
    let let_in = |desired: &Desired| {
        let ranges = desired.source_ranges();
        let ranges = ranges.values().flatten();
        ranges.map(ToString::to_string).collect::<Vec<_>>()
    };
    for (own, expected) in [
        ("192.0.2.1", vec!["203.0.113.0/24"]),
        ("203.0.113.7", vec!["203.0.113.0/24", "198.19.0.1/32"]),
        ("fd00::1", vec!["203.0.113.0/24"]),
    ] {
        desired.set_preferred(&BTreeSet::from([ip(own)]));
        assert_eq!(let_in(&desired), expected, "{own}");
    }
}

#[test]
fn affinity_and_scheduler_are_the_virtual_servers() {
    let mut plan = plan();
    plan.affinity_timeout = Some(10_800);
    let terms = |scheduler| {
        let mut desired = Desired::new(scheduler);
        let ports = BTreeMap::from([(name("s"), Some(plan.clone()))]);
        desired.change(&ports, None);
        desired.server(&key(CLUSTER_IP, 80)).unwrap().terms.clone()
    };
    assert_eq!(terms("rr").persistence, Some(10_800));
    assert_eq!((&*terms("lc").scheduler, terms("lc").flags), ("lc", OURS));
    assert_eq!(terms("mh").flags, OURS | WITH_PORT);
}

#[test]
fn an_address_that_two_ports_share_stays_with_the_last_of_them() {
    let mut desired = Desired::new("rr");
    let mut other = plan();
    other.frontends = vec![frontend(FrontendKind::ClusterIp, CLUSTER_IP, 81)];
    let ports = [(name("s"), Some(plan())), (name("t"), Some(other))];
    desired.change(&ports.into(), None);
    let gone = |name: PortName| BTreeMap::from([(name, None)]);
    desired.change(&gone(name("s")), None);
    assert!(desired.has_vip(ip(CLUSTER_IP)));
    assert!(desired.has_element(&hairpin("10.1.0.1:8080")));
    let touched = desired.change(&gone(name("t")), None);
    assert!(!desired.has_vip(ip(CLUSTER_IP)));
    assert_eq!(touched.servers, [key(CLUSTER_IP, 81)].into());
    assert!(desired.elements().is_empty());
}

#[test]
fn an_address_may_go_from_one_service_to_another_in_one_change() {
    let mut desired = desired(plan());
    let mut other = plan();
    other.cluster = vec![backend(9, false)];
    for names in [["s", "a"], ["a", "z"]] {
        let ports = [
            (name(names[0]), None),
            (name(names[1]), Some(other.clone())),
        ];
        desired.change(&ports.into(), None);
        assert_eq!(at(&desired, CLUSTER_IP, 80), Some(vec![9]));
        assert!(desired.has_vip(ip(CLUSTER_IP)));
        assert_eq!(desired.owner(&key(CLUSTER_IP, 80)), Some(&name(names[1])));
    }
    assert!(!desired.has_vip(Ipv4Addr::UNSPECIFIED.into()));
}
