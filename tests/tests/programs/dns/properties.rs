//! Whatever is asked.

use proptest::{prelude::*, strategy::ValueTree as _};
use signpost_common::dns::qtype;

use super::{
    dns_pod,
    message::{Edns, Question, Says, check},
    packet, sent_back_message, world,
};
use crate::{
    machine::{Action, Done, Machine},
    packets::{Family, Segment},
};

/// Names that exist, nearly exist, and do not.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let label = prop_oneof![
        8 => prop::sample::select(vec![
            "ent", "six", "two", "many", "the-most", "ext", "dev", "prod", "svc", "pod", "cluster", "local",
        ]).prop_map(|label| label.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..=63),
        1 => "[a-z0-9-]{1,20}".prop_map(String::into_bytes),
    ];
    let suffix = prop::sample::select(vec![
        "ent dev svc cluster local",
        "many dev svc cluster local",
        "dev svc cluster local",
        "svc cluster local",
        "cluster local",
        "local",
        "",
    ]);
    (prop::collection::vec(label, 0..4), suffix, any::<u64>()).prop_map(|(left, suffix, upper)| {
        let right = suffix
            .split_whitespace()
            .map(|label| label.as_bytes().to_vec());
        let mut name = Vec::new();
        for (n, label) in left.into_iter().chain(right).enumerate() {
            name.push(label.len() as u8);
            name.extend(label.iter().enumerate().map(|(m, byte)| {
                if upper >> ((n + m) % 64) & 1 == 1 {
                    byte.to_ascii_uppercase()
                } else {
                    *byte
                }
            }));
        }
        name.push(0);
        name
    })
}

fn question() -> impl Strategy<Value = Question> {
    let kind = prop_oneof![
        6 => prop::sample::select(vec![qtype::A, qtype::AAAA]),
        1 => prop::sample::select(vec![qtype::SRV, qtype::TXT, qtype::SOA, 65, 255]),
        1 => any::<u16>(),
    ];
    let edns = prop::option::of((any::<u16>(), any::<bool>(), 0..5_usize, 0..9_u8).prop_map(
        |(size, dnssec_ok, options, length)| {
            Edns {
                size,
                version: 0,
                dnssec_ok,
                options: [&[0, 12, 0, length][..], &vec![7; usize::from(length)]]
                    .concat()
                    .repeat(options),
            }
        },
    ));
    let flags = prop::sample::select(vec![0, 0x0100, 0x0110, 0x0120]);
    (any::<u16>(), flags, name(), kind, edns).prop_map(|(id, flags, name, kind, edns)| Question {
        id,
        flags,
        counts: [1, 0, 0],
        name,
        kind,
        class: 1,
        edns,
        rest: Vec::new(),
    })
}

/// A question of which some bytes were changed, or the end was.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (question(), changes, any::<prop::sample::Index>(), 0..8_u8).prop_map(
        |(question, changes, end, cut)| {
            let mut bytes = question.bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if cut == 0 {
                bytes.truncate(end.index(bytes.len()));
            }
            bytes
        },
    )
}

/// Whatever a program did, it either passed the question on as it was, or made an answer that can be read.
fn is_sound(family: Family, message: &[u8], packet: &Segment, done: &Done) {
    match done.action {
        Action::Continue => {
            assert_eq!(done.packet, packet.to(dns_pod(family)).frame());
        }
        Action::SendBack => {
            let answer = sent_back_message(done, packet);
            let read = hickory_proto::op::Message::from_vec(&answer).expect("hickory reads it");
            domain::base::Message::from_slice(&answer)
                .expect("domain reads it")
                .iter()
                .for_each(|record| {
                    record.expect("a record");
                });
            assert_eq!(answer[..2], message[..2], "the identification");
            assert_eq!(read.queries.len(), 1);
        }
        Action::Drop => panic!("dropped: {:?}", done.causes),
    }
}

/// As [`is_sound`]; where the name can be written with dots, every field is compared too.
fn is_right(family: Family, question: &Question, packet: &Segment, done: &Done) {
    is_sound(family, &question.bytes(), packet, done);
    if done.action != Action::SendBack || question.plain_text().is_none() {
        return;
    }
    let answer = sent_back_message(done, packet);
    let message = hickory_proto::op::Message::from_vec(&answer).unwrap();
    let addresses = message.answers.iter().map(|r| r.data.ip_addr().unwrap());
    let says = match message.metadata.response_code {
        hickory_proto::op::ResponseCode::NXDomain => Says::NxDomain,
        _ if message.answers.is_empty() => Says::NoData,
        _ => Says::Addresses(addresses.collect()),
    };
    check(question, &answer, &says);
}

fn families() -> impl Strategy<Value = Family> {
    prop::sample::select(vec![Family::V4, Family::V6])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_passed_on_or_answered(family in families(), message in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut machine = Machine::host(world(family));
        let packet = packet(family, &message);
        is_sound(family, &message, &packet, &machine.pod_sends(&packet.frame()));
    }

    #[test]
    fn mangled_questions_are_passed_on_or_answered(family in families(), message in mangled()) {
        let mut machine = Machine::host(world(family));
        let packet = packet(family, &message);
        is_sound(family, &message, &packet, &machine.pod_sends(&packet.frame()));
    }

    #[test]
    fn plain_questions_are_passed_on_or_answered_rightly(family in families(), question in question()) {
        let mut machine = Machine::host(world(family));
        let packet = packet(family, &question.bytes());
        is_right(family, &question, &packet, &machine.pod_sends(&packet.frame()));
    }
}

/// Both machines see the same questions; only the rotation of sets is theirs.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_kernel_answers_as_the_host_does() {
    for family in [Family::V4, Family::V6] {
        let mut kernel = Machine::kernel(world(family));
        let mut host = Machine::host(world(family));
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let strategy = prop_oneof![mangled(), question().prop_map(|question| question.bytes())];
        for _ in 0..1500 {
            let message = strategy.new_tree(&mut runner).unwrap().current();
            let packet = packet(family, &message);
            let [kernel, host] =
                [&mut kernel, &mut host].map(|machine| machine.pod_sends(&packet.frame()));
            is_sound(family, &message, &packet, &kernel);
            assert_eq!(
                (kernel.action, &kernel.causes),
                (host.action, &host.causes),
                "{message:02x?}"
            );
            let sorted = |done: &Done| {
                let mut bytes = done.packet.clone();
                bytes.sort_unstable();
                bytes
            };
            assert_eq!(sorted(&kernel), sorted(&host), "{message:02x?}");
        }
    }
}
