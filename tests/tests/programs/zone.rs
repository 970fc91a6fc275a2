//! The kernel's answers against what the zone says, over generated clusters: objects go through the agent's own plan
//! and zone into pinned maps by the agent's own dataplane, and the programs answer out of these.

mod cluster;
mod names;

use std::{collections::BTreeMap, net::IpAddr};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RData,
};
use proptest::{
    strategy::{Strategy, ValueTree as _},
    test_runner::TestRunner,
};
use signpost::zone::{Lookup, Name, RecordData, Zone};
use signpost_common::{Cause, dns::qtype};

use crate::{
    dns::message::Question,
    machine::{Action, Done},
    packets::{Family, Protocol, first},
};
use cluster::{Cluster, DNS};

/// Types that are asked for: those that exist, and some that do not.
const TYPES: [u16; 9] = [
    qtype::A,
    qtype::AAAA,
    qtype::SRV,
    qtype::TXT,
    qtype::CNAME,
    qtype::SOA,
    15,
    65,
    255,
];

/// What the program said to a question; `None` where it passed it on.
fn said(done: &Done) -> Option<Message> {
    match done.action {
        Action::SendBack => {
            let message = Message::from_vec(&done.packet[14 + 20 + 8..]);
            Some(message.expect("hickory reads the answer"))
        }
        Action::Continue => None,
        Action::Drop => panic!("dropped: {:?}", done.causes),
    }
}

/// The answer is what the zone says.
fn agrees(zone: &Zone, question: &Question, message: &Message) {
    let name = Name::from_wire(&question.name).expect("only well-formed names are answered");
    let lookup = zone.lookup(&name, question.kind);
    let code = message.metadata.response_code;
    let mut addresses: Vec<IpAddr> = message
        .answers
        .iter()
        .map(|record| {
            assert_eq!(record.ttl, zone.config().ttl, "{name}");
            record.data.ip_addr().expect("an address")
        })
        .collect();
    addresses.sort();
    match &lookup {
        Lookup::Answer { answers, .. } => {
            assert_eq!(code, ResponseCode::NoError, "{name} {}", question.kind);
            let wanted = answers.iter().map(|record| match &record.data {
                RecordData::Address(address) if record.owner.is_none() => *address,
                other => panic!("{name} {}: {other:?}", question.kind),
            });
            let mut wanted: Vec<IpAddr> = wanted.collect();
            wanted.sort();
            assert_eq!(addresses, wanted, "{name} {}", question.kind);
        }
        Lookup::NoData => assert_eq!(code, ResponseCode::NoError, "{name} {}", question.kind),
        Lookup::NxDomain => assert_eq!(code, ResponseCode::NXDomain, "{name} {}", question.kind),
        other => panic!(
            "{name} {}: answered, but the zone says {other:?}",
            question.kind
        ),
    }
    if matches!(lookup, Lookup::NoData | Lookup::NxDomain) {
        assert!(message.answers.is_empty(), "{name} {}", question.kind);
        let [record] = &message.authorities[..] else {
            panic!("{name}: {message}");
        };
        let RData::SOA(soa) = &record.data else {
            panic!("{name}: {record}");
        };
        assert_eq!(soa.serial, zone.serial(), "{name}");
    }
}

/// Whether the kernel has to answer: plain names of few addresses, and what is missing beside them.
fn has_to_be_answered(zone: &Zone, question: &Question) -> bool {
    let Some(name) = Name::from_wire(&question.name) else {
        return false;
    };
    if !matches!(question.kind, qtype::A | qtype::AAAA) {
        return false;
    }
    match zone.entries().get(&name) {
        Some(entry) => {
            let (count, user) = match question.kind {
                qtype::A => (entry.a.len(), entry.user.contains(&qtype::A)),
                _ => (entry.aaaa.len(), entry.user.contains(&qtype::AAAA)),
            };
            entry.service && entry.complete && !user && count <= 12
        }
        // `<nobody>.<namespace>.svc.<zone>`
        None => {
            let below = name.below(&zone.config().domain).unwrap_or_default();
            below.len() == 3 && below[0] == b"svc" && name.labels().count() <= 16
        }
    }
}

/// What was seen, so that the test shows that it tested something.
#[derive(Debug, Default)]
struct Seen(BTreeMap<&'static str, usize>);

impl Seen {
    fn add(&mut self, zone: &Zone, question: &Question, done: &Done) {
        let message = said(done);
        let what = match &message {
            None => "passed on",
            Some(message) if message.metadata.response_code == ResponseCode::NXDomain => "NXDOMAIN",
            Some(message) if message.answers.is_empty() => "NODATA",
            Some(message) if message.answers.len() == 1 => "one address",
            Some(_) => "several addresses",
        };
        *self.0.entry(what).or_default() += 1;
        match message {
            Some(message) => agrees(zone, question, &message),
            None => assert!(
                !has_to_be_answered(zone, question),
                "{:?} {} was passed on: {:?}",
                Name::from_wire(&question.name).map(|name| name.to_string()),
                question.kind,
                done.causes
            ),
        }
    }

    fn has_everything(&self) {
        println!("{:?}", self.0);
        for what in [
            "passed on",
            "NXDOMAIN",
            "NODATA",
            "one address",
            "several addresses",
        ] {
            assert!(
                self.0.get(what).is_some_and(|n| *n > 20),
                "{what}: {self:?}"
            );
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_answer_contradicts_the_zone() {
    let mut cluster = Cluster::new();
    let mut runner = TestRunner::deterministic();
    let (mut kernel_saw, mut host_saw) = (Seen::default(), Seen::default());
    for round in 0..25_u32 {
        let events = cluster::events().new_tree(&mut runner).unwrap().current();
        cluster.apply(events, 1_700_000_000 + round);
        let mut host = cluster.host();
        let known: Vec<Name> = cluster.zone().entries().keys().cloned().collect();
        let asked = names::around(known);
        for n in 0..400 {
            let name = asked.new_tree(&mut runner).unwrap().current();
            let kind = TYPES[if n % 3 == 0 { n % TYPES.len() } else { n % 2 }];
            let question = Question {
                name,
                ..Question::new("", kind).edns(1232)
            };
            let packet = first(
                Protocol::Udp,
                (Family::V4.pod(2), 40_001).into(),
                DNS.into(),
            )
            .payload(&question.bytes())
            .frame();
            let done = host.pod_sends(&packet);
            host_saw.add(cluster.zone(), &question, &done);
            if n % 4 == 0 {
                let by_kernel = cluster.pod_sends(&packet);
                kernel_saw.add(cluster.zone(), &question, &by_kernel);
                assert_eq!(by_kernel.action, done.action);
            }
        }
    }
    host_saw.has_everything();
    kernel_saw.has_everything();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_service_connects_as_soon_as_its_name_is_answered() {
    let mut cluster = Cluster::new();
    cluster.apply(cluster::example(), 1);
    let question = Question::new("ent.dev.svc.cluster.local", qtype::A);
    let packet = first(
        Protocol::Udp,
        (Family::V4.pod(2), 40_001).into(),
        DNS.into(),
    );
    let done = cluster.pod_sends(&packet.payload(&question.bytes()).frame());
    let message = said(&done).expect("an answer");
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
