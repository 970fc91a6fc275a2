//! What is at a ClusterIP beside the ports of its Service: nobody, for every protocol, as kube-proxy's nftables mode has
//! it.

use std::net::{IpAddr, SocketAddr};

use etherparse::IpNumber;
use signpost_common::{Cause, dns::Config, service::AddressValue};

use crate::{
    icmp::Message,
    machine::{Action, Machine, scenes},
    no_endpoints::unreachable_about,
    packets::{Family, Ip, Protocol, first, frame},
    world::{World, remote},
};

fn world(family: Family) -> World {
    let mut world = World::new();
    let backends = [remote(family.far_pod(5), 8080)];
    let service = SocketAddr::new(family.service(1), 80);
    world.service(Protocol::Udp, service, &backends);
    world.address(family.service(1), AddressValue::CLUSTER_IP);
    world.address(family.node(1), AddressValue::NODE);
    world.service_range(family);
    world
}

fn icmp(family: Family) -> IpNumber {
    match family {
        Family::V4 => IpNumber::ICMP,
        Family::V6 => IpNumber::IPV6_ICMP,
    }
}

/// A question, and a packet of another protocol: header, and all from the header on.
fn questions(family: Family, from: IpAddr, to: IpAddr) -> Vec<(Ip, Vec<u8>)> {
    let echo = Ip::new(from, to, icmp(family));
    let other = Ip::new(from, to, IpNumber::GRE);
    let bytes = other.around(&[7; 40]);
    vec![
        (echo.clone(), Message::Echo.in_ip(&echo, b"are you there?")),
        (other, bytes),
    ]
}

fn a_pod_and_others_are_told(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    for (ip, bytes) in questions(family, family.pod(2), family.service(1)) {
        let expected = unreachable_about(&ip, &bytes);
        machine
            .pod_sends(&frame(&bytes))
            .goes_back_as(&expected, &[Cause::PortRejected]);
        machine
            .wire_brings(&frame(&bytes))
            .goes_back_as(&expected, &[Cause::PortRejected]);
    }
}

fn the_host_is_told(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    let mut packets = questions(family, family.node(1), family.service(1));
    let undefined = first(
        Protocol::Udp,
        (family.node(1), 40_001).into(),
        (family.service(1), 81).into(),
    );
    packets.push((undefined.ip_header(), undefined.ip()));
    for (ip, bytes) in &packets {
        machine
            .wire_takes(&frame(bytes))
            .goes_back_as(&unreachable_about(ip, bytes), &[Cause::PortRejected]);
    }
    // Not while another proxy may know better.
    machine.change(|world| {
        world.config.as_mut().expect("it is written").flags |= Config::TAKEOVER;
    });
    for (_, bytes) in &packets {
        machine
            .wire_takes(&frame(bytes))
            .continues_as(&frame(bytes), &[]);
    }
}

fn an_unallocated_address_is_cut_off(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    for (_, bytes) in questions(family, family.pod(2), family.service(200)) {
        let packet = frame(&bytes);
        for done in [machine.pod_sends(&packet), machine.wire_brings(&packet)] {
            done.is(Action::Drop, &packet, &[Cause::AddressUnallocated]);
        }
    }
    let mut packets = questions(family, family.node(1), family.service(200));
    let datagram = first(
        Protocol::Udp,
        (family.node(1), 40_001).into(),
        (family.service(200), 80).into(),
    );
    packets.push((datagram.ip_header(), datagram.ip()));
    for (_, bytes) in packets {
        let packet = frame(&bytes);
        machine
            .wire_takes(&packet)
            .is(Action::Drop, &packet, &[Cause::AddressUnallocated]);
    }
}

/// Answers and errors are of somebody's conversation; what is no ClusterIP, or not the host's, is none of our business.
fn the_rest_is_left_alone(machine: &mut Machine, family: Family) {
    let mut world = world(family);
    world.address(family.service(9), AddressValue::FOREIGN);
    machine.load(world);
    let quote = first(
        Protocol::Udp,
        (family.far_pod(5), 53).into(),
        (family.pod(2), 40_000).into(),
    )
    .ip();
    let error = frame(&Message::PortUnreachable.ip(family.pod(2), family.service(1), &quote));
    machine
        .pod_sends(&error)
        .continues_as(&error, &[Cause::IcmpUnknown]);
    for (from, to) in [
        (family.node(1), family.outside(1)),
        (family.node(1), family.service(9)),
        (family.pod(2), family.service(1)),
    ] {
        let mut packets = questions(family, from, to);
        let datagram = first(Protocol::Udp, (from, 40_001).into(), (to, 81).into());
        packets.push((datagram.ip_header(), datagram.ip()));
        for (_, bytes) in packets {
            machine
                .wire_takes(&frame(&bytes))
                .continues_as(&frame(&bytes), &[]);
        }
    }
    // A port that is served, from who gets past the sockets' programs.
    let served = first(
        Protocol::Udp,
        (family.node(1), 40_001).into(),
        (family.service(1), 80).into(),
    );
    machine
        .wire_takes(&served.frame())
        .continues_as(&served.frame(), &[]);
}

scenes! { family:
    a_pod_and_others_are_told,
    the_host_is_told,
    an_unallocated_address_is_cut_off,
    the_rest_is_left_alone,
}
