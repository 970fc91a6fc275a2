//! The kernel's answers against what the zone says, over generated clusters: objects go through the agent's own plan
//! and zone into pinned maps by the agent's own dataplane, and the programs answer out of these.

mod cluster;
mod domain;
mod names;
mod operator;

use std::collections::BTreeMap;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RData,
};
use proptest::{
    strategy::{Strategy, ValueTree as _},
    test_runner::TestRunner,
};
use signpost::zone::{Lookup, NS, Name, Zone};
use signpost_common::{Cause, dns::qtype, name::MAX_LABELS};
use signpost_fuzz::judge;

use crate::{
    dns::{message::Question, sent_back_message},
    machine::{Action, Done},
    packets::{Family, Protocol, Segment, first},
    world::wire,
};
use cluster::{Cluster, DNS};

/// Types that are asked for: those that exist, and some that do not.
const TYPES: [u16; 11] = [
    qtype::A,
    qtype::AAAA,
    qtype::SRV,
    qtype::PTR,
    qtype::TXT,
    qtype::CNAME,
    qtype::SOA,
    NS,
    15,
    65,
    255,
];

/// A pod's question to the cluster's DNS address.
fn asks(question: &Question) -> Segment {
    let client = (Family::V4.pod(2), 40_001).into();
    first(Protocol::Udp, client, DNS.into()).payload(&question.bytes())
}

/// What the program said to a question; `None` where it passed it on.
fn said(done: &Done, packet: &Segment) -> Option<Message> {
    match done.action {
        Action::SendBack => {
            let question = &packet.transport()[8..];
            Some(judge::read(question, &sent_back_message(done, packet)))
        }
        Action::Continue => None,
        Action::Drop => panic!("dropped: {:?}", done.causes),
    }
}

/// The answer is what the zone says.
fn agrees(zone: &Zone, question: &Question, message: &Message) {
    let name = Name::from_wire(&question.name).expect("only well-formed names are answered");
    agrees_with(zone, question, message, &zone.lookup(&name, question.kind));
}

/// The answer is this one.
fn agrees_with(zone: &Zone, question: &Question, message: &Message, lookup: &Lookup) {
    let name = Name::from_wire(&question.name).expect("only well-formed names are answered");
    if let Err(why) = judge::agrees(zone, &name, message, lookup) {
        panic!("{name} {}: {why}", question.kind);
    }
}

/// Whether the kernel has to answer: names that it knows with answers that are not too long, and what is missing beside
/// them.
fn has_to_be_answered(cluster: &Cluster, question: &Question) -> bool {
    let (zone, entries) = (cluster.zone(), cluster.entries());
    let Some(name) = Name::from_wire(&question.name) else {
        return false;
    };
    let below = name.below(&zone.config().domain);
    if name.labels().count() > MAX_LABELS || question.kind > 248 {
        return false;
    }
    match entries.get(&name) {
        Some(entry) if entry.user.contains(&question.kind) => false,
        Some(entry) if question.kind == qtype::A && !entry.a.is_empty() => entry.a.len() <= 12,
        Some(entry) if question.kind == qtype::AAAA && !entry.aaaa.is_empty() => {
            entry.aaaa.len() <= 12
        }
        Some(entry) => match entry.records_of(question.kind) {
            Some(records) => {
                let small = !question.name.iter().any(u8::is_ascii_uppercase);
                let no_names = question.kind == qtype::TXT;
                (small || no_names) && records.answers.len() + records.additional.len() <= 4
            }
            None => entry.complete,
        },
        None => match below.as_deref() {
            // `<nobody>.<namespace>.svc.<zone>`
            Some([b"svc", _, _]) => true,
            // `<nobody>.<service>.<namespace>.svc.<zone>`
            Some([b"svc", namespace, service, _]) => {
                let known = [*service, *namespace, b"svc"]
                    .iter()
                    .rev()
                    .try_fold(zone.config().domain.clone(), |name, label| {
                        name.child(label)
                    });
                let entry = known.and_then(|name| entries.get(&name));
                entry.is_none_or(|entry| entry.listed)
            }
            Some([b"svc" | b"pod" | b"dns" | b"dns-version", ..]) | None => false,
            Some(_) => true,
        },
    }
}

