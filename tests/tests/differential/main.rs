//! The real kube-proxy (nftables mode) and signpost side by side, in two laboratories that are alike, on the same objects
//! of one real API server: whoever asks for a Service must see the same in both.
//!
//! [`table`] has the scenarios. `SCENARIO=words cargo test … differential` runs those whose sentence has these words.
//! They need root, Go (which builds the API server and kube-proxy) and nft: `cargo xtask test differential`.
//!
//! In IPVS mode the same scenarios run in a virtual machine, `cargo xtask vm --suite differential`, without kube-proxy:
//! what that shows the scenarios say, and [`record`] for those which only say that signpost shows the same. The run beside
//! kube-proxy looks after that record.

mod addresses;
mod api;
mod lists;
mod objects;
mod on_purpose;
mod place;
mod record;
mod run;
mod scenario;
mod service;
mod sync;
mod table;
mod verdict;
mod witness;
mod world;

use std::time::Instant;

use anyhow::Result;
use signpost_tests::lab::programs;

use record::Record;
use scenario::Scenario;
use world::{Mode, Worlds};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn differential_signpost_shows_what_the_real_kube_proxy_shows() -> Result<()> {
    let chosen = Chosen::of_table();
    let start = Instant::now();
    let mut worlds = Worlds::beside_kube_proxy()?;
    println!("up after {} s", start.elapsed().as_secs());
    let looks = run::all(&mut worlds, &chosen.scenarios)?;
    let record = Record::of(&looks);
    if std::env::var_os("RECORD").is_some() && chosen.are_all {
        record.keep()?;
    } else {
        let differs = record.differs_from(&Record::kept()?);
        assert!(differs.is_empty(), "set RECORD to write it anew\n{differs}");
    }
    chosen.judge(Mode::Ebpf, &looks, start)
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite differential"]
fn signpost_in_ipvs_mode_shows_what_kube_proxy_shows() -> Result<()> {
    if programs::obstacle_to_ipvs().is_some() {
        return Ok(());
    }
    let chosen = Chosen::of_table();
    let start = Instant::now();
    let mut worlds = Worlds::in_ipvs_mode()?;
    println!("up after {} s", start.elapsed().as_secs());
    let looks = run::all(&mut worlds, &chosen.scenarios)?;
    chosen.judge(Mode::Ipvs, &looks, start)
}

/// The scenarios that are run.
struct Chosen {
    scenarios: Vec<Scenario>,
    are_all: bool,
}

impl Chosen {
    fn of_table() -> Self {
        let mut scenarios = table::all();
        let words = std::env::var("SCENARIO");
        if let Ok(words) = &words {
            scenarios.retain(|scenario| scenario.name.contains(words));
        }
        Self {
            scenarios,
            are_all: words.is_err(),
        }
    }

    fn judge(&self, mode: Mode, looks: &[run::Look<'_>], start: Instant) -> Result<()> {
        let verdict = verdict::on(mode, looks, self.are_all);
        println!(
            "{} scenarios after {} s",
            self.scenarios.len(),
            start.elapsed().as_secs()
        );
        match verdict {
            Ok(summary) => println!("{summary}"),
            Err(wrong) => panic!("{wrong}"),
        }
        Ok(())
    }
}

#[test]
fn every_scenario_has_a_sentence_of_its_own_and_looks_at_something() {
    let mut names = std::collections::BTreeSet::new();
    let scenarios = table::all();
    for scenario in &scenarios {
        assert!(names.insert(&scenario.name), "twice: {}", scenario.name);
        for step in &scenario.steps {
            assert!(!step.cases.is_empty(), "{} looks at nothing", scenario.name);
        }
    }
}
