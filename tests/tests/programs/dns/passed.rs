//! Questions that go on to the DNS pods, as they are.

use signpost_common::{
    Cause,
    dns::{Config, qtype},
};

use super::{
    addresses, answer, client, dns_pod,
    message::{Question, Says, check},
    packet, server, world,
};
use crate::{
    machine::{Machine, scenes},
    packets::{Family, Protocol, first, later},
    world::SECOND,
};

/// The question reaches the DNS pod byte by byte, and the reason is counted.
#[track_caller]
fn passes(machine: &mut Machine, family: Family, message: &[u8], cause: Cause) {
    machine.forget_flows();
    let packet = packet(family, message);
    let done = machine.pod_sends(&packet.frame());
    done.continues_as(
        &packet.to(dns_pod(family)).frame(),
        &[Cause::FlowCreated, cause],
    );
}

fn ent() -> Question {
    Question::new("ent.dev.svc.cluster.local", qtype::A)
}

fn names_that_only_user_space_knows(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    for (name, kind, cause) in [
        ("ent.dev.svc.cluster.local", qtype::SRV, Cause::DnsUser),
        ("cluster.local", qtype::SOA, Cause::DnsUser),
        ("ext.dev.svc.cluster.local", qtype::A, Cause::DnsUser),
        ("pod.cluster.local", qtype::A, Cause::DnsUser),
        ("x.ent.dev.svc.cluster.local", qtype::A, Cause::DnsUnproven),
        (
            "_http._tcp.ent.dev.svc.cluster.local",
            qtype::SRV,
            Cause::DnsUnproven,
        ),
        ("x.ext.dev.svc.cluster.local", qtype::A, Cause::DnsUnproven),
        (
            "10-0-0-1.dev.pod.cluster.local",
            qtype::A,
            Cause::DnsUnproven,
        ),
        ("github.com", qtype::A, Cause::DnsOutside),
        ("local", qtype::A, Cause::DnsOutside),
        ("", qtype::A, Cause::DnsOutside),
        ("cluster.locale", qtype::A, Cause::DnsOutside),
        ("ent.dev.svc.cluster.local.org", qtype::A, Cause::DnsOutside),
        ("xcluster.local", qtype::A, Cause::DnsOutside),
        ("10.0.96.10.in-addr.arpa", qtype::PTR, Cause::DnsOutside),
    ] {
        for question in [
            Question::new(name, kind),
            Question::new(name, kind).edns(1232),
        ] {
            passes(machine, family, &question.bytes(), cause);
        }
    }
}

fn questions_about_more_than_a_type(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    for kind in [0, qtype::OPT, 249, 250, 251, 252, 253, 254, 255] {
        let question = Question { kind, ..ent() };
        passes(machine, family, &question.bytes(), Cause::DnsUser);
    }
}

