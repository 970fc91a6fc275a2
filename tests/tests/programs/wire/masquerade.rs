//! Flows whose backend sees this node's address instead of the client's.

use std::net::SocketAddr;

use signpost_common::{
    Cause,
    dns::Config,
    flow::{FlowKey, FlowValue},
    service::FrontendValue,
};

use super::{Where, answered, asked, client, masqueraded, source_port, unspecified, world};
use crate::{
    icmp::Message,
    machine::{Action, Machine, scenes},
    packets::{Family, Protocol, Segment, first, frame, later},
    world::SECOND,
};

fn the_cluster_policy_masquerades(machine: &mut Machine, family: Family, protocol: Protocol) {
    for at in [Where::Here, Where::Far] {
        machine.load(world(family, protocol, at));
        let there = first(protocol, client(family), asked(family));
        let seen = masqueraded(machine, family, at, &there);
        answered(
            machine,
            family,
            protocol,
            at,
            seen,
            client(family),
            asked(family),
        );
        for payload in [&b""[..], b"1", b"22", b"a longer one, of odd length"] {
            let more = later(protocol, client(family), asked(family)).payload(payload);
            let inside = more.to(at.backend(family));
            machine
                .wire_brings(&more.frame())
                .continues_as(&inside.frame(), &[Cause::Translated]);
            at.leave(machine, &inside.frame())
                .continues_as(&inside.from(seen).frame(), &[Cause::Masqueraded]);
        }
        assert_eq!(machine.flows().len(), 4, "{at:?}");
        for (key, flow) in machine.flows() {
            assert_eq!(flow.check, key.check());
        }
    }
}

fn clients_do_not_get_each_others_answers(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    for at in [Where::Here, Where::Far] {
        machine.load(world(family, protocol, at));
        let clients = [2, 3, 4, 5].map(|n| SocketAddr::new(family.outside(n), 40_001));
        let seen =
            clients.map(|c| masqueraded(machine, family, at, &first(protocol, c, asked(family))));
        for (client, seen) in clients.into_iter().zip(seen) {
            answered(machine, family, protocol, at, seen, client, asked(family));
        }
        let different: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(different.len(), 4);
        // What is for the node itself stays so, though it comes from the backend.
        let own = later(
            protocol,
            at.backend(family),
            (family.node(7), 60_000).into(),
        )
        .frame();
        at.arrive(machine, &own).continues_as(&own, &[]);
    }
}

fn all_of_a_pods_traffic_to_cluster_ips_may_be_masqueraded(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let (pod, vip) = (
        SocketAddr::new(family.pod(2), 40_001),
        SocketAddr::new(family.service(1), 80),
    );
    for at in [Where::Here, Where::Far] {
        let mut world = world(family, protocol, at);
        world.service(protocol, vip, &[at.slot(family)]);
        world.config.as_mut().unwrap().flags |= Config::MASQUERADE_ALL;
        machine.load(world);
        let there = first(protocol, pod, vip);
        let inside = there.to(at.backend(family));
        machine
            .pod_sends(&there.frame())
            .continues_as(&inside.frame(), &[Cause::FlowCreated]);
        let left = at.leave(machine, &inside.frame());
        let seen = SocketAddr::new(family.node(7), source_port(&left.packet, &there));
        left.continues_as(&inside.from(seen).frame(), &[Cause::Masqueraded]);
        let back = later(protocol, at.backend(family), seen);
        at.arrive(machine, &back.frame())
            .continues_as(&back.to(pod).frame(), &[Cause::Reversed]);
        machine
            .pod_gets(&back.to(pod).frame())
            .continues_as(&back.to(pod).from(vip).frame(), &[Cause::Reversed]);
        // NodePorts it reaches with its own address.
        let there = first(protocol, (pod.ip(), 40_002).into(), asked(family));
        let inside = there.to(at.backend(family)).frame();
        machine
            .pod_sends(&there.frame())
            .continues_as(&inside, &[Cause::FlowCreated]);
        at.leave(machine, &inside).continues_as(&inside, &[]);
    }
}

