//! The real kube-proxy (nftables mode) and signpost side by side, in two laboratories that are alike, on the same objects
//! of one real API server: whoever asks for a Service must see the same in both.
//!
//! [`table`] has the scenarios. `SCENARIO=words cargo test … differential` runs those whose sentence has these words.
//! They need root, Go (which builds the API server and kube-proxy) and nft: `cargo xtask test differential`.

mod addresses;
mod api;
mod objects;
mod on_purpose;
mod place;
mod run;
mod scenario;
mod service;
mod sync;
mod table;
mod verdict;
mod world;

use std::time::Instant;

use anyhow::Result;

use world::Worlds;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn differential_signpost_shows_what_the_real_kube_proxy_shows() -> Result<()> {
    let mut scenarios = table::all();
    let words = std::env::var("SCENARIO");
    if let Ok(words) = &words {
        scenarios.retain(|scenario| scenario.name.contains(words));
    }
    let start = Instant::now();
    let mut worlds = Worlds::up()?;
    println!("up after {} s", start.elapsed().as_secs());
    let looks = run::all(&mut worlds, &scenarios)?;
    let verdict = verdict::on(&looks, words.is_err());
    println!(
        "{} scenarios after {} s",
        scenarios.len(),
        start.elapsed().as_secs()
    );
    match verdict {
        Ok(summary) => println!("{summary}"),
        Err(wrong) => panic!("{wrong}"),
    }
    Ok(())
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
