//! Questions outside of the cluster whose answers the DNS server's cache has handed over.

use std::{collections::BTreeMap, io, net::IpAddr};

use bytemuck::{bytes_of, pod_read_unaligned};
use domain::base::Message as DomainMessage;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name as WireName, RData, Record},
};
use proptest::{prelude::*, strategy::ValueTree as _};
use signpost::{
    dataplane::ebpf::{
        outside::Outside,
        tables::{NotWritten, OutsideAnswers, OutsideEpoch, Table, Tables},
    },
    feed::cached::{self, Cached, End, Keeper as _, Soa},
    zone::{Name, ZoneConfig},
};
use signpost_common::{Cause, dns::qtype};

use super::{
    dns_pod,
    message::{AD, CD, Question, RD},
    packet, sent_back_message, world,
};
use crate::{
    machine::{Action, Machine, scenes},
    packets::Family,
    world::{SECOND, World, keys, name_key},
};

/// The clock of [`World`].
const NOW: u64 = 1000 * SECOND;
/// Answers hold for so many seconds and a half.
const LIFE: u32 = 600;
/// So many seconds may pass in the kernel between a test's beginning and its question.
const PASSED: u32 = 300;

/// The maps that the keeper writes.
#[derive(Debug, Default)]
struct Maps(BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>);

impl Tables for Maps {
    fn put<T: Table>(&mut self, elements: &[(T::Key, T::Value)]) -> Vec<NotWritten> {
        let map = self.0.entry(T::NAME).or_default();
        map.extend(
            elements
                .iter()
                .map(|(key, value)| (bytes_of(key).to_vec(), bytes_of(value).to_vec())),
        );
        Vec::new()
    }

    fn delete<T: Table>(&mut self, _: &[T::Key]) -> io::Result<()> {
        Ok(())
    }

    fn for_each<T: Table>(&self, visit: &mut dyn FnMut(&T::Key, &T::Value)) -> io::Result<()> {
        for (key, value) in self.0.get(T::NAME).into_iter().flatten() {
            visit(&pod_read_unaligned(key), &pod_read_unaligned(value));
        }
        Ok(())
    }

    fn get<T: Table>(&self, key: &T::Key) -> io::Result<Option<T::Value>> {
        let map = self.0.get(T::NAME);
        let found = map.and_then(|map| map.get(bytes_of(key)));
        Ok(found.map(|value| pod_read_unaligned(value)))
    }
}

/// An agent's keeper over empty maps.
fn keeper() -> Outside<Maps> {
    let zone = ZoneConfig {
        domain: name("cluster.local"),
        ttl: 30,
        dns: Vec::new(),
        options: Default::default(),
    };
    Outside::open(Maps::default(), keys(), &zone, true, || NOW).expect("maps in memory")
}

/// The world of the other tests, with what was kept.
fn with(keeper: &Outside<Maps>, family: Family) -> World {
    let mut world = world(family);
    let maps = keeper.tables();
    let mut answers = world.answers_outside.borrow_mut();
    maps.for_each::<OutsideAnswers>(&mut |key, value| {
        answers.insert(*key, *value);
    })
    .expect("maps in memory");
    drop(answers);
    world.outside_epoch = maps
        .get::<OutsideEpoch>(&0)
        .expect("maps in memory")
        .expect("an epoch");
    world
}

/// Keeps one answer.
fn knowing(cached: &Cached, family: Family) -> World {
    let mut keeper = keeper();
    keeper.keep(cached).expect("an answer that may be kept");
    with(&keeper, family)
}

/// A name of [`each`] that has an A record and no AAAA record.
pub(super) const HERE: &str = WWW;
/// A name of [`each`] that does not exist.
pub(super) const MISSING: &str = "nope.example.com";

