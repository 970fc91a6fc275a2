//! What pods reach beside ClusterIPs, and who is let in to whom.

use std::net::SocketAddr;

use signpost_common::{
    Cause,
    service::{AddressValue, FrontendValue, MemberValue},
};

use crate::{
    icmp::Message,
    machine::{Action, Machine, scenes},
    packets::{Family, Protocol, first, frame, later},
    world::{Backend, SECOND, World, local, remote},
};

fn client(family: Family) -> SocketAddr {
    (family.pod(2), 40_001).into()
}

fn service(family: Family) -> SocketAddr {
    (family.service(1), 80).into()
}

fn backend(family: Family, number: u8) -> SocketAddr {
    (family.far_pod(number), 8080).into()
}

fn far(family: Family, numbers: impl IntoIterator<Item = u8>) -> Vec<Backend> {
    let far = |n| remote(family.far_pod(n), 8080);
    numbers.into_iter().map(far).collect()
}

/// Where a pod's packet goes, by number of the backend.
fn goes_to(machine: &mut Machine, family: Family, protocol: Protocol, from: SocketAddr) -> u8 {
    let packet = first(protocol, from, service(family));
    let done = machine.pod_sends(&packet.frame());
    assert_eq!(
        (done.action, &done.causes[..]),
        (Action::Continue, &[Cause::FlowCreated][..])
    );
    let mut numbers = 0..=255;
    numbers
        .find(|n| packet.to(backend(family, *n)).frame() == done.packet)
        .expect("it goes to a backend")
}

fn the_local_policy_is_not_for_pods(machine: &mut Machine, family: Family, protocol: Protocol) {
    let mut world = World::new();
    world.service(protocol, service(family), &far(family, [5]));
    world.frontend(protocol, service(family)).flags |= FrontendValue::EXTERNAL
        | FrontendValue::EXTERNAL_LOCAL
        | FrontendValue::INTERNAL_LOCAL
        | FrontendValue::ANY_ENDPOINTS;
    machine.load(world);
    assert_eq!(goes_to(machine, family, protocol, client(family)), 5);
    let back = later(protocol, backend(family, 5), client(family));
    machine
        .pod_gets(&back.frame())
        .continues_as(&back.from(service(family)).frame(), &[Cause::Reversed]);
}

fn a_node_port_and_what_else_is_at_the_node(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = World::new();
    world.node_port(protocol, family, 30_080, &far(family, [5]));
    world.address(family.node(1), AddressValue::NODE | AddressValue::NODE_PORT);
    world.address(family.node(2), AddressValue::NODE);
    machine.load(world);
    let node_port = SocketAddr::new(family.node(1), 30_080);
    let there = first(protocol, client(family), node_port);
    machine
        .pod_sends(&there.frame())
        .continues_as(&there.to(backend(family, 5)).frame(), &[Cause::FlowCreated]);
    let back = later(protocol, backend(family, 5), client(family));
    machine
        .pod_gets(&back.frame())
        .continues_as(&back.from(node_port).frame(), &[Cause::Reversed]);
    let more = later(protocol, client(family), node_port);
    machine
        .pod_sends(&more.frame())
        .continues_as(&more.to(backend(family, 5)).frame(), &[Cause::Translated]);

    // The node's own ports, its addresses without NodePorts, the other protocol: nothing to count.
    let other = match protocol {
        Protocol::Tcp => Protocol::Udp,
        Protocol::Udp | Protocol::Sctp => Protocol::Tcp,
    };
    let quote = there.to((family.node(1), 22).into()).ip();
    let packets = [
        there.to((family.node(1), 22).into()).frame(),
        there.to((family.node(2), 30_080).into()).frame(),
        first(other, client(family), node_port).frame(),
        frame(&Message::Echo.ip(family.pod(2), family.node(1), b"ping")),
        frame(&Message::PortUnreachable.ip(family.pod(2), family.node(1), &quote)),
        later(protocol, client(family), (family.node(1), 22).into())
            .payload(&[1; 100])
            .fragments(&[64])
            .remove(1),
    ];
    for packet in packets {
        machine.pod_sends(&packet).continues_as(&packet, &[]);
    }
}

