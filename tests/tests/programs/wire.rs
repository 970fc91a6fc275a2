//! What comes from other machines to Services, and what goes back.

mod masquerade;

use std::net::SocketAddr;

use signpost_common::{
    Cause,
    dns::Config,
    service::{AddressValue, FrontendValue, RangeKey},
};

use crate::{
    icmp::Message,
    machine::{Action, Done, Machine, Program, scenes},
    packets::{Family, Protocol, Segment, first, frame, later, sent_back},
    world::{Backend, World, local, remote},
};

const NODE_PORT: u16 = 30_080;

fn client(family: Family) -> SocketAddr {
    (family.outside(2), 40_001).into()
}

/// Where it sends to: a NodePort of this node.
fn asked(family: Family) -> SocketAddr {
    (family.node(1), NODE_PORT).into()
}

/// The interfaces of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Here,
    Far,
}

impl Where {
    fn backend(self, family: Family) -> SocketAddr {
        match self {
            Self::Here => (family.pod(9), 8080).into(),
            Self::Far => (family.far_pod(9), 8080).into(),
        }
    }

    fn slot(self, family: Family) -> Backend {
        let backend = self.backend(family);
        match self {
            Self::Here => local(backend.ip(), backend.port()),
            Self::Far => remote(backend.ip(), backend.port()),
        }
    }

    /// What leaves towards the backend.
    fn leave(self, machine: &mut Machine, packet: &[u8]) -> Done {
        let program = match self {
            Self::Here => Program::ToPod,
            Self::Far => Program::ToWire,
        };
        machine.run(program, packet)
    }

    /// What comes from the backend.
    fn arrive(self, machine: &mut Machine, packet: &[u8]) -> Done {
        let program = match self {
            Self::Here => Program::FromPod,
            Self::Far => Program::FromWire,
        };
        machine.run(program, packet)
    }
}

/// This node, with a NodePort of one backend.
fn world(family: Family, protocol: Protocol, at: Where) -> World {
    let mut world = World::new();
    world.node_port(protocol, family, NODE_PORT, &[at.slot(family)]);
    world.address(family.node(1), AddressValue::NODE | AddressValue::NODE_PORT);
    world.address(family.node(7), AddressValue::NODE);
    world.masquerades_as(Family::V4.node(7), Family::V6.node(7));
    world
}

fn unspecified(family: Family) -> SocketAddr {
    SocketAddr::new(family.unspecified(), NODE_PORT)
}

fn local_policy(world: &mut World, family: Family, protocol: Protocol) {
    world.frontend(protocol, unspecified(family)).flags |=
        FrontendValue::EXTERNAL_LOCAL | FrontendValue::ANY_ENDPOINTS;
}

