//! Packets of TCP and UDP to a Service and back.

use std::net::SocketAddr;

use signpost_common::{Cause, dns::Config, flow::FlowValue, service::FrontendValue};

use crate::{
    machine::{Action, Machine, scenes},
    packets::{Family, Protocol, Segment, first, later, sent_back},
    world::{Backend, SECOND, World, local, remote},
};

/// A client pod of this node.
pub(crate) fn client(family: Family) -> SocketAddr {
    (family.pod(2), 40_001).into()
}

/// A Service's address and port.
pub(crate) fn service(family: Family) -> SocketAddr {
    (family.service(1), 80).into()
}

/// A backend of it.
pub(crate) fn backend(family: Family, number: u8) -> SocketAddr {
    (family.far_pod(number), 8080).into()
}

/// A world with one Service of these backends on other nodes.
pub(crate) fn world(family: Family, protocol: Protocol, backends: &[u8]) -> World {
    let mut world = World::new();
    let backends: Vec<Backend> = backends
        .iter()
        .map(|&n| remote(family.far_pod(n), 8080))
        .collect();
    world.service(protocol, service(family), &backends);
    world
}

/// Lets the client open a flow, and finds out who its backend is.
pub(crate) fn opened(
    machine: &mut Machine,
    packet: &Segment,
    backends: &[SocketAddr],
) -> SocketAddr {
    let done = machine.pod_sends(&packet.frame());
    assert_eq!(
        (done.action, &done.causes[..]),
        (Action::Continue, &[Cause::FlowCreated][..])
    );
    let is = |backend: &&SocketAddr| packet.to(**backend).frame() == done.packet;
    *backends
        .iter()
        .find(is)
        .expect("the packet goes to one of the backends")
}

fn both_ways_of_a_flow(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol, &[5]));
    let (client, service, backend) = (client(family), service(family), backend(family, 5));
    let there = first(protocol, client, service);
    machine
        .pod_sends(&there.frame())
        .continues_as(&there.to(backend).frame(), &[Cause::FlowCreated]);
    let back = first(protocol, backend, client).flags("SA");
    machine
        .pod_gets(&back.frame())
        .continues_as(&back.from(service).frame(), &[Cause::Reversed]);
    for payload in [&b""[..], b"1", b"22", b"a longer one, of odd length"] {
        let there = later(protocol, client, service).payload(payload);
        machine
            .pod_sends(&there.frame())
            .continues_as(&there.to(backend).frame(), &[Cause::Translated]);
        let back = later(protocol, backend, client).payload(payload);
        machine
            .pod_gets(&back.frame())
            .continues_as(&back.from(service).frame(), &[Cause::Reversed]);
    }
    assert_eq!(machine.flows().len(), 2);
}

fn a_backend_on_this_node(machine: &mut Machine, family: Family, protocol: Protocol) {
    let mut world = World::new();
    let backend: SocketAddr = (family.pod(9), 9090).into();
    world.service(protocol, service(family), &[local(backend.ip(), 9090)]);
    machine.load(world);
    let there = first(protocol, client(family), service(family));
    machine
        .pod_sends(&there.frame())
        .continues_as(&there.to(backend).frame(), &[Cause::FlowCreated]);
    // At the backend's own interface nothing is left to do, either way.
    let arrives = there.to(backend).frame();
    machine.pod_gets(&arrives).continues_as(&arrives, &[]);
    let back = first(protocol, backend, client(family)).flags("SA");
    machine
        .pod_sends(&back.frame())
        .continues_as(&back.frame(), &[]);
    machine
        .pod_gets(&back.frame())
        .continues_as(&back.from(service(family)).frame(), &[Cause::Reversed]);
}

fn a_port_that_the_service_does_not_change(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = World::new();
    world.service(
        protocol,
        service(family),
        &[remote(family.far_pod(5), service(family).port())],
    );
    machine.load(world);
    let there = first(protocol, client(family), service(family));
    let backend = (family.far_pod(5), service(family).port()).into();
    machine
        .pod_sends(&there.frame())
        .continues_as(&there.to(backend).frame(), &[Cause::FlowCreated]);
}