fn an_address_of_the_node_may_be_a_services_too(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = World::new();
    let external = SocketAddr::new(family.node(1), 443);
    world.service(protocol, external, &far(family, [5]));
    world.node_port(protocol, family, 443, &far(family, [6]));
    world.node_port(protocol, family, 444, &far(family, [7]));
    world.address(family.node(1), AddressValue::NODE | AddressValue::NODE_PORT);
    machine.load(world);
    for (port, number) in [(443, 5), (444, 7)] {
        let there = first(protocol, client(family), (family.node(1), port).into());
        machine.pod_sends(&there.frame()).continues_as(
            &there.to(backend(family, number)).frame(),
            &[Cause::FlowCreated],
        );
    }
    let own = first(protocol, client(family), (family.node(1), 22).into()).frame();
    machine.pod_sends(&own).continues_as(&own, &[]);
}

fn affinity_world(family: Family, protocol: Protocol) -> World {
    let mut world = World::new();
    world.service(protocol, service(family), &far(family, 10..30));
    world.frontend(protocol, service(family)).affinity_timeout = 60;
    world
}

fn port(family: Family, number: u16) -> SocketAddr {
    SocketAddr::new(family.pod(2), 40_000 + number)
}

fn a_client_stays_with_its_backend(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(affinity_world(family, protocol));
    let chosen = goes_to(machine, family, protocol, port(family, 0));
    for n in 1..20 {
        assert_eq!(goes_to(machine, family, protocol, port(family, n)), chosen);
    }
    // Each flow begins the time anew, …
    machine.age_affinity(40 * SECOND);
    assert_eq!(goes_to(machine, family, protocol, port(family, 20)), chosen);
    machine.age_affinity(40 * SECOND);
    assert_eq!(goes_to(machine, family, protocol, port(family, 21)), chosen);
    // … and when it is over, the flow's hash decides: twenty times the same of twenty comes never.
    let mut others = 0;
    for n in 30..50 {
        machine.age_affinity(60 * SECOND);
        others += u32::from(goes_to(machine, family, protocol, port(family, n)) != chosen);
    }
    assert!(others > 0);
    // Other clients have backends of their own.
    let of_others: std::collections::BTreeSet<u8> = (3..40)
        .map(|n| goes_to(machine, family, protocol, (family.pod(n), 40_001).into()))
        .collect();
    assert!(of_others.len() > 1, "{of_others:?}");
}

fn a_client_leaves_a_backend_that_is_gone(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    machine.load(affinity_world(family, protocol));
    let chosen = goes_to(machine, family, protocol, port(family, 0));
    machine.change(|world| {
        // It terminates: it serves still, but is not chosen any more.
        *world.member(1, backend(family, chosen)) = MemberValue::SERVING;
    });
    let mut ports = (1..50).map(|n| port(family, n));
    let mut next = |machine: &mut Machine| {
        let from = ports.next().expect("a port");
        goes_to(machine, family, protocol, from)
    };
    // The slots still have it here; the next flows stay wherever the first one came to.
    let mut now = next(machine);
    while now == chosen {
        now = next(machine);
    }
    for _ in 0..5 {
        assert_eq!(next(machine), now);
    }
}

fn affinity_is_switched_on_and_off(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(affinity_world(family, protocol));
    let chosen = goes_to(machine, family, protocol, port(family, 0));
    let switch = |world: &mut World, timeout| {
        world.frontend(protocol, service(family)).affinity_timeout = timeout;
    };
    machine.change(|world| switch(world, 0));
    let others = (1..20).any(|n| goes_to(machine, family, protocol, port(family, n)) != chosen);
    assert!(others);
    machine.change(|world| switch(world, 60));
    assert_eq!(goes_to(machine, family, protocol, port(family, 30)), chosen);
}

fn affinity_is_the_service_ports_not_the_frontends(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = affinity_world(family, protocol);
    let other = SocketAddr::new(family.node(9), 80);
    world.service(protocol, other, &[]);
    let value = *world.frontend(protocol, service(family));
    let check = world.frontend(protocol, other).check;
    *world.frontend(protocol, other) = FrontendValue {
        check,
        flags: FrontendValue::EXTERNAL,
        ..value
    };
    machine.load(world);
    let chosen = goes_to(machine, family, protocol, port(family, 0));
    for n in 1..10 {
        let there = first(protocol, port(family, n), other);
        machine.pod_sends(&there.frame()).continues_as(
            &there.to(backend(family, chosen)).frame(),
            &[Cause::FlowCreated],
        );
    }
}

