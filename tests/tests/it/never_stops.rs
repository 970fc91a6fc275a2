//! Names go on while a DNS server or the agent is away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use signpost_tests::lab::{Agent, Cni, Pod, Process, Upstream, dns, programs, wait::until};

use crate::small::{PROGRAMMED, Small};

/// Names that the kernel leaves to the server, of the cluster and of the world, and one that it answers itself.
const NAMES: [&str; 3] = [
    "world.default.svc.cluster.local.",
    "www.example.com",
    "kube-dns.kube-system.svc.cluster.local.",
];
/// So often a server and an agent are killed.
const RESTARTS: usize = 20;
/// What the servers say that are processes of their own.
const LOG: &str = "dns.log";
/// So long they are away.
const AWAY: Duration = Duration::from_secs(60);

/// A pod that resolves names with its own resolver, over and over.
struct Asking {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
    thread: JoinHandle<Result<u32>>,
}

impl Asking {
    fn start(client: &Pod) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU32::new(0));
        let (stopped, counted, client) = (Arc::clone(&stop), Arc::clone(&count), client.clone());
        let thread = thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                for name in NAMES {
                    resolve(&client, name).with_context(|| format!("after {count} answers"))?;
                    count += 1;
                    counted.store(count, Ordering::Relaxed);
                }
            }
            Ok(count)
        });
        Self {
            stop,
            count,
            thread,
        }
    }

    /// Waits for the end of the look-up that is under way. A server that is killed takes with it what it was asked, and
    /// resolvers ask twice: a look-up may meet one kill, and not another one when it asks again.
    fn pass(&self) -> Result<()> {
        let before = self.count.load(Ordering::Relaxed);
        until("the end of a look-up", PROGRAMMED, || {
            // Whether it has failed is said at the end.
            let ended = self.thread.is_finished();
            ensure!(ended || self.count.load(Ordering::Relaxed) > before + 1);
            Ok(())
        })
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

pub(crate) fn resolve(client: &Pod, name: &str) -> Result<String> {
    let found = client
        .command(programs::lab_pod()?)?
        .args(["resolve", name])
        .text()?;
    ensure!(!found.is_empty(), "{name} has no address");
    Ok(found)
}

/// Starts a server in its pod, and waits until it answers.
pub(crate) fn serve(pod: &Pod, agent: &Agent) -> Result<Process> {
    let mut command = pod.command(programs::signpost()?)?;
    command
        .arg("dns")
        .arg("--run-folder")
        .arg(agent.run_folder())
        .args(["--lameduck", "2"])
        .unprivileged();
    let process = command.background(&pod.folder().join(LOG))?;
    dns::answers(pod, PROGRAMMED)?;
    Ok(process)
}

/// Two nodes with a DNS server each; that of the first runs as a process of its own. The client is on the first.
pub(crate) struct World {
    client: Pod,
    pub(crate) server: Process,
    pub(crate) own: Pod,
    pub(crate) other: Pod,
    _upstream: Upstream,
    pub(crate) small: Small,
}

impl World {
    pub(crate) fn start() -> Result<Self> {
        let mut small = Small::two(Cni::Routed)?;
        let upstream = Upstream::start(&small.lab)?;
        small.dns_service()?;
        small.kubelet.write(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": "world"},
            "spec": {"type": "ExternalName", "externalName": "www.example.com"},
        }))?;
        let own = dns::start(&mut small.kubelet, &small.agents[0], "dns-one")?;
        let other = dns::start(&mut small.kubelet, &small.agents[1], "dns-two")?;
        let client = small.client("one", "client")?;
        own.kill();
        let server = serve(&own, &small.agents[0])?;
        let world = Self {
            client,
            server,
            own,
            other,
            _upstream: upstream,
            small,
        };
        for name in NAMES {
            until(name, PROGRAMMED, || resolve(&world.client, name))
                .with_context(|| world.small.agents[0].log())?;
        }
        Ok(world)
    }

    /// What was done when a look-up failed, and what the servers said meanwhile.
    fn said(&self, what: &str) -> String {
        let own = std::fs::read_to_string(self.own.folder().join(LOG)).unwrap_or_default();
        format!(
            "{what}\nown server:\n{own}\nother server:\n{}",
            self.other.log()
        )
    }

    /// No look-up may fail while something is done.
    fn asking(
        &mut self,
        what: &str,
        done: impl FnOnce(&mut Self, &Asking) -> Result<()>,
    ) -> Result<()> {
        let asking = Asking::start(&self.client);
        let done = done(self, &asking);
        let count = asking.finish().with_context(|| self.said(what))?;
        done?;
        println!("{count} look-ups {what}");
        Ok(())
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_look_up_fails_over_twenty_kills_of_the_server_nor_in_a_minute_without_it() -> Result<()> {
    let mut world = World::start()?;
    world.asking(
        "while the server was killed again and again",
        |world, asking| {
            for _ in 0..RESTARTS {
                world.server.kill();
                world.server = serve(&world.own, &world.small.agents[0])?;
                asking.pass()?;
            }
            Ok(())
        },
    )?;
    world.asking("in a minute without the server", |world, _| {
        world.server.kill();
        thread::sleep(AWAY);
        Ok(())
    })?;
    world.asking("in a minute in which the server hung", |world, _| {
        world.server = serve(&world.own, &world.small.agents[0])?;
        world.server.signal(Signal::SIGSTOP)?;
        thread::sleep(AWAY);
        world.server.signal(Signal::SIGCONT)
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_look_up_fails_over_twenty_kills_of_the_agent_nor_in_a_minute_without_it() -> Result<()> {
    let mut world = World::start()?;
    world.asking("while the agent was killed again and again", |world, _| {
        for _ in 0..RESTARTS {
            world.small.agents[0].restart()?;
        }
        Ok(())
    })?;
    world.asking("in a minute in which the agent hung", |world, _| {
        let id = world.small.agents[0].id().context("it runs")?;
        let agent = Pid::from_raw(id.try_into()?);
        kill(agent, Signal::SIGSTOP)?;
        thread::sleep(AWAY);
        Ok(kill(agent, Signal::SIGCONT)?)
    })?;
    world.asking("in a minute without the agent", |world, _| {
        world.small.agents[0].kill();
        thread::sleep(AWAY);
        // Its server does not need it, nor does that of the other node.
        world.server.kill();
        Ok(())
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_look_up_fails_while_servers_restart_or_hang_and_the_agent_is_dead() -> Result<()> {
    let world = World::start()?;
    let World {
        client,
        mut server,
        own,
        mut small,
        ..
    } = world;

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