fn packets_between_pods_are_not_touched(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol, &[5]));
    for packet in [
        first(protocol, client(family), backend(family, 5)),
        later(protocol, backend(family, 5), client(family)),
        later(protocol, backend(family, 6), client(family)),
    ] {
        let packet = packet.frame();
        machine.pod_sends(&packet).continues_as(&packet, &[]);
        machine.pod_gets(&packet).continues_as(&packet, &[]);
    }
    assert_eq!(machine.flows().len(), 0);
}

fn only_the_flow_itself_is_reversed(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol, &[5]));
    let (client, backend) = (client(family), backend(family, 5));
    opened(
        machine,
        &first(protocol, client, service(family)),
        &[backend],
    );
    let back = later(protocol, backend, client);
    let other_port = SocketAddr::new(client.ip(), client.port() + 1);
    let other_pod = SocketAddr::new(family.pod(3), client.port());
    for foreign in [
        back.to(other_port),
        back.to(other_pod),
        back.from((backend.ip(), 8081).into()),
        back.from((family.far_pod(6), 8080).into()),
    ] {
        let packet = foreign.frame();
        machine.pod_gets(&packet).continues_as(&packet, &[]);
    }
    // Nor is the reply translated as something that the pod sends.
    machine
        .pod_sends(&back.frame())
        .continues_as(&back.frame(), &[]);
}

fn tcp_and_udp_of_one_port_are_two_services(machine: &mut Machine, family: Family) {
    let mut world = world(family, Protocol::Tcp, &[5]);
    world.service(
        Protocol::Udp,
        service(family),
        &[remote(family.far_pod(6), 53)],
    );
    machine.load(world);
    let tcp = first(Protocol::Tcp, client(family), service(family));
    let udp = first(Protocol::Udp, client(family), service(family));
    machine
        .pod_sends(&tcp.frame())
        .continues_as(&tcp.to(backend(family, 5)).frame(), &[Cause::FlowCreated]);
    machine.pod_sends(&udp.frame()).continues_as(
        &udp.to((family.far_pod(6), 53).into()).frame(),
        &[Cause::FlowCreated],
    );
}

fn a_pod_reaches_itself(machine: &mut Machine, family: Family, protocol: Protocol) {
    let mut world = World::new();
    let client = client(family);
    let itself: SocketAddr = (client.ip(), 8080).into();
    world.service(protocol, service(family), &[local(client.ip(), 8080)]);
    machine.load(world);
    // It sees itself asked by the Service's address …
    let there = first(protocol, client, service(family));
    let seen = SocketAddr::new(service(family).ip(), client.port());
    machine.pod_sends(&there.frame()).goes_back_as(
        &sent_back(there.from(seen).to(itself).frame()),
        &[Cause::Hairpin],
    );
    // … answers to that address, and gets the answer from there.
    let back = first(protocol, itself, seen).flags("SA");
    machine.pod_sends(&back.frame()).goes_back_as(
        &sent_back(back.from(service(family)).to(client).frame()),
        &[Cause::Hairpin],
    );
    let later = later(protocol, client, service(family));
    machine.pod_sends(&later.frame()).goes_back_as(
        &sent_back(later.from(seen).to(itself).frame()),
        &[Cause::Hairpin],
    );
}

fn flows_spread_and_find_their_backend_again(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    machine.load(world(family, protocol, &[5, 6, 7]));
    let backends = [5, 6, 7].map(|n| backend(family, n));
    let chosen = |machine: &mut Machine| -> Vec<SocketAddr> {
        (0..60)
            .map(|n| {
                let client = SocketAddr::new(family.pod(2), 40_000 + n);
                opened(
                    machine,
                    &first(protocol, client, service(family)),
                    &backends,
                )
            })
            .collect()
    };
    let before = chosen(machine);
    for backend in backends {
        let flows = before.iter().filter(|chosen| **chosen == backend).count();
        assert!((8..=36).contains(&flows), "{flows} of 60 go to {backend}");
    }
    machine.forget_flows();
    assert_eq!(chosen(machine), before);
}

