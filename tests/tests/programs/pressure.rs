//! Maps that are full: what does not fit is forgotten, and nothing goes where it does not belong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use signpost_common::{Cause, layout::size, service::FrontendValue};

use crate::{
    machine::{Action, Done, Kernel, Machine, Program, kernel},
    packets::{Family, Protocol, Segment, first, later},
    world::{Backend, World, remote},
};

const BACKENDS: u8 = 10;

fn service() -> SocketAddr {
    (Family::V4.service(1), 80).into()
}

fn backends() -> impl Iterator<Item = SocketAddr> {
    (1..=BACKENDS).map(|n| (Family::V4.far_pod(n), 8080).into())
}

/// One client of very many.
fn client(number: u32) -> SocketAddr {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + number / 4);
    let port = 40_000 + (number % 4) as u16;
    SocketAddr::new(IpAddr::V4(address), port)
}

fn world(protocol: Protocol) -> World {
    let mut world = World::new();
    let backends: Vec<Backend> = backends().map(|b| remote(b.ip(), b.port())).collect();
    world.service(protocol, service(), &backends);
    world
}

/// Which backend a packet was sent to.
fn backend_of(done: &Done, sent: &Segment) -> SocketAddr {
    assert_eq!(done.action, Action::Continue);
    backends()
        .find(|backend| sent.to(*backend).frame() == done.packet)
        .expect("it goes to a backend, and nothing else of it has changed")
}

/// The backend that a flow has had from its first packet on: the host's build has room for all.
fn expected(host: &mut Machine, protocol: Protocol, client: SocketAddr) -> SocketAddr {
    let open = first(protocol, client, service());
    backend_of(&host.pod_sends(&open.frame()), &open)
}

fn open_too_many(kernel: &mut Kernel, protocol: Protocol, flows: u32) {
    for number in 0..flows {
        let packet = first(protocol, client(number), service()).frame();
        kernel.time(Program::FromPod, &packet, 1);
    }
}

/// With more flows than fit, each that is evicted finds its backend again, and each answer has the Service's address or
/// none.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn flows_that_are_evicted_find_their_backends_again() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let world = world(protocol);
        let mut kernel = kernel();
        kernel.fill(&world);
        kernel.fill_flows(&world);
        let mut host = Machine::host(world);
        let flows = size::FLOWS / 2 + size::FLOWS / 8;
        open_too_many(&mut kernel, protocol, flows);
        let (mut evicted, mut known) = (0, 0);
        for number in (0..flows).step_by(97) {
            let client = client(number);
            let backend = expected(&mut host, protocol, client);
            let answer = later(protocol, backend, client);
            let done = kernel.run(Program::ToPod, &answer.frame());
            match done.causes[..] {
                [Cause::Reversed] => {
                    done.continues_as(&answer.from(service()).frame(), &[Cause::Reversed]);
                }
                _ => done.continues_as(&answer.frame(), &[]),
            }
            let more = later(protocol, client, service());
            let done = kernel.run(Program::FromPod, &more.frame());
            assert_eq!(backend_of(&done, &more), backend, "flow {number}");
            match done.causes[..] {
                [Cause::Translated] => known += 1,
                [Cause::FlowCreated] => evicted += 1,
                ref other => panic!("flow {number}: {other:?}"),
            }
        }
        println!("{protocol:?}: {evicted} were evicted, {known} were there");
        assert!(evicted > 0 && known > 0, "{evicted} {known}");
        kernel.fill_flows(&World::new());
    }
}

/// Clients with affinity that are evicted get any backend of the Service, as new ones do; the others keep theirs.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn clients_that_are_evicted_begin_anew() {
    let protocol = Protocol::Udp;
    let mut world = world(protocol);
    let frontend: &mut FrontendValue = world.frontend(protocol, service());
    frontend.affinity_timeout = 10_800;
    let mut kernel = kernel();
    kernel.fill(&world);
    kernel.fill_flows(&world);
    let clients = size::AFFINITY + size::AFFINITY / 4;
    for number in 0..clients {
        let packet = first(protocol, client(4 * number), service()).frame();
        kernel.time(Program::FromPod, &packet, 1);
    }
    let kept = kernel.affinity();
    assert!(kept.len() <= size::AFFINITY as usize);
    let mut stayed = 0;
    for number in (0..clients).step_by(211) {
        let other_port = SocketAddr::new(client(4 * number).ip(), 50_000);
        let open = first(protocol, other_port, service());
        let chosen = backend_of(&kernel.run(Program::FromPod, &open.frame()), &open);
        let before = kept
            .iter()
            .find(|(key, _)| IpAddr::from(key.client) == other_port.ip());
        if let Some((_, value)) = before {
            let backend = SocketAddr::new(value.address.into(), value.port.get());
            // It may have been evicted by those that came meanwhile.
            stayed += u32::from(chosen == backend);
        }
    }
    assert!(stayed > 0);
    kernel.fill_flows(&World::new());
}