/// The world of the other tests, with an address, no address, and no name.
pub(super) fn each(family: Family) -> World {
    let mut keeper = keeper();
    for cached in [
        www(),
        cached(HERE, qtype::AAAA, &[], End::NoData(soa())),
        cached(MISSING, qtype::A, &[], End::NxDomain(soa())),
    ] {
        keeper.keep(&cached).expect("an answer that may be kept");
    }
    with(&keeper, family)
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn cached(of: &str, qtype: u16, chain: &[&str], end: End) -> Cached {
    Cached {
        question: cached::Question {
            name: name(of),
            qtype,
        },
        until: NOW + u64::from(LIFE) * SECOND + SECOND / 2,
        due: NOW,
        authoritative: false,
        recursion_available: true,
        authentic_data: false,
        chain: chain.iter().map(|target| name(target)).collect(),
        end,
    }
}

fn addresses(count: u8) -> End {
    End::Addresses((1..=count).map(|n| [203, 0, 113, n].into()).collect())
}

fn soa() -> Soa {
    Soa {
        owner: name("example.com"),
        mname: name("ns1.example.net"),
        rname: name("host\\.master.example.com"),
        numbers: [2_026_112_100, 7200, 1800, 86_400, 300],
    }
}

const WWW: &str = "www.example.com";

fn www() -> Cached {
    cached(WWW, qtype::A, &[], addresses(1))
}

/// What an answer must be, but for the order of addresses and for the TTL.
#[track_caller]
fn check(question: &Question, cached: &Cached, bytes: &[u8], ttls: std::ops::RangeInclusive<u32>) {
    let message = Message::from_vec(bytes).expect("hickory reads the answer");
    let head = &message.metadata;
    let asked = 12 + question.name.len() + 4;
    assert_eq!(bytes[12..asked], question.bytes()[12..asked]);
    assert_eq!(head.id, question.id);
    assert_eq!(head.recursion_desired, question.flags & RD != 0);
    assert!(!head.checking_disabled && !head.truncation);
    assert_eq!(head.authoritative, cached.authoritative);
    assert_eq!(head.recursion_available, cached.recursion_available);
    assert_eq!(head.authentic_data, cached.authentic_data);
    assert_eq!(message.edns.is_some(), question.edns.is_some());
    assert!(message.additionals.is_empty());
    let code = match cached.end {
        End::NxDomain(_) => ResponseCode::NXDomain,
        End::NoData(_) | End::Addresses(_) => ResponseCode::NoError,
    };
    assert_eq!(head.response_code, code);

    let records = || message.answers.iter().chain(&message.authorities);
    let ttl = records().next().expect("a record").ttl;
    assert!(ttls.contains(&ttl), "TTL {ttl}, not {ttls:?}");
    let text = |name: &Name| format!("{name}.");
    let mut owner = question
        .plain_text()
        .unwrap_or_else(|| text(&cached.question.name));
    let mut wanted = Vec::new();
    for target in &cached.chain {
        wanted.push(format!("{owner} {ttl} IN CNAME {}", text(target)));
        owner = text(target);
    }
    let mut found: Vec<String> = message.answers.iter().map(Record::to_string).collect();
    assert_eq!(found[..wanted.len()], wanted);
    let mut rest = found.split_off(wanted.len());
    let mut wanted: Vec<String> = Vec::new();
    let mut authorities = Vec::new();
    match &cached.end {
        End::Addresses(all) => wanted.extend(all.iter().map(|address| match address {
            IpAddr::V4(v4) => format!("{owner} {ttl} IN A {v4}"),
            IpAddr::V6(v6) => format!("{owner} {ttl} IN AAAA {v6}"),
        })),
        End::NoData(soa) | End::NxDomain(soa) => authorities.push(soa.clone()),
    }
    rest.sort();
    wanted.sort();
    assert_eq!(rest, wanted);
    let read = |record: &Record| {
        let RData::SOA(soa) = &record.data else {
            panic!("{record}")
        };
        assert_eq!(record.ttl, ttl);
        let plain = |wire: &WireName| name(&wire.to_ascii());
        Soa {
            owner: plain(&record.name),
            mname: plain(&soa.mname),
            rname: plain(&soa.rname),
            numbers: [
                soa.serial,
                soa.refresh as u32,
                soa.retry as u32,
                soa.expire as u32,
                soa.minimum,
            ],
        }
    };
    let found: Vec<Soa> = message.authorities.iter().map(read).collect();
    assert_eq!(found, authorities);

    let by_domain = DomainMessage::from_slice(bytes).expect("domain reads the header");
    let mut last = by_domain.additional().expect("an additional section");
    for record in last.by_ref() {
        record.expect("a record");
    }
    assert_eq!(
        last.pos(),
        bytes.len(),
        "nothing lies behind the last record"
    );
}

/// Asks, and checks that this is what was kept.
#[track_caller]
fn gives(machine: &mut Machine, family: Family, question: &Question, cached: &Cached) -> Vec<u8> {
    let packet = packet(family, &question.bytes());
    let done = machine.pod_sends(&packet.frame());
    assert_eq!(done.causes, [Cause::DnsCached]);
    let bytes = sent_back_message(&done, &packet);
    let ttls = if machine.is_kernel() {
        LIFE - PASSED..=LIFE
    } else {
        LIFE..=LIFE
    };
    check(question, cached, &bytes, ttls);
    bytes
}

/// Asks, and checks that the question goes on as it is.
#[track_caller]
fn passes(machine: &mut Machine, family: Family, question: &Question) {
    let packet = packet(family, &question.bytes());
    let done = machine.pod_sends(&packet.frame());
    assert_eq!(done.action, Action::Continue, "{:?}", done.causes);
    assert_eq!(done.packet, packet.to(dns_pod(family)).frame());
    let why = [Cause::DnsOutside, Cause::DnsTooLarge, Cause::DnsUnusual];
    assert!(
        done.causes.iter().any(|cause| why.contains(cause)),
        "{:?}",
        done.causes
    );
}

/// One of every kind.
fn kinds() -> Vec<Cached> {
    let v6 = (1..=9).map(|n| [0x2001, 0xdb8, 0, 0, 0, 0, 0, n].into());
    vec![
        www(),
        cached(WWW, qtype::A, &[], addresses(16)),
        cached("odd.example.com", qtype::A, &[], addresses(3)),
        cached(WWW, qtype::AAAA, &[], End::Addresses(v6.collect())),
        cached(WWW, qtype::A, &["web.example.net"], addresses(2)),
        cached(
            WWW,
            qtype::A,
            &["x.y", "web.example.com", "a.b.c"],
            addresses(5),
        ),
        cached(WWW, qtype::CNAME, &["web.example.net"], addresses(0)),
        cached(WWW, qtype::AAAA, &[], End::NoData(soa())),
        cached(WWW, qtype::AAAA, &["web.example.com"], End::NoData(soa())),
        cached("nope.example.com", qtype::A, &[], End::NxDomain(soa())),
        Cached {
            authoritative: true,
            recursion_available: false,
            authentic_data: true,
            ..www()
        },
    ]
}

fn what_the_cache_has_is_given(machine: &mut Machine, family: Family) {
    for cached in kinds() {
        machine.load(knowing(&cached, family));
        let text = cached.question.name.to_string();
        let plain = Question::new(&text, cached.question.qtype);
        let mixed: String = text
            .char_indices()
            .map(|(n, c)| {
                if n % 2 == 0 {
                    c.to_ascii_uppercase()
                } else {
                    c
                }
            })
            .collect();
        let mut options = plain
            .clone()
            .options(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
        if let Some(edns) = &mut options.edns {
            edns.dnssec_ok = false;
        }
        for question in [
            plain.clone(),
            plain.clone().edns(1232),
            plain.clone().flags(0),
            plain.clone().flags(RD | AD),
            Question::new(&mixed, cached.question.qtype),
            options,
        ] {
            gives(machine, family, &question, &cached);
        }
    }
}

fn what_was_asked_in_another_way_passes(machine: &mut Machine, family: Family) {
    machine.load(knowing(&www(), family));
    let question = Question::new(WWW, qtype::A);
    let mut chaos = question.clone();
    chaos.class = 3;
    for question in [
        question.clone().flags(RD | CD),
        question.clone().options(&[]),
        Question::new(WWW, qtype::AAAA),
        Question::new(WWW, qtype::TXT),
        Question::new("example.com", qtype::A),
        Question::new("www.www.example.com", qtype::A),
        chaos,
    ] {
        passes(machine, family, &question);
    }
    gives(machine, family, &question, &www());
}

fn nothing_is_given_at_its_end_or_after_it(machine: &mut Machine, family: Family) {
    machine.load(knowing(&www(), family));
    let question = Question::new(WWW, qtype::A);
    for until in [0, NOW - SECOND, NOW] {
        machine.change(|world| {
            for answer in world.answers_outside.borrow_mut().values_mut() {
                answer.head.until = until;
            }
        });
        passes(machine, family, &question);
    }
    machine.change(|world| {
        for answer in world.answers_outside.borrow_mut().values_mut() {
            answer.head.until = NOW + u64::from(LIFE) * SECOND;
        }
    });
    gives(machine, family, &question, &www());
}

fn another_epoch_takes_everything_away(machine: &mut Machine, family: Family) {
    machine.load(knowing(&www(), family));
    let question = Question::new(WWW, qtype::A);
    for epoch in [0, 2] {
        machine.change(|world| world.outside_epoch = epoch);
        passes(machine, family, &question);
    }
    machine.change(|world| world.outside_epoch = 1);
    gives(machine, family, &question, &www());
}

fn an_element_that_is_another_ones_or_mixed_up_is_not_given(machine: &mut Machine, family: Family) {
    machine.load(knowing(&www(), family));
    let question = Question::new(WWW, qtype::A);
    let damages: [fn(&mut signpost_common::dns::OutsideAnswer); 3] = [
        |answer| answer.head.check ^= 1,
        |answer| answer.records[13] ^= 1,
        |answer| answer.head.sum ^= 0x100,
    ];
    for damage in damages {
        let change = |machine: &mut Machine| {
            machine.change(|world| {
                world
                    .answers_outside
                    .borrow_mut()
                    .values_mut()
                    .for_each(damage);
            });
        };
        change(machine);
        passes(machine, family, &question);
        change(machine);
        gives(machine, family, &question, &www());
    }
}

fn what_the_asker_cannot_take_passes(machine: &mut Machine, family: Family) {
    let long: Vec<String> = (0..6)
        .map(|n| format!("{}.example.net", "x".repeat(50 + n)))
        .collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let name = "a-name-that-is-not-one-of-the-shortest-in-this-world-of-names.example.com";
    let cached = cached(name, qtype::A, &long, addresses(1));
    machine.load(knowing(&cached, family));
    let question = Question::new(name, qtype::A);
    passes(machine, family, &question);
    gives(machine, family, &question.clone().edns(1232), &cached);
}

fn names_of_the_cluster_do_not_come_from_there(machine: &mut Machine, family: Family) {
    let name = "www.dev.svc.cluster.local";
    let mut world = knowing(&www(), family);
    let answer = world
        .answers_outside
        .borrow()
        .values()
        .next()
        .copied()
        .expect("one");
    let key = name_key(name).with_type(qtype::A);
    let mut forged = answer;
    forged.head.check = key.check();
    world.answers_outside.get_mut().insert(key, forged);
    machine.load(world);
    let packet = packet(family, &Question::new(name, qtype::A).bytes());
    assert_eq!(
        machine.pod_sends(&packet.frame()).causes,
        [Cause::DnsNxdomain]
    );
}

fn every_address_is_the_first_now_and_then(machine: &mut Machine, family: Family) {
    for cached in [
        cached(WWW, qtype::A, &["web.example.net"], addresses(4)),
        cached(
            WWW,
            qtype::AAAA,
            &[],
            End::Addresses((1..=4).map(|n| [n, 0, 0, 0, 5, 6, 7, n].into()).collect()),
        ),
    ] {
        machine.load(knowing(&cached, family));
        let question = Question::new(WWW, cached.question.qtype);
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let answer = gives(machine, family, &question, &cached);
            let answer = Message::from_vec(&answer).expect("hickory reads the answer");
            first.insert(answer.answers[cached.chain.len()].data.to_string());
        }
        assert_eq!(first.len(), 4);
    }
}

fn each_answer_is_counted(machine: &mut Machine, family: Family) {
    machine.load(knowing(&www(), family));
    for _ in 0..5 {
        gives(machine, family, &Question::new(WWW, qtype::A), &www());
    }
    passes(machine, family, &Question::new(WWW, qtype::AAAA));
    let key = name_key(WWW).with_type(qtype::A);
    assert_eq!(machine.outside_hits(&key), Some(5));
}

/// An answer of any shape that the agent takes.
fn any_answer() -> impl Strategy<Value = (Cached, u64)> {
    let label = "[a-z0-9][a-z0-9-]{0,20}";
    let names = prop::collection::vec(prop::collection::vec(label, 1..5), 1..6);
    let octets = prop::collection::vec(any::<[u8; 16]>(), 0..16);
    (names, octets, 0..3_u8, any::<[bool; 4]>(), any::<u64>()).prop_map(
        |(names, octets, kind, [v6, aa, ra, ad], upper)| {
            let names: Vec<Name> = names.iter().map(|labels| name(&labels.join("."))).collect();
            let soa = || Soa {
                owner: Name::default(),
                ..soa()
            };
            let address = |octets: &[u8; 16]| match v6 {
                true => IpAddr::from(*octets),
                false => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            };
            let end = match kind {
                0 => End::NoData(soa()),
                1 => End::NxDomain(soa()),
                _ => End::Addresses(octets.iter().map(address).collect()),
            };
            let qtype = if v6 { qtype::AAAA } else { qtype::A };
            let cached = Cached {
                question: cached::Question {
                    name: names[0].clone(),
                    qtype,
                },
                authoritative: aa,
                recursion_available: ra,
                authentic_data: ad,
                chain: names[1..].to_vec(),
                ..cached(WWW, qtype, &[], end)
            };
            (cached, upper)
        },
    )
}

fn whatever_is_kept_is_given_as_it_is(machine: &mut Machine, family: Family) {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut given = 0;
    while given < 300 {
        let (cached, upper) = any_answer()
            .new_tree(&mut runner)
            .expect("an answer")
            .current();
        let mut keeper = keeper();
        if keeper.keep(&cached).is_err() {
            continue;
        }
        machine.load(with(&keeper, family));
        let text: String = (0..)
            .zip(cached.question.name.to_string().chars())
            .map(|(n, c)| match upper >> (n % 64) & 1 {
                1 => c.to_ascii_uppercase(),
                _ => c,
            })
            .collect();
        let question = Question::new(&text, cached.question.qtype).edns(1232);
        gives(machine, family, &question, &cached);
        given += 1;
    }
}

scenes!(family:
    what_the_cache_has_is_given,
    what_was_asked_in_another_way_passes,
    nothing_is_given_at_its_end_or_after_it,
    another_epoch_takes_everything_away,
    an_element_that_is_another_ones_or_mixed_up_is_not_given,
    what_the_asker_cannot_take_passes,
    names_of_the_cluster_do_not_come_from_there,
    every_address_is_the_first_now_and_then,
    each_answer_is_counted,
    whatever_is_kept_is_given_as_it_is,
);