fn what_is_not_one_plain_question(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    let with = |change: fn(&mut Question)| {
        let mut question = ent();
        change(&mut question);
        question.bytes()
    };
    let edns = |change: fn(&mut super::message::Edns)| {
        let mut question = ent().edns(1232);
        change(question.edns.as_mut().unwrap());
        question.bytes()
    };
    let mut cases = vec![
        ("no question", with(|q| q.counts = [0, 0, 0])),
        ("two questions", with(|q| q.counts = [2, 0, 0])),
        ("an answer", with(|q| q.counts = [1, 1, 0])),
        ("an authority", with(|q| q.counts = [1, 0, 1])),
        ("a response", with(|q| q.flags |= 0x8000)),
        ("an inverse question", with(|q| q.flags |= 0x0800)),
        ("a notification", with(|q| q.flags |= 0x2000)),
        ("an update", with(|q| q.flags |= 0x2800)),
        ("authoritative", with(|q| q.flags |= 0x0400)),
        ("truncated", with(|q| q.flags |= 0x0200)),
        ("recursion available", with(|q| q.flags |= 0x0080)),
        ("the reserved bit", with(|q| q.flags |= 0x0040)),
        ("an rcode", with(|q| q.flags |= 0x0002)),
        ("class CH", with(|q| q.class = 3)),
        ("class ANY", with(|q| q.class = 255)),
        ("a byte behind", with(|q| q.rest = vec![0])),
        ("much behind", with(|q| q.rest = vec![1; 200])),
        ("a pointer as name", with(|q| q.name = vec![0xc0, 0x0c])),
        (
            "a pointer in the name",
            with(|q| q.name = vec![3, b'e', b'n', b't', 0xc0, 0x0c]),
        ),
        (
            "a label of type 0x40",
            with(|q| q.name = vec![0x41, b'e', 0]),
        ),
        (
            "a label of 64 bytes",
            with(|q| q.name = [&[64][..], &[b'a'; 64], &[0]].concat()),
        ),
        (
            "a name of 256 bytes",
            with(|q| q.name = [[&[63_u8][..], &[b'a'; 63]].concat().repeat(4), vec![0]].concat()),
        ),
        (
            "35 labels",
            with(|q| q.name = [[1, b'a'].repeat(35), vec![0]].concat()),
        ),
        ("EDNS version 1", edns(|e| e.version = 1)),
        ("half an option", edns(|e| e.options = vec![0, 10, 0])),
        ("an option's head", edns(|e| e.options = vec![0, 10, 0, 1])),
        (
            "an option too long",
            edns(|e| e.options = vec![0, 10, 0, 9, 1, 2]),
        ),
        ("five options", edns(|e| e.options = [0, 3, 0, 0].repeat(5))),
        (
            "an OPT record of 65 bytes",
            edns(|e| e.options = [&[0, 12, 0, 50][..], &[0; 50]].concat()),
        ),
    ];
    let mut other = ent().edns(1232).bytes();
    let at = ent().bytes().len();
    other[at] = 1;
    cases.push(("an owner of the OPT record", other.clone()));
    other[at] = 0;
    other[at + 2] = 46;
    cases.push(("another additional record", other.clone()));
    other[at + 2] = 41;
    other[at + 5] = 1;
    cases.push(("an extended rcode", other.clone()));
    other[at + 5] = 0;
    other[at + 10] = 1;
    cases.push(("an OPT record longer than the message", other.clone()));
    other[at + 10] = 0;
    other.push(0);
    cases.push(("a byte behind the OPT record", other.clone()));
    other.pop();
    other[11] = 2;
    cases.push(("two additional records", other.clone()));
    other[11] = 0;
    cases.push(("an OPT record that is not counted", other));
    for length in 0..ent().bytes().len() {
        cases.push((
            "a message that ends early",
            ent().bytes()[..length].to_vec(),
        ));
    }
    for length in ent().bytes().len() + 1..ent().edns(1232).bytes().len() {
        let cut = ent().edns(1232).bytes()[..length].to_vec();
        cases.push(("an OPT record that ends early", cut));
    }
    for (case, message) in cases {
        machine.forget_flows();
        let packet = packet(family, &message);
        let done = machine.pod_sends(&packet.frame());
        assert!(done.causes.contains(&Cause::DnsUnusual), "{case}: {done:?}");
        done.continues_as(
            &packet.to(dns_pod(family)).frame(),
            &[Cause::FlowCreated, Cause::DnsUnusual],
        );
    }
}

/// Whatever the UDP and IP lengths say: more or less than there is makes the question unusual.
fn lengths_that_do_not_agree(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    let packet = packet(family, &ent().bytes());
    let udp = packet.frame().len() - packet.transport().len() + 4;
    for change in [-9_i32, -1, 1, 100] {
        let mut frame = packet.frame();
        let length = (packet.transport().len() as i32 + change) as u16;
        frame[udp..udp + 2].copy_from_slice(&length.to_be_bytes());
        let done = machine.pod_sends(&frame);
        assert!(done.causes.contains(&Cause::DnsUnusual));
        assert_eq!(done.action, crate::machine::Action::Continue);
    }
    // Bytes behind the IP packet, as short frames have them.
    let mut padded = packet.frame();
    padded.extend([0; 8]);
    let done = machine.pod_sends(&padded);
    assert!(done.causes.contains(&Cause::DnsUnusual));
}