fn a_changed_set_leaves_flows_alone(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Tcp;
    machine.load(world(family, protocol, &[5]));
    let there = first(protocol, client(family), service(family));
    opened(machine, &there, &[backend(family, 5)]);
    machine.change(|world| {
        let frontend = service(family);
        world.backends(protocol, frontend, &[remote(family.far_pod(6), 8080)]);
    });
    // The connection stays, though its backend is gone from every table; a new one goes to the new backend.
    let more = later(protocol, client(family), service(family));
    machine
        .pod_sends(&more.frame())
        .continues_as(&more.to(backend(family, 5)).frame(), &[Cause::Translated]);
    let new = there.from((family.pod(2), 40_002).into());
    opened(machine, &new, &[backend(family, 6)]);
}

fn a_syn_leaves_a_backend_that_is_no_longer_chosen(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Tcp;
    machine.load(world(family, protocol, &[5]));
    let there = first(protocol, client(family), service(family));
    opened(machine, &there, &[backend(family, 5)]);
    // Sent again while the backend is in the set, it stays.
    machine
        .pod_sends(&there.frame())
        .continues_as(&there.to(backend(family, 5)).frame(), &[Cause::Translated]);
    machine.change(|world| {
        let frontend = service(family);
        world.backends(protocol, frontend, &[remote(family.far_pod(6), 8080)]);
    });
    machine.pod_sends(&there.frame()).continues_as(
        &there.to(backend(family, 6)).frame(),
        &[Cause::FlowCreated, Cause::BackendGone],
    );
    let back = later(protocol, backend(family, 6), client(family));
    machine
        .pod_gets(&back.frame())
        .continues_as(&back.from(service(family)).frame(), &[Cause::Reversed]);
}

fn what_a_flow_saw_is_recorded(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Tcp;
    machine.load(world(family, protocol, &[5]));
    let (client, service, backend) = (client(family), service(family), backend(family, 5));
    let there = first(protocol, client, service);
    let flags = |machine: &mut Machine| {
        let mut flags = [0, 0];
        for (key, flow) in machine.flows() {
            flags[usize::from(key.direction)] = flow.flags;
            assert_eq!(flow.check, key.check());
        }
        flags
    };
    opened(machine, &there, &[backend]);
    assert_eq!(flags(machine), [FlowValue::FORWARD, 0]);
    machine.pod_gets(&first(protocol, backend, client).flags("SA").frame());
    assert_eq!(flags(machine), [FlowValue::FORWARD, 0]);
    machine.pod_sends(&there.flags("A").frame());
    machine.pod_gets(&there.from(backend).to(client).flags("FA").frame());
    let (est, fin, rst) = (FlowValue::ESTABLISHED, FlowValue::FIN, FlowValue::RESET);
    assert_eq!(flags(machine), [FlowValue::FORWARD | est, est | fin]);
    machine.pod_sends(&there.flags("R").frame());
    assert_eq!(flags(machine), [FlowValue::FORWARD | est | rst, est | fin]);
}

fn udp_leaves_a_backend_that_no_longer_serves(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Udp;
    machine.load(world(family, protocol, &[5]));
    let there = first(protocol, client(family), service(family));
    opened(machine, &there, &[backend(family, 5)]);
    // It terminates: no new flows, but it serves those that it has.
    machine.change(|world| {
        let frontend = service(family);
        let old = world.members.clone();
        world.backends(protocol, frontend, &[remote(family.far_pod(6), 8080)]);
        world.members.extend(old);
        *world.member(1, backend(family, 5)) = signpost_common::service::MemberValue::SERVING;
    });
    machine
        .pod_sends(&there.frame())
        .continues_as(&there.to(backend(family, 5)).frame(), &[Cause::Translated]);
    machine.change(|world| *world.member(1, backend(family, 5)) = 0);
    machine.pod_sends(&there.frame()).continues_as(
        &there.to(backend(family, 6)).frame(),
        &[Cause::FlowCreated, Cause::BackendGone],
    );
}

fn udp_without_a_checksum_keeps_none(machine: &mut Machine) {
    let family = Family::V4;
    machine.load(world(family, Protocol::Udp, &[5]));
    let there = first(Protocol::Udp, client(family), service(family)).checksum(0);
    machine
        .pod_sends(&there.frame())
        .continues_as(&there.to(backend(family, 5)).frame(), &[Cause::FlowCreated]);
    let back = first(Protocol::Udp, backend(family, 5), client(family)).checksum(0);
    machine
        .pod_gets(&back.frame())
        .continues_as(&back.from(service(family)).frame(), &[Cause::Reversed]);
}

