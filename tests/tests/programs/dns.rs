//! Questions to the cluster DNS address.

mod answers;
mod counted;
mod log;
pub(crate) mod message;
mod outside;
mod passed;
mod pods;
mod properties;
mod refused;

use std::net::{IpAddr, SocketAddr};

use signpost_common::dns::{NameValue, qtype};

use crate::{
    machine::{Action, Done, Machine},
    packets::{Family, Ip, Protocol, Segment, first, frame, sent_back},
    world::{World, remote},
};

/// Who asks.
fn client(family: Family) -> SocketAddr {
    (family.pod(2), 40_001).into()
}

/// Whom it asks.
fn server(family: Family) -> SocketAddr {
    (family.service(10), 53).into()
}

/// Where a question goes that is passed on.
fn dns_pod(family: Family) -> SocketAddr {
    (family.far_pod(53), 5353).into()
}

/// A question's packet.
fn packet(family: Family, message: &[u8]) -> Segment {
    first(Protocol::Udp, client(family), server(family)).payload(message)
}

/// A small cluster: `ent` and others in `dev`, with the names around them.
fn world(family: Family) -> World {
    const HERE: u32 = NameValue::COMPLETE;
    const SERVICE: u32 = HERE | NameValue::SERVICE;
    let mut world = World::new();
    world.dns(server(family), &[remote(dns_pod(family).ip(), 5353)]);
    let user = |types: &[u16]| types.iter().map(|t| NameValue::type_bit(*t)).sum();
    world.name("cluster.local", HERE).user = user(&[qtype::SOA, 2]);
    for name in ["svc.cluster.local", "pod.cluster.local"] {
        world.name(name, if name.starts_with("svc") { HERE } else { 0 });
    }
    for namespace in ["dev", "prod"] {
        world.name(
            &format!("{namespace}.svc.cluster.local"),
            HERE | NameValue::NAMESPACE,
        );
    }
    world.name("ext.dev.svc.cluster.local", NameValue::SERVICE);
    for (service, v4, v6) in SERVICES {
        let name = format!("{service}.dev.svc.cluster.local");
        world.name(&name, SERVICE).user = user(&[qtype::SRV]);
        for addresses in [addresses(Family::V4, v4), addresses(Family::V6, v6)] {
            if !addresses.is_empty() {
                world.records(&name, &addresses);
            }
        }
    }
    world
}

/// Services of `dev`, with how many A and AAAA records they have.
const SERVICES: [(&str, u8, u8); 8] = [
    ("ent", 1, 0),
    ("six", 0, 1),
    ("dual", 1, 1),
    ("two", 2, 2),
    ("four", 4, 3),
    ("many", 20, 20),
    // Names that begin at an odd and at an even place, with the set that a map's value takes at most.
    ("most", 39, 22),
    ("the-most", 39, 22),
];

/// The first so many endpoints' addresses.
fn addresses(family: Family, count: u8) -> Vec<IpAddr> {
    (0..count).map(|n| family.far_pod(100 + n)).collect()
}

/// The message in a packet that was sent back. Everything around it must be as etherparse builds it.
#[track_caller]
pub(crate) fn sent_back_message(done: &Done, question: &Segment) -> Vec<u8> {
    assert_eq!(done.action, Action::SendBack, "{:?}", done.causes);
    let headers = question.frame().len() - question.transport().len() + 8;
    let message = done.packet[headers..].to_vec();
    let udp = &question.transport()[..8];
    let mut answer =
        first(Protocol::Udp, question.destination(), question.source()).payload(&message);
    if udp[6..] == [0, 0] {
        answer = answer.checksum(0);
    }
    // A packet of its own, as a name server on Linux would send it.
    let ip = Ip {
        ttl: 64,
        dont_fragment: true,
        ..answer.ip_header()
    };
    let expected = frame(&ip.around(&answer.transport()));
    done.goes_back_as(&sent_back(expected), &done.causes);
    message
}

/// Asks and gives the answer's message.
#[track_caller]
fn answer(machine: &mut Machine, family: Family, question: &message::Question) -> Vec<u8> {
    let packet = packet(family, &question.bytes());
    let done = machine.pod_sends(&packet.frame());
    sent_back_message(&done, &packet)
}
