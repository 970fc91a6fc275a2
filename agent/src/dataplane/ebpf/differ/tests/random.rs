use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*, sample::subsequence};
use signpost_common::dns::qtype;

use super::*;

const SERVICES: [&str; 4] = ["ent", "web", "dns", "abc"];

/// A change of one Service: its backends, or `None` where it goes; and whether its port is renamed.
#[derive(Clone, Debug)]
struct Step {
    service: usize,
    state: Option<(Vec<u8>, bool)>,
    /// Which kind each of its frontends is, and who may use the load balancer's.
    ways: (Vec<FrontendKind>, Vec<u8>),
    addresses: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let backends = subsequence(vec![1_u8, 2, 3, 101, 102, 103], 0..=6);
    let state = proptest::option::weighted(0.8, (backends, any::<bool>()));
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    let kinds = subsequence(vec![ClusterIp, NodePort, ExternalIp, LoadBalancer], 1..=4);
    let ways = (kinds, subsequence(vec![8_u8, 16, 24], 0..=3));
    (0..SERVICES.len(), state, ways, 1..60_usize).prop_map(|(service, state, ways, addresses)| {
        Step {
            service,
            state,
            ways,
            addresses,
        }
    })
}

/// What must be there, as the agent knows it.
#[derive(Clone, Default)]
struct Wanted {
    ports: BTreeMap<PortName, PortPlan>,
    names: BTreeMap<Name, NameEntry>,
}

