//! The kernel's rule over what [`Zone::update`] tells ([`Zone::names`]), written down a second time, and the proof that it never contradicts
//! [`Zone::lookup`].

use std::{collections::BTreeSet, net::IpAddr};

use proptest::prelude::*;
use signpost_common::{
    dns::qtype,
    name::{MAX_LABELS, MAX_NAME},
};

use super::{
    rewrite::{Pattern, Rewritten, Rule},
    tests::*,
    *,
};
use crate::model::{
    EndpointSlice, Event, Kind as ObjectKind, Labels, Namespace, Object, Service, ServiceKind,
};

#[derive(Debug, PartialEq)]
enum Verdict {
    Answer(BTreeSet<IpAddr>),
    Records(Records),
    NoData,
    NxDomain,
    Pass,
}

/// What the kernel does with a question.
fn kernel(zone: &Zone, entries: &Entries, name: &Name, qtype: u16) -> Verdict {
    match rule(zone, entries, name, qtype) {
        Verdict::NoData | Verdict::NxDomain if !zone.may_deny() => Verdict::Pass,
        verdict => verdict,
    }
}

/// What the kernel would do were it in sync.
fn rule(zone: &Zone, entries: &Entries, name: &Name, qtype: u16) -> Verdict {
    let labels: Vec<&[u8]> = name.labels().collect();
    if labels.len() > MAX_LABELS || name.wire().len() >= MAX_NAME || qtype == 255 {
        return Verdict::Pass;
    }
    let Some(below) = name.below(&zone.config().domain) else {
        let records = entries.get(name).filter(|_| qtype == qtype::PTR);
        let records = records.and_then(|entry| entry.records_of(qtype));
        return records.map_or(Verdict::Pass, |records| Verdict::Records(records.clone()));
    };
    let suffix = |count: usize| {
        let mut suffix = zone.config().domain.clone();
        for label in &below[..count.min(below.len())] {
            suffix = suffix.child(label).unwrap();
        }
        entries.get(&suffix)
    };
    // Below a Service that is not there, nothing is looked up.
    let orphan = below.len() > 3 && below[0] == b"svc" && suffix(3).is_none();
    if let Some(entry) = entries.get(name).filter(|_| !orphan) {
        if let Some(records) = entry.records_of(qtype) {
            return Verdict::Records(records.clone());
        }
        if entry.apex && qtype == qtype::SOA {
            let soa = Record {
                owner: None,
                ttl: zone.config().ttl,
                data: RecordData::Soa,
            };
            return Verdict::Records(Records {
                answers: vec![soa],
                additional: Vec::new(),
            });
        }
        let addresses: BTreeSet<IpAddr> = match qtype {
            qtype::A => entry.a.iter().map(|&a| a.into()).collect(),
            qtype::AAAA => entry.aaaa.iter().map(|&a| a.into()).collect(),
            _ => BTreeSet::new(),
        };
        return if !addresses.is_empty() {
            Verdict::Answer(addresses)
        } else if entry.user.contains(&qtype) || !entry.complete {
            Verdict::Pass
        } else if entry.absent {
            Verdict::NxDomain
        } else {
            Verdict::NoData
        };
    }
    if suffix(1).is_none() {
        return Verdict::NxDomain;
    }
    if below[0] != b"svc" {
        return Verdict::Pass;
    }
    match suffix(2) {
        None => return Verdict::NxDomain,
        Some(entry) if !entry.namespace => return Verdict::Pass,
        Some(_) => {}
    }
    match suffix(3) {
        None => Verdict::NxDomain,
        Some(entry) if entry.service && below.len() > 5 => Verdict::NxDomain,
        Some(entry) if entry.service && entry.listed && below.len() == 4 => Verdict::NxDomain,
        Some(_) => Verdict::Pass,
    }
}

/// What the server does with a question; `None` where it is not the zone that answers it.
fn server(zone: &Zone, name: &Name, qtype: u16) -> Option<Lookup> {
    let options = &zone.config().options;
    let own = &zone.config().domain;
    let aliased = zone.domain_of(name).is_some_and(|domain| domain != own);
    if Rewritten::of(name, &options.rewrites).is_some() || aliased {
        return None;
    }
    match zone.resolve(name, qtype) {
        Resolved::Lookup(lookup) => Some(lookup),
        Resolved::NoData | Resolved::Failure => None,
    }
}