/// The source port of a packet whose transport is as long as another's.
fn source_port(packet: &[u8], like: &Segment) -> u16 {
    let at = packet.len() - like.transport().len();
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// Lets a packet of a new flow come in and leave masqueraded; gives the source that its backend sees.
#[track_caller]
fn masqueraded(machine: &mut Machine, family: Family, at: Where, there: &Segment) -> SocketAddr {
    let inside = there.to(at.backend(family));
    machine
        .wire_brings(&there.frame())
        .continues_as(&inside.frame(), &[Cause::FlowCreated]);
    let left = at.leave(machine, &inside.frame());
    let port = source_port(&left.packet, there);
    assert!(port >= 61_000, "{port}");
    let seen = SocketAddr::new(family.node(7), port);
    left.continues_as(&inside.from(seen).frame(), &[Cause::Masqueraded]);
    seen
}

/// Lets the backend answer, and looks at what every interface makes of it.
#[track_caller]
fn answered(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
    at: Where,
    seen: SocketAddr,
    client: SocketAddr,
    asked: SocketAddr,
) {
    let back = later(protocol, at.backend(family), seen);
    at.arrive(machine, &back.frame())
        .continues_as(&back.to(client).frame(), &[Cause::Reversed]);
    machine
        .wire_takes(&back.to(client).frame())
        .continues_as(&back.to(client).from(asked).frame(), &[Cause::Reversed]);
}

fn the_local_policy_keeps_the_source(machine: &mut Machine, family: Family, protocol: Protocol) {
    let at = Where::Here;
    let mut world = world(family, protocol, at);
    world.backends(
        protocol,
        unspecified(family),
        &[Where::Far.slot(family), at.slot(family)],
    );
    local_policy(&mut world, family, protocol);
    machine.load(world);
    for n in 0..10 {
        let client = SocketAddr::new(family.outside(2), 40_000 + n);
        let there = first(protocol, client, asked(family));
        let inside = there.to(at.backend(family)).frame();
        machine
            .wire_brings(&there.frame())
            .continues_as(&inside, &[Cause::FlowCreated]);
        at.leave(machine, &inside).continues_as(&inside, &[]);
        let back = later(protocol, at.backend(family), client);
        at.arrive(machine, &back.frame())
            .continues_as(&back.frame(), &[]);
        machine
            .wire_takes(&back.frame())
            .continues_as(&back.from(asked(family)).frame(), &[Cause::Reversed]);
        let more = later(protocol, client, asked(family));
        machine
            .wire_brings(&more.frame())
            .continues_as(&more.to(at.backend(family)).frame(), &[Cause::Translated]);
    }
}

fn a_backend_that_is_this_node_sees_the_client(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = world(family, protocol, Where::Here);
    let backend = SocketAddr::new(family.node(1), 8080);
    world.backends(protocol, unspecified(family), &[local(backend.ip(), 8080)]);
    machine.load(world);
    let there = first(protocol, client(family), asked(family));
    machine
        .wire_brings(&there.frame())
        .continues_as(&there.to(backend).frame(), &[Cause::FlowCreated]);
    let back = later(protocol, backend, client(family));
    machine
        .wire_takes(&back.frame())
        .continues_as(&back.from(asked(family)).frame(), &[Cause::Reversed]);
    assert_eq!(machine.flows().len(), 2);
}

fn a_cluster_ip_from_outside(machine: &mut Machine, family: Family, protocol: Protocol) {
    let vip = SocketAddr::new(family.service(1), 80);
    let from = |n| SocketAddr::new(family.outside(n), 40_001);
    let bits = if family == Family::V4 { 31 } else { 127 };
    for at in [Where::Here, Where::Far] {
        for (flags, masquerades) in [
            (0, [false, false]),
            (Config::MASQUERADE_ALL, [true, true]),
            (Config::CLUSTER_RANGES, [false, true]),
        ] {
            let mut world = world(family, protocol, at);
            world.service(protocol, vip, &[at.slot(family)]);
            world.range(RangeKey::CLUSTER, family.outside(2), bits);
            world.config.as_mut().unwrap().flags |= flags;
            machine.load(world);
            for (client, masquerade) in [from(2), from(4)].into_iter().zip(masquerades) {
                let there = first(protocol, client, vip);
                if masquerade {
                    let seen = masqueraded(machine, family, at, &there);
                    answered(machine, family, protocol, at, seen, client, vip);
                } else {
                    let inside = there.to(at.backend(family)).frame();
                    machine
                        .wire_brings(&there.frame())
                        .continues_as(&inside, &[Cause::FlowCreated]);
                    at.leave(machine, &inside).continues_as(&inside, &[]);
                }
            }
        }
    }
}

fn the_internal_policy_holds_for_cluster_ips(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let vip = SocketAddr::new(family.service(1), 80);
    let mut world = world(family, protocol, Where::Far);
    world.service(
        protocol,
        vip,
        &[Where::Far.slot(family), Where::Here.slot(family)],
    );
    world.frontend(protocol, vip).flags |= FrontendValue::INTERNAL_LOCAL;
    machine.load(world);
    for n in 0..10 {
        let there = first(protocol, (family.outside(2), 40_000 + n).into(), vip);
        machine.wire_brings(&there.frame()).continues_as(
            &there.to(Where::Here.backend(family)).frame(),
            &[Cause::FlowCreated],
        );
    }
}

fn one_client_port_to_two_services(machine: &mut Machine, family: Family, protocol: Protocol) {
    for at in [Where::Here, Where::Far] {
        let mut world = world(family, protocol, at);
        let vip = SocketAddr::new(family.service(1), 80);
        world.service(protocol, vip, &[at.slot(family)]);
        machine.load(world);
        let one = first(protocol, client(family), asked(family));
        let seen = masqueraded(machine, family, at, &one);
        let two = first(protocol, client(family), vip);
        let done = machine.wire_brings(&two.frame());
        let other = SocketAddr::new(client(family).ip(), source_port(&done.packet, &two));
        assert!(other.port() >= 61_000);
        done.continues_as(
            &two.from(other).to(at.backend(family)).frame(),
            &[Cause::FlowCreated, Cause::FlowClash],
        );
        let back = later(protocol, at.backend(family), other);
        machine.wire_takes(&back.frame()).continues_as(
            &back.from(vip).to(client(family)).frame(),
            &[Cause::Reversed],
        );
        answered(
            machine,
            family,
            protocol,
            at,
            seen,
            client(family),
            asked(family),
        );
    }
}

fn services_without_endpoints(machine: &mut Machine, family: Family, protocol: Protocol) {
    let mut world = world(family, protocol, Where::Far);
    world.backends(protocol, unspecified(family), &[]);
    machine.load(world);
    let there = first(protocol, client(family), asked(family));
    machine.wire_brings(&there.frame()).goes_back_as(
        &crate::no_endpoints::unreachable(&there),
        &[Cause::NoEndpointsRejected],
    );
    machine.change(|world| {
        world.backends(protocol, unspecified(family), &[Where::Far.slot(family)]);
        local_policy(world, family, protocol);
    });
    machine.wire_brings(&there.frame()).is(
        Action::Drop,
        &there.frame(),
        &[Cause::NoEndpointsDropped],
    );
    // A pod of this node is not outside.
    let pod = first(protocol, (family.pod(2), 40_001).into(), asked(family));
    machine.pod_sends(&pod.frame()).continues_as(
        &pod.to(Where::Far.backend(family)).frame(),
        &[Cause::FlowCreated],
    );
    assert_eq!(machine.flows().len(), 2);
}

fn packets_that_are_not_ours(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol, Where::Far));
    let there = first(protocol, client(family), asked(family));
    let mut of_another = there.frame();
    of_another[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let packets = [
        of_another,
        there.to((family.node(1), 22).into()).frame(),
        there.to((family.node(7), NODE_PORT).into()).frame(),
        there.to(Where::Far.backend(family)).frame(),
        there.to(Where::Here.backend(family)).frame(),
        frame(&Message::Echo.ip(client(family).ip(), family.node(1), b"ping")),
        later(protocol, client(family), asked(family))
            .payload(&[1; 100])
            .fragments(&[64])
            .remove(1),
    ];
    for packet in packets {
        machine.wire_brings(&packet).continues_as(&packet, &[]);
        machine.wire_takes(&packet).continues_as(&packet, &[]);
    }
    assert_eq!(machine.flows().len(), 0);
}

