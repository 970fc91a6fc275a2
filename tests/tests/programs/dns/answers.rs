//! Questions that the kernel answers.

use std::collections::BTreeSet;

use signpost_common::{Cause, dns::qtype};

use super::{
    SERVICES, addresses, answer,
    message::{AD, CD, Question, RD, Says, check},
    packet, sent_back_message, server, world,
};
use crate::{
    machine::{Machine, scenes},
    packets::Family,
    world::SECOND,
};

/// Where a name's zone part, and so the place of everything behind it, is odd or even.
const NAMES: [&str; 3] = [
    "ent.dev.svc.cluster.local",
    "six.dev.svc.cluster.local",
    "dual.dev.svc.cluster.local",
];

fn asks(machine: &mut Machine, family: Family, question: &Question, says: &Says) {
    let message = answer(machine, family, question);
    check(question, &message, says);
}

fn addresses_of_a_service(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    for (service, v4, v6) in SERVICES {
        let name = format!("{service}.dev.svc.cluster.local");
        for (kind, of, count) in [(qtype::A, Family::V4, v4), (qtype::AAAA, Family::V6, v6)] {
            let says = match count {
                0 => Says::NoData,
                count => Says::Addresses(addresses(of, count)),
            };
            let question = Question::new(&name, kind);
            asks(machine, family, &question.clone().edns(1232), &says);
            if count <= 4 {
                asks(machine, family, &question, &says);
            }
        }
    }
}

/// The DNS address may be any of those in the configuration, and one that is not there is nobody's.
fn each_address_of_dns_is_one(machine: &mut Machine, family: Family) {
    let question = Question::new(NAMES[0], qtype::A);
    let sent = packet(family, &question.bytes());
    for place in 0..=4 {
        let mut world = world(family);
        if let Some(config) = &mut world.config {
            config.dns = Default::default();
            if let Some(one) = config.dns.get_mut(place) {
                *one = server(family).ip().into();
            }
        }
        machine.load(world);
        let done = machine.pod_sends(&sent.frame());
        let expected = if place < 4 {
            Cause::DnsAnswered
        } else {
            Cause::FlowCreated
        };
        assert_eq!(done.causes, [expected], "{place}");
    }
}

fn the_sections_are_counted_as_causes(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    for (name, kind, cause) in [
        (NAMES[0], qtype::A, Cause::DnsAnswered),
        (NAMES[0], qtype::AAAA, Cause::DnsNodata),
        ("nope.dev.svc.cluster.local", qtype::A, Cause::DnsNxdomain),
    ] {
        let question = packet(family, &Question::new(name, kind).bytes());
        let done = machine.pod_sends(&question.frame());
        assert_eq!(done.causes, [cause]);
    }
    assert_eq!(machine.flows().len(), 0);
}

fn every_flag_that_a_question_may_have(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    let address = Says::Addresses(addresses(Family::V4, 1));
    for flags in [0, RD, CD, AD, RD | CD, RD | AD, RD | CD | AD] {
        let question = Question::new(NAMES[0], qtype::A).flags(flags);
        asks(machine, family, &question, &address);
        let question = Question::new("nope.dev.svc.cluster.local", qtype::A).flags(flags);
        asks(machine, family, &question, &Says::NxDomain);
    }
}

/// Randomised letter case (the "0x20" draft): the answer has to repeat it.
fn letter_case_is_kept(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    for (name, says) in [
        (
            "eNt.DEv.sVC.cLUSTer.LOcal",
            Says::Addresses(addresses(Family::V4, 1)),
        ),
        ("NOpe.DEv.sVC.cLUSTer.LOcal", Says::NxDomain),
        ("Six.dEV.Svc.CLUSTER.local", Says::NoData),
        ("nOPe.Cluster.LOCAL", Says::NxDomain),
    ] {
        for question in [
            Question::new(name, qtype::A),
            Question::new(name, qtype::A).edns(4096),
        ] {
            asks(machine, family, &question, &says);
        }
    }
}

fn sets_are_rotated(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    for (name, kind, of, count) in [
        ("two", qtype::AAAA, Family::V6, 2),
        ("four", qtype::A, Family::V4, 4),
        ("many", qtype::A, Family::V4, 20),
        ("most", qtype::AAAA, Family::V6, 22),
    ] {
        let name = format!("{name}.dev.svc.cluster.local");
        let question = Question::new(&name, kind).edns(1232);
        let says = Says::Addresses(addresses(of, count));
        let starts: BTreeSet<_> = (0..60 * usize::from(count).min(8))
            .map(|_| check(&question, &answer(machine, family, &question), &says)[0])
            .collect();
        assert!(
            starts.len() >= usize::from(count).min(8),
            "{} of {count} records came first",
            starts.len()
        );
    }
}

