//! The laboratory of the demo: one node, the example's pods, a name server in the world outside.

use std::{collections::BTreeMap, path::Path, process::Output};

use anyhow::Context as _;
use signpost_tests::lab::{Agent, Cni, Kubelet, Lab, Pod, PodSpec, Upstream, dns, programs, wait};
use std::time::Duration;

use crate::interrupt;

/// How often a Service is asked to see where its traffic goes.
pub(crate) const TIMES: usize = 20;

/// Everything that the story is about. Fields are dropped in their order.
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) dns: Pod,
    /// The pod `jump` in `dev`.
    pub(crate) jump: Pod,
    /// A pod in `default`.
    pub(crate) tools: Pod,
    pub(crate) kubelet: Kubelet,
    pub(crate) upstream: Upstream,
    pub(crate) lab: Lab,
    /// Services are carried by programs, and not by the kernel's virtual server.
    pub(crate) by_programs: bool,
}

impl Stage {
    /// Raises everything and waits until the example's Services answer.
    pub(crate) fn raise(examples: &Path) -> anyhow::Result<Self> {
        let lab = Lab::builder().node("demo", Cni::Routed).start()?;
        let upstream = Upstream::start(&lab)?;
        let mut kubelet = Kubelet::new(&lab);
        kubelet.apply_folder(examples)?;
        let node = lab.node("demo")?;
        let agent = Agent::start(node)?;
        let dns = dns::start(&mut kubelet, &agent, "signpost-dns")?;
        let jump = kubelet.pod("dev", "jump")?.clone();
        let tools = node.add(PodSpec::new("default", "tools"))?;
        let by_programs = agent.mode()? == "ebpf";
        let stage = Self {
            agent,
            dns,
            jump,
            tools,
            kubelet,
            upstream,
            lab,
            by_programs,
        };
        for name in ["ent", "ent.prod"] {
            wait::until(name, Duration::from_secs(10), || stage.visit(name, 1))?;
        }
        Ok(stage)
    }

    /// Connects from `jump` to a name, over and over, and counts who answers.
    pub(crate) fn visit(&self, name: &str, times: usize) -> anyhow::Result<BTreeMap<String, u64>> {
        let text = self
            .jump
            .command(programs::lab_pod()?)?
            .args(["get", &format!("{name}:8080")])
            .args(["--times", &times.to_string()])
            .text()?;
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        Ok(counts)
    }

    /// Runs a program in a pod.
    pub(crate) fn run(&self, pod: &Pod, line: &str) -> anyhow::Result<Output> {
        let mut words = line.split(' ');
        let program = words.next().context("no program")?;
        pod.command(program)?.args(words).output()
    }

    /// A shell in `jump`.
    pub(crate) fn shell(&self) -> anyhow::Result<()> {
        println!("\na shell in pod jump of namespace dev; `exit` goes on");
        let mut shell = self.jump.command("bash")?;
        shell
            .args(["--norc", "-i"])
            .env("PS1", "jump $ ")
            .interactive();
        interrupt::left_to(|| shell.status())?;
        Ok(())
    }

    /// Says how a person comes into the laboratory from another terminal.
    pub(crate) fn tell_how_to_enter(&self) -> anyhow::Result<()> {
        println!("\nfrom another terminal, as root:");
        println!("   in jump:   {} bash", self.jump.namespace().nsenter());
        let node = self.agent.node();
        println!("   on the node: {} bash", node.namespace().nsenter());
        println!("   manifests: {}", node.manifests().display());
        println!(
            "   commands:  {} status --bpffs-root {} --state-folder {}",
            programs::signpost()?.display(),
            node.bpffs().display(),
            node.folder().join("state").display()
        );
        Ok(())
    }
}
