//! What is counted of answers: each once, as what it is.

use signpost_common::{
    Cause,
    dns::qtype,
    tally::{DnsCounts, Tally},
};

use super::{message::Question, outside, packet};
use crate::{
    machine::{Action, Machine, scenes},
    packets::Family,
};

fn each_answer_is_counted_by_family_type_and_code(machine: &mut Machine, family: Family) {
    const NOERROR: u16 = 0;
    const NXDOMAIN: u16 = 3;
    let v4 = matches!(family, Family::V4);
    machine.load(outside::each(family));
    for (name, kind, cause, code, negative) in [
        (
            "ent.dev.svc.cluster.local",
            qtype::A,
            Cause::DnsAnswered,
            NOERROR,
            false,
        ),
        (
            "many.dev.svc.cluster.local",
            qtype::AAAA,
            Cause::DnsAnswered,
            NOERROR,
            false,
        ),
        (
            "ent.dev.svc.cluster.local",
            qtype::AAAA,
            Cause::DnsNodata,
            NOERROR,
            true,
        ),
        (
            "ent.dev.svc.cluster.local",
            qtype::TXT,
            Cause::DnsNodata,
            NOERROR,
            true,
        ),
        (
            "dev.svc.cluster.local",
            HTTPS,
            Cause::DnsNodata,
            NOERROR,
            true,
        ),
        (
            "no.dev.svc.cluster.local",
            qtype::A,
            Cause::DnsNxdomain,
            NXDOMAIN,
            true,
        ),
        (
            "no.dev.svc.cluster.local",
            qtype::SRV,
            Cause::DnsNxdomain,
            NXDOMAIN,
            true,
        ),
        (
            "no.dev.svc.cluster.local",
            HTTPS + 1,
            Cause::DnsNxdomain,
            NXDOMAIN,
            true,
        ),
        (
            "no.dev.svc.cluster.local",
            65_535,
            Cause::DnsNxdomain,
            NXDOMAIN,
            true,
        ),
        (outside::HERE, qtype::A, Cause::DnsCached, NOERROR, false),
        (outside::HERE, qtype::AAAA, Cause::DnsCached, NOERROR, true),
        (outside::MISSING, qtype::A, Cause::DnsCached, NXDOMAIN, true),
    ] {
        let before = machine.dns_counts();
        let asked = packet(family, &Question::new(name, kind).edns(1232).bytes());
        let done = machine.pod_sends(&asked.frame());
        assert_eq!(
            done.action,
            Action::SendBack,
            "{name} {kind}: {:?}",
            done.causes
        );
        assert_eq!(done.causes, [cause], "{name} {kind}");
        let tally = Tally::new(cause, code, u16::from(negative), kind, v4);
        let mut expected = before;
        expected.add(tally);
        assert_counts(&machine.dns_counts(), &expected, name);
    }
}

fn what_is_passed_on_is_not_counted_as_an_answer(machine: &mut Machine, family: Family) {
    machine.load(outside::each(family));
    for name in ["www.example.net", "a.b.ent.dev.svc.cluster.local"] {
        let before = machine.dns_counts();
        let asked = packet(family, &Question::new(name, qtype::A).bytes());
        assert_eq!(machine.pod_sends(&asked.frame()).action, Action::Continue);
        assert_counts(&machine.dns_counts(), &before, name);
    }
}

const HTTPS: u16 = 65;

#[track_caller]
fn assert_counts(counts: &DnsCounts, expected: &DnsCounts, name: &str) {
    let each = |counts: &DnsCounts| counts.each().collect::<Vec<_>>();
    assert_eq!(each(counts), each(expected), "{name}");
}

scenes!(family: each_answer_is_counted_by_family_type_and_code, what_is_passed_on_is_not_counted_as_an_answer);