impl Wanted {
    fn take(
        &mut self,
        Step {
            service,
            state,
            ways: (kinds, ranges),
            addresses,
        }: &Step,
    ) -> Update {
        let service_name = SERVICES[*service];
        let full = name(&format!("{service_name}.prod.svc.cluster.local"));
        let renamed = PortName {
            port: "renamed".into(),
            ..port(service_name)
        };
        let mut update = Update {
            serial: 7,
            ..Update::default()
        };
        for old in [port(service_name), renamed.clone()] {
            if self.ports.remove(&old).is_some() {
                update.ports.insert(old, None);
            }
        }
        match state {
            None => {
                self.names.remove(&full);
                update.names.insert(full, None);
            }
            Some((backends, is_renamed)) => {
                let key = if *is_renamed {
                    renamed
                } else {
                    port(service_name)
                };
                let mut plan = plan(&format!("10.96.0.{service}"), backends);
                let way = |kind: &FrontendKind| Frontend {
                    kind: *kind,
                    address: match kind {
                        FrontendKind::ClusterIp => address(&format!("10.96.0.{service}")),
                        FrontendKind::NodePort => address("0.0.0.0"),
                        // Now and then one that is a ClusterIP otherwise.
                        FrontendKind::ExternalIp => address(&format!("10.96.0.{service}")),
                        FrontendKind::LoadBalancer => address(&format!("192.0.2.{service}")),
                    },
                    port: match kind {
                        FrontendKind::NodePort => 30_000 + *service as u16,
                        _ => 80,
                    },
                };
                plan.frontends = kinds.iter().map(way).collect();
                let range = |bits: &u8| IpNet::new([10, 0, 0, 0].into(), *bits).unwrap();
                plan.source_ranges = ranges.iter().map(range).collect();
                update.ports.insert(key.clone(), Some(plan.clone()));
                self.ports.insert(key, plan);
                let addresses: Vec<String> = (0..*addresses)
                    .map(|last| format!("10.2.0.{last}"))
                    .collect();
                let entry = entry(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
                update.names.insert(full.clone(), Some(entry.clone()));
                self.names.insert(full, entry);
            }
        }
        update
    }

    fn whole(&self) -> Update {
        let some = |(name, plan): (&PortName, &PortPlan)| (name.clone(), Some(plan.clone()));
        Update {
            ports: self.ports.iter().map(some).collect(),
            names: self
                .names
                .iter()
                .map(|(n, e)| (n.clone(), Some(e.clone())))
                .collect(),
            serial: 7,
            ..Update::default()
        }
    }

    /// What the same state looks like in maps of its own. The name hash's keys are those of `like`.
    fn canonical(&self, like: &Model) -> BTreeSet<String> {
        let mut maps = like.empty();
        let mut differ = open(&mut maps);
        apply(&mut differ, &mut maps, &self.whole());
        maps.canonical()
    }
}

/// The names that are there now and after a step: their A records must never be denied.
fn constant(
    maps: &Model,
    before: &Wanted,
    after: &Wanted,
) -> BTreeSet<(signpost_common::name::NameKey, u16)> {
    let both = before
        .names
        .keys()
        .filter(|name| after.names.contains_key(*name));
    both.map(|name| (maps.hash(name), qtype::A)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn after_any_changes_the_maps_are_those_of_a_fresh_start(
        steps in vec((step(), any::<bool>(), any::<bool>()), 1..12),
    ) {
        let mut maps = Model::default();
        let mut differ = open(&mut maps);
        let mut wanted = Wanted::default();
        apply(&mut differ, &mut maps, &wanted.whole());
        for (step, restarts, sweeps) in steps {
            let before = wanted.clone();
            let update = wanted.take(&step);
            maps.constant = constant(&maps, &before, &wanted);
            if restarts {
                differ = open(&mut maps);
                apply(&mut differ, &mut maps, &wanted.whole());
            } else {
                apply(&mut differ, &mut maps, &update);
            }
            if sweeps {
                sweep(&mut differ, &mut maps);
            }
        }
        sweep(&mut differ, &mut maps);
        prop_assert_eq!(maps.canonical(), wanted.canonical(&maps));
    }

    #[test]
    fn an_agent_that_is_killed_at_any_write_leaves_a_state_that_the_next_one_takes_over(
        steps in vec(step(), 1..4),
        last in step(),
        next in step(),
        lives in 0..40_usize,
    ) {
        let mut maps = Model::default();
        let mut differ = open(&mut maps);
        let mut wanted = Wanted::default();
        apply(&mut differ, &mut maps, &wanted.whole());
        for step in steps {
            apply(&mut differ, &mut maps, &wanted.take(&step));
        }
        let update = wanted.take(&last);
        maps.lives = Some(lives);
        let _ = differ.apply(&mut maps, &update);
        drop(differ);

        maps.lives = None;
        wanted.take(&next);
        let mut differ = open(&mut maps);
        apply(&mut differ, &mut maps, &wanted.whole());
        sweep(&mut differ, &mut maps);
        prop_assert_eq!(maps.canonical(), wanted.canonical(&maps));
    }

    #[test]
    fn full_maps_never_tear_anything_and_all_is_well_once_there_is_room(
        steps in vec((step(), 0..12_usize, 0..8_usize, 0..3_usize, 0..3_usize), 1..8),
    ) {
        use signpost_common::layout::map;
        let mut maps = Model::default();
        let mut differ = open(&mut maps);
        let mut wanted = Wanted::default();
        apply(&mut differ, &mut maps, &wanted.whole());
        for (step, slots, members, frontends, answers) in steps {
            maps.sizes = BTreeMap::from([
                (map::SLOTS, slots),
                (map::MEMBERS, members),
                (map::FRONTENDS, frontends),
                (map::ADDRESSES, frontends),
                (map::SOURCE_RANGES, frontends),
                (map::ANSWERS_SMALL, answers),
                (map::ANSWERS_LARGE, answers),
                (map::NAMES, answers),
            ]);
            differ.apply(&mut maps, &wanted.take(&step)).unwrap();
        }
        maps.sizes.clear();
        apply(&mut differ, &mut maps, &Update::default());
        prop_assert!(differ.may_deny());
        sweep(&mut differ, &mut maps);
        prop_assert_eq!(maps.canonical(), wanted.canonical(&maps));
    }
}
