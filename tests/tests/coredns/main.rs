//! The real CoreDNS with kubeadm's Corefile and signpost side by side, over one real API server with generated objects:
//! whoever asks must get the same answer from both.
//!
//! Each question is put to CoreDNS, to `signpost dns` and to the cluster's DNS address, where the kernel answers what it
//! can. [`answer`] says what it means that answers are the same, [`on_purpose`] lists what is not. `SEED=n` gives other
//! clusters and other questions.
//! It needs root and Go, which builds the API server and CoreDNS: `cargo xtask test coredns`.

mod answer;
mod api;
mod ask;
mod cluster;
mod configured;
mod objects;
mod on_purpose;
mod question;
mod questions;
mod site;
mod verdict;

use std::time::Instant;

use anyhow::{Result, ensure};
use rand::{SeedableRng as _, rngs::StdRng};

use cluster::Cluster;
use questions::Questions;
use site::Site;
use verdict::Verdict;

/// Clusters that follow each other.
const ROUNDS: usize = 3;
/// Questions for each cluster.
const QUESTIONS: usize = 8_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn signpost_answers_as_the_real_coredns_does() -> Result<()> {
    let seed = std::env::var("SEED").map_or(Ok(1), |seed| seed.parse())?;
    let mut random = StdRng::seed_from_u64(seed);
    let start = Instant::now();
    let mut site = Site::up()?;
    println!("seed {seed}; up after {} s", start.elapsed().as_secs());
    let mut verdict = Verdict::default();
    for round in 0..ROUNDS {
        let cluster = Cluster::generate(&mut random, round);
        site.become_cluster(&cluster)?;
        let written = start.elapsed();
        let questions = Questions::about(&cluster, &mut random, QUESTIONS);
        site.put(&questions.over_udp, &questions.over_tcp, &mut verdict)?;
        println!(
            "round {}: followed after {} s, {} questions answered after {} s",
            round + 1,
            written.as_secs(),
            questions.over_udp.len() + questions.over_tcp.len(),
            start.elapsed().as_secs()
        );
    }
    println!("{}", verdict.summary());
    verdict.check()?;
    ensure!(verdict.pairs() >= 20_000, "{} pairs", verdict.pairs());
    Ok(())
}
