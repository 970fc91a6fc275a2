//! Fragments, which follow the first one.

use std::net::SocketAddr;

use signpost_common::Cause;

use crate::{
    machine::{Machine, scenes},
    packets::{Family, Ip, Protocol, Segment, frame, later, sent_back},
    world::{World, local, remote},
};

/// A packet long enough to be cut.
fn long(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Segment {
    let payload: Vec<u8> = (0..333_u16).map(|n| n as u8).collect();
    later(protocol, from, to).payload(&payload)
}

/// Where it is cut: the first fragment has more than the transport header.
const CUTS: [usize; 2] = [64, 200];

fn client(family: Family) -> SocketAddr {
    (family.pod(2), 40_001).into()
}

fn service(family: Family) -> SocketAddr {
    (family.service(1), 80).into()
}

fn backend(family: Family) -> SocketAddr {
    (family.far_pod(5), 8080).into()
}

fn world(family: Family, protocol: Protocol) -> World {
    let mut world = World::new();
    world.service(
        protocol,
        service(family),
        &[remote(family.far_pod(5), 8080)],
    );
    world
}

fn both_ways(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol));
    let there = long(protocol, client(family), service(family));
    let expected = there.to(backend(family)).fragments(&CUTS);
    for (n, (packet, expected)) in there.fragments(&CUTS).iter().zip(&expected).enumerate() {
        let cause = if n == 0 {
            Cause::FlowCreated
        } else {
            Cause::FragmentTranslated
        };
        machine.pod_sends(packet).continues_as(expected, &[cause]);
    }
    let back = long(protocol, backend(family), client(family));
    let expected = back.from(service(family)).fragments(&CUTS);
    for (n, (packet, expected)) in back.fragments(&CUTS).iter().zip(&expected).enumerate() {
        let cause = if n == 0 {
            Cause::Reversed
        } else {
            Cause::FragmentTranslated
        };
        machine.pod_gets(packet).continues_as(expected, &[cause]);
    }
}

fn of_a_pod_to_itself(machine: &mut Machine, family: Family, protocol: Protocol) {
    let (client, service) = (client(family), service(family));
    let mut world = World::new();
    world.service(protocol, service, &[local(client.ip(), 8080)]);
    machine.load(world);
    let itself = SocketAddr::new(client.ip(), 8080);
    let seen = SocketAddr::new(service.ip(), client.port());
    let there = long(protocol, client, service);
    let back = long(protocol, itself, seen);
    let ways = [
        (&there, there.from(seen).to(itself)),
        (&back, back.from(service).to(client)),
    ];
    for (sent, expected) in ways {
        let expected = expected.fragments(&CUTS);
        for (n, (packet, expected)) in sent.fragments(&CUTS).iter().zip(expected).enumerate() {
            let cause = if n == 0 {
                Cause::Hairpin
            } else {
                Cause::FragmentTranslated
            };
            machine
                .pod_sends(packet)
                .goes_back_as(&sent_back(expected), &[cause]);
        }
    }
}

fn without_the_first(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol));
    let there = long(protocol, client(family), service(family));
    let fragments = there.fragments(&CUTS);
    let unknown = |machine: &mut Machine, packet: &[u8]| {
        machine
            .pod_sends(packet)
            .continues_as(packet, &[Cause::FragmentUnknown]);
    };
    unknown(machine, &fragments[1]);
    machine.pod_sends(&fragments[0]);
    // Another packet's, another protocol's, another pod's: all unknown.
    let header = Ip {
        fragment: Some((64, true)),
        ..there.ip_header()
    };
    let data = [7; 64];
    let others = [
        Ip {
            identification: 0x1235,
            ..header.clone()
        },
        Ip {
            protocol: etherparse::IpNumber::GRE,
            ..header.clone()
        },
        Ip {
            from: family.pod(3),
            ..header
        },
    ];
    for other in others {
        unknown(machine, &frame(&other.around(&data)));
    }
    // On the way back an unknown fragment is most likely none of our business.
    let back = long(protocol, backend(family), client(family)).fragments(&CUTS);
    machine.pod_gets(&back[1]).continues_as(&back[1], &[]);
    // Nor are those of pods among themselves.
    let direct = there.to(backend(family)).fragments(&CUTS);
    machine.pod_sends(&direct[1]).continues_as(&direct[1], &[]);
}

/// RFC 6946: a fragment header around a whole packet.
fn a_whole_packet_with_a_fragment_header(machine: &mut Machine) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let family = Family::V6;
        machine.load(world(family, protocol));
        let there = long(protocol, client(family), service(family));
        machine.pod_sends(&there.fragments(&[])[0]).continues_as(
            &there.to(backend(family)).fragments(&[])[0],
            &[Cause::FlowCreated],
        );
    }
}

scenes! { family, protocol: both_ways, of_a_pod_to_itself, without_the_first }
scenes! { : a_whole_packet_with_a_fragment_header }
