//! What is told of answers while somebody watches.

use bytemuck::pod_read_unaligned;
use signpost_common::{Address, Cause, dns::qtype, layout::size, log::LogHead};

use super::{client, message::Question, packet, world};
use crate::{
    machine::{Action, Machine, kernel, scenes},
    packets::Family,
    world::{SECOND, World},
};

/// Longer than a test takes.
const LONG: u64 = 600 * SECOND;

fn watched(family: Family) -> World {
    let mut world = world(family);
    world.watched_until = world.now + LONG;
    world
}

fn each_answer_is_told_with_its_question(machine: &mut Machine, family: Family) {
    machine.load(watched(family));
    machine.log();
    for (name, kind, cause, code, answers) in [
        (
            "dual.dev.svc.cluster.local",
            qtype::A,
            Cause::DnsAnswered,
            0,
            1,
        ),
        (
            "MANY.dev.svc.Cluster.local",
            qtype::A,
            Cause::DnsAnswered,
            0,
            20,
        ),
        (
            "ent.dev.svc.cluster.local",
            qtype::TXT,
            Cause::DnsNodata,
            0,
            0,
        ),
        (
            "nope.dev.svc.cluster.local",
            qtype::A,
            Cause::DnsNxdomain,
            3,
            0,
        ),
    ] {
        let question = Question::new(name, kind).edns(1232);
        let done = machine.pod_sends(&packet(family, &question.bytes()).frame());
        assert_eq!(
            (done.action, &done.causes[..]),
            (Action::SendBack, &[cause][..])
        );
        let told = machine.log();
        let [record] = &told[..] else {
            panic!("{name}: {told:?}");
        };
        let (head, asked) = record.split_at(size_of::<LogHead>());
        let head: LogHead = pod_read_unaligned(head);
        // Name, type and class as they were sent.
        assert_eq!(
            asked,
            &question.bytes()[12..][..question.name.len() + 4],
            "{name}"
        );
        let expected = LogHead {
            at: head.at,
            took: head.took,
            device: 1,
            client: Address::from(client(family).ip()),
            client_port: signpost_common::Port::new(client(family).port()),
            flags: 0x8400 | code,
            answers,
            cause: cause.index() as u16,
        };
        assert_eq!(head, expected, "{name}");
        assert!(head.at > 0 && u64::from(head.took) < SECOND, "{head:?}");
    }
}

fn what_is_passed_on_is_not_told(machine: &mut Machine, family: Family) {
    machine.load(watched(family));
    machine.log();
    for name in ["example.com", "a.b.ent.dev.svc.cluster.local"] {
        let done =
            machine.pod_sends(&packet(family, &Question::new(name, qtype::A).bytes()).frame());
        assert_eq!(done.action, Action::Continue);
    }
    assert_eq!(machine.log(), Vec::<Vec<u8>>::new());
}

fn nothing_is_told_where_nobody_watches_any_more(machine: &mut Machine, family: Family) {
    let question = packet(
        family,
        &Question::new("ent.dev.svc.cluster.local", qtype::A).bytes(),
    );
    // Never, switched off, and a reader that was killed.
    for until in [0, 1, 999 * SECOND] {
        let mut world = world(family);
        world.watched_until = until;
        machine.load(world);
        machine.log();
        machine.pod_sends(&question.frame());
        assert_eq!(machine.log(), Vec::<Vec<u8>>::new(), "{until}");
    }
}

scenes!(family: each_answer_is_told_with_its_question, what_is_passed_on_is_not_told,
    nothing_is_told_where_nobody_watches_any_more);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_nobody_reads_is_counted_and_keeps_nobody_from_an_answer() {
    let family = Family::V4;
    let mut kernel = kernel();
    kernel.fill(&watched(family));
    kernel.log();
    let before = kernel.log_lost();
    let packet = packet(
        family,
        &Question::new("ent.dev.svc.cluster.local", qtype::A).bytes(),
    );
    let most = size::DNS_LOG as usize / size_of::<LogHead>();
    for _ in 0..most {
        let done = kernel.run(crate::machine::Program::FromPod, &packet.frame());
        assert_eq!(done.action, Action::SendBack);
    }
    let told = kernel.log().len();
    let lost = kernel.log_lost() - before;
    assert!(told > most / 4 && lost > 0, "{told} {lost}");
    assert_eq!(told as u64 + lost, most as u64);
    kernel.fill(&world(family));
}