fn directions_are_kept_apart(machine: &mut Machine, family: Family, protocol: Protocol) {
    for at in [Where::Here, Where::Far] {
        machine.load(world(family, protocol, at));
        let there = first(protocol, client(family), asked(family));
        let seen = masqueraded(machine, family, at, &there);
        let inside = later(protocol, client(family), at.backend(family));
        let back = later(protocol, at.backend(family), seen);
        let out = back.to(client(family));
        use Program::{FromPod, FromWire, ToPod, ToWire};
        let (leaves, others) = match at {
            Where::Here => (ToPod, [FromPod, ToWire, FromWire]),
            Where::Far => (ToWire, [FromPod, ToPod, FromWire]),
        };
        for program in others {
            let packet = inside.frame();
            machine.run(program, &packet).continues_as(&packet, &[]);
        }
        for program in [ToPod, FromPod, FromWire] {
            let packet = out.frame();
            machine.run(program, &packet).continues_as(&packet, &[]);
        }
        for program in [ToPod, ToWire] {
            let packet = back.frame();
            machine.run(program, &packet).continues_as(&packet, &[]);
        }
        assert_ne!(leaves, FromPod);
    }
}

fn known_flows_go_on_beside_another_proxy(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let at = Where::Far;
    machine.load(world(family, protocol, at));
    let there = first(protocol, client(family), asked(family));
    let seen = masqueraded(machine, family, at, &there);
    machine.change(|world| world.config.as_mut().unwrap().flags |= Config::DRAIN);
    answered(
        machine,
        family,
        protocol,
        at,
        seen,
        client(family),
        asked(family),
    );
    let new = there.from((family.outside(2), 40_002).into()).frame();
    machine
        .wire_brings(&new)
        .continues_as(&new, &[Cause::Draining]);
    let pod = first(protocol, (family.pod(2), 40_001).into(), asked(family)).frame();
    machine
        .pod_sends(&pod)
        .continues_as(&pod, &[Cause::Draining]);
}

