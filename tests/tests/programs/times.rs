//! How long the programs take. The limits of these tests are far above what is aimed at, for machines that are slow or
//! busy; the figures are printed.

use std::{net::SocketAddr, sync::MutexGuard, time::Duration};

use signpost_common::{
    Cause,
    dns::{NameValue, qtype},
};

use crate::{
    dns::message::Question,
    machine::{Action, Kernel, Program, kernel},
    packets::{Family, Protocol, first, later},
    world::{World, remote},
};

/// How many times the figure that is aimed at is too much here.
const SLACK: u32 = 20;

/// Runs of which a mean or a median is taken.
const RUNS: u32 = 10_000;

fn client(port: u16) -> SocketAddr {
    (Family::V4.pod(2), port).into()
}

fn service(number: u8) -> SocketAddr {
    (Family::V4.service(number), 80 + u16::from(number)).into()
}

/// A Service of ten backends; two that lead to each other, so that a packet is translated again however often it was
/// translated; and DNS.
fn world(protocol: Protocol) -> World {
    let mut world = World::new();
    let backends: Vec<_> = (0..10)
        .map(|n| remote(Family::V4.far_pod(n), 8080))
        .collect();
    world.service(protocol, service(1), &backends);
    for (one, other) in [(2, 3), (3, 2)] {
        let backend = remote(service(other).ip(), service(other).port());
        world.service(protocol, service(one), &[backend]);
    }
    world.dns(
        (Family::V4.service(10), 53).into(),
        &[remote(Family::V4.far_pod(53), 53)],
    );
    let flags = NameValue::COMPLETE;
    world.name("dev.svc.cluster.local", flags | NameValue::NAMESPACE);
    world.name("ent.dev.svc.cluster.local", flags | NameValue::SERVICE);
    world.records("ent.dev.svc.cluster.local", &[Family::V4.service(20)]);
    world
}

fn load(world: &World) -> MutexGuard<'static, Kernel> {
    let mut kernel = kernel();
    kernel.fill(world);
    kernel.fill_flows(world);
    kernel
}

fn question(name: &str) -> Vec<u8> {
    let server = (Family::V4.service(10), 53).into();
    let message = Question::new(name, qtype::A).edns(1232).bytes();
    first(Protocol::Udp, client(40_000), server)
        .payload(&message)
        .frame()
}

/// The mean of runs on one packet, which must still be of the same kind after each.
fn mean(kernel: &mut Kernel, packet: &[u8]) -> Duration {
    let runs = (0..5).map(|_| kernel.time(Program::FromPod, packet, RUNS));
    runs.min().unwrap_or_default()
}

/// The median of single runs, each on a packet of its own, for programs that make another packet of it. Without what
/// a single run takes more than one of many: entering the program with cold caches, and reading the clock.
fn median(kernel: &mut Kernel, packets: impl Iterator<Item = Vec<u8>>) -> Duration {
    let mut median = |packets: &mut dyn Iterator<Item = Vec<u8>>| {
        let mut times: Vec<Duration> = packets
            .map(|packet| kernel.time(Program::FromPod, &packet, 1))
            .collect();
        times.sort();
        times[times.len() / 2]
    };
    let took = median(&mut packets.take(RUNS as usize));
    let foreign = foreign();
    let once = median(&mut std::iter::repeat_n(foreign.clone(), RUNS as usize));
    took + mean(kernel, &foreign) - once
}

/// A packet that is none of ours.
fn foreign() -> Vec<u8> {
    first(Protocol::Tcp, client(1), (Family::V4.far_pod(1), 80).into()).frame()
}

fn says(what: &str, took: Duration, aim: u64) {
    let aim = Duration::from_nanos(aim);
    println!(
        "{what}: {} ns (aim: {} ns)",
        took.as_nanos(),
        aim.as_nanos()
    );
    assert!(took <= aim * SLACK, "{what} took {took:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn of_a_packet_that_is_none_of_ours() {
    let mut kernel = load(&world(Protocol::Tcp));
    says("none of ours", mean(&mut kernel, &foreign()), 50);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn of_a_packet_of_a_flow() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut kernel = load(&world(protocol));
        for number in [2, 3] {
            let opens = first(protocol, client(40_001), service(number)).frame();
            let done = kernel.run(Program::FromPod, &opens);
            assert_eq!(done.causes, [Cause::FlowCreated]);
        }
        let packet = later(protocol, client(40_001), service(2)).frame();
        let took = mean(&mut kernel, &packet);
        // Translated each time, and not only once.
        let done = kernel.run(Program::FromPod, &packet);
        assert_eq!(done.causes, [Cause::Translated]);
        says(&format!("established, {protocol:?}"), took, 100);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn of_the_first_packet_of_a_flow() {
    let mut kernel = load(&world(Protocol::Tcp));
    let opens = (0..).map(|n| first(Protocol::Tcp, client(30_000 + n), service(1)).frame());
    let took = median(&mut kernel, opens);
    says("first packet of a flow", took, 800);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn of_a_question() {
    let mut kernel = load(&world(Protocol::Tcp));
    for (what, name, aim) in [
        ("A", "ent.dev.svc.cluster.local", 300),
        ("NXDOMAIN", "nope.dev.svc.cluster.local", 400),
        (
            "NXDOMAIN of a search list",
            "github.com.dev.svc.cluster.local",
            400,
        ),
    ] {
        let question = question(name);
        let done = kernel.run(Program::FromPod, &question);
        assert_eq!(done.action, Action::SendBack);
        let took = median(&mut kernel, std::iter::repeat(question));
        says(what, took, aim);
    }
}
