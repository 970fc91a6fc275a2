//! Generated and hand-picked questions about a cluster.

use std::{collections::BTreeSet, net::IpAddr};

use rand::{Rng, seq::IndexedRandom as _};
use signpost_common::dns::qtype::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};

use crate::{
    cluster::{Cluster, NAMES, NAMESPACES, PASSING},
    objects::To,
    question::{Edns, Question, RD},
};

const NS: u16 = 2;
const MX: u16 = 15;
const HTTPS: u16 = 65;
const ANY: u16 = 255;
const AXFR: u16 = 252;
const IXFR: u16 = 251;
const UNKNOWN: u16 = 9999;

const TYPES: [u16; 12] = [
    A, AAAA, SRV, PTR, CNAME, TXT, SOA, NS, MX, HTTPS, ANY, UNKNOWN,
];

/// Checking disabled, authentic data.
const CD: u16 = 0x0010;
const AD: u16 = 0x0020;

/// Names that have something of their own.
const PLACES: [&str; 34] = [
    "cluster.local",
    "svc.cluster.local",
    "pod.cluster.local",
    "dns.cluster.local",
    "ns.dns.cluster.local",
    "a.ns.dns.cluster.local",
    "dns-version.cluster.local",
    "a.dns-version.cluster.local",
    "hostmaster.cluster.local",
    "x.cluster.local",
    "a.b.c.d.cluster.local",
    "kubernetes.default.svc.cluster.local",
    "_https._tcp.kubernetes.default.svc.cluster.local",
    "kube-dns.kube-system.svc.cluster.local",
    "_dns._udp.kube-dns.kube-system.svc.cluster.local",
    "_dns-tcp._tcp.kube-dns.kube-system.svc.cluster.local",
    "default.pod.cluster.local",
    "10-0-0-1.default.pod.cluster.local",
    "none.svc.cluster.local",
    "api.github.com.dev.svc.cluster.local",
    "api.github.com.svc.cluster.local",
    "api.github.com.cluster.local",
    "local",
    "cluster.local.cluster.local",
    "svc.cluster.local.cluster.local",
    "www.example.com",
    "missing.example.com",
    "example.com",
    "com",
    "in-addr.arpa",
    "10.in-addr.arpa",
    "96.10.in-addr.arpa",
    "ip6.arpa",
    "d.f.ip6.arpa",
];

/// What is put to the left of names.
const LEFT: [&str; 22] = [
    "a",
    "_http._tcp",
    "http.tcp",
    "_http",
    "_tcp",
    "_",
    "_._",
    "_._tcp",
    "_http._",
    "_https._tcp",
    "_dns._udp",
    "_HTTP._TCP",
    "web-0",
    "ent",
    "com",
    "a.b.c",
    "_http._tcp.web-0",
    "10-99-100-7",
    "fd00-99--3",
    "fd00-99--0",
    "*",
    "-",
];

/// First labels of pods' names.
const PODS: [&str; 20] = [
    "10-0-0-1",
    "10-99-100-7",
    "0-0-0-0",
    "255-255-255-255",
    "256-0-0-1",
    "10-0-0",
    "10-0-0-0-1",
    "010-0-0-1",
    "fd00--1",
    "fd00-99--3",
    "--1",
    "--",
    "1--",
    "fd00-0-0-0-0-0-0-1",
    "a-b-c-d",
    "--ffff-10-0-0-1",
    "10-0-0-1-",
    "pod",
    "1-2-3--4",
    "FD00--A",
];

/// Questions.
pub(crate) struct Questions {
    pub(crate) over_udp: Vec<Question>,
    pub(crate) over_tcp: Vec<Question>,
}

impl Questions {
    /// As many different ones as are wanted.
    pub(crate) fn about(cluster: &Cluster, random: &mut impl Rng, count: usize) -> Self {
        let known = known(cluster);
        let mut all = BTreeSet::new();
        for name in &known {
            all.extend([A, AAAA, SRV].map(|kind| Question::new(name, kind).edns(1232)));
        }
        for address in cluster.addresses() {
            all.insert(Question::new(&reverse(address), PTR));
        }
        for name in PLACES {
            all.extend(TYPES.map(|kind| Question::new(name, kind)));
        }
        all.extend(hand_picked());
        while all.len() < count {
            all.insert(generated(&known, random));
        }
        let all: Vec<Question> = all.into_iter().collect();
        let of_tcp = |question: &&Question| question.flags & !(RD | AD | CD) == 0;
        let over_tcp = all.iter().filter(of_tcp).step_by(20).cloned().collect();
        Self {
            over_udp: all,
            over_tcp,
        }
    }
}

