//! Services that have nobody to send a packet to.

use std::net::SocketAddr;

use signpost_common::{
    Address, Cause,
    dns::{Config, Network},
    service::{AddressValue, FrontendValue},
};

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
pub(crate) fn unreachable(segment: &Segment) -> Vec<u8> {
    unreachable_about(&segment.ip_header(), &segment.ip())
}

/// The same about a packet of any protocol, from its IP header on.
pub(crate) fn unreachable_about(about: &Ip, bytes: &[u8]) -> Vec<u8> {
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
    let transport = match about.protocol {
        etherparse::IpNumber::TCP | etherparse::IpNumber::SCTP => 20,
        _ => 8,
    };
    let quote = &bytes[..header + transport];
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
        Protocol::Tcp | Protocol::Sctp => done.continues_as(
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

fn an_undefined_port_of_a_cluster_ip_is_rejected(
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
    let packet = first(protocol, client(family), (family.service(1), 81).into());
    machine
        .pod_sends(&packet.frame())
        .continues_as(&packet.frame(), &[Cause::NoFrontend]);
    machine.change(|world| {
        let address = world.addresses.get_mut(&family.service(1).into());
        address.expect("the Service has it").flags |= AddressValue::CLUSTER_IP;
    });
    machine
        .pod_sends(&packet.frame())
        .goes_back_as(&unreachable(&packet), &[Cause::PortRejected]);
    machine.change(|world| {
        world.config.as_mut().expect("it is written").flags |= Config::TAKEOVER;
    });
    machine
        .pod_sends(&packet.frame())
        .continues_as(&packet.frame(), &[Cause::NoFrontend]);
}

fn an_address_of_a_service_range_that_is_none_of_a_service_drops(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = World::new();
    let address = Address::from(family.service(200));
    let mask = match address.is_v4() {
        true => Address::v6_words([u32::MAX, u32::MAX, u32::MAX, 0xffff_ff00_u32.to_be()]),
        false => Address::v6_words([u32::MAX, u32::MAX, u32::MAX, 0]),
    };
    let [[a, b, c, d], [e, f, g, h]] = [address.words(), mask.words()];
    let network = Network {
        address: Address::v6_words([a & e, b & f, c & g, d & h]),
        mask,
    };
    let config = world.config.as_mut().expect("it is written");
    config.service_ranges = [network; 4];
    machine.load(world);
    let packet = first(protocol, client(family), (family.service(200), 80).into()).frame();
    machine.pod_sends(&packet).continues_as(&packet, &[]);
    machine.change(|world| {
        world.config.as_mut().expect("it is written").flags |= Config::SERVICE_RANGES;
    });
    machine
        .pod_sends(&packet)
        .is(Action::Drop, &packet, &[Cause::AddressUnallocated]);
    for other_proxy in [Config::TAKEOVER, Config::DRAIN] {
        let flags = Config::DNS | Config::SERVICE_RANGES;
        machine.change(|world| {
            world.config.as_mut().expect("it is written").flags = flags | other_proxy;
        });
        machine.pod_sends(&packet).continues_as(&packet, &[]);
        machine.change(|world| world.config.as_mut().expect("it is written").flags = flags);
    }
    let elsewhere = first(protocol, client(family), (family.far_pod(5), 80).into()).frame();
    machine.pod_sends(&elsewhere).continues_as(&elsewhere, &[]);
    machine.change(|world| {
        let flags = AddressValue::FOREIGN;
        world.addresses.insert(address, AddressValue { flags });
    });
    machine.pod_sends(&packet).continues_as(&packet, &[]);
}

scenes! { family, protocol:
    the_client_is_told_at_once,
    an_undefined_port_of_a_cluster_ip_is_rejected,
    an_address_of_a_service_range_that_is_none_of_a_service_drops,
    flows_of_udp_are_told_and_those_of_tcp_go_on,
    a_fragment_is_dropped,
    a_policy_without_endpoints_here_drops,
}
