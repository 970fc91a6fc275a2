//! Services that have nobody to send a packet to.

use std::net::SocketAddr;

use signpost_common::{Cause, service::FrontendValue};

use crate::{
    icmp::Message,
    machine::{Action, Machine, scenes},
    packets::{Family, Ip, Protocol, Segment, first, frame, later, sent_back},
    world::{World, remote},
};

fn client(family: Family) -> SocketAddr {
    (family.pod(2), 40_001).into()
}

fn service(family: Family) -> SocketAddr {
    (family.service(1), 80).into()
}

/// The error about a packet, as the program words it.
fn unreachable(segment: &Segment) -> Vec<u8> {
    let about = segment.ip_header();
    let (protocol, service, header) = match about.from.is_ipv4() {
        true => (etherparse::IpNumber::ICMP, 0xc0, 20),
        false => (etherparse::IpNumber::IPV6_ICMP, 0, 40),
    };
    let ip = Ip {
        ttl: 64,
        service,
        dont_fragment: true,
        identification: 0,
        ..Ip::new(about.to, about.from, protocol)
    };
    let transport = if about.protocol == etherparse::IpNumber::UDP {
        8
    } else {
        20
    };
    let quote = &segment.ip()[..header + transport];
    sent_back(frame(&Message::PortUnreachable.in_ip(&ip, quote)))
}

fn the_client_is_told_at_once(machine: &mut Machine, family: Family, protocol: Protocol) {
    let mut world = World::new();
    world.service(protocol, service(family), &[]);
    machine.load(world);
    let packet = first(protocol, client(family), service(family));
    let packets = [
        packet.clone(),
        later(protocol, client(family), service(family)),
        packet.payload(&[]),
        packet.payload(&[0x55; 1000]),
    ];
    for packet in packets {
        machine
            .pod_sends(&packet.frame())
            .goes_back_as(&unreachable(&packet), &[Cause::NoEndpointsRejected]);
    }
    assert_eq!(machine.flows().len(), 0);
    // The first endpoint is used as soon as there is one.
    machine.change(|world| {
        let frontend = service(family);
        world.backends(protocol, frontend, &[remote(family.far_pod(5), 8080)]);
    });
    machine.pod_sends(&packet.frame()).continues_as(
        &packet.to((family.far_pod(5), 8080).into()).frame(),
        &[Cause::FlowCreated],
    );
}

fn flows_of_udp_are_told_and_those_of_tcp_go_on(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = World::new();
    world.service(
        protocol,
        service(family),
        &[remote(family.far_pod(5), 8080)],
    );
    machine.load(world);
    machine.pod_sends(&first(protocol, client(family), service(family)).frame());
    machine.change(|world| world.backends(protocol, service(family), &[]));
    let more = later(protocol, client(family), service(family));
    let done = machine.pod_sends(&more.frame());
    match protocol {
        Protocol::Tcp => done.continues_as(
            &more.to((family.far_pod(5), 8080).into()).frame(),
            &[Cause::Translated],
        ),
        Protocol::Udp => done.goes_back_as(
            &unreachable(&more),
            &[Cause::NoEndpointsRejected, Cause::BackendGone],
        ),
    }
}

fn a_fragment_is_dropped(machine: &mut Machine, family: Family, protocol: Protocol) {
    let mut world = World::new();
    world.service(protocol, service(family), &[]);
    machine.load(world);
    let packet = later(protocol, client(family), service(family)).payload(&[1; 100]);
    let first = &packet.fragments(&[64])[0];
    machine
        .pod_sends(first)
        .is(Action::Drop, first, &[Cause::NoEndpointsRejected]);
}

fn a_policy_without_endpoints_here_drops(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = World::new();
    world.service(
        protocol,
        service(family),
        &[remote(family.far_pod(5), 8080)],
    );
    world.frontend(protocol, service(family)).flags |=
        FrontendValue::INTERNAL_LOCAL | FrontendValue::ANY_ENDPOINTS;
    machine.load(world);
    let packet = first(protocol, client(family), service(family)).frame();
    machine
        .pod_sends(&packet)
        .is(Action::Drop, &packet, &[Cause::NoEndpointsDropped]);
    assert_eq!(machine.flows().len(), 0);
}

scenes! { family, protocol:
    the_client_is_told_at_once,
    flows_of_udp_are_told_and_those_of_tcp_go_on,
    a_fragment_is_dropped,
    a_policy_without_endpoints_here_drops,
}