fn edns_is_answered_with_edns(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    // A client's cookie (RFC 7873); NSID and padding, which are empty; one of odd length.
    let options: [&[u8]; 4] = [
        &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0, 3, 0, 0, 0, 12, 0, 0],
        &[0, 12, 0, 5, 0, 0, 0, 0, 0],
        &[0, 3, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0],
    ];
    for name in NAMES.into_iter().chain(["nope.dev.svc.cluster.local"]) {
        for kind in [qtype::A, qtype::AAAA] {
            let says = match (name.split('.').next(), kind) {
                (Some("nope"), _) => Says::NxDomain,
                (Some("ent" | "dual"), qtype::A) => Says::Addresses(addresses(Family::V4, 1)),
                (Some("six" | "dual"), qtype::AAAA) => Says::Addresses(addresses(Family::V6, 1)),
                _ => Says::NoData,
            };
            for size in [0, 511, 512, 1232, 4096, 65_535] {
                asks(
                    machine,
                    family,
                    &Question::new(name, kind).edns(size),
                    &says,
                );
            }
            for options in options {
                asks(
                    machine,
                    family,
                    &Question::new(name, kind).options(options),
                    &says,
                );
            }
        }
    }
}

fn the_longest_opt_record(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    // 64 bytes, eleven of them its head.
    let mut option = vec![0, 12, 0, 49];
    option.extend([0x5a; 49]);
    let question = Question::new(NAMES[0], qtype::A).options(&option);
    let says = Says::Addresses(addresses(Family::V4, 1));
    asks(machine, family, &question, &says);
}

fn what_does_not_exist(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    for name in [
        "nope.dev.svc.cluster.local",
        "x.nope.dev.svc.cluster.local",
        "a.b.c.d.nope.dev.svc.cluster.local",
        "ent.nope.svc.cluster.local",
        "nope.svc.cluster.local",
        "a.b.c.ent.dev.svc.cluster.local",
        "a.b.c.d.e.f.g.h.i.ent.dev.svc.cluster.local",
        "nope.cluster.local",
        "github.com.cluster.local",
        "github.com.svc.cluster.local",
        "api.github.com.dev.svc.cluster.local",
        "ent.dev.svc.cluster.local.cluster.local",
        "-.dev.svc.cluster.local",
        "ent_.dev.svc.cluster.local",
    ] {
        for kind in [qtype::A, qtype::AAAA, qtype::TXT, 65] {
            let question = Question::new(name, kind);
            asks(machine, family, &question, &Says::NxDomain);
            asks(machine, family, &question.edns(1232), &Says::NxDomain);
        }
    }
}

fn what_exists_without_this_type(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    for (name, kind) in [
        ("ent.dev.svc.cluster.local", qtype::AAAA),
        ("ent.dev.svc.cluster.local", qtype::TXT),
        ("ent.dev.svc.cluster.local", 65),
        ("six.dev.svc.cluster.local", qtype::A),
        ("dev.svc.cluster.local", qtype::A),
        ("svc.cluster.local", qtype::A),
        ("cluster.local", qtype::AAAA),
    ] {
        asks(machine, family, &Question::new(name, kind), &Says::NoData);
    }
}

/// The greatest messages that the asker can take: 512 bytes without EDNS, what it says with it.
fn what_just_fits(machine: &mut Machine, family: Family) {
    machine.load(world(family));
    let name = format!("{}.dev.svc.cluster.local", "x".repeat(24));
    let addresses = addresses(Family::V4, 28);
    machine.change(|world| world.records(&name, &addresses));
    let says = Says::Addresses(addresses);
    let question = Question::new(&name, qtype::A);
    assert_eq!(answer(machine, family, &question).len(), 512);
    asks(machine, family, &question, &says);
    asks(machine, family, &question.edns(523), &says);
}

fn negatives_are_given_for_a_while_after_the_last_sync(machine: &mut Machine, family: Family) {
    let mut world = world(family);
    world.config.as_mut().unwrap().negative_grace = 100;
    world.in_sync_at = world.now - 95 * SECOND;
    machine.load(world);
    let question = Question::new("nope.dev.svc.cluster.local", qtype::A);
    asks(machine, family, &question, &Says::NxDomain);
}

fn an_answer_to_a_question_without_checksum_has_none(machine: &mut Machine) {
    let family = Family::V4;
    machine.load(world(family));
    let question = Question::new(NAMES[0], qtype::A);
    let packet = packet(family, &question.bytes()).checksum(0);
    let done = machine.pod_sends(&packet.frame());
    let message = sent_back_message(&done, &packet);
    let says = Says::Addresses(addresses(Family::V4, 1));
    check(&question, &message, &says);
}

scenes! { family:
    addresses_of_a_service,
    each_address_of_dns_is_one,
    the_sections_are_counted_as_causes,
    every_flag_that_a_question_may_have,
    letter_case_is_kept,
    sets_are_rotated,
    edns_is_answered_with_edns,
    the_longest_opt_record,
    what_does_not_exist,
    what_exists_without_this_type,
    what_just_fits,
    negatives_are_given_for_a_while_after_the_last_sync,
}
scenes! { : an_answer_to_a_question_without_checksum_has_none }