fn answers_that_do_not_fit(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    let name = format!("{}.dev.svc.cluster.local", "x".repeat(25));
    let of = addresses(Family::V4, 28);
    machine.change(|world| world.records(&name, &of));
    let question = Question::new(&name, qtype::A);
    // 513 bytes, and 524 with an OPT record.
    passes(machine, family, &question.bytes(), Cause::DnsTooLarge);
    let edns = question.clone().edns(523);
    passes(machine, family, &edns.bytes(), Cause::DnsTooLarge);
    let edns = question.clone().edns(100);
    passes(machine, family, &edns.bytes(), Cause::DnsTooLarge);
    let edns = question.edns(524);
    let message = answer(machine, family, &edns);
    check(&edns, &message, &Says::Addresses(of));
}

fn negatives_of_an_agent_that_is_not_in_sync(machine: &mut Machine, family: Family) {
    for age in [None, Some(101)] {
        let mut world = world(family);
        world.config.as_mut().unwrap().negative_grace = 100;
        world.in_sync_at = age.map_or(0, |age| world.now - age * SECOND);
        machine.load(world);
        for question in [
            Question::new("nope.dev.svc.cluster.local", qtype::A),
            Question::new("ent.dev.svc.cluster.local", qtype::AAAA),
        ] {
            passes(machine, family, &question.bytes(), Cause::DnsNotInSync);
        }
        // What exists is still answered.
        let message = answer(machine, family, &ent());
        check(&ent(), &message, &Says::Addresses(addresses(Family::V4, 1)));
    }
}

fn everything_without_a_configuration(machine: &mut Machine, family: Family) {
    let mut world = world(family);
    let config = world.config.take().unwrap();
    machine.load(world);
    // Nobody knows yet that it is a question to the cluster's DNS.
    let packet = packet(family, &ent().bytes());
    machine
        .pod_sends(&packet.frame())
        .continues_as(&packet.to(dns_pod(family)).frame(), &[Cause::FlowCreated]);
    machine.change(|world| {
        world.config = Some(Config {
            flags: config.flags & !Config::DNS,
            ..config
        });
    });
    passes(machine, family, &ent().bytes(), Cause::DnsUser);
}

/// An element that was given to another name under the reader.
fn values_of_another_name(machine: &mut Machine, family: Family) {
    let mut world = world(family);
    for value in world.answers_small.values_mut() {
        value.head.check ^= 1;
    }
    machine.load(world);
    passes(machine, family, &ent().bytes(), Cause::DnsUnproven);
}

fn other_ports_and_protocols(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    machine.change(|world| {
        let tcp = server(family);
        let pod = dns_pod(family);
        world.service(
            Protocol::Tcp,
            tcp,
            &[crate::world::remote(pod.ip(), pod.port())],
        );
        let flags = world.addresses.get_mut(&tcp.ip().into()).unwrap();
        flags.flags |= signpost_common::service::AddressValue::DNS;
    });
    let tcp = first(Protocol::Tcp, client(family), server(family));
    machine
        .pod_sends(&tcp.frame())
        .continues_as(&tcp.to(dns_pod(family)).frame(), &[Cause::FlowCreated]);
    let with_data = later(Protocol::Tcp, client(family), server(family)).payload(&ent().bytes());
    machine
        .pod_sends(&with_data.frame())
        .continues_as(&with_data.to(dns_pod(family)).frame(), &[Cause::Translated]);
    // The metrics port, say: nobody answers there.
    let other = (server(family).ip(), 9153).into();
    let packet = packet(family, &ent().bytes()).to(other).frame();
    machine
        .pod_sends(&packet)
        .continues_as(&packet, &[Cause::NoFrontend]);
}

fn fragments_of_a_question(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    let packet = packet(family, &ent().bytes());
    let whole = packet.to(dns_pod(family)).fragments(&[40]);
    for (n, fragment) in packet.fragments(&[40]).iter().enumerate() {
        let cause = [Cause::FlowCreated, Cause::FragmentTranslated][n];
        machine
            .pod_sends(fragment)
            .continues_as(&whole[n], &[cause]);
    }
}

scenes! { family:
    names_that_only_user_space_knows,
    questions_about_more_than_a_type,
    what_is_not_one_plain_question,
    lengths_that_do_not_agree,
    answers_that_do_not_fit,
    negatives_of_an_agent_that_is_not_in_sync,
    everything_without_a_configuration,
    values_of_another_name,
    other_ports_and_protocols,
    fragments_of_a_question,
}
