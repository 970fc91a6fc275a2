//! Session affinity over the sets of one Service.

use std::net::SocketAddr;

use signpost_common::{
    Cause, Port,
    service::{
        AddressValue, FrontendKey, FrontendValue, MemberKey, MemberValue, SlotKey, SlotValue,
    },
};

use crate::{
    machine::{Machine, scenes},
    packets::{Family, Protocol, first},
    world::{World, remote},
};

/// The local endpoint ends and is the only one here; a remote one is ready. `externalTrafficPolicy` is Local.
fn world(
    family: Family,
    protocol: Protocol,
    vip: SocketAddr,
    here: SocketAddr,
    far: SocketAddr,
) -> World {
    let mut world = World::new();
    let service = world.service(protocol, vip, &[remote(far.ip(), far.port())]);
    let frontend = world.frontend(protocol, vip);
    frontend.local = 1;
    frontend.affinity_timeout = 60;
    frontend.flags |= FrontendValue::EXTERNAL_LOCAL | FrontendValue::ANY_ENDPOINTS;
    let cluster_ip = *frontend;
    let generation = cluster_ip.generation;
    let slot = SlotKey {
        service,
        generation,
        index: SlotKey::LOCAL,
    };
    let value = SlotValue {
        service,
        generation,
        address: here.ip().into(),
        port: Port::new(here.port()),
        flags: SlotValue::LOCAL,
    };
    world.slots.insert(slot, value);
    let member = MemberKey {
        service,
        address: here.ip().into(),
        port: Port::new(here.port()),
        pad: 0,
    };
    let flags = MemberValue::SERVING | MemberValue::CHOSEN | MemberValue::LOCAL;
    world.members.insert(member, MemberValue { flags });
    let node_port = FrontendKey {
        address: family.unspecified().into(),
        port: Port::new(30_080),
        protocol: protocol.number().0,
        pad: 0,
    };
    let value = FrontendValue {
        check: node_port.check(),
        flags: cluster_ip.flags | FrontendValue::EXTERNAL,
        ..cluster_ip
    };
    world.frontends.insert(node_port, value);
    world.address(family.node(1), AddressValue::NODE | AddressValue::NODE_PORT);
    world
}

fn a_client_that_stays_never_leaves_the_set_of_its_way_in(
    machine: &mut Machine,
    family: Family,
    protocol: Protocol,
) {
    let vip = SocketAddr::new(family.service(1), 80);
    let (here, far) = (
        (family.pod(9), 8080).into(),
        (family.far_pod(9), 8080).into(),
    );
    machine.load(world(family, protocol, vip, here, far));
    let asks = |to, port| first(protocol, (family.outside(2), port).into(), to);
    let by_node_port = asks((family.node(1), 30_080).into(), 40_001);
    machine
        .wire_brings(&by_node_port.frame())
        .continues_as(&by_node_port.to(here).frame(), &[Cause::FlowCreated]);
    let by_cluster_ip = asks(vip, 40_002);
    machine
        .wire_brings(&by_cluster_ip.frame())
        .continues_as(&by_cluster_ip.to(far).frame(), &[Cause::FlowCreated]);
}

scenes! { family, protocol: a_client_that_stays_never_leaves_the_set_of_its_way_in }
