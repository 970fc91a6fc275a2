//! Packets that are left to the stack as they are.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv6RawExtHeader};
use proptest::prelude::*;
use signpost_common::Cause;

use crate::{
    icmp::Message,
    machine::{Action, Machine, scenes},
    packets::{Family, Ip, Protocol, Segment, first, frame, later},
    world::{World, remote},
};

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

fn left_alone(machine: &mut Machine, packet: &[u8], causes: &[Cause]) {
    machine.pod_sends(packet).continues_as(packet, causes);
    machine.pod_gets(packet).continues_as(packet, &[]);
}

fn a_port_that_the_service_has_not(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol));
    let other = SocketAddr::new(service(family).ip(), 81);
    let packet = first(protocol, client(family), other).frame();
    left_alone(machine, &packet, &[Cause::NoFrontend]);
}

fn a_protocol_without_a_translation(machine: &mut Machine, family: Family) {
    machine.load(world(family, Protocol::Tcp));
    for protocol in [IpNumber::DCCP, IpNumber::GRE, IpNumber(253)] {
        let header = Ip::new(client(family).ip(), service(family).ip(), protocol);
        let packet = frame(&header.around(&[0; 40]));
        left_alone(machine, &packet, &[Cause::Protocol]);
    }
    // The other family's ICMP is none.
    let protocol = match family {
        Family::V4 => IpNumber::IPV6_ICMP,
        Family::V6 => IpNumber::ICMP,
    };
    let header = Ip::new(client(family).ip(), service(family).ip(), protocol);
    let packet = frame(&header.around(&[3; 60]));
    left_alone(machine, &packet, &[Cause::Protocol]);
}

fn ip_options(machine: &mut Machine) {
    let family = Family::V4;
    machine.load(world(family, Protocol::Tcp));
    let segment = first(Protocol::Tcp, client(family), service(family));
    let header = Ip {
        options: [1, 1, 1, 0],
        ..segment.ip_header()
    };
    left_alone(machine, &frame(&header.around(&segment.transport())), &[]);
}

fn extension_headers(machine: &mut Machine) {
    let family = Family::V6;
    machine.load(world(family, Protocol::Tcp));
    let segment = first(Protocol::Tcp, client(family), service(family));
    for extension in [
        IpNumber::IPV6_HEADER_HOP_BY_HOP,
        IpNumber::IPV6_ROUTE_HEADER,
        IpNumber::IPV6_DESTINATION_OPTIONS,
        IpNumber::AUTHENTICATION_HEADER,
        IpNumber::ENCAPSULATING_SECURITY_PAYLOAD,
        IpNumber::MOBILITY_HEADER,
        IpNumber::HIP,
        IpNumber::SHIM6,
    ] {
        let options = Ipv6RawExtHeader::new_raw(IpNumber::TCP, &[1, 4, 0, 0, 0, 0]).unwrap();
        let payload = [&options.to_bytes()[..], &segment.transport()].concat();
        let header = Ip {
            protocol: extension,
            ..segment.ip_header()
        };
        left_alone(machine, &frame(&header.around(&payload)), &[]);
        // Behind a fragment header as well.
        let header = Ip {
            fragment: Some((0, true)),
            ..header
        };
        left_alone(machine, &frame(&header.around(&payload)), &[]);
    }
}

fn what_is_not_ip(machine: &mut Machine, family: Family) {
    machine.load(world(family, Protocol::Tcp));
    let packet = first(Protocol::Tcp, client(family), service(family)).frame();
    for ether_type in [0x0806_u16, 0x8100, 0x88cc, 0x0000] {
        let mut packet = packet.clone();
        packet[12..14].copy_from_slice(&ether_type.to_be_bytes());
        left_alone(machine, &packet, &[]);
    }
}

fn everything_before_the_maps_are_filled(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let mut world = World::new();
    world.config = None;
    machine.load(world);
    let packet = first(protocol, client(family), service(family)).frame();
    left_alone(machine, &packet, &[]);
}

/// What a packet becomes that ends somewhere: itself as long as a header is missing, the translated one as far as it
/// goes where only payload is.
fn cut_anywhere(
    machine: &mut Machine,
    shortest: usize,
    run: impl Fn(&mut Machine, &[u8]) -> crate::machine::Done,
    packet: &[u8],
    expected: &[u8],
    headers: usize,
) {
    for length in shortest..packet.len() {
        let cut = &packet[..length];
        let done = run(machine, cut);
        assert_eq!(done.action, Action::Continue, "{length} bytes");
        if length < headers {
            assert_eq!(done.packet, cut, "{length} bytes of {}", packet.len());
        } else {
            assert_eq!(done.packet, &expected[..length], "{length} bytes");
        }
    }
}

