//! A DNS pod of this node whose server is gone: its kernel says so by ICMP, before its clock is stale.

use std::net::SocketAddr;

use signpost_common::Cause;

use super::{packet, server};
use crate::{
    icmp::Message,
    machine::{Action, Machine, scenes},
    packets::{Family, Segment, frame},
    world::{SECOND, World, local, remote},
};

fn ours(family: Family) -> SocketAddr {
    (family.pod(53), 5353).into()
}

fn far(family: Family) -> SocketAddr {
    (family.far_pod(5), 5353).into()
}

/// A pod of this node, whose clock is so old, and one of another node.
fn world(family: Family, alive_for: Option<u64>) -> World {
    let mut world = World::new();
    let backends = [
        local(ours(family).ip(), 5353),
        remote(far(family).ip(), 5353),
    ];
    world.dns(server(family), &backends);
    world.dns_alive_at = alive_for.map_or(0, |age| world.now - age);
    world
}

fn question(family: Family, port: u16) -> Segment {
    packet(family, b"no question").from(SocketAddr::new(family.pod(2), port))
}

/// Whom a question from a port goes to.
#[track_caller]
fn asks(machine: &mut Machine, family: Family, port: u16) -> SocketAddr {
    let question = question(family, port);
    let done = machine.pod_sends(&question.frame());
    assert_eq!(done.action, Action::Continue);
    let all = [ours(family), far(family)];
    let found = all
        .iter()
        .find(|pod| question.to(**pod).frame() == done.packet);
    *found.expect("one of the pods")
}

/// The asker hears an error about its question to the pod of this node.
#[track_caller]
fn hears(machine: &mut Machine, family: Family, port: u16, message: Message) {
    let client = family.pod(2);
    let (received, sent) = (
        question(family, port).to(ours(family)),
        question(family, port),
    );
    let error = message.ip(ours(family).ip(), client, &received.ip());
    let expected = message.ip(
        server(family).ip(),
        client,
        &sent.checksum_of(&received).ip(),
    );
    machine
        .pod_gets(&frame(&error))
        .continues_as(&frame(&expected), &[Cause::IcmpTranslated]);
}

fn the_next_question_goes_to_another_pod(machine: &mut Machine, family: Family) {
    machine.load(world(family, Some(0)));
    assert_eq!(asks(machine, family, 40_001), ours(family));
    hears(machine, family, 40_001, Message::PortUnreachable);
    for port in 40_002..40_012 {
        assert_eq!(asks(machine, family, port), far(family));
    }
    // Whoever asks again from the same socket, too.
    assert_eq!(asks(machine, family, 40_001), far(family));
    // The server is back.
    machine.change(|world| {
        world.now += SECOND;
        world.dns_alive_at = world.now;
    });
    assert_eq!(asks(machine, family, 40_020), ours(family));
}

fn other_errors_say_nothing_of_the_server(machine: &mut Machine, family: Family) {
    for (port, message) in (40_001..).zip(Message::ERRORS) {
        if message == Message::PortUnreachable {
            continue;
        }
        machine.load(world(family, Some(0)));
        assert_eq!(asks(machine, family, port), ours(family));
        hears(machine, family, port, message);
        assert_eq!(asks(machine, family, port + 100), ours(family));
    }
}

fn a_pod_that_never_had_a_clock_stays_one_of_several(machine: &mut Machine, family: Family) {
    machine.load(world(family, None));
    let first = (40_001..40_100).find(|&port| asks(machine, family, port) == ours(family));
    hears(
        machine,
        family,
        first.expect("its turn"),
        Message::PortUnreachable,
    );
    let mut ports = 41_000..41_100;
    assert!(ports.any(|port| asks(machine, family, port) == ours(family)));
}

scenes!(family: the_next_question_goes_to_another_pod, other_errors_say_nothing_of_the_server,
    a_pod_that_never_had_a_clock_stays_one_of_several);
