//! Connections from a port whose last one was closed.

use signpost_common::{Cause, flow::FlowValue};

use crate::{
    machine::{Machine, scenes},
    packets::{Family, Protocol, first, later},
    translation::{backend, client, opened, service, world},
};

fn a_syn_after_the_end_opens_a_new_flow(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Tcp;
    for end in ["FA", "R", "RA"] {
        machine.load(world(family, protocol, &[5]));
        let there = first(protocol, client(family), service(family));
        opened(machine, &there, &[backend(family, 5)]);
        machine.pod_sends(&there.flags(end).frame());
        machine
            .pod_sends(&there.frame())
            .continues_as(&there.to(backend(family, 5)).frame(), &[Cause::FlowCreated]);
        // The new flow is not closed.
        let closed = machine
            .flows()
            .iter()
            .any(|(_, flow)| flow.flags & (FlowValue::FIN | FlowValue::RESET) != 0);
        assert!(!closed, "after {end}");
    }
}

fn a_connection_past_the_service_may_follow_a_closed_one(machine: &mut Machine, family: Family) {
    let protocol = Protocol::Tcp;
    let (client, service, backend) = (client(family), service(family), backend(family, 5));
    for end in ["FA", "R", "RA"] {
        machine.load(world(family, protocol, &[5]));
        let there = first(protocol, client, service);
        let accepted = first(protocol, backend, client).flags("SA").frame();
        let of_service = first(protocol, service, client).flags("SA").frame();
        opened(machine, &there, &[backend]);
        machine
            .pod_gets(&accepted)
            .continues_as(&of_service, &[Cause::Reversed]);
        machine.pod_sends(&there.flags(end).frame());
        // What is late of the closed connection is still its own.
        let late = later(protocol, backend, client);
        machine
            .pod_gets(&late.frame())
            .continues_as(&late.from(service).frame(), &[Cause::Reversed]);
        // From the same port to the backend itself.
        let direct = first(protocol, client, backend);
        for (sent, answer) in [
            (direct.frame(), accepted.clone()),
            (later(protocol, client, backend).frame(), late.frame()),
        ] {
            machine.pod_sends(&sent).continues_as(&sent, &[]);
            machine.pod_gets(&answer).continues_as(&answer, &[]);
        }
        // And through the Service again.
        opened(machine, &there, &[backend]);
        machine
            .pod_gets(&accepted)
            .continues_as(&of_service, &[Cause::Reversed]);
    }
}

scenes! { family:
    a_syn_after_the_end_opens_a_new_flow,
    a_connection_past_the_service_may_follow_a_closed_one,
}
