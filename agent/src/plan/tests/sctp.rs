//! SCTP ports, and what their authors are told.

use super::*;

/// A Service whose endpoint has this port.
fn problems(change: impl FnOnce(&mut Service), target: u16) -> Vec<String> {
    let mut service = service(&["10.96.0.1"]);
    service.ports[0].protocol = Protocol::Sctp;
    service.ports[0].port = 3868;
    change(&mut service);
    let slice = slice(1, ("", Protocol::Sctp, target), &["10.1.0.1 here"]);
    let plans = plans(service, [slice]);
    let problems = plans.iter().filter_map(|(name, plan)| plan.problem(name));
    problems.map(|problem| problem.to_string()).collect()
}

#[test]
fn a_port_that_is_its_target_port_is_no_problem() {
    assert_eq!(problems(|_| {}, 3868), [""; 0]);
}

#[test]
fn another_target_port_is_told_with_the_way() {
    let problems = problems(|_| {}, 8080);
    assert_eq!(problems.len(), 1);
    for part in ["Service a/x", "the ClusterIP", "3868", "target port 8080"] {
        assert!(problems[0].contains(part), "{}", problems[0]);
    }
}

#[test]
fn a_node_port_is_told_and_leaves_the_cluster_ip_alone() {
    let problems = problems(|service| service.ports[0].node_port = 30_868, 3868);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains("the node port"), "{}", problems[0]);
    assert!(!problems[0].contains("the ClusterIP"), "{}", problems[0]);
}

#[test]
fn clients_outside_need_the_local_policy() {
    let external = |service: &mut Service| {
        service.ways_in.external_ips = vec!["192.0.2.80".parse().unwrap()];
    };
    let told = problems(external, 3868);
    assert!(told[0].contains("externalTrafficPolicy: Local"), "{told:?}");
    let local = |service: &mut Service| {
        external(service);
        service.external_local = true;
    };
    assert_eq!(problems(local, 3868), [""; 0]);
}

#[test]
fn other_protocols_may_have_any_target_port() {
    let mut service = service(&["10.96.0.1"]);
    service.ports[0].node_port = 30_080;
    let plans = plans(service, [slice(1, HTTP, &["10.1.0.1 here"])]);
    assert!(
        plans
            .iter()
            .all(|(name, plan)| plan.problem(name).is_none())
    );
}
