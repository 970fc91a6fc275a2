//! Names of Pods, where they are the addresses that they spell.

use std::net::Ipv4Addr;

use proptest::{prelude::*, strategy::ValueTree as _};
use signpost_common::{
    Cause,
    dns::{NameValue, qtype},
};

use super::{
    dns_pod,
    message::{Question, Says, check},
    packet, sent_back_message, world,
};
use crate::{
    machine::{Machine, scenes},
    packets::Family,
    world::World,
};

fn insecure(family: Family) -> World {
    let mut world = world(family);
    world.name("pod.cluster.local", 0).flags = NameValue::COMPLETE | NameValue::PODS;
    world
}

/// Asks, and gives what was counted. An answer must say this.
#[track_caller]
fn asks(machine: &mut Machine, family: Family, question: &Question, says: &Says) -> Vec<Cause> {
    let packet = packet(family, &question.bytes());
    let done = machine.pod_sends(&packet.frame());
    if done.packet == packet.to(dns_pod(family)).frame() {
        return done.causes;
    }
    let message = sent_back_message(&done, &packet);
    check(question, &message, says);
    done.causes
}

/// As the server reads a name.
fn spelled(label: &str) -> Option<Ipv4Addr> {
    let dashes = label.matches('-').count();
    let label = (dashes == 3 && !label.contains("--")).then(|| label.replace('-', "."));
    label?.parse().ok()
}

fn a_pods_name_is_the_address_that_it_spells(machine: &mut Machine, family: Family) {
    machine.load(insecure(family));
    for label in ["10-0-0-1", "0-0-0-0", "255-255-255-255", "192-0-2-30"] {
        let says = Says::Addresses(vec![spelled(label).expect("an address").into()]);
        for left in ["", "x.", "_http._tcp."] {
            let name = format!("{left}{label}.dEv.pOd.cluster.LOCAL");
            for question in [
                Question::new(&name, qtype::A),
                Question::new(&name, qtype::A).edns(1232),
            ] {
                let causes = asks(machine, family, &question, &says);
                assert_eq!(causes, [Cause::DnsAnswered], "{name}");
            }
            for kind in [qtype::AAAA, qtype::TXT, qtype::CNAME] {
                let question = Question::new(&name, kind);
                let causes = asks(machine, family, &question, &Says::NoData);
                assert_eq!(causes, [Cause::DnsNodata], "{name}");
            }
            let servers = Question::new(&name, qtype::SRV);
            let causes = asks(machine, family, &servers, &Says::NoData);
            assert!(causes.contains(&Cause::DnsUser), "{causes:?}");
        }
    }
}

fn what_spells_no_address_is_left_to_user_space(machine: &mut Machine, family: Family) {
    machine.load(insecure(family));
    for name in [
        "10-0-0.dev.pod.cluster.local",
        "10-0-0-1-2.dev.pod.cluster.local",
        "10-0-0-01.dev.pod.cluster.local",
        "10-0-0-256.dev.pod.cluster.local",
        "10-0-0-.dev.pod.cluster.local",
        "-10-0-0-1.dev.pod.cluster.local",
        "10--0-0-1.dev.pod.cluster.local",
        "10-0-0-a.dev.pod.cluster.local",
        "1000-0-0-1.dev.pod.cluster.local",
        "2001-db8--1.dev.pod.cluster.local",
        "10-0-0-1.none.pod.cluster.local",
        "a.b.c.10-0-0-1.dev.pod.cluster.local",
        "dev.pod.cluster.local",
        "10-0-0-1.pod.cluster.local",
    ] {
        let question = Question::new(name, qtype::A);
        let causes = asks(machine, family, &question, &Says::NxDomain);
        assert!(causes.contains(&Cause::DnsUnproven), "{name}: {causes:?}");
    }
    machine.load(world(family));
    let question = Question::new("10-0-0-1.dev.pod.cluster.local", qtype::A);
    let causes = asks(machine, family, &question, &Says::NxDomain);
    assert!(causes.contains(&Cause::DnsUnproven), "{causes:?}");
}

fn labels_are_read_as_the_server_reads_them(machine: &mut Machine, family: Family) {
    machine.load(insecure(family));
    let number = prop_oneof![
        4 => (0..300_u16).prop_map(|n| n.to_string()),
        1 => "[0-9a]{0,4}",
    ];
    let label = prop::collection::vec(number, 3..6).prop_map(|parts| parts.join("-"));
    let label = label.prop_filter("a label", |label| (1..64).contains(&label.len()));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut answered = 0;
    for _ in 0..500 {
        let label = label.new_tree(&mut runner).expect("a label").current();
        let question = Question::new(&format!("{label}.dev.pod.cluster.local"), qtype::A);
        let address = spelled(&label);
        let says = Says::Addresses(address.into_iter().map(Into::into).collect());
        let causes = asks(machine, family, &question, &says);
        assert_eq!(causes == [Cause::DnsAnswered], address.is_some(), "{label}");
        answered += usize::from(address.is_some());
    }
    assert!(answered > 20, "{answered}");
}

scenes!(family:
    a_pods_name_is_the_address_that_it_spells,
    what_spells_no_address_is_left_to_user_space,
    labels_are_read_as_the_server_reads_them,
);
