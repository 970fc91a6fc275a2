//! ICMP errors about translated packets.

use std::net::SocketAddr;

use signpost_common::Cause;

use crate::{
    icmp::Message,
    machine::{Machine, scenes},
    packets::{Family, Ip, Protocol, Segment, first, frame, later, sent_back},
    world::{World, local, remote},
};

/// How much of the packet an error quotes: its IP header and eight bytes, or all of it.
const QUOTES: [Quote; 2] = [Quote::Least, Quote::All];

#[derive(Clone, Copy)]
enum Quote {
    Least,
    All,
}

impl Quote {
    fn of(self, segment: &Segment) -> Vec<u8> {
        let mut bytes = segment.ip();
        if matches!(self, Self::Least) {
            bytes.truncate(bytes.len() - segment.transport().len() + 8);
        }
        bytes
    }
}

/// A client, a Service, and its only backend.
#[derive(Clone, Copy)]
struct Flow {
    protocol: Protocol,
    client: SocketAddr,
    /// The client as the backend sees it.
    seen: SocketAddr,
    service: SocketAddr,
    backend: SocketAddr,
}

impl Flow {
    /// What the client sends.
    fn sent(&self) -> Segment {
        later(self.protocol, self.client, self.service)
    }

    /// What the backend gets of it.
    fn received(&self) -> Segment {
        self.sent().from(self.seen).to(self.backend)
    }

    /// What the backend answers.
    fn answered(&self) -> Segment {
        later(self.protocol, self.backend, self.seen)
    }

    /// What the client gets of it.
    fn got(&self) -> Segment {
        self.answered().from(self.service).to(self.client)
    }
}

/// A flow to a backend on another node.
fn flow(machine: &mut Machine, family: Family, protocol: Protocol) -> Flow {
    let client = (family.pod(2), 40_001).into();
    let flow = Flow {
        protocol,
        client,
        seen: client,
        service: (family.service(1), 80).into(),
        backend: (family.far_pod(5), 8080).into(),
    };
    let mut world = World::new();
    world.service(protocol, flow.service, &[remote(family.far_pod(5), 8080)]);
    machine.load(world);
    let first = first(protocol, flow.client, flow.service);
    machine
        .pod_sends(&first.frame())
        .continues_as(&first.to(flow.backend).frame(), &[Cause::FlowCreated]);
    flow
}

/// The second of two flows of one client port to one backend: its source port is another one at the backend.
fn flow_with_another_port(machine: &mut Machine, family: Family, protocol: Protocol) -> Flow {
    let flow = flow(machine, family, protocol);
    let service = SocketAddr::new(family.service(2), 80);
    machine.change(|world| {
        world.service(protocol, service, &[remote(family.far_pod(5), 8080)]);
    });
    let packet = first(protocol, flow.client, service);
    let done = machine.pod_sends(&packet.frame());
    let at = done.packet.len() - packet.transport().len();
    let port = u16::from_be_bytes([done.packet[at], done.packet[at + 1]]);
    Flow {
        seen: SocketAddr::new(flow.client.ip(), port),
        service,
        ..flow
    }
}

/// A flow of a pod to itself.
fn hairpin(machine: &mut Machine, family: Family, protocol: Protocol) -> Flow {
    let client = SocketAddr::new(family.pod(2), 40_001);
    let service = SocketAddr::new(family.service(1), 80);
    let flow = Flow {
        protocol,
        client,
        seen: SocketAddr::new(service.ip(), client.port()),
        service,
        backend: (client.ip(), 8080).into(),
    };
    let mut world = World::new();
    world.service(protocol, service, &[local(client.ip(), 8080)]);
    machine.load(world);
    let first = first(protocol, client, service);
    machine.pod_sends(&first.frame()).goes_back_as(
        &sent_back(first.from(flow.seen).to(flow.backend).frame()),
        &[Cause::Hairpin],
    );
    flow
}

/// The quote that the receiver of the error knows, with the checksum of the packet that was quoted: the quoted
/// transport checksum is left as it is.
fn translated(quote: Quote, known: &Segment, quoted: &Segment) -> Vec<u8> {
    quote.of(&known.checksum_of(quoted))
}

fn from_the_backend(machine: &mut Machine, family: Family, protocol: Protocol) {
    for open in [flow, flow_with_another_port] {
        let flow = open(machine, family, protocol);
        for (message, quote) in all() {
            let error = message.ip(
                flow.backend.ip(),
                flow.client.ip(),
                &quote.of(&flow.received()),
            );
            let expected = message.ip(
                flow.service.ip(),
                flow.client.ip(),
                &translated(quote, &flow.sent(), &flow.received()),
            );
            machine
                .pod_gets(&frame(&error))
                .continues_as(&frame(&expected), &[Cause::IcmpTranslated]);
        }
    }
}

fn from_a_router(machine: &mut Machine, family: Family, protocol: Protocol) {
    for open in [flow, flow_with_another_port] {
        let flow = open(machine, family, protocol);
        for (message, quote) in all() {
            let (router, client) = (family.router(), flow.client.ip());
            let error = message.ip(router, client, &quote.of(&flow.received()));
            let known = translated(quote, &flow.sent(), &flow.received());
            let expected = message.ip(router, client, &known);
            machine
                .pod_gets(&frame(&error))
                .continues_as(&frame(&expected), &[Cause::IcmpTranslated]);
        }
    }
}

