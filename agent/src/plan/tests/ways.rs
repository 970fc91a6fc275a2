//! The ways to a Service: which frontends it has, and who may use them.

use super::*;

/// A Service with every way in.
fn everywhere() -> Service {
    let mut service = service(&["10.96.0.1", "fd00:96::1"]);
    service.ports[0].node_port = 30_080;
    service.ways_in.external_ips = addresses(&["192.0.2.80", "2001:db8::80"]);
    service.ways_in.load_balancer_ips = addresses(&["198.51.100.80", "2001:db8:1::80"]);
    service
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ranges(service: &mut Service, texts: &[&str]) {
    service.ways_in.source_ranges = texts.iter().map(|text| text.parse().unwrap()).collect();
}

/// The frontends in words.
fn words(plan: &PortPlan) -> Vec<String> {
    let words = |f: &Frontend| format!("{:?} {} {}", f.kind, f.address, f.port);
    plan.frontends.iter().map(words).collect()
}

fn ranges_of(plan: &PortPlan) -> Vec<String> {
    plan.source_ranges.iter().map(ToString::to_string).collect()
}

#[test]
fn the_vips_of_a_port_are_cluster_ip_external_ips_load_balancer_ips_and_node_port() {
    let plans = plans(everywhere(), []);
    assert_eq!(
        words(&plans[0].1),
        [
            "ClusterIp 10.96.0.1 80",
            "NodePort 0.0.0.0 30080",
            "ExternalIp 192.0.2.80 80",
            "LoadBalancer 198.51.100.80 80",
        ]
    );
    assert_eq!(
        words(&plans[1].1),
        [
            "ClusterIp fd00:96::1 80",
            "NodePort :: 30080",
            "ExternalIp 2001:db8::80 80",
            "LoadBalancer 2001:db8:1::80 80",
        ]
    );
}

#[test]
fn a_family_without_a_cluster_ip_has_no_way_in() {
    let mut service = everywhere();
    service.kind = ServiceKind::ClusterIp(addresses(&["fd00:96::1"]));
    let plans = plans(service, []);
    assert_eq!(plans.len(), 1);
    assert_eq!(plans[0].0.family, Family::V6);
}

#[rstest]
#[case::node_port(|s: &mut Service| s.ports[0].node_port = 30_080)]
#[case::external_ip(|s: &mut Service| s.ways_in.external_ips = addresses(&["192.0.2.80"]))]
#[case::load_balancer(|s: &mut Service| s.ways_in.load_balancer_ips = addresses(&["198.51.100.80"]))]
fn each_way_in_makes_a_service_externally_accessible(#[case] change: fn(&mut Service)) {
    let endpoints = ["10.1.0.1 here", "10.1.0.2"];
    let mut service = service(&["10.96.0.1"]);
    (service.internal_local, service.external_local) = (true, true);
    let closed = one(plans(service.clone(), [slice(1, HTTP, &endpoints)]));
    assert!(!closed.external_local, "the policy has nobody to apply to");
    assert_eq!(closed.cluster, [], "nobody uses it");

    change(&mut service);
    let open = one(plans(service, [slice(1, HTTP, &endpoints)]));
    assert!(open.external_local);
    assert_eq!(
        last_bytes(&open.cluster),
        [1, 2],
        "local clients are short-circuited"
    );
    assert_eq!(last_bytes(&open.local), [1]);
}

#[test]
fn a_way_in_of_the_other_family_makes_nothing_accessible() {
    let mut service = service(&["10.96.0.1"]);
    service.external_local = true;
    service.ways_in.external_ips = addresses(&["2001:db8::80"]);
    assert!(!one(plans(service, [])).external_local);
}

#[test]
fn an_address_that_is_both_is_subject_to_the_source_ranges() {
    let mut service = service(&["10.96.0.1"]);
    service.ways_in.external_ips = addresses(&["198.51.100.80", "10.96.0.1"]);
    service.ways_in.load_balancer_ips = addresses(&["198.51.100.80"]);
    ranges(&mut service, &["10.0.0.0/8"]);
    let plan = one(plans(service, []));
    assert_eq!(
        words(&plan),
        ["ClusterIp 10.96.0.1 80", "LoadBalancer 198.51.100.80 80"]
    );
}

#[test]
fn source_ranges_are_those_of_the_family() {
    let mut service = everywhere();
    ranges(
        &mut service,
        &["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32"],
    );
    let plans = plans(service, []);
    assert_eq!(ranges_of(&plans[0].1), ["10.0.0.0/8", "192.0.2.0/24"]);
    assert_eq!(ranges_of(&plans[1].1), ["2001:db8::/32"]);
}

#[test]
fn a_source_range_without_prefix_lets_everybody_in() {
    let mut service = everywhere();
    ranges(&mut service, &["10.0.0.0/8", "0.0.0.0/0"]);
    assert_eq!(ranges_of(&plans(service, [])[0].1), [""; 0]);
}

#[test]
fn a_service_without_a_load_balancer_has_no_source_ranges() {
    let mut service = everywhere();
    service.ways_in.load_balancer_ips.clear();
    ranges(&mut service, &["10.0.0.0/8"]);
    assert_eq!(ranges_of(&plans(service, [])[0].1), [""; 0]);
}

#[test]
fn where_the_node_s_own_ip_is_let_in_so_is_the_load_balancer_s() {
    let mut service = everywhere();
    ranges(&mut service, &["10.0.0.0/8", "2001:db8:f::/48"]);
    let mut registry = registry(service, []);
    let mut node = registry.node().unwrap().clone();
    node.addresses = addresses(&["10.9.0.1", "2001:db8::9"]);
    registry.apply(Event::Apply(Object::Node(node), Vec::new()));
    let plans = plan(&registry, &config(), &name("x"));
    assert_eq!(ranges_of(&plans[0].1), ["10.0.0.0/8", "198.51.100.80/32"]);
    assert_eq!(ranges_of(&plans[1].1), ["2001:db8:f::/48"]);
}

#[test]
fn the_cluster_dns_is_told_by_its_cluster_ip_alone() {
    let mut service = service(&["10.96.0.1"]);
    service.ways_in.external_ips = addresses(&["10.96.0.10"]);
    assert!(!one(plans(service, [])).dns);
}

#[test]
fn what_two_services_claim_is_served_for_the_first_one_alone() {
    let mut first = everywhere();
    first.created = 1;
    let mut registry = registry(first, []);
    let mut second = everywhere();
    second.name = name("second");
    second.created = 2;
    second.kind = ServiceKind::ClusterIp(addresses(&["10.96.0.2"]));
    registry.apply(Event::Apply(Object::from(second), Vec::new()));
    let plan_of = |of: &str| plan(&registry, &config(), &name(of)).remove(0).1;
    assert_eq!(words(&plan_of("x")).len(), 4);
    assert_eq!(words(&plan_of("second")), ["ClusterIp 10.96.0.2 80"]);
}

#[test]
fn a_node_port_of_two_protocols_is_two_node_ports() {
    let mut tcp_and_udp = service(&["10.96.0.1"]);
    tcp_and_udp.ports = vec![port("a", Protocol::Tcp, 53), port("b", Protocol::Udp, 53)];
    for port in &mut tcp_and_udp.ports {
        port.node_port = 30_053;
    }
    for (_, plan) in plans(tcp_and_udp, []) {
        assert_eq!(
            words(&plan),
            ["ClusterIp 10.96.0.1 53", "NodePort 0.0.0.0 30053"]
        );
    }
}
