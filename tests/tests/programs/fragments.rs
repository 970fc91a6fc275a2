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
    // Another protocol's, another pod's: unknown.
    let header = Ip {
        fragment: Some((64, true)),
        ..there.ip_header()
    };
    let data = [7; 64];
    let others = [
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

/// A later fragment that comes first goes where the packet before it went, as long as that is one place.
fn a_late_first_fragment(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol));
    let there = long(protocol, client(family), service(family));
    for packet in there.fragments(&CUTS) {
        machine.pod_sends(&packet);
    }
    let back = long(protocol, backend(family), client(family));
    for packet in back.fragments(&CUTS) {
        machine.pod_gets(&packet);
    }
    let again = |segment: &Segment| -> Vec<Vec<u8>> {
        let bytes = segment.transport();
        let part = |range: std::ops::Range<usize>| {
            let header = Ip {
                identification: 0x4321,
                fragment: Some((range.start as u16, range.end != bytes.len())),
                ..segment.ip_header()
            };
            frame(&header.around(&bytes[range]))
        };
        vec![part(200..bytes.len()), part(64..200), part(0..64)]
    };
    let expected = again(&there.to(backend(family)));
    for (n, (packet, expected)) in again(&there).iter().zip(&expected).enumerate() {
        let cause = if n == 2 {
            Cause::Translated
        } else {
            Cause::FragmentTranslated
        };
        machine.pod_sends(packet).continues_as(expected, &[cause]);
    }
    let expected = again(&back.from(service(family)));
    for (n, (packet, expected)) in again(&back).iter().zip(&expected).enumerate() {
        let cause = if n == 2 {
            Cause::Reversed
        } else {
            Cause::FragmentTranslated
        };
        machine.pod_gets(packet).continues_as(expected, &[cause]);
    }
}

/// Where packets between two went to several places, nobody can tell where a fragment belongs.
fn a_late_first_fragment_among_several_flows(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let other = SocketAddr::new(service(family).ip(), 81);
    let mut world = world(family, protocol);
    world.service(protocol, other, &[remote(family.far_pod(6), 8080)]);
    machine.load(world);
    for to in [service(family), other] {
        for packet in long(protocol, client(family), to).fragments(&CUTS) {
            machine.pod_sends(&packet);
        }
    }
    let there = long(protocol, client(family), service(family));
    let header = Ip {
        identification: 0x4321,
        fragment: Some((64, true)),
        ..there.ip_header()
    };
    let packet = frame(&header.around(&[7; 64]));
    machine
        .pod_sends(&packet)
        .continues_as(&packet, &[Cause::FragmentUnknown]);
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

scenes! { family, protocol:
    both_ways,
    of_a_pod_to_itself,
    without_the_first,
    a_late_first_fragment,
    a_late_first_fragment_among_several_flows,
}
scenes! { : a_whole_packet_with_a_fragment_header }
