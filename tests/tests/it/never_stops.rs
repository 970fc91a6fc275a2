//! Names go on while a DNS server or the agent is away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use signpost_tests::lab::{Agent, Cni, Pod, Process, Upstream, dns, programs, wait::until};

use crate::small::{PROGRAMMED, Small};

/// Names that the kernel leaves to the server: one of the cluster, one of the world.
const NAMES: [&str; 2] = ["2001-db8--1.default.pod.cluster.local.", "www.example.com"];

/// A pod that resolves names with its own resolver, over and over.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u32>>,
}

impl Asking {
    fn start(client: &Pod) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, client) = (Arc::clone(&stop), client.clone());
        let thread = thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                for name in NAMES {
                    resolve(&client, name).with_context(|| format!("after {count} answers"))?;
                    count += 1;
                }
            }
            Ok(count)
        });
        Self { stop, thread }
    }

    /// Every look-up must have found something.
    fn finish(self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(count) => count,
            Err(_) => bail!("the look-ups broke down"),
        }
    }
}

fn resolve(client: &Pod, name: &str) -> Result<String> {
    let found = client
        .command(programs::lab_pod()?)?
        .args(["resolve", name])
        .text()?;
    ensure!(!found.is_empty(), "{name} has no address");
    Ok(found)
}

/// Starts a server in its pod, and waits until it answers.
fn serve(pod: &Pod, agent: &Agent) -> Result<Process> {
    let mut command = pod.command(programs::signpost()?)?;
    command
        .arg("dns")
        .arg("--run-folder")
        .arg(agent.run_folder())
        .args(["--lameduck", "2"])
        .unprivileged();
    let process = command.background(&pod.folder().join("dns.log"))?;
    dns::answers(pod, PROGRAMMED)?;
    Ok(process)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_look_up_fails_while_servers_restart_or_hang_and_the_agent_is_dead() -> Result<()> {
    let mut small = Small::two(Cni::Routed)?;
    let _upstream = Upstream::start(&small.lab)?;
    small.dns_service()?;
    let own = dns::start(&mut small.kubelet, &small.agents[0], "dns-one")?;
    let _other = dns::start(&mut small.kubelet, &small.agents[1], "dns-two")?;
    let client = small.client("one", "client")?;
    own.kill();
    let mut server = serve(&own, &small.agents[0])?;
    for name in NAMES {
        until(name, PROGRAMMED, || resolve(&client, name))
            .with_context(|| small.agents[0].log())?;
    }

    let asking = Asking::start(&client);
    for _ in 0..5 {
        // It says at once that it goes, and answers for a while longer.
        ensure!(server.terminate().success(), "{}", server.log());
        server = serve(&own, &small.agents[0])?;
    }
    let count = asking.finish().context("while a server restarted")?;
    println!("{count} look-ups over five restarts");

    // One that hangs says nothing; the next question of a resolver goes to the other node's.
    let asking = Asking::start(&client);
    server.signal(Signal::SIGSTOP)?;
    thread::sleep(Duration::from_secs(8));
    server.signal(Signal::SIGCONT)?;
    let count = asking.finish().context("while a server hung")?;
    println!("{count} look-ups beside a server that hung");

    let asking = Asking::start(&client);
    small.agents[0].kill();
    thread::sleep(Duration::from_secs(5));
    // Without its agent, a server goes on with what it knows.
    let count = asking.finish().context("without the agent")?;
    println!("{count} look-ups without the agent");
    let asking = Asking::start(&client);
    small.agents[0].restart()?;
    asking.finish().context("while the agent came back")?;
    Ok(())
}