/// Names that exist, or nearly.
fn known(cluster: &Cluster) -> Vec<String> {
    let mut names = BTreeSet::new();
    for namespace in cluster.namespaces.iter().chain(&PASSING.map(str::to_owned)) {
        names.insert(format!("{namespace}.svc.cluster.local"));
        names.insert(format!("{namespace}.pod.cluster.local"));
    }
    for service in &cluster.services {
        let own = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
        for (port, _, protocol) in &service.ports {
            names.insert(format!("_{port}._{}.{own}", protocol.to_lowercase()));
        }
        if matches!(service.to, To::Name(_)) {
            names.insert(format!("_http._tcp.{own}"));
        }
        names.insert(own);
    }
    for slice in &cluster.slices {
        let own = format!("{}.{}.svc.cluster.local", slice.service, slice.namespace);
        for endpoint in slice.endpoints.iter().take(8) {
            let label = endpoint.label();
            names.insert(format!("{label}.{own}"));
            if endpoint.is_published() {
                for (port, _, protocol) in &slice.ports {
                    names.insert(format!("_{port}._{}.{own}", protocol.to_lowercase()));
                }
            }
        }
        names.insert(own);
    }
    names.into_iter().collect()
}

fn generated(known: &[String], random: &mut impl Rng) -> Question {
    let one = |list: &[&'static str], random: &mut _| -> &'static str {
        list.choose(random).expect("some")
    };
    let mut name = match random.random_range(0..20) {
        0..=5 => known.choose(random).expect("some").clone(),
        6..=9 => {
            let left = one(&LEFT, random);
            format!("{left}.{}", known.choose(random).expect("some"))
        }
        10 => {
            // The right end is gone.
            let name = known.choose(random).expect("some");
            name.rsplit_once('.')
                .map_or("", |(left, _)| left)
                .to_owned()
        }
        11 => {
            // A label is gone.
            let name = known.choose(random).expect("some");
            name.split_once('.')
                .map_or("", |(_, right)| right)
                .to_owned()
        }
        12 | 13 => {
            let (pod, namespace) = (one(&PODS, random), one(&NAMESPACES, random));
            let left = ["", "a.", "a.b.", "a.b.c."].choose(random).expect("some");
            format!("{left}{pod}.{namespace}.pod.cluster.local")
        }
        14 => {
            let (name, namespace) = (one(&NAMES, random), one(&NAMESPACES, random));
            format!("{name}.{namespace}.svc.cluster.local")
        }
        15 => one(&PLACES, random).to_owned(),
        16 => reverse(IpAddr::from([
            10,
            random.random_range(96..100),
            100,
            random.random(),
        ])),
        17 => format!("{}.{}", one(&LEFT, random), one(&PLACES, random)),
        18 => {
            // As a search list makes them.
            let (a, b, c) = (
                one(&NAMES, random),
                one(&NAMES, random),
                one(&NAMES, random),
            );
            let end = ["", "dev.svc.", "svc."].choose(random).expect("some");
            format!("{a}.{b}.{c}.{end}cluster.local")
        }
        _ => {
            let address = std::net::Ipv6Addr::new(
                [0xfd00, 0xfd96].choose(random).copied().unwrap_or_default(),
                [0, 0x99].choose(random).copied().unwrap_or_default(),
                0,
                0,
                0,
                0,
                0,
                random.random_range(0..0x110),
            );
            reverse(address.into())
        }
    };
    if random.random_bool(0.1) {
        name = name
            .chars()
            .map(|c| {
                if random.random() {
                    c.to_ascii_uppercase()
                } else {
                    c
                }
            })
            .collect();
    }
    let kind = if random.random_bool(0.6) {
        [A, AAAA].choose(random)
    } else {
        TYPES.choose(random)
    };
    let mut question = Question::new(&name, *kind.expect("some"));
    if random.random_bool(0.2) {
        let flags = [0, RD | CD, RD | AD, CD].choose(random);
        question.flags = *flags.expect("some");
    }
    if random.random_bool(0.5) {
        let size = [512, 1232, 1232, 1232, 4096].choose(random).expect("some");
        question = question.edns(*size);
        if let Some(edns) = &mut question.edns {
            edns.dnssec_ok = random.random_bool(0.1);
            if random.random_bool(0.1) {
                edns.options = vec![0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
            }
        }
    }
    if random.random_bool(0.02) {
        spoil(&mut question, random);
    }
    question
}

/// Makes a name nasty.
fn spoil(question: &mut Question, random: &mut impl Rng) {
    let at = random.random_range(0..=question.name.len());
    let label: Vec<u8> = match random.random_range(0..4) {
        0 => vec![b'x'; 63],
        1 => b"a.b".to_vec(),
        2 => vec![b'a', b'\\', 0x80, 0xff],
        _ => vec![b' '],
    };
    question.name.insert(at, label);
}

/// Questions that are thought of one by one.
fn hand_picked() -> Vec<Question> {
    let ent = "twenty.dev.svc.cluster.local";
    let mut all = Vec::new();
    for name in ["cluster.local", ent, "none.dev.svc.cluster.local"] {
        all.extend([AXFR, IXFR].map(|kind| Question::new(name, kind)));
    }
    for size in [0, 100, 511, 512, 1232, 4096, 65_535] {
        for name in [ent, "none.dev.svc.cluster.local", "www.example.com"] {
            all.push(Question::new(name, A).edns(size));
        }
    }
    for name in ["forty", "hundreds", "twenty"] {
        for (left, kind) in [("", A), ("", SRV), ("_http._tcp.", SRV)] {
            let name = format!("{left}{name}.dev.svc.cluster.local");
            all.push(Question::new(&name, kind));
            all.push(Question::new(&name, kind).edns(1232));
            all.push(Question::new(&name, kind).edns(4096));
        }
    }
    for link in 0..13 {
        for kind in [A, AAAA, CNAME, SRV, TXT] {
            let name = format!("c{link}.dev.svc.cluster.local");
            all.push(Question::new(&name, kind).edns(1232));
        }
    }
    for kind in TYPES {
        all.push(Question::new("self.dev.svc.cluster.local", kind));
    }
    // Classes and opcodes.
    for class in [0, 3, 4, 255] {
        let mut question = Question::new(ent, A).edns(1232);
        question.class = class;
        all.push(question);
    }
    for opcode in [1, 2, 4, 5, 6] {
        let mut question = Question::new(ent, A);
        question.flags = opcode << 11;
        all.push(question);
    }
    // EDNS: another version, options of all kinds.
    let with = |edns: Edns| Question {
        edns: Some(edns),
        ..Question::new(ent, A)
    };
    let plain = Edns {
        size: 1232,
        version: 0,
        dnssec_ok: false,
        options: Vec::new(),
    };
    for version in [1, 255] {
        all.push(with(Edns {
            version,
            ..plain.clone()
        }));
    }
    let options: [&[u8]; 4] = [
        &[0, 3, 0, 0],
        &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0, 12, 0, 4, 0, 0, 0, 0, 0, 3, 0, 0],
        &[0xff, 0xfe, 0, 1, 7],
    ];
    for options in options {
        all.push(with(Edns {
            options: options.to_vec(),
            ..plain.clone()
        }));
    }
    // Names at the limits.
    let long = ["x".repeat(63), "y".repeat(63), "z".repeat(63)].join(".");
    for rest in 30..=46 {
        let name = format!("{}.{long}.cluster.local", "w".repeat(rest));
        all.push(Question::new(&name, A));
    }
    all.push(Question::new(
        &format!("{}.dev.svc.cluster.local", "x".repeat(63)),
        A,
    ));
    let many = "a.".repeat(100);
    all.push(Question::new(&format!("{many}dev.svc.cluster.local"), A));
    all.push(Question::new("", NS));
    all
}

/// The reverse name of an address.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let digits = format!("{:032x}", u128::from(address));
            let labels: Vec<String> = digits.chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}
