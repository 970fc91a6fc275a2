//! `signpost agent` on a node, as a real process.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::{
    node::Node,
    process::{Command, Process},
    programs, wait,
};

/// How long an agent may take until it is ready: minutes where the kernel that verifies its programs is emulated.
const PATIENCE: Duration = Duration::from_secs(240);

/// Port of `/readyz`.
const HEALTH: u16 = 10256;

/// An agent. Clones of its node may outlive it; the process ends when this is dropped.
#[derive(Debug)]
pub struct Agent {
    node: Node,
    flags: Vec<String>,
    process: Option<Process>,
}

/// A line of `signpost counters -o json`.
#[derive(Deserialize)]
struct Counter {
    cause: String,
    packets: u64,
}

impl Agent {
    /// Starts an agent on the laboratory's folder of manifests and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not become ready, with what it said.
    pub fn start(node: &Node) -> anyhow::Result<Self> {
        Self::with_flags(node, &[])
    }

    /// The same with more flags.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn with_flags(node: &Node, more: &[&str]) -> anyhow::Result<Self> {
        Self::of_folder(node, &node.manifests(), more)
    }

    /// The same on another folder of manifests.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn of_folder(node: &Node, manifests: &Path, more: &[&str]) -> anyhow::Result<Self> {
        let source = format!("files:{}", manifests.display());
        Self::run(node, &[&["--source", &source], more].concat())
    }

    /// Starts an agent of an API server and waits until it is ready.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn of_cluster(node: &Node, kubeconfig: &Path, more: &[&str]) -> anyhow::Result<Self> {
        let kubeconfig = kubeconfig.to_str().context("a path that is text")?;
        let flags = ["--source", "kube", "--kubeconfig", kubeconfig];
        Self::run(node, &[&flags, more].concat())
    }

    /// With flags beside those that say where it keeps its state.
    fn run(node: &Node, flags: &[&str]) -> anyhow::Result<Self> {
        fs::create_dir_all(run_folder(node))?;
        let mut agent = Self {
            node: node.clone(),
            flags: flags.iter().copied().map(str::to_owned).collect(),
            process: None,
        };
        agent.restart()?;
        Ok(agent)
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Asks it to end.
    pub fn terminate(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.terminate();
        }
    }

    /// Starts it, anew where it runs, and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not become ready, with what it said.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let mut command = self.command("agent")?;
        command
            .args(["--node-name", self.node.name()])
            .args(["--service-range", "10.96.0.0/12,fd00:96::/112"])
            .args(["--dns-user", "65534"])
            .arg("--run-folder")
            .arg(run_folder(&self.node))
            .arg("--netns-folders")
            .arg(self.node.netns_folder())
            .args(&self.flags);
        if !self.flags.iter().any(|flag| flag == "--cgroup-root") {
            command.arg("--cgroup-root").arg(self.node.cgroup().path());
        }
        self.process = Some(command.background(&self.log_file())?);
        self.wait_ready()
            .with_context(|| format!("the agent said:\n{}", self.log()))
    }

    /// A command of the same instance: `signpost VERB --bpffs-root … --state-folder …`.
    ///
    /// # Errors
    /// Where there is no such binary.
    pub fn command(&self, verb: &str) -> anyhow::Result<Command> {
        let mut command = self.node.command(programs::signpost()?)?;
        command
            .args(verb.split(' '))
            .arg("--bpffs-root")
            .arg(self.node.bpffs())
            .arg("--state-folder")
            .arg(self.node.folder().join("state"));
        Ok(command)
    }

    /// How it carries Services, as `signpost status` has it: `ebpf` or `ipvs`.
    ///
    /// # Errors
    /// Where it does not say so.
    pub fn mode(&self) -> anyhow::Result<String> {
        // The exit status is 1 where something needs attention.
        let said = self.command("status")?.args(["-o", "json"]).output()?;
        let status: serde_json::Value = serde_json::from_slice(&said.stdout)?;
        let mode = status["agent"]["mode"].as_str();
        Ok(mode.context("no mode")?.to_owned())
    }

    /// What the programs have counted, by cause.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn counters(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let text = self.command("counters")?.args(["-o", "json"]).text()?;
        let counters: Vec<Counter> = serde_json::from_str(&text)?;
        let pair = |counter: Counter| (counter.cause, counter.packets);
        Ok(counters.into_iter().map(pair).collect())
    }

    /// One counter.
    ///
    /// # Errors
    /// Where the maps cannot be read or there is no such cause.
    pub fn counter(&self, cause: &str) -> anyhow::Result<u64> {
        let counters = self.counters()?;
        let counter = counters.get(cause);
        counter
            .copied()
            .with_context(|| format!("no cause {cause}"))
    }

    /// What it has logged, over all restarts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The node that it serves.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// The folder with the socket for `signpost dns`.
    pub fn run_folder(&self) -> PathBuf {
        run_folder(&self.node)
    }

    fn log_file(&self) -> PathBuf {
        self.node.folder().join("agent.log")
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let namespace = self.node.namespace().clone();
        let process = &mut self.process;
        let mut ended = false;
        wait::until("readiness", PATIENCE, || {
            if ended || !process.as_mut().is_some_and(Process::is_running) {
                ended = true;
                return Ok(Err(anyhow::anyhow!("the agent has ended")));
            }
            namespace.run(|| fetch(HEALTH, "/readyz"))??;
            Ok(Ok(()))
        })?
    }
}

fn run_folder(node: &Node) -> PathBuf {
    node.folder().join("run")
}

/// Gets a page of an HTTP server on the loopback address.
///
/// # Errors
/// Where the server is not there or its status is not 200.
pub fn fetch(port: u16, path: &str) -> anyhow::Result<String> {
    let answer = fetch_all(SocketAddr::from(([127, 0, 0, 1], port)), path)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.contains(" 200 "), "{path}: {answer}");
    Ok(body.to_owned())
}

/// Gets head and body of what an HTTP server answers, whatever the status.
///
/// # Errors
/// Where the server is not there or slow.
pub fn fetch_all(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