/// What was seen, so that the test shows that it tested something.
#[derive(Debug, Default)]
struct Seen(BTreeMap<&'static str, usize>);

impl Seen {
    fn add(&mut self, cluster: &Cluster, question: &Question, packet: &Segment, done: &Done) {
        let message = said(done, packet);
        let what = match &message {
            None => "passed on",
            Some(message) if message.metadata.response_code == ResponseCode::NXDomain => "NXDOMAIN",
            Some(message) if message.answers.is_empty() => "NODATA",
            Some(message) => match &message.answers[0].data {
                RData::A(_) | RData::AAAA(_) if message.answers.len() > 1 => "several addresses",
                RData::A(_) | RData::AAAA(_) => "one address",
                RData::CNAME(_) if message.answers.len() > 1 => "an alias and its address",
                RData::CNAME(_) => "an alias",
                RData::SRV(_) => "servers",
                RData::PTR(_) => "a pointer",
                RData::TXT(_) => "a text",
                RData::NS(_) => "name servers",
                RData::SOA(_) => "the zone",
                other => panic!("{other:?}"),
            },
        };
        *self.0.entry(what).or_default() += 1;
        match message {
            Some(message) => agrees(cluster.zone(), question, &message),
            None => assert!(
                !has_to_be_answered(cluster, question),
                "{:?} {} was passed on: {:?}",
                Name::from_wire(&question.name).map(|name| name.to_string()),
                question.kind,
                done.causes
            ),
        }
    }

    fn has_everything(&self, least: usize) {
        println!("{:?}", self.0);
        for what in [
            "passed on",
            "NXDOMAIN",
            "NODATA",
            "one address",
            "several addresses",
            "an alias",
            "an alias and its address",
            "servers",
            "a pointer",
            "a text",
            "name servers",
            "the zone",
        ] {
            assert!(
                self.0.get(what).is_some_and(|n| *n >= least),
                "{what}: {self:?}"
            );
        }
    }
}

/// A type that a name is likely to have, beside addresses; `n` chooses where there are several.
fn likely(name: &[u8], n: usize) -> Option<u16> {
    let name = Name::from_wire(name)?;
    let labels: Vec<&[u8]> = name.labels().collect();
    Some(match &labels[..] {
        [.., b"arpa"] => qtype::PTR,
        [b"dns-version", ..] => qtype::TXT,
        [b"cluster", b"local"] => [qtype::SOA, NS][n % 2],
        [_, _, b"svc", b"cluster", b"local"] => {
            [qtype::CNAME, qtype::A, qtype::AAAA, qtype::SRV][n % 4]
        }
        [.., b"svc", b"cluster", b"local"] if labels.len() > 5 => qtype::SRV,
        _ => return None,
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_answer_contradicts_the_zone() {
    let mut cluster = Cluster::new();
    cluster.apply(cluster::lasting(), 1);
    let mut runner = TestRunner::deterministic();
    let (mut kernel_saw, mut host_saw) = (Seen::default(), Seen::default());
    for round in 0..25_u32 {
        let events = cluster::events().new_tree(&mut runner).unwrap().current();
        cluster.apply(events, 1_700_000_000 + round);
        let mut host = cluster.host();
        // Services more often than what is below them, of which there is more.
        let is_short = |name: &Name| name.labels().count() <= 5;
        let names = cluster.entries().keys();
        let known: Vec<Name> = names
            .flat_map(|name| vec![name.clone(); if is_short(name) { 8 } else { 1 }])
            .collect();
        let asked = names::around(known);
        for n in 0..400 {
            let mut name = asked.new_tree(&mut runner).unwrap().current();
            if n % 40 == 4 {
                // A chain that ends well is rare.
                let alias = ["a", "b", "c", "d", "e"][n / 40 % 5];
                name = wire(&format!("{alias}.lasting.svc.cluster.local"));
            }
            let kind = likely(&name, n)
                .filter(|_| n % 5 < 3)
                .unwrap_or(match n % 5 {
                    4 => TYPES[n / 5 % TYPES.len()],
                    n => TYPES[n % 2],
                });
            let plain = Question {
                name,
                ..Question::new("", kind)
            };
            let question = if n % 2 == 0 { plain.edns(1232) } else { plain };
            let packet = asks(&question);
            let done = host.pod_sends(&packet.frame());
            host_saw.add(&cluster, &question, &packet, &done);
            if n % 3 == 0 {
                let by_kernel = cluster.pod_sends(&packet.frame());
                kernel_saw.add(&cluster, &question, &packet, &by_kernel);
                assert_eq!(by_kernel.action, done.action);
            }
        }
    }
    host_saw.has_everything(20);
    kernel_saw.has_everything(3);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_service_connects_as_soon_as_its_name_is_answered() {
    let mut cluster = Cluster::new();
    cluster.apply(cluster::example(), 1);
    let question = Question::new("ent.dev.svc.cluster.local", qtype::A);
    let packet = asks(&question);
    let done = cluster.pod_sends(&packet.frame());
    let message = said(&done, &packet).expect("an answer");
    let address = message.answers[0].data.ip_addr().expect("an address");
    let connect = first(
        Protocol::Tcp,
        (Family::V4.pod(2), 40_002).into(),
        (address, 8080).into(),
    );
    let backend = (Family::V4.far_pod(1), 9090).into();
    cluster
        .pod_sends(&connect.frame())
        .continues_as(&connect.to(backend).frame(), &[Cause::FlowCreated]);
}