fn a_wrong_checksum_stays_wrong(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol, &[5]));
    let there = first(protocol, client(family), service(family));
    let expected = there.to(backend(family, 5));
    for wrong in [0x0001, 0x1234, 0xfffe] {
        let done = machine.pod_sends(&there.checksum(wrong).frame());
        assert_eq!(done.action, Action::Continue);
        assert_ne!(done.packet, expected.frame());
        assert_eq!(done.packet.len(), expected.frame().len());
    }
}

/// Every value of the checksum field before and after, at its borders too: payloads that make the checksum 0xffff or
/// 0x0000 are among these.
fn checksums_at_their_borders(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol, &[5]));
    let there = later(protocol, client(family), service(family));
    let to = backend(family, 5);
    let of = |segment: &Segment| {
        let bytes = segment.transport();
        let at = if protocol == Protocol::Tcp { 16 } else { 6 };
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    };
    // A word in the payload moves the checksum by itself.
    let base = there.payload(&[0, 0]);
    for (checksum, translated) in [(of(&base), of(&base)), (of(&base), of(&base.to(to)))] {
        for around in [-2_i32, -1, 0, 1, 2] {
            let word = (i32::from(checksum.min(translated).max(translated)) + around) as u16;
            let there = there.payload(&word.to_be_bytes());
            machine.pod_sends(&there.flags("S").frame());
            let done = machine.pod_sends(&there.frame());
            done.continues_as(&there.to(to).frame(), &[Cause::Translated]);
        }
    }
}

fn one_client_port_to_two_services_with_one_backend(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = world(family, protocol, &[5]);
    let other: SocketAddr = (family.service(2), 80).into();
    world.service(protocol, other, &[remote(family.far_pod(5), 8080)]);
    machine.load(world);
    let (client, backend) = (client(family), backend(family, 5));
    let one = first(protocol, client, service(family));
    opened(machine, &one, &[backend]);
    // The second one gets another source port, which nobody else uses.
    let two = first(protocol, client, other);
    let done = machine.pod_sends(&two.frame());
    let at = done.packet.len() - two.transport().len();
    let port = u16::from_be_bytes([done.packet[at], done.packet[at + 1]]);
    assert!(port >= 61_000, "{port}");
    let translated = SocketAddr::new(client.ip(), port);
    done.continues_as(
        &two.from(translated).to(backend).frame(),
        &[Cause::FlowCreated, Cause::FlowClash],
    );
    // Each reply comes from the address that was asked, to the port that asked.
    let reply = later(protocol, backend, client);
    machine
        .pod_gets(&reply.frame())
        .continues_as(&reply.from(service(family)).frame(), &[Cause::Reversed]);
    let reply = later(protocol, backend, translated);
    machine
        .pod_gets(&reply.frame())
        .continues_as(&reply.from(other).to(client).frame(), &[Cause::Reversed]);
    // And both flows keep their ports.
    let (one, two) = (
        later(protocol, client, service(family)),
        later(protocol, client, other),
    );
    machine
        .pod_sends(&one.frame())
        .continues_as(&one.to(backend).frame(), &[Cause::Translated]);
    machine.pod_sends(&two.frame()).continues_as(
        &two.from(translated).to(backend).frame(),
        &[Cause::Translated],
    );
}

fn one_client_port_to_two_services_with_several_backends(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    // Whatever the hash says first: one backend is taken, the other one is free.
    let mut world = world(family, protocol, &[5, 6]);
    let other: SocketAddr = (family.service(2), 80).into();
    let backends = [5, 6].map(|n| remote(family.far_pod(n), 8080));
    world.service(protocol, other, &backends);
    machine.load(world);
    let backends = [5, 6].map(|n| backend(family, n));
    let mut clashes = 0;
    for n in 0..20 {
        let client = SocketAddr::new(family.pod(2), 40_000 + n);
        let taken = opened(
            machine,
            &first(protocol, client, service(family)),
            &backends,
        );
        let free = *backends.iter().find(|b| **b != taken).unwrap();
        let two = first(protocol, client, other);
        let done = machine.pod_sends(&two.frame());
        done.continues_as(&two.to(free).frame(), &done.causes);
        clashes += usize::from(done.causes.contains(&Cause::FlowClash));
        let reply = later(protocol, free, client);
        machine
            .pod_gets(&reply.frame())
            .continues_as(&reply.from(other).frame(), &[Cause::Reversed]);
        let reply = later(protocol, taken, client);
        machine
            .pod_gets(&reply.frame())
            .continues_as(&reply.from(service(family)).frame(), &[Cause::Reversed]);
    }
    assert!((3..=17).contains(&clashes), "{clashes} of 20 clashed");
}

