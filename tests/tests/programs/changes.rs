//! Objects change in any way and order. After each change the maps are those of a fresh start on the same objects, and
//! what a program does with a new connection is what kube-proxy's rules say.
//!
//! The run is the same every time. `PROPTEST_RNG_SEED=NUMBER` and `PROPTEST_CASES=NUMBER` make it another one.

mod chance;
mod manifests;
mod node;
mod objects;
mod probes;
mod reference;
mod tables;

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    test_runner::{RngSeed, TestRunner},
};

use crate::{machine::Machine, world::World};
use chance::changes;
use node::Node;
use objects::{Change, Objects};
use probes::Prober;
use reference::{Options, Reference};
use tables::{Maps, canonical};

const SEED: u64 = 20_260_511;

/// Makes every change of a case, and looks at the node after each.
fn live(options: Options, bursts: &[Vec<Change>], machine: Machine) -> Result<(), TestCaseError> {
    let mut objects = Objects::default();
    let mut node = Node::start(Maps::default(), options, &objects);
    let mut prober = Prober::new(machine);
    for burst in bursts {
        let mut waited = 0;
        for change in burst {
            match change {
                Change::Wait(seconds) => waited += seconds,
                Change::Restart => node = Node::start(node.into_maps(), options, &objects),
                Change::Relist => node.take_in(objects.listed()),
                change => node.take_in(objects.make(change)),
            }
        }
        node.update();
        let reference = Reference::new(&objects, options);
        prober.after(node.maps(), waited);
        prober.look(&reference)?;

        node.sweep();
        let fresh = Node::start(node.maps().empty(), options, &objects);
        let (is, must): (BTreeSet<_>, BTreeSet<_>) =
            (canonical(node.maps()), canonical(fresh.maps()));
        let too_many: Vec<_> = is.difference(&must).collect();
        let missing: Vec<_> = must.difference(&is).collect();
        prop_assert!(
            too_many.is_empty() && missing.is_empty(),
            "against a fresh start there are {too_many:#?} and not {missing:#?}"
        );
    }
    Ok(())
}

fn run(cases: u32, machine: fn() -> Machine) {
    let mut config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(SEED);
    }
    if let Some(cases) = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
    {
        config.cases = cases;
    }
    println!("{:?}, {} cases", config.rng_seed, config.cases);
    let result = TestRunner::new(config).run(
        &(
            reference::options(),
            prop::collection::vec(changes(), 1..10),
        ),
        |(options, bursts)| live(options, &bursts, machine()),
    );
    if let Err(failed) = result {
        panic!("{failed}");
    }
}

#[test]
fn after_any_changes_every_connection_goes_where_kube_proxy_sends_it() {
    run(96, || Machine::host(World::new()));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn after_any_changes_the_kernel_sends_every_connection_where_kube_proxy_does() {
    run(8, || Machine::kernel(World::new()));
}