/// Bytes up to the end of what is read and written of a transport header.
fn headers(segment: &Segment, protocol: Protocol) -> usize {
    let before = segment.frame().len() - segment.transport().len();
    before
        + match protocol {
            Protocol::Tcp => 18,
            Protocol::Udp => 8,
            Protocol::Sctp => 16,
        }
}

fn packets_that_end_early(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol));
    let shortest = machine.shortest(family);
    // The first packet of a flow, the way back, and a fragment, each at every length.
    let there = later(protocol, client(family), service(family));
    let translated = there.to(backend(family));
    let whole = headers(&there, protocol);
    for length in shortest..whole {
        let cut = &there.frame()[..length];
        let done = machine.pod_sends(cut);
        assert_eq!((done.action, &done.packet[..]), (Action::Continue, cut));
        assert_eq!(machine.flows().len(), 0, "{length} bytes");
    }
    cut_anywhere(
        machine,
        shortest,
        Machine::pod_sends,
        &there.frame(),
        &translated.frame(),
        whole,
    );
    let back = later(protocol, backend(family), client(family));
    cut_anywhere(
        machine,
        shortest,
        Machine::pod_gets,
        &back.frame(),
        &back.from(service(family)).frame(),
        whole,
    );
    let [first, expected] =
        [&there, &translated].map(|s| s.payload(&[9; 64]).fragments(&[64])[0].clone());
    let before = first.len() - 64;
    let whole = before + if protocol == Protocol::Tcp { 18 } else { 8 };
    cut_anywhere(
        machine,
        shortest,
        Machine::pod_sends,
        &first,
        &expected,
        whole,
    );
}

fn errors_that_end_early(machine: &mut Machine, family: Family, protocol: Protocol) {
    machine.load(world(family, protocol));
    let there = later(protocol, client(family), service(family));
    machine.pod_sends(&there.frame());
    let (client, service): (IpAddr, IpAddr) = (client(family).ip(), service(family).ip());
    let received = there.to(backend(family));
    let shortest = machine.shortest(family);
    let message = Message::TimeExceeded;
    let error = frame(&message.ip(family.router(), client, &received.ip()));
    let quoted = received.frame().len() - received.transport().len() - 14;
    // Ethernet, the error's own headers, the quote's IP header, the ports.
    let whole = error.len() - received.ip().len() + quoted + 4;
    for length in shortest..whole {
        let cut = &error[..length];
        machine.pod_gets(cut).continues_as(cut, &[]);
    }
    let got = later(protocol, backend(family), (client, 40_001).into()).from((service, 80).into());
    let error = frame(&message.ip(client, service, &got.ip()));
    for length in shortest..whole {
        let cut = &error[..length];
        let done = machine.pod_sends(cut);
        assert_eq!((done.action, &done.packet[..]), (Action::Continue, cut));
    }
    let done = machine.pod_sends(&error[..whole]);
    assert_eq!(done.causes, [Cause::IcmpTranslated]);
}

scenes! { family, protocol:
    a_port_that_the_service_has_not,
    everything_before_the_maps_are_filled,
    packets_that_end_early,
    errors_that_end_early,
}
scenes! { family: a_protocol_without_a_translation, what_is_not_ip }
scenes! { : ip_options, extension_headers }

proptest! {
    /// Bytes behind an Ethernet header, most of which are no packet.
    #[test]
    fn any_bytes(v6: bool, bytes in prop::collection::vec(any::<u8>(), 0..200), version_and_length: bool) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut machine = Machine::host(world(family, Protocol::Tcp));
        let mut packet = frame(&[if v6 { 0x60 } else { 0x45 }]);
        packet.extend(bytes);
        if !version_and_length {
            packet.remove(14);
        }
        for done in [machine.pod_sends(&packet), machine.pod_gets(&packet)] {
            prop_assert_eq!(done.action, Action::Continue);
            prop_assert_eq!(&done.packet, &packet);
        }
    }

    /// A packet of a flow of which some bytes are wrong: it is translated, or left alone, or refused, but never another
    /// packet's flow is touched and never a byte is lost.
    #[test]
    fn packets_with_wrong_bytes(v6: bool, tcp: bool, changes in prop::collection::vec((0..54_usize, any::<u8>()), 1..4)) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let mut machine = Machine::host(world(family, protocol));
        let mut packet = later(protocol, client(family), service(family)).payload(&[1; 40]).frame();
        for (at, byte) in changes {
            packet[at] = byte;
        }
        let done = machine.pod_sends(&packet);
        prop_assert_ne!(done.action, Action::Drop);
        prop_assert_eq!(done.packet.len(), packet.len());
    }
}