fn udp_leaves_a_backend_that_no_longer_serves(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Udp;
    machine.load(world(family, protocol, Where::Far));
    let there = first(protocol, client(family), asked(family));
    masqueraded(machine, family, Where::Far, &there);
    machine.change(|world| {
        world.backends(protocol, unspecified(family), &[Where::Here.slot(family)]);
    });
    let inside = there.to(Where::Here.backend(family));
    machine
        .wire_brings(&there.frame())
        .continues_as(&inside.frame(), &[Cause::FlowCreated, Cause::BackendGone]);
    let left = machine.pod_gets(&inside.frame());
    let seen = SocketAddr::new(family.node(7), source_port(&left.packet, &there));
    left.continues_as(&inside.from(seen).frame(), &[Cause::Masqueraded]);
    answered(
        machine,
        family,
        protocol,
        Where::Here,
        seen,
        client(family),
        asked(family),
    );
}

fn refused_sources_and_client_affinity(machine: &mut Machine, family: Family, protocol: Protocol) {
    let external = SocketAddr::new(family.service(8), 80);
    let mut world = world(family, protocol, Where::Far);
    let backends: Vec<Backend> = (10..40).map(|n| remote(family.far_pod(n), 8080)).collect();
    let id = world.service(protocol, external, &backends);
    world.frontend(protocol, external).flags |=
        FrontendValue::EXTERNAL | FrontendValue::SOURCE_RANGES;
    world.frontend(protocol, external).affinity_timeout = 10;
    world.range(
        id,
        family.outside(16),
        if family == Family::V4 { 28 } else { 124 },
    );
    machine.load(world);
    let outside = first(protocol, client(family), external).frame();
    machine
        .wire_brings(&outside)
        .is(Action::Drop, &outside, &[Cause::SourceRefused]);
    let mut first_backend = None;
    for n in 0..10 {
        let there = first(protocol, (family.outside(17), 40_000 + n).into(), external);
        let done = machine.wire_brings(&there.frame());
        let chosen =
            (10..40).find(|n| there.to((family.far_pod(*n), 8080).into()).frame() == done.packet);
        assert_eq!(*first_backend.get_or_insert(chosen), chosen);
        assert!(chosen.is_some());
    }
}

fn an_undefined_port_of_a_cluster_ip_is_refused(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = world(family, protocol, Where::Far);
    world.service(
        protocol,
        (family.service(1), 80).into(),
        &[Where::Far.slot(family)],
    );
    world.address(family.service(1), AddressValue::CLUSTER_IP);
    machine.load(world);
    let there = first(protocol, client(family), (family.service(1), 81).into());
    let done = machine.wire_brings(&there.frame());
    done.goes_back_as(
        &crate::no_endpoints::unreachable(&there),
        &[Cause::PortRejected],
    );
    assert_eq!(done.packet[..12], sent_back(there.frame())[..12]);
}

scenes! { family, protocol:
    the_local_policy_keeps_the_source,
    a_backend_that_is_this_node_sees_the_client,
    a_cluster_ip_from_outside,
    the_internal_policy_holds_for_cluster_ips,
    one_client_port_to_two_services,
    services_without_endpoints,
    packets_that_are_not_ours,
    directions_are_kept_apart,
    known_flows_go_on_beside_another_proxy,
    refused_sources_and_client_affinity,
    an_undefined_port_of_a_cluster_ip_is_refused,
}
scenes! { family: udp_leaves_a_backend_that_no_longer_serves }