fn slots_of_somebody_else_are_not_used(machine: &mut Machine, family: Family, protocol: Protocol) {
    // The frontend is read before, its slots after they were given to another service, or another generation.
    for spoil in [
        (|slot| slot.service += 1) as fn(&mut signpost_common::service::SlotValue),
        |slot| slot.generation += 1,
    ] {
        let mut world = world(family, protocol, &[5]);
        world.slots.values_mut().for_each(spoil);
        machine.load(world);
        let there = first(protocol, client(family), service(family)).frame();
        machine
            .pod_sends(&there)
            .continues_as(&there, &[Cause::SlotsChanging]);
        assert_eq!(machine.flows().len(), 0);
    }
}

fn a_frontend_of_somebody_else_is_not_used(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Tcp;
    let mut world = world(family, protocol, &[5]);
    world.frontend(protocol, service(family)).check ^= 1;
    machine.load(world);
    let there = first(protocol, client(family), service(family)).frame();
    machine
        .pod_sends(&there)
        .continues_as(&there, &[Cause::NoFrontend]);
}

fn a_flow_of_somebody_else_is_not_followed(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Tcp;
    machine.load(world(family, protocol, &[5]));
    let there = first(protocol, client(family), service(family));
    opened(machine, &there, &[backend(family, 5)]);
    let flows = machine.flows();
    let mut world = world(family, protocol, &[6]);
    for (key, flow) in flows {
        let spoiled = FlowValue {
            check: flow.check ^ 1,
            ..flow
        };
        world.flows.get_mut().insert(key, spoiled);
    }
    machine.load(world);
    opened(machine, &there, &[backend(family, 6)]);
}

fn the_local_policy_uses_this_nodes_backends(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = World::new();
    let backends = [
        remote(family.far_pod(5), 8080),
        local(family.pod(5), 8080),
        remote(family.far_pod(6), 8080),
        local(family.pod(6), 8080),
    ];
    world.service(protocol, service(family), &backends);
    world.frontend(protocol, service(family)).flags |= FrontendValue::INTERNAL_LOCAL;
    machine.load(world);
    let ours = [5, 6].map(|n| SocketAddr::new(family.pod(n), 8080));
    for n in 0..20 {
        let client = SocketAddr::new(family.pod(2), 40_000 + n);
        opened(machine, &first(protocol, client, service(family)), &ours);
    }
}

fn takeover_passes_unknown_connections(machine: &mut Machine, family: Family) {
    let mut world = world(family, Protocol::Tcp, &[5]);
    world.service(
        Protocol::Udp,
        service(family),
        &[remote(family.far_pod(5), 8080)],
    );
    machine.load(world);
    let to = backend(family, 5);
    let take_over = |world: &mut World, on| {
        let config = world.config.as_mut().unwrap();
        config.flags = if on {
            Config::DNS | Config::TAKEOVER
        } else {
            Config::DNS
        };
    };
    machine.change(|world| take_over(world, true));
    let unknown = later(Protocol::Tcp, client(family), service(family));
    for flags in ["A", "FA", "R", "SA"] {
        let packet = unknown.flags(flags).frame();
        machine
            .pod_sends(&packet)
            .continues_as(&packet, &[Cause::Takeover]);
    }
    // A connection that opens is ours, and so is every flow of UDP.
    let syn = first(
        Protocol::Tcp,
        (family.pod(2), 40_002).into(),
        service(family),
    );
    opened(machine, &syn, &[to]);
    let udp = first(Protocol::Udp, client(family), service(family));
    opened(machine, &udp, &[to]);
    machine.change(|world| take_over(world, false));
    opened(machine, &unknown, &[to]);
}

