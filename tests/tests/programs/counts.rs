//! What is counted of each service port, where the operator wants it.

use std::net::SocketAddr;

use signpost_common::{
    count::ServiceCount,
    service::{AddressValue, FrontendValue},
};

use crate::{
    machine::{Kernel, Machine, Program},
    packets::{Family, Protocol, first, later},
    world::{World, local, remote},
};

const SERVICE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1)),
    80,
);

fn client() -> SocketAddr {
    (Family::V4.pod(2), 40_001).into()
}

fn backend() -> SocketAddr {
    (Family::V4.far_pod(5), 8080).into()
}

/// A connection through a ClusterIP, and one through a NodePort whose packets are masqueraded: two packets of the client
/// and one of the backend each. Returns the ids of the two service ports, and the bytes of a client's and a backend's
/// two ways of packets from the IP header on.
fn scene(mut run: impl FnMut(Program, &[u8]) -> Vec<u8>) -> [u64; 3] {
    let family = Family::V4;
    let open = first(Protocol::Tcp, client(), SERVICE);
    let more = later(Protocol::Tcp, client(), SERVICE);
    let back = later(Protocol::Tcp, backend(), client()).payload(&[1; 50]);
    run(Program::FromPod, &open.frame());
    run(Program::FromPod, &more.frame());
    run(Program::ToPod, &back.frame());

    let outside = SocketAddr::new(family.outside(1), 40_002);
    let node_port = SocketAddr::new(family.node(1), 30_080);
    let here = SocketAddr::new(family.pod(7), 8080);
    let leaves = run(
        Program::FromWire,
        &first(Protocol::Tcp, outside, node_port).frame(),
    );
    let masqueraded = run(Program::ToPod, &leaves);
    let port = u16::from_be_bytes([masqueraded[34], masqueraded[35]]);
    let leaves = run(
        Program::FromWire,
        &later(Protocol::Tcp, outside, node_port).frame(),
    );
    run(Program::ToPod, &leaves);
    let answer = later(Protocol::Tcp, here, (family.node(1), port).into()).payload(&[1; 50]);
    let to_outside = run(Program::FromPod, &answer.frame());
    run(Program::ToWire, &to_outside);
    [open.ip().len(), more.ip().len(), back.ip().len()].map(|bytes| bytes as u64)
}

fn world() -> (World, [u32; 2]) {
    let family = Family::V4;
    let mut world = World::new();
    let one = world.service(Protocol::Tcp, SERVICE, &[remote(family.far_pod(5), 8080)]);
    let node_port = world.node_port(Protocol::Tcp, family, 30_080, &[local(family.pod(7), 8080)]);
    let other = world.frontend(Protocol::Tcp, node_port).service;
    assert_ne!(
        world.frontend(Protocol::Tcp, node_port).flags & FrontendValue::EXTERNAL,
        0
    );
    world.address(family.node(1), AddressValue::NODE | AddressValue::NODE_PORT);
    world.masquerades_as(family.node(1), Family::V6.node(1));
    (world, [one, other])
}

fn expected([open, more, back]: [u64; 3]) -> ServiceCount {
    ServiceCount {
        connections: 1,
        packets_in: 2,
        bytes_in: open + more,
        packets_out: 1,
        bytes_out: back,
    }
}

#[test]
fn on_the_host_every_packet_counts_once_and_where_the_client_is() {
    let (mut world, services) = world();
    world.counts_services = true;
    let mut machine = Machine::host(world);
    let bytes = scene(|program, packet| machine.run(program, packet).packet);
    let counts = machine.service_counts();
    for service in services {
        assert_eq!(counts[&service], expected(bytes));
    }
}

#[test]
fn nothing_is_counted_unless_somebody_wants_it() {
    let mut machine = Machine::host(world().0);
    scene(|program, packet| machine.run(program, packet).packet);
    assert!(machine.service_counts().is_empty());
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn in_the_kernel_every_packet_counts_once_and_where_the_client_is() {
    let (world, services) = world();
    let mut kernel = Kernel::that_counts();
    kernel.fill(&world);
    let bytes = scene(|program, packet| kernel.run(program, packet).packet);
    for service in services {
        assert_eq!(kernel.service_count(service), expected(bytes));
    }
}
