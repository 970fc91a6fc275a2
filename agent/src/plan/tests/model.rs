//! The rules once more, said as naively as possible, against generated endpoints.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Case {
    internal_local: bool,
    external_local: bool,
    node_port: bool,
    slices: Vec<Vec<Endpoint>>,
}

fn endpoints() -> impl Strategy<Value = Endpoint> {
    let hints = || prop::sample::subsequence(vec!["z", "y"], 0..=2);
    let nodes = || prop::sample::subsequence(vec!["here", "there"], 0..=2);
    // Mostly ready: rules about all ready endpoints are hardly ever met otherwise.
    let ready = prop::bool::weighted(0.6);
    (1..6u8, ready, any::<[bool; 3]>(), hints(), nodes()).prop_map(
        |(last, ready, [serving, terminating, here], zones, nodes)| Endpoint {
            addresses: IpAddr::from([10, 1, 0, last]).into(),
            ready,
            serving,
            terminating,
            hostname: None,
            node: here.then(|| "here".into()),
            hints: Hints::of(
                zones.into_iter().map(Into::into).collect(),
                nodes.into_iter().map(Into::into).collect(),
            ),
            pod: None,
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let slices = prop::collection::vec(prop::collection::vec(endpoints(), 0..4), 0..4);
    (any::<[bool; 3]>(), slices).prop_map(
        |([internal_local, external_local, node_port], slices)| Case {
            internal_local,
            external_local,
            node_port,
            slices,
        },
    )
}

fn planned(case: &Case) -> PortPlan {
    let mut service = service(&["10.96.0.1"]);
    service.internal_local = case.internal_local;
    service.external_local = case.external_local;
    service.ports[0].node_port = u16::from(case.node_port) * 30_000;
    let slices = case.slices.iter().enumerate().map(|(number, endpoints)| {
        let mut slice = slice(number, HTTP, &[]);
        slice.endpoints.clone_from(endpoints);
        slice
    });
    one(plans(service, slices))
}

/// One entry for each address: the best one, the first among equals.
fn distinct(case: &Case) -> Vec<Endpoint> {
    let here = |e: &Endpoint| e.node.as_deref() == Some("here");
    let mut best: Vec<Endpoint> = Vec::new();
    for entry in case.slices.iter().flatten() {
        match best.iter_mut().find(|e| e.addresses == entry.addresses) {
            None => best.push(entry.clone()),
            Some(known) => {
                let better = match (here(entry), here(known)) {
                    (true, false) => true,
                    (false, true) => false,
                    _ if entry.ready != known.ready => entry.ready,
                    _ => entry.serving && !known.serving,
                };
                if better {
                    known.clone_from(entry);
                }
            }
        }
    }
    best
}

type Addresses = BTreeSet<IpAddr>;

fn of<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Addresses {
    endpoints.into_iter().map(|e| e.addresses[0]).collect()
}

fn expected(case: &Case) -> (Addresses, Addresses, bool) {
    let all = distinct(case);
    let ready: Vec<_> = all.iter().filter(|e| e.ready).collect();
    let terminating: Vec<_> = all.iter().filter(|e| e.serving && e.terminating).collect();
    let here = |e: &&&Endpoint| e.node.as_deref() == Some("here");

    let same_node = |e: &&&Endpoint| e.node_hints().iter().any(|n| &**n == "here");
    let same_zone = |e: &&&Endpoint| e.zone_hints().iter().any(|z| &**z == "z");
    let mut cluster = if ready.iter().all(|e| !e.node_hints().is_empty())
        && ready.iter().any(|e| same_node(&e))
    {
        of(ready.iter().filter(same_node).copied())
    } else if ready.iter().all(|e| !e.zone_hints().is_empty())
        && ready.iter().any(|e| same_zone(&e))
    {
        of(ready.iter().filter(same_zone).copied())
    } else {
        of(ready.iter().copied())
    };
    if cluster.is_empty() {
        cluster = of(terminating.iter().copied());
    }
    let mut local = of(ready.iter().filter(here).copied());
    if local.is_empty() {
        local = of(terminating.iter().filter(here).copied());
    }
    if case.internal_local && !case.node_port {
        cluster.clear();
    }
    let uses_local = case.internal_local || (case.external_local && case.node_port);
    if !uses_local {
        local.clear();
    }
    (cluster, local, !ready.is_empty() || !terminating.is_empty())
}

fn addresses(set: &[Backend]) -> Addresses {
    set.iter().map(|b| b.address).collect()
}

proptest! {
    #[test]
    fn the_plan_says_what_the_rules_say(case in cases()) {
        let plan = planned(&case);
        let (cluster, local, any) = expected(&case);
        prop_assert_eq!(addresses(&plan.cluster), cluster);
        prop_assert_eq!(addresses(&plan.local), local);
        prop_assert_eq!(plan.any_endpoints, any);
    }

    #[test]
    fn sets_are_ordered_and_have_no_duplicates(case in cases()) {
        let plan = planned(&case);
        prop_assert!(plan.cluster.is_sorted_by(|a, b| a < b));
        prop_assert!(plan.local.is_sorted_by(|a, b| a < b));
        prop_assert!(plan.members.is_sorted_by(|a, b| (a.address, a.port) < (b.address, b.port)));
        for member in &plan.members {
            let chosen = addresses(&plan.cluster).contains(&member.address)
                || addresses(&plan.local).contains(&member.address);
            prop_assert_eq!(member.chosen, chosen);
        }
    }
}
