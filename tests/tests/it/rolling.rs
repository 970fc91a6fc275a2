//! All backends of a Service are replaced under load, again and again, while other Services change and an agent is
//! restarted.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use signpost_tests::lab::{Agent, LoadRun, Pod, wait};

use crate::small::{CNIS, PROGRAMMED, Small, answering};

/// A pod's name and addresses.
type Backend = (String, [IpAddr; 2]);

/// How often all backends are replaced.
const ROUNDS: usize = 4;
/// Backends at a time.
const BACKENDS: usize = 3;
/// Connections at a time: enough for 1,000 a second on a machine that does nothing else.
const CLIENTS: usize = 4;
/// Time between two changes of other Services: a hundred a second.
const CHURN: Duration = Duration::from_millis(10);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_connection_is_lost_or_misled_while_all_backends_are_replaced() -> anyhow::Result<()> {
    let mut small = Small::two(CNIS[0])?;
    let clients = [small.client("one", "near")?, small.client("two", "far")?];
    // Never an endpoint of this Service, though it listens at the same port.
    small.server("decoy", "one", "decoy")?;
    let mut now = backends(&mut small, 0)?;
    let vip = small.service("web")?;
    for client in &clients {
        answering(client, vip)?;
    }
    for agent in &small.agents {
        serves(agent, &now, &[])?;
    }
    let churn = Churn::start(small.lab.manifests())?;

    let (start, mut total) = (Instant::now(), 0);
    let mut load = started(&clients, vip.v4)?;
    for round in 1..=ROUNDS {
        if round % 2 == 0 {
            small.agents[0].kill();
        }
        let next = backends(&mut small, round)?;
        for (name, _) in &now {
            small.kubelet.terminate("default", name)?;
        }
        if round % 2 == 0 {
            small.agents[0].restart()?;
        }
        for agent in &small.agents {
            serves(agent, &next, &now)?;
        }
        // What connects from now on must not meet those that ended; what connected before may.
        let after = started(&clients, if round % 2 == 0 { vip.v4 } else { vip.v6 })?;
        let allowed: BTreeSet<String> = now.iter().chain(&next).map(answer).collect();
        for run in std::mem::replace(&mut load, after) {
            total += judged(run, &allowed).with_context(|| format!("round {round}"))?;
        }
        for (name, _) in std::mem::replace(&mut now, next) {
            small.kubelet.delete("default", &name)?;
        }
    }
    let time = start.elapsed().as_secs_f64();
    let allowed = now.iter().map(answer).collect();
    for run in load {
        total += judged(run, &allowed).context("after the last round")?;
    }
    let changes = churn.finish()?;
    let rate = |count: u64| count as f64 / time;
    println!(
        "{:.0} connections and {:.0} changes a second",
        rate(total),
        rate(changes)
    );
    ensure!(
        total > 0 && changes > 0,
        "{total} connections, {changes} changes"
    );
    Ok(())
}

/// How many connections there were, all of which succeeded, and at these backends.
fn judged(run: LoadRun, allowed: &BTreeSet<String>) -> anyhow::Result<u64> {
    let count = run.finish()?.remove("tcp").context("no counts")?;
    ensure!(count.failed.is_empty(), "{:?}", count.failed);
    let seen: BTreeSet<String> = count.answered.keys().cloned().collect();
    ensure!(seen.is_subset(allowed), "{seen:?} and not only {allowed:?}");
    Ok(count.successes())
}

fn started(clients: &[Pod], address: SocketAddr) -> anyhow::Result<Vec<LoadRun>> {
    let start = |client| LoadRun::patient(client, &address.to_string(), CLIENTS / 2);
    clients.iter().map(start).collect()
}

/// Pods of a generation, half of them on each node, with their addresses.
fn backends(small: &mut Small, round: usize) -> anyhow::Result<Vec<Backend>> {
    let one = |number: usize| {
        let name = format!("web-{round}-{number}");
        let pod = small.server("web", ["one", "two"][number % 2], &name)?;
        Ok((name, [pod.v4(), pod.v6()]))
    };
    (0..BACKENDS).map(one).collect()
}

fn answer((name, _): &Backend) -> String {
    format!("default/{name}")
}

/// Waits until new connections on an agent's node may go to all of `to`, and to none of `not`.
fn serves(agent: &Agent, to: &[Backend], not: &[Backend]) -> anyhow::Result<()> {
    wait::until("the change in the kernel", PROGRAMMED, || {
        let text = agent.command("backend list")?.args(["-o", "json"]).text()?;
        let rows: Vec<Value> = serde_json::from_str(&text)?;
        let chosen: BTreeSet<IpAddr> = rows
            .iter()
            .filter(|row| row["name"] == "web" && row["chosen"] == true)
            .filter_map(|row| row["backend"].as_str()?.parse::<SocketAddr>().ok())
            .map(|backend| backend.ip())
            .collect();
        let addresses = |backends: &[Backend]| backends.iter().flat_map(|(_, ips)| *ips).collect();
        let (to, not): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = (addresses(to), addresses(not));
        ensure!(
            to.is_subset(&chosen) && not.is_disjoint(&chosen),
            "{chosen:?}"
        );
        Ok(())
    })
}

/// Other Services and their endpoints, which change all the time.
struct Churn {
    stop: Arc<AtomicBool>,
    changes: Arc<AtomicU64>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Churn {
    fn start(folder: PathBuf) -> anyhow::Result<Self> {
        let (stop, changes) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ended, count) = (Arc::clone(&stop), Arc::clone(&changes));
        let thread = thread::Builder::new()
            .name("churn".to_owned())
            .spawn(move || {
                let mut number = 0_usize;
                while !ended.load(Ordering::Relaxed) {
                    write(&folder, number)?;
                    number += 1;
                    count.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(CHURN);
                }
                Ok(())
            })?;
        Ok(Self {
            stop,
            changes,
            thread,
        })
    }

    fn finish(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the churn panicked")??;
        Ok(self.changes.load(Ordering::Relaxed))
    }
}

/// One of twenty Services with other ports and endpoints than before.
fn write(folder: &std::path::Path, number: usize) -> anyhow::Result<()> {
    let (service, version) = (number % 20, number / 20);
    let name = format!("churn-{service}");
    let ports = json!([{"name": "main", "port": 1000 + version % 7}]);
    let endpoint = |n: usize| json!({"addresses": [format!("10.200.{}.{}", version % 5, n + 1)]});
    let manifests = [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": format!("10.96.2.{}", service + 1), "ports": ports},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{"name": "main", "port": 8080}],
            "endpoints": (0..version % 9).map(endpoint).collect::<Vec<_>>(),
        }),
    ];
    let text = manifests
        .map(|manifest| manifest.to_string())
        .join("\n---\n");
    let new = folder.join(format!("{name}.new"));
    fs::write(&new, text)?;
    fs::rename(&new, folder.join(format!("{name}.yaml")))?;
    Ok(())
}