fn from_the_pod_itself(machine: &mut Machine, family: Family, protocol: Protocol) {
    for open in [flow, flow_with_another_port] {
        let flow = open(machine, family, protocol);
        for (message, quote) in all() {
            let client = flow.client.ip();
            let error = message.ip(client, flow.service.ip(), &quote.of(&flow.got()));
            let known = translated(quote, &flow.answered(), &flow.got());
            let expected = message.ip(client, flow.backend.ip(), &known);
            machine
                .pod_sends(&frame(&error))
                .continues_as(&frame(&expected), &[Cause::IcmpTranslated]);
        }
    }
}

fn from_a_pod_about_itself(machine: &mut Machine, family: Family, protocol: Protocol) {
    let flow = hairpin(machine, family, protocol);
    let (pod, service) = (flow.client.ip(), flow.service.ip());
    for (message, quote) in all() {
        // The pod as backend complains of what it got, and the pod as client hears of it from the Service.
        let error = message.ip(pod, service, &quote.of(&flow.received()));
        let known = translated(quote, &flow.sent(), &flow.received());
        machine.pod_sends(&frame(&error)).goes_back_as(
            &sent_back(frame(&message.ip(service, pod, &known))),
            &[Cause::IcmpTranslated],
        );
        // The pod as client complains of the answer.
        let error = message.ip(pod, service, &quote.of(&flow.got()));
        let known = translated(quote, &flow.answered(), &flow.got());
        machine.pod_sends(&frame(&error)).goes_back_as(
            &sent_back(frame(&message.ip(service, pod, &known))),
            &[Cause::IcmpTranslated],
        );
    }
}

fn about_what_is_not_translated(machine: &mut Machine, family: Family, protocol: Protocol) {
    let flow = flow(machine, family, protocol);
    let other = SocketAddr::new(flow.client.ip(), 1);
    let (client, service) = (flow.client.ip(), flow.service.ip());
    for (message, quote) in all() {
        let unknown = flow.got().to(other);
        let error = frame(&message.ip(client, service, &quote.of(&unknown)));
        machine
            .pod_sends(&error)
            .continues_as(&error, &[Cause::IcmpUnknown]);
        let unknown = flow.received().from(other);
        let error = frame(&message.ip(flow.backend.ip(), client, &quote.of(&unknown)));
        machine.pod_gets(&error).continues_as(&error, &[]);
    }
    // What is no error, even if what follows looks like a quote.
    let echo = Message::Echo;
    let packet = frame(&echo.ip(client, service, &flow.got().ip()));
    machine
        .pod_sends(&packet)
        .continues_as(&packet, &[Cause::IcmpUnknown]);
    let packet = frame(&echo.ip(flow.backend.ip(), client, &flow.received().ip()));
    machine.pod_gets(&packet).continues_as(&packet, &[]);
}

fn about_a_fragment_after_the_first(machine: &mut Machine, family: Family, protocol: Protocol) {
    let flow = flow(machine, family, protocol);
    let message = Message::TimeExceeded;
    let header = Ip {
        fragment: Some((1480, true)),
        ..flow.got().ip_header()
    };
    // The fragment's data begin like the header of the flow's packets.
    let quote = header.around(&flow.got().transport());
    let error = frame(&message.ip(flow.client.ip(), flow.service.ip(), &quote));
    machine
        .pod_sends(&error)
        .continues_as(&error, &[Cause::IcmpUnknown]);
}

fn that_are_fragments_themselves(machine: &mut Machine, family: Family, protocol: Protocol) {
    let flow = flow(machine, family, protocol);
    let whole = Message::PortUnreachable.ip(flow.client.ip(), flow.service.ip(), &flow.got().ip());
    let message = &whole[if family == Family::V4 { 20 } else { 40 }..];
    let mut header = flow.sent().ip_header();
    header.protocol = match family {
        Family::V4 => etherparse::IpNumber::ICMP,
        Family::V6 => etherparse::IpNumber::IPV6_ICMP,
    };
    header.fragment = Some((0, true));
    let error = frame(&header.around(message));
    machine
        .pod_sends(&error)
        .continues_as(&error, &[Cause::IcmpUnknown]);
}

fn with_ip_options_in_the_quote(machine: &mut Machine) {
    let flow = flow(machine, Family::V4, Protocol::Udp);
    let header = Ip {
        options: [1, 1, 1, 0],
        ..flow.received().ip_header()
    };
    let quote = header.around(&flow.received().transport());
    let error = Message::TimeExceeded.ip(Family::V4.router(), flow.client.ip(), &quote);
    machine
        .pod_gets(&frame(&error))
        .continues_as(&frame(&error), &[]);
}

fn all() -> impl Iterator<Item = (Message, Quote)> {
    Message::ERRORS
        .into_iter()
        .flat_map(|message| QUOTES.map(|quote| (message, quote)))
}

scenes! { family, protocol:
    from_the_backend,
    from_a_router,
    from_the_pod_itself,
    from_a_pod_about_itself,
    about_what_is_not_translated,
    about_a_fragment_after_the_first,
    that_are_fragments_themselves,
}
scenes! { : with_ip_options_in_the_quote }