fn agrees(zone: &Zone, entries: &Entries, name: &Name, qtype: u16) -> Result<(), TestCaseError> {
    let verdict = kernel(zone, entries, name, qtype);
    let Some(lookup) = server(zone, name, qtype) else {
        prop_assert_eq!(verdict, Verdict::Pass, "{} {}", name, qtype);
        return Ok(());
    };
    match verdict {
        Verdict::Pass => {}
        Verdict::NoData => prop_assert_eq!(lookup, Lookup::NoData, "{} {}", name, qtype),
        Verdict::NxDomain => prop_assert_eq!(lookup, Lookup::NxDomain, "{} {}", name, qtype),
        Verdict::Records(records) => {
            let answer = Lookup::Answer {
                answers: records.answers,
                additional: records.additional,
            };
            prop_assert_eq!(lookup, answer, "{} {}", name, qtype);
        }
        Verdict::Answer(addresses) => {
            let Lookup::Answer { answers, .. } = &lookup else {
                return Err(TestCaseError::fail(format!("{name} {qtype}: {lookup:?}")));
            };
            let said: BTreeSet<IpAddr> = answers
                .iter()
                .filter_map(|r| match &r.data {
                    RecordData::Address(a) if r.owner.is_none() && r.ttl == zone.config().ttl => {
                        Some(*a)
                    }
                    _ => None,
                })
                .collect();
            prop_assert_eq!(&said, &addresses, "{} {}", name, qtype);
            prop_assert_eq!(said.len(), answers.len(), "{} {}", name, qtype);
        }
    }
    Ok(())
}

// Few labels, so that they meet: a namespace called `svc`, a Service called like a hostname, and so on.
const LABELS: [&str; 12] = [
    "svc", "pod", "dns", "ns", "com", "ent", "dev", "web-0", "_http", "_tcp", "10-0-0-1", "_",
];

fn label() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&LABELS[..8])
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1u8..4).prop_map(|n| IpAddr::from([10, 0, 0, n])),
        (1u16..4).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let service_kind = prop_oneof![
        prop::collection::btree_set(address(), 0..3)
            .prop_map(|a| ServiceKind::ClusterIp(a.into_iter().collect())),
        Just(ServiceKind::Headless),
        prop::sample::select(vec![
            "example.com",
            "ent.dev.svc.cluster.local",
            "com.com.svc.cluster.local",
            "ns.dns.cluster.local",
            "web-0.ent.dev.svc.cluster.local",
            "10-0-0-1.dev.pod.cluster.local",
            "dev.dev.svc.cluster.local",
            "192.0.2.1",
        ])
        .prop_map(|t| ServiceKind::ExternalName(t.to_owned())),
    ];
    let apply_service = (label(), label(), service_kind, 0usize..3, labels()).prop_map(
        |(namespace, name, kind, ports, labels)| {
            let ports = [("http", 80), ("", 81)][..ports.min(2)].to_vec();
            let service = service(namespace, name, kind, &ports);
            Event::Apply(Object::from(Service { labels, ..service }), vec![])
        },
    );
    let endpoints = prop::collection::vec(
        (
            address(),
            any::<bool>(),
            prop::option::of(prop::sample::select(vec!["web-0", "10-0-0-1"])),
        ),
        0..4,
    );
    let apply_slice = ((label(), label(), 0..3), endpoints, any::<bool>(), labels()).prop_map(
        |((namespace, name, n), endpoints, ports, labels)| {
            let slice = slice(
                namespace,
                &format!("{name}-{n}"),
                name,
                if ports { &[("http", 8080)] } else { &[] },
                &endpoints,
            );
            let slice = EndpointSlice { labels, ..slice };
            Event::Apply(Object::from(slice), vec![])
        },
    );
    prop_oneof![
        4 => apply_service,
        4 => apply_slice,
        3 => (label(), labels()).prop_map(|(n, labels)| {
            let name = ObjectName::new("", n);
            Event::Apply(Object::Namespace(Namespace { name, labels }), vec![])
        }),
        1 => label().prop_map(|n| Event::Delete(ObjectKind::Namespace, ObjectName::new("", n))),
        1 => (label(), label()).prop_map(|(a, b)| Event::Delete(ObjectKind::Service, ObjectName::new(a, b))),
        1 => (label(), label(), 0..3).prop_map(|(a, b, n)| {
            Event::Delete(ObjectKind::EndpointSlice, ObjectName::new(a, format!("{b}-{n}")))
        }),
    ]
}

