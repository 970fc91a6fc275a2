//! Knowing that all providers have seen everything that was written before.
//!
//! A Service that is always there gets a port more, then its EndpointSlices do. Watches keep the order of each kind, so
//! whoever answers on the new port has seen all Services and slices that were written before. A provider may still be
//! busy with what follows from them, such as forgetting UDP flows; so the same is done once more.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use signpost_tests::lab::{
    probe::{Protocol, Question, Seen},
    wait::slowness,
};

use crate::{
    addresses::Slot,
    objects::{self, Objects},
    place::{Backend, Client, Family, Node},
    service::{Port, cluster_ip, ready},
    world::Worlds,
};

/// How long a provider may take to follow, on processors that are not emulated.
const PATIENCE: Duration = Duration::from_secs(60);

/// The Service that shows how far the providers are.
#[derive(Default)]
pub(crate) struct Marker {
    rounds: u16,
    there: Objects,
}

impl Marker {
    /// Returns when all providers have carried out what was written.
    pub(crate) fn wait(&mut self, worlds: &mut Worlds) -> Result<()> {
        for _ in 0..2 {
            self.round(worlds)?;
        }
        Ok(())
    }

    fn round(&mut self, worlds: &mut Worlds) -> Result<()> {
        self.rounds += 1;
        let port = 1000 + self.rounds;
        let service = cluster_ip()
            .ports(&[Port::tcp(79), Port::tcp(port)])
            .slice([ready(Backend::A1)]);
        let slot = Slot::new(0, "s");
        let wanted = objects::of(&service, "marker", slot);
        worlds.store.change(&self.there, &wanted)?;
        self.there = wanted;

        let of_family = |family: Family| Question {
            protocol: Protocol::Tcp,
            to: (family.of(slot.cluster_ips()), port).into(),
            times: 1,
            over: None,
        };
        let questions: BTreeMap<_, _> = Node::WITH_PROXY
            .map(|node| (Client::Pod(node), Family::BOTH.map(of_family).to_vec()))
            .into();
        let deadline = Instant::now() + PATIENCE * slowness();
        for world in &mut worlds.worlds {
            loop {
                let sights = world.ask(&questions)?;
                let mut all = sights.values().flatten().flatten();
                if all.all(|seen| matches!(seen, Seen::Answer { .. })) {
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "{:?} does not follow: {sights:?}",
                    world.provider
                );
            }
        }
        Ok(())
    }
}

/// Says where a provider is stuck.
pub(crate) fn with_logs<T>(worlds: &Worlds, result: Result<T>) -> Result<T> {
    result.with_context(|| {
        let mut text = String::new();
        for world in &worlds.worlds {
            let log = world.log();
            let lines: Vec<_> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(20)..].join("\n");
            text.push_str(&format!("{:?} said:\n{end}\n", world.provider));
        }
        text
    })
}