fn affinity_stays_on_this_node_where_the_policy_says_so(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = World::new();
    let mut backends = far(family, 10..30);
    backends.push(local(family.pod(9), 8080));
    world.service(protocol, service(family), &backends);
    world.frontend(protocol, service(family)).affinity_timeout = 60;
    machine.load(world);
    goes_to(machine, family, protocol, port(family, 0));
    machine.change(|world| {
        world.frontend(protocol, service(family)).flags |= FrontendValue::INTERNAL_LOCAL;
    });
    let there = first(protocol, port(family, 1), service(family));
    machine.pod_sends(&there.frame()).continues_as(
        &there.to((family.pod(9), 8080).into()).frame(),
        &[Cause::FlowCreated],
    );
}

fn affinity_keeps_its_backend_when_flows_clash(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = affinity_world(family, protocol);
    let other = SocketAddr::new(family.service(2), 80);
    world.service(protocol, other, &[]);
    let value = *world.frontend(protocol, service(family));
    let check = world.frontend(protocol, other).check;
    *world.frontend(protocol, other) = FrontendValue { check, ..value };
    machine.load(world);
    let chosen = goes_to(machine, family, protocol, client(family));
    let there = first(protocol, client(family), other);
    let done = machine.pod_sends(&there.frame());
    assert_eq!(done.causes, [Cause::FlowCreated, Cause::FlowClash]);
    let at = done.packet.len() - there.transport().len();
    let port = u16::from_be_bytes([done.packet[at], done.packet[at + 1]]);
    assert!(port >= 61_000, "{port}");
    let seen = SocketAddr::new(client(family).ip(), port);
    assert_eq!(
        there.from(seen).to(backend(family, chosen)).frame(),
        done.packet
    );
}

fn only_sources_in_the_ranges_are_let_in(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = World::new();
    let id = world.service(protocol, service(family), &far(family, [5]));
    let other = world.service(protocol, (family.service(2), 80).into(), &far(family, [5]));
    world.frontend(protocol, service(family)).flags |=
        FrontendValue::EXTERNAL | FrontendValue::SOURCE_RANGES;
    let whole = if family == Family::V4 { 32 } else { 128 };
    world.range(id, family.pod(16), whole - 3);
    world.range(other, family.pod(0), whole - 8);
    machine.load(world);
    for (number, is_in) in [(15, false), (16, true), (23, true), (24, false), (2, false)] {
        let from = SocketAddr::new(family.pod(number), 40_001);
        if is_in {
            assert_eq!(goes_to(machine, family, protocol, from), 5, "{number}");
        } else {
            let packet = first(protocol, from, service(family)).frame();
            machine
                .pod_sends(&packet)
                .is(Action::Drop, &packet, &[Cause::SourceRefused]);
        }
    }
    // Nobody is told more than that, though there were no endpoint; and flows that are there go on.
    machine.change(|world| world.backends(protocol, service(family), &[]));
    let packet = first(protocol, client(family), service(family)).frame();
    machine
        .pod_sends(&packet)
        .is(Action::Drop, &packet, &[Cause::SourceRefused]);
    machine.change(|world| {
        world.backends(protocol, service(family), &far(family, [5]));
        world.source_ranges.clear();
    });
    let more = later(protocol, (family.pod(16), 40_001).into(), service(family));
    machine
        .pod_sends(&more.frame())
        .continues_as(&more.to(backend(family, 5)).frame(), &[Cause::Translated]);
}

scenes! { family, protocol:
    the_local_policy_is_not_for_pods,
    a_node_port_and_what_else_is_at_the_node,
    an_address_of_the_node_may_be_a_services_too,
    a_client_stays_with_its_backend,
    a_client_leaves_a_backend_that_is_gone,
    affinity_is_switched_on_and_off,
    affinity_is_the_service_ports_not_the_frontends,
    affinity_stays_on_this_node_where_the_policy_says_so,
    affinity_keeps_its_backend_when_flows_clash,
    only_sources_in_the_ranges_are_let_in,
}
