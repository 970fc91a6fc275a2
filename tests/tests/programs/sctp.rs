//! SCTP: addresses change, ports never do, and the checksum stays as it was sent.

use std::net::SocketAddr;

use signpost_common::{
    Cause,
    service::{AddressValue, FrontendValue},
};

use crate::{
    machine::{Action, Machine, scenes},
    no_endpoints::unreachable,
    packets::{Family, Protocol, Segment, first, later, sctp_chunk, sent_back},
    world::{World, local, remote},
};

const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const DATA: u8 = 0;

fn client(family: Family) -> SocketAddr {
    (family.pod(2), 40_001).into()
}

fn service(family: Family) -> SocketAddr {
    (family.service(1), 3868).into()
}

fn backend(family: Family) -> SocketAddr {
    (family.far_pod(5), 3868).into()
}

fn opens(from: SocketAddr, to: SocketAddr) -> Segment {
    first(Protocol::Sctp, from, to)
}

fn chunk(kind: u8, from: SocketAddr, to: SocketAddr) -> Segment {
    later(Protocol::Sctp, from, to).payload(&sctp_chunk(kind))
}

fn world(family: Family, port: u16) -> World {
    let mut world = World::new();
    let backends = [remote(family.far_pod(5), port)];
    world.service(Protocol::Sctp, service(family), &backends);
    world.address(family.service(1), AddressValue::CLUSTER_IP);
    world
}

fn an_association_there_and_back(machine: &mut Machine, family: Family) {
    machine.load(world(family, 3868));
    let (client, service, backend) = (client(family), service(family), backend(family));
    let open = opens(client, service);
    machine
        .pod_sends(&open.frame())
        .continues_as(&open.to(backend).frame(), &[Cause::FlowCreated]);
    let answer = chunk(INIT_ACK, backend, client);
    machine
        .pod_gets(&answer.frame())
        .continues_as(&answer.from(service).frame(), &[Cause::Reversed]);
    let data = chunk(DATA, client, service);
    machine
        .pod_sends(&data.frame())
        .continues_as(&data.to(backend).frame(), &[Cause::Translated]);
}

fn an_error_about_it_finds_its_sender(machine: &mut Machine, family: Family) {
    machine.load(world(family, 3868));
    let (client, service, backend) = (client(family), service(family), backend(family));
    let open = opens(client, service);
    machine.pod_sends(&open.frame());
    // The backend's node refuses: the error quotes what was sent there.
    let about = unreachable(&open.to(backend));
    let expected = unreachable(&open);
    machine
        .pod_gets(&about)
        .continues_as(&expected, &[Cause::IcmpTranslated]);
}

fn a_pod_reaches_itself(machine: &mut Machine, family: Family) {
    let (client, service) = (client(family), service(family));
    let mut world = World::new();
    world.service(Protocol::Sctp, service, &[local(client.ip(), 3868)]);
    machine.load(world);
    let open = opens(client, service);
    let itself = SocketAddr::new(client.ip(), 3868);
    let seen = SocketAddr::new(service.ip(), client.port());
    machine.pod_sends(&open.frame()).goes_back_as(
        &sent_back(open.from(seen).to(itself).frame()),
        &[Cause::Hairpin],
    );
}

fn another_target_port_is_refused(machine: &mut Machine, family: Family) {
    machine.load(world(family, 8080));
    let open = opens(client(family), service(family));
    machine
        .pod_sends(&open.frame())
        .goes_back_as(&unreachable(&open), &[Cause::SctpPortRejected]);
    assert_eq!(machine.flows().len(), 0);
}

/// The second of two Services that share a backend would need another source port.
fn a_clash_is_refused(machine: &mut Machine, family: Family) {
    let other = SocketAddr::new(family.service(2), 3868);
    let mut world = world(family, 3868);
    world.service(Protocol::Sctp, other, &[remote(family.far_pod(5), 3868)]);
    machine.load(world);
    machine.pod_sends(&opens(client(family), service(family)).frame());
    let open = opens(client(family), other);
    machine
        .pod_sends(&open.frame())
        .goes_back_as(&unreachable(&open), &[Cause::SctpPortRejected]);
}