fn dns_flows_follow_the_local_pods_clock(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let frontend = SocketAddr::new(family.service(10), 5353);
    let ours = SocketAddr::new(family.pod(53), 5353);
    let far = [5, 6].map(|n| SocketAddr::new(family.far_pod(n), 5353));
    let world = |alive_for: Option<u64>| {
        let mut world = World::new();
        let backends = [
            remote(far[0].ip(), 5353),
            local(ours.ip(), 5353),
            remote(far[1].ip(), 5353),
        ];
        world.service(protocol, frontend, &backends);
        world.frontend(protocol, frontend).flags |= FrontendValue::DNS;
        world.dns_alive_at = alive_for.map_or(0, |age| world.now - age);
        world
    };
    let all = [far[0], ours, far[1]];
    let asks = |n: u16| {
        first(
            protocol,
            SocketAddr::new(family.pod(2), 40_000 + n),
            frontend,
        )
    };

    // Never said that it is alive: a backend like the others.
    machine.load(world(None));
    let chosen: Vec<SocketAddr> = (0..40).map(|n| opened(machine, &asks(n), &all)).collect();
    assert!(all.iter().all(|backend| chosen.contains(backend)));

    // Stale: avoided, without a flow being counted as a clash.
    machine.load(world(Some(2 * SECOND)));
    for n in 0..40 {
        opened(machine, &asks(n), &far);
    }

    // Fresh: preferred, and left as soon as it falls silent.
    machine.load(world(Some(0)));
    for n in 0..10 {
        opened(machine, &asks(n), &[ours]);
    }
    machine.change(|world| world.dns_alive_at = world.now - 2 * SECOND);
    for n in 0..10 {
        let more = later(
            protocol,
            SocketAddr::new(family.pod(2), 40_000 + n),
            frontend,
        );
        let done = machine.pod_sends(&more.frame());
        assert_eq!(done.causes, [Cause::FlowCreated, Cause::DnsPodSilent]);
        assert!(far.iter().any(|b| more.to(*b).frame() == done.packet));
    }
}

fn a_silent_dns_pod_that_is_the_only_one_is_asked(machine: &mut Machine, family: Family) {
    let frontend = SocketAddr::new(family.service(10), 5353);
    let ours = SocketAddr::new(family.pod(53), 5353);
    let mut world = World::new();
    world.service(Protocol::Udp, frontend, &[local(ours.ip(), 5353)]);
    world.frontend(Protocol::Udp, frontend).flags |= FrontendValue::DNS;
    world.dns_alive_at = world.now - 2 * SECOND;
    machine.load(world);
    let asks = first(Protocol::Udp, client(family), frontend);
    let done = machine.pod_sends(&asks.frame());
    assert_eq!(done.action, Action::Continue);
    assert!(
        done.causes.contains(&Cause::FlowCreated),
        "{:?}",
        done.causes
    );
}

scenes! { family, protocol:
    both_ways_of_a_flow,
    a_backend_on_this_node,
    a_port_that_the_service_does_not_change,
    packets_between_pods_are_not_touched,
    only_the_flow_itself_is_reversed,
    a_pod_reaches_itself,
    flows_spread_and_find_their_backend_again,
    a_wrong_checksum_stays_wrong,
    checksums_at_their_borders,
    one_client_port_to_two_services_with_one_backend,
    one_client_port_to_two_services_with_several_backends,
    slots_of_somebody_else_are_not_used,
    the_local_policy_uses_this_nodes_backends,
    dns_flows_follow_the_local_pods_clock,
}
scenes! { family:
    tcp_and_udp_of_one_port_are_two_services,
    a_changed_set_leaves_flows_alone,
    a_syn_leaves_a_backend_that_is_no_longer_chosen,
    what_a_flow_saw_is_recorded,
    udp_leaves_a_backend_that_no_longer_serves,
    a_frontend_of_somebody_else_is_not_used,
    a_flow_of_somebody_else_is_not_followed,
    takeover_passes_unknown_connections,
    a_silent_dns_pod_that_is_the_only_one_is_asked,
}
scenes! { : udp_without_a_checksum_keeps_none }