fn a_client_that_is_its_own_backend(machine: &mut Machine, family: Family, protocol: Protocol) {
    let at = Where::Far;
    let mut world = world(family, protocol, at);
    world.frontend(protocol, unspecified(family)).flags |= FrontendValue::EXTERNAL_LOCAL;
    let vip = SocketAddr::new(family.service(1), 80);
    world.service(protocol, vip, &[at.slot(family)]);
    machine.load(world);
    let itself = SocketAddr::new(at.backend(family).ip(), 40_001);
    let there = first(protocol, itself, vip);
    let seen = masqueraded(machine, family, at, &there);
    answered(machine, family, protocol, at, seen, itself, vip);
}

fn fragments_follow_the_first(machine: &mut Machine, family: Family, protocol: Protocol) {
    for at in [Where::Here, Where::Far] {
        machine.load(world(family, protocol, at));
        let payload: Vec<u8> = (0..333_u16).map(|n| n as u8).collect();
        let cuts = [64, 200];
        // The first packet of the flow is in fragments already.
        let there = first(protocol, client(family), asked(family)).payload(&payload);
        let inside = there.to(at.backend(family));
        let mut seen = None;
        let both = there
            .fragments(&cuts)
            .into_iter()
            .zip(inside.fragments(&cuts));
        for (n, (packet, expected)) in both.enumerate() {
            let cause = if n == 0 {
                Cause::FlowCreated
            } else {
                Cause::FragmentTranslated
            };
            machine
                .wire_brings(&packet)
                .continues_as(&expected, &[cause]);
            let left = at.leave(machine, &expected);
            let header = expected.len() - 64;
            let seen = seen.get_or_insert_with(|| {
                let port = u16::from_be_bytes([left.packet[header], left.packet[header + 1]]);
                SocketAddr::new(family.node(7), port)
            });
            let cause = if n == 0 {
                Cause::Masqueraded
            } else {
                Cause::FragmentTranslated
            };
            left.continues_as(&inside.from(*seen).fragments(&cuts)[n], &[cause]);
        }
        let seen = seen.expect("there were fragments");
        let back = later(protocol, at.backend(family), seen).payload(&payload);
        let [arrived, out, left] = [
            back.fragments(&cuts),
            back.to(client(family)).fragments(&cuts),
            back.to(client(family)).from(asked(family)).fragments(&cuts),
        ];
        for n in 0..3 {
            let cause = if n == 0 {
                Cause::Reversed
            } else {
                Cause::FragmentTranslated
            };
            at.arrive(machine, &arrived[n])
                .continues_as(&out[n], &[cause]);
            machine.wire_takes(&out[n]).continues_as(&left[n], &[cause]);
        }
    }
}

fn errors_go_both_ways(machine: &mut Machine, family: Family, protocol: Protocol) {
    for at in [Where::Here, Where::Far] {
        machine.load(world(family, protocol, at));
        let there = first(protocol, client(family), asked(family));
        let seen = masqueraded(machine, family, at, &there);
        let (backend, router) = (at.backend(family), family.router());
        let translated = &[Cause::IcmpTranslated];
        for message in Message::ERRORS {
            for whole in [true, false] {
                let quote = |segment: &Segment| {
                    let mut bytes = segment.ip();
                    if !whole {
                        bytes.truncate(bytes.len() - segment.transport().len() + 8);
                    }
                    bytes
                };
                // About what the backend gets: from the backend or a router, to this node, and on to the client. The
                // quoted transport checksum stays what it was.
                let got = later(protocol, seen, backend);
                for sender in [backend.ip(), router] {
                    let arrives = frame(&message.ip(sender, seen.ip(), &quote(&got)));
                    let inside = got.from(client(family)).checksum_of(&got);
                    let expected = frame(&message.ip(sender, client(family).ip(), &quote(&inside)));
                    at.arrive(machine, &arrives)
                        .continues_as(&expected, translated);
                    let out = inside.to(asked(family));
                    let from = if sender == router {
                        router
                    } else {
                        asked(family).ip()
                    };
                    let left = frame(&message.ip(from, client(family).ip(), &quote(&out)));
                    machine
                        .wire_takes(&expected)
                        .continues_as(&left, translated);
                }
                // About what the client gets: from the client or a router, to the address that it asked, and on to
                // the backend.
                let got = later(protocol, asked(family), client(family));
                for sender in [client(family).ip(), router] {
                    let arrives = frame(&message.ip(sender, asked(family).ip(), &quote(&got)));
                    let inside = got.from(backend).checksum_of(&got);
                    let expected = frame(&message.ip(sender, backend.ip(), &quote(&inside)));
                    machine
                        .wire_brings(&arrives)
                        .continues_as(&expected, translated);
                    let out = inside.to(seen);
                    let from = if sender == router { router } else { seen.ip() };
                    let left = frame(&message.ip(from, backend.ip(), &quote(&out)));
                    at.leave(machine, &expected).continues_as(&left, translated);
                }
            }
        }
    }
}