#[test]
fn the_kernel_knows_what_it_has_to_answer() {
    let (zone, entries) = example_with_entries();
    for (name, qtype, count) in [
        ("ent.dev.svc.cluster.local", qtype::SRV, 2),
        ("_http._tcp.ent.dev.svc.cluster.local", qtype::SRV, 2),
        ("_http._tcp.web.dev.svc.cluster.local", qtype::SRV, 6),
        ("web-0.web.dev.svc.cluster.local", qtype::SRV, 3),
        ("1.0.96.10.in-addr.arpa", qtype::PTR, 1),
        ("2.0.0.10.in-addr.arpa", qtype::PTR, 1),
        ("ext.dev.svc.cluster.local", qtype::CNAME, 1),
        ("to-ent.dev.svc.cluster.local", qtype::A, 2),
        ("chain10.dev.svc.cluster.local", qtype::A, 12),
        ("dns-version.cluster.local", qtype::TXT, 1),
        ("cluster.local", qtype::SOA, 1),
        ("cluster.local", NS, 2),
    ] {
        let Verdict::Records(records) =
            kernel(&zone, &entries, &Name::from_text(name).unwrap(), qtype)
        else {
            panic!("{name} {qtype}");
        };
        let all = records.answers.len() + records.additional.len();
        assert_eq!(all, count, "{name} {qtype}");
    }
    // Its one endpoint is not of a headless Service.
    let pointer = Name::from_text("1.0.0.10.in-addr.arpa").unwrap();
    assert_eq!(kernel(&zone, &entries, &pointer, qtype::PTR), Verdict::Pass);
}

fn asked_name() -> impl Strategy<Value = Name> {
    let label = prop_oneof![
        12 => prop::sample::select(&LABELS[..]).prop_map(|l| l.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..6),
        1 => Just(b"dns-version".to_vec()),
        1 => Just(b"fd00--1".to_vec()),
    ];
    (
        prop::collection::vec(label, 0..6),
        prop_oneof![1 => Just(""), 3 => Just("svc"), 3 => Just("dev svc"), 3 => Just("ent dev svc"), 1 => Just("pod")],
        prop_oneof![9 => Just("cluster local"), 1 => Just("com")],
    )
        .prop_map(|(left, middle, zone)| {
            let right = middle.split_whitespace().chain(zone.split_whitespace());
            let name = right.rev().fold(Name::default(), |n, l| n.child(l).unwrap());
            left.iter().fold(name, |n, l| n.child(l).unwrap())
        })
}

/// What an operator may say, in names that objects have too.
fn options() -> impl Strategy<Value = Options> {
    let zones = |least| prop::collection::vec(operators_name(), least..2);
    let namespaces = prop::collection::btree_set(label().prop_map(Arc::from), 0..4);
    let entry = (address(), prop::collection::vec(operators_name(), 1..3));
    let hosts = (
        prop::collection::vec(entry, 0..3),
        zones(0),
        any::<bool>(),
        any::<bool>(),
    );
    let hosts = hosts.prop_map(|(entries, zones, open, reverse)| {
        let zones = if zones.is_empty() {
            vec![Name::default()]
        } else {
            zones
        };
        let fallthrough = if open {
            vec![Name::default()]
        } else {
            Vec::new()
        };
        Hosts::new(&entries, zones, fallthrough, 7, reverse)
    });
    let default = Options::default();
    let nothing = default.clone();
    let said = (
        (
            zones(0),
            prop_oneof![3 => Just(default.fallthrough), 1 => zones(0)],
        ),
        zones(0),
        any::<bool>(),
        (
            prop_oneof![2 => Just(BTreeSet::new()), 1 => namespaces],
            selector(),
            selector(),
        ),
        any::<[bool; 2]>(),
        prop_oneof![2 => Just(Hosts::default()), 2 => hosts],
        prop::collection::vec(rewrite(), 0..2),
        prop_oneof![3 => Just(default.reverse), 1 => Just(Vec::new())],
    );
    let said = said.prop_map(
        |((aliases, fallthrough), elsewhere, pods, chosen, flags, hosts, rewrites, reverse)| {
            let [endpoint_pod_names, ignore_empty_services] = flags;
            let (namespaces, namespace_labels, labels) = chosen;
            Options {
                aliases,
                reverse,
                fallthrough,
                elsewhere,
                pods: if pods { Pods::Insecure } else { Pods::Disabled },
                namespaces,
                namespace_labels,
                labels,
                endpoint_pod_names,
                ignore_empty_services,
                hosts,
                rewrites,
                digest: 0,
            }
        },
    );
    prop_oneof![1 => Just(nothing), 3 => said]
}