fn from_outside_only_where_nothing_is_masqueraded(machine: &mut Machine, family: Family) {
    let external = SocketAddr::new(family.service(9), 3868);
    let outside = SocketAddr::new(family.outside(1), 40_001);
    for (policy, served) in [(0, false), (FrontendValue::EXTERNAL_LOCAL, true)] {
        let mut world = World::new();
        world.service(Protocol::Sctp, external, &[local(family.pod(5), 3868)]);
        world.frontend(Protocol::Sctp, external).flags |= FrontendValue::EXTERNAL | policy;
        machine.load(world);
        let open = opens(outside, external);
        let done = machine.wire_brings(&open.frame());
        if served {
            let to = SocketAddr::new(family.pod(5), 3868);
            done.continues_as(&open.to(to).frame(), &[Cause::FlowCreated]);
        } else {
            done.goes_back_as(&unreachable(&open), &[Cause::SctpPortRejected]);
        }
    }
}

fn a_node_port_is_refused(machine: &mut Machine, family: Family) {
    let mut world = World::new();
    world.node_port(
        Protocol::Sctp,
        family,
        30_080,
        &[local(family.pod(5), 3868)],
    );
    world.address(family.node(1), AddressValue::NODE | AddressValue::NODE_PORT);
    machine.load(world);
    let open = opens(
        SocketAddr::new(family.outside(1), 40_001),
        SocketAddr::new(family.node(1), 30_080),
    );
    machine
        .wire_brings(&open.frame())
        .goes_back_as(&unreachable(&open), &[Cause::SctpPortRejected]);
}

fn a_new_association_asks_whether_the_backend_still_may(machine: &mut Machine, family: Family) {
    machine.load(world(family, 3868));
    let (client, service) = (client(family), service(family));
    machine.pod_sends(&opens(client, service).frame());
    machine.change(|world| {
        world.backends(Protocol::Sctp, service, &[remote(family.far_pod(6), 3868)]);
    });
    // What is under way stays; an association that is opened anew goes to who is there now.
    let old = SocketAddr::new(family.far_pod(5), 3868);
    let data = chunk(DATA, client, service);
    machine
        .pod_sends(&data.frame())
        .continues_as(&data.to(old).frame(), &[Cause::Translated]);
    let new = SocketAddr::new(family.far_pod(6), 3868);
    let open = opens(client, service);
    machine.pod_sends(&open.frame()).continues_as(
        &open.to(new).frame(),
        &[Cause::FlowCreated, Cause::BackendGone],
    );
}

fn an_aborted_association_is_opened_anew(machine: &mut Machine, family: Family) {
    machine.load(world(family, 3868));
    let (client, service, backend) = (client(family), service(family), backend(family));
    machine.pod_sends(&opens(client, service).frame());
    machine.pod_gets(&chunk(ABORT, backend, client).frame());
    let open = opens(client, service);
    machine
        .pod_sends(&open.frame())
        .continues_as(&open.to(backend).frame(), &[Cause::FlowCreated]);
}

fn a_packet_without_a_chunk_is_left_alone(machine: &mut Machine, family: Family) {
    machine.load(world(family, 3868));
    let empty = opens(client(family), service(family)).payload(&[]);
    machine
        .pod_sends(&empty.frame())
        .is(Action::Continue, &empty.frame(), &[Cause::TooShort]);
}

scenes! { family:
    an_association_there_and_back,
    an_error_about_it_finds_its_sender,
    a_pod_reaches_itself,
    another_target_port_is_refused,
    a_clash_is_refused,
    from_outside_only_where_nothing_is_masqueraded,
    a_node_port_is_refused,
    a_new_association_asks_whether_the_backend_still_may,
    an_aborted_association_is_opened_anew,
    a_packet_without_a_chunk_is_left_alone,
}