fn without_an_address_nothing_is_masqueraded(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = world(family, protocol, Where::Far);
    world.devices.clear();
    machine.load(world);
    let there = first(protocol, client(family), asked(family));
    let inside = there.to(Where::Far.backend(family)).frame();
    machine.wire_brings(&there.frame());
    machine
        .wire_takes(&inside)
        .is(Action::Drop, &inside, &[Cause::NoMasqueradeAddress]);
    // The client sends it again when there is one.
    machine.change(|world| world.masquerades_as(Family::V4.node(7), Family::V6.node(7)));
    let left = machine.wire_takes(&inside);
    assert_eq!(
        (left.action, &left.causes[..]),
        (Action::Continue, &[Cause::Masqueraded][..])
    );
}

fn every_port_is_taken(machine: &mut Machine, family: Family, protocol: Protocol) {
    let at = Where::Far;
    machine.load(world(family, protocol, at));
    masqueraded(
        machine,
        family,
        at,
        &first(protocol, client(family), asked(family)),
    );
    let is_back = |key: &FlowKey| {
        key.direction == FlowKey::FROM_WIRE && key.destination == family.node(7).into()
    };
    let (key, flow) = machine
        .flows()
        .into_iter()
        .find(|(key, _)| is_back(key))
        .unwrap();
    // The same for every port, with other clients behind them.
    let taken = (61_000..=65_535_u16).map(|port| {
        let key = FlowKey {
            destination_port: signpost_common::Port::new(port),
            ..key
        };
        let of = family.outside(200).into();
        (
            key,
            FlowValue {
                check: key.check(),
                destination: of,
                destination_port: key.destination_port,
                ..flow
            },
        )
    });
    let taken: Vec<_> = taken.collect();
    machine.set_flows(taken.clone());
    let there = first(protocol, (family.outside(3), 40_001).into(), asked(family));
    let inside = there.to(at.backend(family)).frame();
    machine
        .wire_brings(&there.frame())
        .continues_as(&inside, &[Cause::FlowCreated]);
    machine
        .wire_takes(&inside)
        .is(Action::Drop, &inside, &[Cause::PortsExhausted]);
    // Connections that are over leave their ports to others.
    let over = taken.into_iter().flat_map(|(key, flow)| {
        let mut other_key = FlowKey::ZERO;
        flow.write_opposite(&key, &mut other_key);
        let other = FlowValue {
            check: other_key.check(),
            source: key.destination,
            source_port: key.destination_port,
            destination: key.source,
            destination_port: key.source_port,
            flags: FlowValue::MASQUERADE | FlowValue::RESET,
            ..flow
        };
        [(key, flow), (other_key, other)]
    });
    machine.set_flows(over);
    let seen = masqueraded(machine, family, at, &there);
    answered(
        machine,
        family,
        protocol,
        at,
        seen,
        there.source(),
        asked(family),
    );
}

