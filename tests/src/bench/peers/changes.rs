//! How long a changed EndpointSlice takes to show in new connections, counted from the moment that a watcher which has
//! nothing to do with the contestants saw the change.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};

use super::contest::{Contest, Contestant, MOVING, Way};
use crate::bench::{
    connector::exchange,
    figure::{Figure, Reach},
    objects,
    progress::Progress,
    site::{FAR_SAYS, NEAR_SAYS, slice},
    statistics::{Estimate, tail},
};

/// Changes that signpost is measured with, alone.
const TRIES: usize = 500;
/// Changes that all contestants are measured with; they take the peers seconds.
const TRIES_OF_ALL: usize = 15;
/// Between two other changes.
const OTHER_CHANGE: Duration = Duration::from_millis(100);
/// Between two connections.
const BREATH: Duration = Duration::from_micros(300);
/// How long the slowest may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// When the watcher saw the endpoint's address.
struct Seen {
    address: String,
    at: Instant,
}

/// Measures it, with so many Services.
pub(super) fn run(contest: &Contest, services: u32) -> Result<Vec<Figure>> {
    let progress = Progress::new("changes", TRIES + TRIES_OF_ALL);
    let all = [Way::Signpost, Way::Nftables, Way::Iptables];
    let [_, nftables, iptables] = series(contest, services, all, TRIES_OF_ALL, &progress)?;
    contest.suspend_peers(true)?;
    let alone = series(contest, services, [Way::Signpost], TRIES, &progress);
    contest.suspend_peers(false)?;
    let [signpost] = alone?;

    let what = format!("{services} Services, 10 other changes a second: EndpointSlice to effect");
    let figure = |what: String, measured, reach, samples: &[f64]| Figure {
        suite: "peers".to_owned(),
        what,
        unit: "ms".to_owned(),
        measured,
        against: None,
        reach,
        samples: samples.to_vec(),
    };
    let reach = Some(Reach::AtMost(5.0));
    Ok(vec![
        figure(
            format!("{what}, p99: signpost"),
            tail(&signpost),
            reach,
            &signpost,
        ),
        figure(
            format!("{what}, median: signpost"),
            Estimate::of(&signpost),
            None,
            &signpost,
        ),
        figure(
            format!("{what}, median: kube-proxy nftables"),
            Estimate::of(&nftables),
            None,
            &nftables,
        ),
        figure(
            format!("{what}, median: kube-proxy iptables"),
            Estimate::of(&iptables),
            None,
            &iptables,
        ),
    ])
}

/// Moves the Service so many times, and returns for each of the ways how many milliseconds each change took.
fn series<const N: usize>(
    contest: &Contest,
    services: u32,
    ways: [Way; N],
    tries: usize,
    progress: &Progress,
) -> Result<[Vec<f64>; N]> {
    let site = &contest.contestants[0].site;
    let sides = [(site.far.v4(), FAR_SAYS), (site.near.v4(), NEAR_SAYS)];
    let (sender, seen) = mpsc::channel();
    let watching = contest.objects.runtime().spawn(watch(
        Api::namespaced(contest.objects.client.clone(), "default"),
        sender,
    ));
    let going_on = Arc::new(AtomicBool::new(true));
    let mut took = [const { Vec::new() }; N];
    let result = thread::scope(|scope| {
        let others = scope.spawn(|| other_changes(contest, services, &going_on));
        let moves = (0..tries).try_for_each(|index| {
            let (address, says) = sides[index % 2];
            let times = one_move(contest, ways, &address.to_string(), says, &seen)?;
            for (all, time) in took.iter_mut().zip(times) {
                all.push(time);
            }
            progress.step();
            anyhow::Ok(())
        });
        going_on.store(false, Ordering::Relaxed);
        moves.and(
            others
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    watching.abort();
    // The next series begins with the same side again.
    contest
        .objects
        .runtime()
        .block_on(contest.objects.replace_slice(slice("moving", sides[1].0)))?;
    result?;
    for way in ways {
        arrives(contest.of(way)?, NEAR_SAYS)?;
    }
    Ok(took)
}

/// Moves the Service to an address, and returns for each of the ways how many milliseconds that took.
fn one_move<const N: usize>(
    contest: &Contest,
    ways: [Way; N],
    address: &str,
    says: u8,
    seen: &mpsc::Receiver<Seen>,
) -> Result<[f64; N]> {
    let contestants = ways.map(|way| contest.of(way));
    thread::scope(|scope| {
        let running = contestants.map(|contestant| {
            scope.spawn(move || {
                let contestant = contestant?;
                arrives(contestant, says)
                    .with_context(|| format!("{} does not follow", contestant.way.name()))
            })
        });
        let object = slice("moving", address.parse()?);
        contest
            .objects
            .runtime()
            .block_on(contest.objects.replace_slice(object))?;
        let at = loop {
            let event = seen
                .recv_timeout(PATIENCE)
                .context("the watcher sees nothing")?;
            if event.address == address {
                break event.at;
            }
        };
        let mut times = [0.0; N];
        for (time, thread) in times.iter_mut().zip(running) {
            let arrived: Instant = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            // A contestant may well be told before the watcher.
            *time = arrived.saturating_duration_since(at).as_secs_f64() * 1e3;
        }
        Ok(times)
    })
}

/// Connects until that server answers; returns when that connection began.
fn arrives(contestant: &Contestant, says: u8) -> Result<Instant> {
    let begin = Instant::now();
    contestant.site.clients[1].run(|| {
        loop {
            let at = Instant::now();
            if exchange(SocketAddr::from((MOVING, 80)))? == says {
                return Ok(at);
            }
            ensure!(begin.elapsed() < PATIENCE, "nothing changes");
            thread::sleep(BREATH);
        }
    })?
}

/// Changes other EndpointSlices all the time.
fn other_changes(contest: &Contest, services: u32, going_on: &AtomicBool) -> Result<()> {
    let site = &contest.contestants[0].site;
    let sides = [site.far.v4(), site.near.v4()];
    for change in 0_u32.. {
        if !going_on.load(Ordering::Relaxed) {
            break;
        }
        // Each of a hundred goes there and back.
        let number = change / 2 % 100.min(services);
        let object = objects::slice(number, &[sides[change as usize % 2]]);
        contest
            .objects
            .runtime()
            .block_on(contest.objects.replace_slice(object))?;
        thread::sleep(OTHER_CHANGE);
    }
    Ok(())
}

async fn watch(slices: Api<EndpointSlice>, seen: mpsc::Sender<Seen>) {
    let only = watcher::Config::default().fields("metadata.name=moving-1");
    let mut events = pin!(watcher(slices, only).applied_objects());
    while let Some(event) = events.next().await {
        let at = Instant::now();
        let address = event.ok().and_then(|slice| {
            let endpoint = slice.endpoints.into_iter().next()?;
            endpoint.addresses.into_iter().next()
        });
        if let Some(address) = address
            && seen.send(Seen { address, at }).is_err()
        {
            return;
        }
    }
}