/// Everything, or what has one of two labels.
fn selector() -> impl Strategy<Value = Selector> {
    let texts = prop_oneof![3 => Just(""), 1 => Just("tier=front"), 1 => Just("tier")];
    texts.prop_map(|text| text.parse().expect("a selector"))
}

/// None, or one of two.
fn labels() -> impl Strategy<Value = Labels> {
    let tiers = prop_oneof![1 => Just(None), 2 => Just(Some("front")), 1 => Just(Some("back"))];
    tiers.prop_map(|tier| {
        let pair = tier.map(|tier| ("tier".to_owned(), tier.to_owned()));
        Labels::new(Some(&pair.into_iter().collect()))
    })
}

/// A name that an operator may write: mostly inside the zone.
fn operators_name() -> impl Strategy<Value = Name> {
    let inside = prop::collection::vec(label(), 0..3);
    let zone = prop_oneof![
        6 => Just("svc.cluster.local"), 2 => Just("cluster.local"), 1 => Just("local"), 1 => Just("pod.cluster.local"),
        1 => Just("10.in-addr.arpa"), 1 => Just("example.com")
    ];
    (inside, zone).prop_map(|(labels, zone)| {
        let zone = Name::from_text(zone).unwrap();
        labels
            .iter()
            .fold(zone, |name, label| name.child(label).unwrap())
    })
}

fn rewrite() -> impl Strategy<Value = Rewrite> {
    let rule = (operators_name(), 0..7).prop_map(|(name, kind)| {
        let (text, to) = (format!("{name}."), "ent.dev.svc.cluster.local.".to_owned());
        match kind {
            0 | 1 => Rule::Exact(text, to),
            2 => Rule::Suffix(format!(".{text}"), to),
            3 => Rule::Suffix(text, to),
            4 => Rule::Regex(
                Pattern::new(&format!("dev.*{}$", text.replace('.', r"\."))).unwrap(),
                to,
            ),
            5 => Rule::Prefix("dev".to_owned(), to),
            _ => Rule::Substring("ev.co".to_owned(), to),
        }
    });
    (rule, any::<bool>()).prop_map(|(rule, auto)| Rewrite {
        rule,
        auto,
        answers: Vec::new(),
        goes_on: false,
    })
}

const TYPES: [u16; 12] = [
    qtype::A,
    qtype::AAAA,
    qtype::SRV,
    qtype::TXT,
    qtype::CNAME,
    qtype::PTR,
    qtype::SOA,
    NS,
    15,
    65,
    255,
    9999,
];

