//! What an operator says: the programs answer nothing that the server would answer otherwise.

use std::path::Path;

use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};
use signpost::{
    config::dns::file::parse,
    zone::{Lookup, Name, Resolved, Zone, rewrite::Rewritten},
};

use super::{
    Question, Seen, TYPES, agrees_with, asks,
    cluster::{self, Cluster},
    names, said,
};

/// Files, each with what it keeps from the programs.
const FILES: [&str; 9] = [
    "hosts:
  entries:
    - {address: 192.0.2.1, names: [web.dev.svc.cluster.local, ent.gone.svc.cluster.local, x.dns.web.svc.cluster.local]}
    - {address: 10.96.0.10, names: [a.cluster.local, dev.svc.cluster.local]}
  fallthrough: [.]
",
    "hosts: {zones: [dev.svc.cluster.local], entries: []}\n",
    "rewrite: [{from: web.prod.svc.cluster.local, to: a.b}, {match: suffix, from: .ent.dev.svc.cluster.local, to: .x}]\n",
    "rewrite: [{match: regex, from: 'web.*\\.dev\\.svc\\.cluster\\.local\\.$', to: a.b}]\n",
    "rewrite: [{match: prefix, from: web, to: ent}]\n",
    "cluster: {fallthrough: [prod.svc.cluster.local, ent.dev.svc.cluster.local], namespaces: [dev, prod, lasting]}\n",
    "cluster: {fallthrough: [.], ttl: 7}\n",
    "stubDomains: [{domains: [svc.cluster.local, x.cluster.local], forward: {upstreams: [192.0.2.1]}}]\n",
    "cluster: {ignoreEmptyServices: true, endpointPodNames: true, reverseZones: [], otherDomains: [dev.svc.cluster.local]}\n",
];

/// What the server answers out of the zone; `None` where somebody else is asked.
fn server(zone: &Zone, name: &Name, kind: u16) -> Option<Lookup> {
    let own = &zone.config().domain;
    let aliased = zone.domain_of(name).is_some_and(|domain| domain != own);
    if aliased || Rewritten::of(name, &zone.config().options.rewrites).is_some() {
        return None;
    }
    match zone.resolve(name, kind) {
        Resolved::Lookup(lookup) => Some(lookup),
        Resolved::NoData | Resolved::Failure => None,
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_answer_contradicts_what_an_operator_says() {
    let mut cluster = Cluster::new();
    cluster.apply(cluster::lasting(), 1);
    let mut runner = TestRunner::deterministic();
    let mut serial = 1_700_000_000;
    for file in FILES {
        let config = parse(Path::new("dns.yaml"), file).expect(file);
        let ttl = config.cluster.ttl.map_or(30, |ttl| ttl.get());
        cluster.configure(ttl, config.zone_options());
        let (mut answered, mut passed) = (0, 0);
        for _ in 0..4 {
            let events = cluster::events().new_tree(&mut runner).unwrap().current();
            serial += 1;
            cluster.apply(events, serial);
            let mut host = cluster.host();
            let known: Vec<Name> = cluster.entries().keys().cloned().collect();
            let asked = names::around(known);
            for n in 0..300 {
                let name = asked.new_tree(&mut runner).unwrap().current();
                let question = Question {
                    name,
                    ..Question::new("", TYPES[n % TYPES.len()])
                };
                let packet = asks(&question);
                let done = host.pod_sends(&packet.frame());
                if n % 3 == 0 {
                    assert_eq!(cluster.pod_sends(&packet.frame()).action, done.action);
                }
                let Some(message) = said(&done, &packet) else {
                    passed += 1;
                    continue;
                };
                answered += 1;
                let zone = cluster.zone();
                let name = Name::from_wire(&question.name).expect("a name");
                let Some(lookup) = server(zone, &name, question.kind) else {
                    panic!(
                        "{file}{name} {}: the kernel answers: {message}",
                        question.kind
                    );
                };
                agrees_with(zone, &question, &message, &lookup);
            }
        }
        println!("{answered} answered, {passed} passed on: {file}");
        assert!(passed > 100 && answered > 0, "{file}");
    }
    // Without any of it, all is as it was.
    cluster.configure(30, Default::default());
    cluster.apply(vec![], serial + 1);
    let mut host = cluster.host();
    let mut seen = Seen::default();
    let known: Vec<Name> = cluster.entries().keys().cloned().collect();
    let asked = names::around(known);
    for n in 0..600 {
        let question = Question {
            name: asked.new_tree(&mut runner).unwrap().current(),
            ..Question::new("", TYPES[n % TYPES.len()])
        };
        let packet = asks(&question);
        let done = host.pod_sends(&packet.frame());
        seen.add(&cluster, &question, &packet, &done);
    }
}
