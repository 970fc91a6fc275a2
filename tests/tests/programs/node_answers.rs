//! What answers the node itself is no client's, though it comes to a port at which a Service is served; and ports that
//! are used again.

use std::net::SocketAddr;

use signpost_common::{Cause, service::AddressValue};

use crate::{
    machine::{Machine, Program, scenes},
    packets::{Family, Protocol, first, later},
    world::{World, local, remote},
};

/// Where packets come in at a node, and where what they answer has left it.
const WAYS: [(Program, Program); 2] = [
    (Program::FromPod, Program::ToPod),
    (Program::FromWire, Program::ToWire),
];

fn node_port(family: Family) -> SocketAddr {
    (family.node(1), 30_080).into()
}

fn peer(family: Family) -> SocketAddr {
    (family.pod(2), 53).into()
}

fn world(family: Family, protocol: Protocol) -> World {
    let mut world = World::new();
    world.node_port(protocol, family, 30_080, &[remote(family.far_pod(5), 8080)]);
    world.address(family.node(1), AddressValue::NODE | AddressValue::NODE_PORT);
    world.address(family.node(2), AddressValue::NODE);
    world.masquerades_as(Family::V4.node(1), Family::V6.node(1));
    world
}

/// The node, or somebody who is masqueraded as it, talks to a pod or to another machine from a port that is a NodePort.
fn an_answer_to_the_node_opens_nothing(machine: &mut Machine, family: Family, protocol: Protocol) {
    for (comes, goes) in WAYS {
        machine.load(world(family, protocol));
        let question = first(protocol, node_port(family), peer(family)).frame();
        machine.run(goes, &question).continues_as(&question, &[]);
        let answer = later(protocol, peer(family), node_port(family)).frame();
        for _ in 0..2 {
            machine
                .run(comes, &answer)
                .continues_as(&answer, &[Cause::NotOpening]);
        }
    }
}

/// The same port of the other machine, or another one, may be a client's.
fn others_are_clients(machine: &mut Machine, family: Family, protocol: Protocol) {
    for (comes, goes) in WAYS {
        machine.load(world(family, protocol));
        machine.run(
            goes,
            &first(protocol, node_port(family), peer(family)).frame(),
        );
        let client = SocketAddr::new(family.pod(3), 53);
        let open = first(protocol, client, node_port(family));
        assert_eq!(
            machine.run(comes, &open.frame()).causes,
            [Cause::FlowCreated]
        );
        let port = SocketAddr::new(peer(family).ip(), 54);
        let open = first(protocol, port, node_port(family));
        assert_eq!(
            machine.run(comes, &open.frame()).causes,
            [Cause::FlowCreated]
        );
    }
}

/// Thirty seconds after the last question nobody waits for an answer.
fn a_question_is_forgotten(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Udp;
    for (comes, goes) in WAYS {
        machine.load(world(family, protocol));
        machine.run(
            goes,
            &first(protocol, node_port(family), peer(family)).frame(),
        );
        let aged: Vec<_> = machine
            .flows()
            .into_iter()
            .map(|(key, mut value)| {
                value.left_at -= 30;
                (key, value)
            })
            .collect();
        machine.set_flows(aged);
        let open = first(protocol, peer(family), node_port(family));
        assert_eq!(
            machine.run(comes, &open.frame()).causes,
            [Cause::FlowCreated]
        );
    }
}

/// From other ports and other addresses, nothing has to be remembered.
fn other_questions_leave_nothing_behind(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol));
    for from in [
        SocketAddr::new(family.node(1), 40_000),
        SocketAddr::new(family.node(1), 30_081),
        SocketAddr::new(family.node(2), 30_080),
        SocketAddr::new(family.pod(3), 30_080),
    ] {
        for (_, goes) in WAYS {
            let question = first(protocol, from, peer(family)).frame();
            machine.run(goes, &question).continues_as(&question, &[]);
        }
    }
    assert_eq!(machine.flows().len(), 0);
}

/// A Service goes, and its NodePort is a process's of the node; the client uses its own port again.
fn a_port_that_is_used_again_is_nobodys_flow(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let client = SocketAddr::new(family.outside(1), 40_001);
    machine.load(world(family, protocol));
    let open = first(protocol, client, node_port(family));
    machine.wire_brings(&open.frame()).continues_as(
        &open.to((family.far_pod(5), 8080).into()).frame(),
        &[Cause::FlowCreated],
    );
    machine.change(|world| {
        world.frontends.clear();
        world.slots.clear();
        world.members.clear();
    });
    machine
        .wire_brings(&open.frame())
        .continues_as(&open.frame(), &[Cause::BackendGone]);
    let more = later(protocol, client, node_port(family)).frame();
    machine.wire_brings(&more).continues_as(&more, &[]);
}

/// The connection was over, and then the Service went.
fn a_port_of_a_connection_that_is_over(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Tcp;
    let client = SocketAddr::new(family.outside(1), 40_001);
    machine.load(world(family, protocol));
    let open = first(protocol, client, node_port(family));
    machine.wire_brings(&open.frame());
    machine.wire_brings(
        &later(protocol, client, node_port(family))
            .flags("FA")
            .frame(),
    );
    machine.change(|world| world.frontends.clear());
    machine
        .wire_brings(&open.frame())
        .continues_as(&open.frame(), &[]);
    let more = later(protocol, client, node_port(family)).frame();
    machine.wire_brings(&more).continues_as(&more, &[]);
}

/// An external IP that is the node's own address, at a port that the node itself talks from (such as 123).
fn an_external_ip_that_is_the_nodes(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Udp;
    let own = SocketAddr::new(family.node(1), 123);
    for (comes, goes) in WAYS {
        let mut world = world(family, protocol);
        world.service(protocol, own, &[local(family.pod(5), 123)]);
        world.address(family.node(1), AddressValue::NODE | AddressValue::NODE_PORT);
        if let Some(config) = &mut world.config {
            config.external_ports = [123, 30_080];
        }
        machine.load(world);
        let question = first(protocol, own, peer(family)).frame();
        machine.run(goes, &question);
        let answer = later(protocol, peer(family), own).frame();
        machine
            .run(comes, &answer)
            .continues_as(&answer, &[Cause::NotOpening]);
    }
}

scenes! { family, protocol:
    an_answer_to_the_node_opens_nothing,
    others_are_clients,
    other_questions_leave_nothing_behind,
    a_port_that_is_used_again_is_nobodys_flow,
}
scenes! { family:
    a_question_is_forgotten,
    a_port_of_a_connection_that_is_over,
    an_external_ip_that_is_the_nodes,
}