fn a_flow_keeps_its_port_when_the_other_pair_is_evicted(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    for at in [Where::Here, Where::Far] {
        machine.load(world(family, protocol, at));
        let there = first(protocol, client(family), asked(family));
        let seen = masqueraded(machine, family, at, &there);
        let kept = machine.flows().into_iter().filter(|(key, flow)| {
            flow.flags & FlowValue::MASQUERADE != 0 || key.destination == seen.ip().into()
        });
        let kept: Vec<_> = kept.collect();
        assert_eq!(kept.len(), 2);
        machine.set_flows(kept);
        // Of TCP only what opens a connection may open a flow at an address of the node.
        let more = first(protocol, client(family), asked(family));
        let inside = more.to(at.backend(family));
        machine
            .wire_brings(&more.frame())
            .continues_as(&inside.frame(), &[Cause::FlowCreated]);
        at.leave(machine, &inside.frame())
            .continues_as(&inside.from(seen).frame(), &[Cause::Masqueraded]);
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

/// Of a flow that nobody answers only the way there is used, so that its way back may be evicted alone. Its port is then
/// free for others.
fn a_way_back_that_was_evicted(machine: &mut Machine, family: Family, protocol: Protocol) {
    for at in [Where::Here, Where::Far] {
        for taken in [false, true] {
            machine.load(world(family, protocol, at));
            let there = first(protocol, client(family), asked(family));
            let seen = masqueraded(machine, family, at, &there);
            let (mut back, mut others): (Vec<_>, Vec<_>) = machine
                .flows()
                .into_iter()
                .partition(|(key, _)| key.destination == seen.ip().into());
            let (key, mut of_another) = back.pop().expect("there is a way back");
            assert!(back.is_empty());
            of_another.destination = family.outside(200).into();
            for (_, value) in &mut others {
                value.last_seen -= 2 * SECOND;
            }
            if taken {
                others.push((key, of_another));
            }
            machine.set_flows(others);
            let more = later(protocol, client(family), asked(family));
            let inside = more.to(at.backend(family));
            machine
                .wire_brings(&more.frame())
                .continues_as(&inside.frame(), &[Cause::Translated]);
            let left = at.leave(machine, &inside.frame());
            let now = SocketAddr::new(seen.ip(), source_port(&left.packet, &more));
            left.continues_as(&inside.from(now).frame(), &[Cause::Masqueraded]);
            assert_eq!(now != seen, taken);
            answered(
                machine,
                family,
                protocol,
                at,
                now,
                client(family),
                asked(family),
            );
            if taken {
                let flows = machine.flows();
                let found = flows.iter().find(|(other, _)| *other == key);
                assert_eq!(
                    found.expect("it stays").1.destination,
                    of_another.destination
                );
            }
        }
    }
}

/// Another proxy, or the CNI, masquerades too and may choose one of our ports.
fn others_never_share_a_port_with_a_flow(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    for at in [Where::Here, Where::Far] {
        machine.load(world(family, protocol, at));
        let there = first(protocol, client(family), asked(family));
        let seen = masqueraded(machine, family, at, &there);
        // Who comes later gets another port.
        let theirs = first(protocol, seen, at.backend(family));
        let left = at.leave(machine, &theirs.frame());
        let moved = SocketAddr::new(seen.ip(), source_port(&left.packet, &theirs));
        left.continues_as(&theirs.from(moved).frame(), &[Cause::Masqueraded]);
        assert_ne!(moved, seen);
        assert!(moved.port() >= 61_000);
        let more = later(protocol, seen, at.backend(family));
        at.leave(machine, &more.frame())
            .continues_as(&more.from(moved).frame(), &[Cause::Masqueraded]);
        let back = later(protocol, at.backend(family), moved);
        at.arrive(machine, &back.frame())
            .continues_as(&back.to(seen).frame(), &[Cause::Reversed]);
        let (client, asked) = (client(family), asked(family));
        answered(machine, family, protocol, at, seen, client, asked);

        // Who comes first keeps it, whatever address of the node it has.
        machine.load(world(family, protocol, at));
        for from in [seen, (family.node(1), seen.port()).into()] {
            let theirs = first(protocol, from, at.backend(family));
            for packet in [theirs.frame(), theirs.frame()] {
                at.leave(machine, &packet)
                    .continues_as(&packet, &[Cause::Masqueraded]);
            }
            let back = later(protocol, at.backend(family), from).frame();
            at.arrive(machine, &back)
                .continues_as(&back, &[Cause::Reversed]);
        }
        let now = masqueraded(machine, family, at, &there);
        assert_ne!(now, seen);
        answered(machine, family, protocol, at, now, client, asked);
        let back = later(protocol, at.backend(family), seen).frame();
        at.arrive(machine, &back)
            .continues_as(&back, &[Cause::Reversed]);
    }
}

fn what_has_no_port_of_ours_is_nobody_s_flow(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    for at in [Where::Here, Where::Far] {
        machine.load(world(family, protocol, at));
        for from in [(family.node(7), 60_999), (family.pod(3), 61_000)] {
            let packet = first(protocol, from.into(), at.backend(family)).frame();
            at.leave(machine, &packet).continues_as(&packet, &[]);
        }
        assert!(machine.flows().is_empty());
    }
}

fn a_connection_that_is_opened_anew_is_as_new_as_any(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Tcp;
    for at in [Where::Here, Where::Far] {
        machine.load(world(family, protocol, at));
        let there = first(protocol, client(family), asked(family));
        let seen = masqueraded(machine, family, at, &there);
        // The backend refuses it.
        let back = first(protocol, at.backend(family), seen).flags("RA");
        at.arrive(machine, &back.frame());
        machine.wire_takes(&back.to(client(family)).frame());
        assert_eq!(masqueraded(machine, family, at, &there), seen);
        let closed = |flow: &FlowValue| flow.flags & (FlowValue::RESET | FlowValue::FIN) != 0;
        assert!(
            !machine.flows().iter().any(|(_, flow)| closed(flow)),
            "{at:?}"
        );
    }
}

/// The sweeper may be about to forget the last connection when its client uses the port again. An entry that is as old as
/// that connection when the packet has come, and not yet left, would be lost, and the packet's source with it.
fn all_of_a_flow_is_new_before_its_first_packet_leaves(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Tcp;
    for at in [Where::Here, Where::Far] {
        machine.load(world(family, protocol, at));
        let there = first(protocol, client(family), asked(family));
        let seen = masqueraded(machine, family, at, &there);
        let back = first(protocol, at.backend(family), seen).flags("RA");
        at.arrive(machine, &back.frame());
        machine.wire_takes(&back.to(client(family)).frame());
        let mut flows = machine.flows();
        let long_ago = flows[0].1.last_seen - 20 * SECOND;
        for (_, flow) in &mut flows {
            flow.last_seen = long_ago;
        }
        machine.set_flows(flows);
        machine.wire_brings(&there.frame());
        let old: Vec<_> = machine
            .flows()
            .into_iter()
            .filter(|(_, flow)| flow.last_seen == long_ago)
            .collect();
        let [(key, _)] = &old[..] else {
            panic!("{at:?}: {old:#?}");
        };
        assert_eq!(
            key.destination,
            seen.ip().into(),
            "the way back, which is found again when the packet leaves"
        );
        let inside = there.to(at.backend(family));
        at.leave(machine, &inside.frame())
            .continues_as(&inside.from(seen).frame(), &[Cause::Masqueraded]);
        assert!(
            machine
                .flows()
                .iter()
                .all(|(_, flow)| flow.last_seen > long_ago)
        );
    }
}

scenes! { family, protocol:
    others_never_share_a_port_with_a_flow,
    what_has_no_port_of_ours_is_nobody_s_flow,
    a_way_back_that_was_evicted,
    the_cluster_policy_masquerades,
    clients_do_not_get_each_others_answers,
    all_of_a_pods_traffic_to_cluster_ips_may_be_masqueraded,
    a_client_that_is_its_own_backend,
    fragments_follow_the_first,
    errors_go_both_ways,
    without_an_address_nothing_is_masqueraded,
    every_port_is_taken,
    a_flow_keeps_its_port_when_the_other_pair_is_evicted,
}
scenes! { family:
    a_connection_that_is_opened_anew_is_as_new_as_any,
    all_of_a_flow_is_new_before_its_first_packet_leaves,
}