proptest! {
    #[test]
    fn the_kernel_never_contradicts_the_zone(
        steps in prop::collection::vec(prop::collection::vec(event(), 0..8), 1..5),
        names in prop::collection::vec(asked_name(), 30),
        options in options(),
    ) {
        let config = || ZoneConfig { options: Arc::new(options.clone()), ..config() };
        let mut registry = Registry::default();
        let mut zone = Zone::new(config());
        let mut followed = BTreeMap::new();
        for (serial, events) in steps.into_iter().enumerate() {
            for event in events {
                registry.apply(event);
            }
            let changes = registry.take_changes();
            for (name, entry) in zone.update(&registry, &changes, serial as u32) {
                match entry {
                    Some(entry) => followed.insert(name, entry),
                    None => followed.remove(&name),
                };
            }
            // Whoever follows the changes has what there is, and so has a zone that is built at once.
            prop_assert!(followed.keys().eq(zone.names()));
            let all = Changes {
                services: changes_of_all(&registry),
                namespaces: registry.namespaces().cloned().collect(),
                node: false,
                ..Changes::default()
            };
            let mut fresh = Zone::new(config());
            let all_entries = fresh.update(&registry, &all, 0).into_iter();
            let all_entries: Entries = all_entries.filter_map(|(name, e)| Some((name, e?))).collect();
            prop_assert_eq!(&followed, &all_entries);
            let mut answering = Zone::answering(config());
            prop_assert!(answering.update(&registry, &all, 0).is_empty());
            let mut known: Vec<Name> = followed.keys().cloned().collect();
            let below: Vec<Name> = known.iter().filter_map(|name| name.child("dev")).collect();
            known.extend(below);
            for name in names.iter().chain(&known) {
                for qtype in TYPES {
                    agrees(&zone, &followed, name, qtype)?;
                    prop_assert_eq!(fresh.lookup(name, qtype), zone.lookup(name, qtype));
                    prop_assert_eq!(answering.lookup(name, qtype), zone.lookup(name, qtype));
                }
            }
        }
    }
}

fn changes_of_all(registry: &Registry) -> BTreeSet<ObjectName> {
    let mut all: BTreeSet<ObjectName> = registry.services().map(|s| s.name.clone()).collect();
    for namespace in &LABELS[..8] {
        all.extend(
            LABELS[..8]
                .iter()
                .map(|name| ObjectName::new(*namespace, *name)),
        );
    }
    all
}

#[test]
fn the_kernel_passes_what_the_zone_leaves_open() {
    let (zone, entries) = example_with_entries();
    let verdict =
        |text: &str, qtype| kernel(&zone, &entries, &Name::from_text(text).unwrap(), qtype);
    for (name, qtype, expected) in [
        ("ns.dns.cluster.local", qtype::AAAA, Verdict::NoData),
        ("dns.cluster.local", qtype::A, Verdict::NxDomain),
        ("dns-version.cluster.local", qtype::A, Verdict::NxDomain),
        ("dns-version.cluster.local", qtype::SOA, Verdict::Pass),
        ("10-0-0-1.dev.pod.cluster.local", qtype::A, Verdict::Pass),
        ("ext.dev.svc.cluster.local", qtype::A, Verdict::Pass),
        ("ext.dev.svc.cluster.local", qtype::TXT, Verdict::NoData),
        ("a.ext.dev.svc.cluster.local", qtype::A, Verdict::NxDomain),
        ("_._.ext.dev.svc.cluster.local", qtype::A, Verdict::Pass),
        (
            "nope.web.dev.svc.cluster.local",
            qtype::A,
            Verdict::NxDomain,
        ),
        ("ent-0.ent.dev.svc.cluster.local", qtype::A, Verdict::Pass),
        ("_._.ent.dev.svc.cluster.local", qtype::SRV, Verdict::Pass),
        ("to-pod.dev.svc.cluster.local", qtype::A, Verdict::Pass),
        ("to-ent.dev.svc.cluster.local", qtype::AAAA, Verdict::NoData),
        (
            "api.github.com.dev.svc.cluster.local",
            qtype::A,
            Verdict::NxDomain,
        ),
        (
            "api.github.com.svc.cluster.local",
            qtype::A,
            Verdict::NxDomain,
        ),
        ("api.github.com.cluster.local", qtype::A, Verdict::NxDomain),
        (
            "a.b.c.ent.dev.svc.cluster.local",
            qtype::A,
            Verdict::NxDomain,
        ),
        ("ent.dev.svc.cluster.local", qtype::AAAA, Verdict::NoData),
        ("none.dev.svc.cluster.local", qtype::A, Verdict::NxDomain),
        ("github.com", qtype::A, Verdict::Pass),
    ] {
        assert_eq!(verdict(name, qtype), expected, "{name}");
    }
}
