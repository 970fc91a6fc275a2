//! Changes of a Service that lives: after each, the plan is that of a Service which was so from the start.

use super::*;

/// Applies each state in turn, and compares with a registry that knows nothing else.
fn live(states: &[Service]) {
    let endpoints = ["10.1.0.1 here", "10.1.0.2"];
    let mut registry = registry(states[0].clone(), [slice(1, HTTP, &endpoints)]);
    let _ = registry.take_changes();
    for (index, state) in states.iter().enumerate() {
        registry.apply(Event::Apply(Object::from(state.clone()), Vec::new()));
        assert_eq!(
            registry.take_changes().services.len(),
            usize::from(index > 0)
        );
        let now = plan(&registry, &config(), &name("x"));
        let fresh = plans(state.clone(), [slice(1, HTTP, &endpoints)]);
        assert_eq!(now, fresh, "state {index}");
        assert_eq!(registry.problems().len(), 0);
    }
}

fn cluster_ip() -> Service {
    service(&["10.96.0.1"])
}

fn node_port() -> Service {
    let mut service = cluster_ip();
    service.ports[0].node_port = 30_080;
    service
}

fn external_name() -> Service {
    let mut service = cluster_ip();
    service.kind = ServiceKind::ExternalName("example.org".to_owned());
    service.ports.clear();
    service
}

#[test]
fn the_labels_service_proxy_name_and_headless_are_honoured_on_and_off() {
    let mut foreign = node_port();
    foreign.proxied = false;
    live(&[node_port(), foreign.clone(), node_port(), foreign]);
}

#[test]
fn a_service_changes_between_external_name_cluster_ip_and_node_port() {
    live(&[
        external_name(),
        cluster_ip(),
        external_name(),
        node_port(),
        external_name(),
        cluster_ip(),
        node_port(),
        cluster_ip(),
    ]);
}

#[test]
fn a_service_becomes_headless_and_back() {
    let mut headless = cluster_ip();
    headless.kind = ServiceKind::Headless;
    live(&[cluster_ip(), headless, cluster_ip()]);
}

#[test]
fn ports_are_added_and_removed() {
    let mut two = cluster_ip();
    two.ports[0].name = "a".into();
    two.ports.push(port("b", Protocol::Tcp, 81));
    let mut second = two.clone();
    second.ports.remove(0);
    live(&[cluster_ip(), two.clone(), second, two, cluster_ip()]);
}

#[test]
fn a_node_port_is_shared_by_protocols_and_moves() {
    let mut shared = node_port();
    shared.ports[0].name = "a".into();
    let mut udp = port("b", Protocol::Udp, 80);
    udp.node_port = 30_080;
    shared.ports.push(udp);
    let mut moved = shared.clone();
    moved.ports[1].node_port = 30_081;
    live(&[node_port(), shared, moved, node_port()]);
}

#[test]
fn policies_and_affinity_are_switched_on_and_off() {
    let mut local = node_port();
    (local.internal_local, local.external_local) = (true, true);
    let mut sticky = node_port();
    sticky.affinity_timeout = Some(10_800);
    live(&[node_port(), local.clone(), sticky, local, node_port()]);
}

#[test]
fn the_load_balancer_s_addresses_and_ranges_come_and_go() {
    let mut balanced = node_port();
    balanced.ways_in.load_balancer_ips = vec!["198.51.100.80".parse().unwrap()];
    let mut guarded = balanced.clone();
    guarded.ways_in.source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
    live(&[
        node_port(),
        balanced.clone(),
        guarded,
        balanced,
        node_port(),
    ]);
}

#[test]
fn a_slice_s_label_service_proxy_name_is_honoured_on_and_off() {
    let mut registry = registry(cluster_ip(), [slice(1, HTTP, &["10.1.0.1"])]);
    for (proxied, expected) in [(false, vec![]), (true, vec![1])] {
        let mut changed = slice(1, HTTP, &["10.1.0.1"]);
        changed.proxied = proxied;
        registry.apply(Event::Apply(Object::from(changed), Vec::new()));
        let plan = one(plan(&registry, &config(), &name("x")));
        assert_eq!(last_bytes(&plan.cluster), expected);
    }
}
