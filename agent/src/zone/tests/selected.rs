//! Services, EndpointSlices and namespaces that an operator chooses by their labels.

use super::*;
use crate::model::{Labels, Namespace};

#[test]
fn what_a_selector_leaves_out_has_no_names() {
    let labelled = |tier: &str| Labels::new(Some(&[("tier".to_owned(), tier.to_owned())].into()));
    let namespace = |name: &str, tier| Namespace {
        name: ObjectName::new("", name),
        labels: labelled(tier),
    };
    let own = |n: u8| IpAddr::from([10, 96, 0, n]);
    let of = |namespace: &str, name: &str, tier, n| Service {
        labels: labelled(tier),
        ..service(
            namespace,
            name,
            ServiceKind::ClusterIp(vec![own(n)]),
            &[("http", 80)],
        )
    };
    let headless = |tier| Service {
        labels: labelled(tier),
        ..service("dev", "set", ServiceKind::Headless, &[("http", 80)])
    };
    let part = |n: u8, tier| EndpointSlice {
        labels: labelled(tier),
        ..slice(
            "dev",
            &format!("set-{n}"),
            "set",
            &[("http", 80)],
            &[(IpAddr::from([10, 0, 0, n]), true, None)],
        )
    };
    let objects = [
        Object::Namespace(namespace("dev", "front")),
        Object::Namespace(namespace("prod", "back")),
        of("dev", "ent", "front", 1).into(),
        of("dev", "old", "back", 2).into(),
        of("prod", "ent", "front", 3).into(),
        headless("front").into(),
        part(1, "front").into(),
        part(2, "back").into(),
    ];
    let ask = |labels: &str, namespace_labels: &str, asked: &str, qtype| {
        let mut registry = Registry::default();
        for object in &objects {
            registry.apply(Event::Apply(object.clone(), vec![]));
        }
        let options = Options {
            labels: labels.parse().unwrap(),
            namespace_labels: namespace_labels.parse().unwrap(),
            fallthrough: Vec::new(),
            ..Options::default()
        };
        let mut zone = Zone::new(ZoneConfig {
            options: options.into(),
            ..config()
        });
        let changes = registry.take_changes();
        zone.update(&registry, &changes, 1);
        match zone.lookup(&name(asked), qtype) {
            Lookup::Answer { answers, .. } => Some(answers.len()),
            Lookup::NxDomain => None,
            other => panic!("{asked}: {other:?}"),
        }
    };
    for (labels, namespaces, asked, qtype, records) in [
        ("", "", "old.dev.svc.cluster.local", A, Some(1)),
        ("tier=front", "", "old.dev.svc.cluster.local", A, None),
        ("tier=front", "", "2.0.96.10.in-addr.arpa", PTR, None),
        ("tier=front", "", "ent.dev.svc.cluster.local", A, Some(1)),
        ("", "", "set.dev.svc.cluster.local", A, Some(2)),
        ("tier=front", "", "set.dev.svc.cluster.local", A, Some(1)),
        ("tier=back", "", "set.dev.svc.cluster.local", A, None),
        // Whose endpoints they are does not matter to addresses (CoreDNS).
        ("tier=back", "", "2.0.0.10.in-addr.arpa", PTR, Some(1)),
        ("", "tier=front", "ent.prod.svc.cluster.local", A, None),
        ("", "tier=front", "ent.dev.svc.cluster.local", A, Some(1)),
        ("", "tier=front", "10-0-0-1.prod.pod.cluster.local", A, None),
        (
            "",
            "tier=front",
            "10-0-0-1.dev.pod.cluster.local",
            A,
            Some(1),
        ),
        // CoreDNS looks at names of namespaces there, not at their labels.
        ("", "tier=front", "3.0.96.10.in-addr.arpa", PTR, Some(1)),
    ] {
        assert_eq!(
            ask(labels, namespaces, asked, qtype),
            records,
            "{asked} with {labels:?} and {namespaces:?}"
        );
    }
}

#[test]
fn labels_that_change_bring_names_and_take_them() {
    let labelled = |tier: &str| Labels::new(Some(&[("tier".to_owned(), tier.to_owned())].into()));
    let mut registry = Registry::default();
    let options = Options {
        labels: "tier=front".parse().unwrap(),
        namespace_labels: "tier=front".parse().unwrap(),
        ..Options::default()
    };
    let mut zone = Zone::new(ZoneConfig {
        options: options.into(),
        ..config()
    });
    let ent = name("ent.dev.svc.cluster.local");
    for (of_namespace, of_service, there) in [
        ("front", "front", true),
        ("back", "front", false),
        ("front", "front", true),
        ("front", "back", false),
        ("front", "front", true),
    ] {
        let namespace = Namespace {
            name: ObjectName::new("", "dev"),
            labels: labelled(of_namespace),
        };
        let service = Service {
            labels: labelled(of_service),
            ..service(
                "dev",
                "ent",
                ServiceKind::ClusterIp(vec![[10, 96, 0, 1].into()]),
                &[],
            )
        };
        for object in [Object::Namespace(namespace), service.into()] {
            registry.apply(Event::Apply(object, vec![]));
        }
        let changes = registry.take_changes();
        zone.update(&registry, &changes, 1);
        assert_eq!(zone.lookup(&ent, A) != Lookup::NxDomain, there);
        assert_eq!(zone.names().any(|told| *told == ent), there);
    }
}
