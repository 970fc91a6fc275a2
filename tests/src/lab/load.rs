//! Load from inside a pod, in a process of its own, so that real resolvers are part of it.

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::SocketAddr,
    process::{Child, ChildStdin},
};

use anyhow::Context as _;

use super::{Command, client::Load, pod::Pod, programs, wait::slowness};

/// Milliseconds that an attempt may take where processors are not emulated: less than until a SYN that was lost is sent again.
const PATIENCE: u32 = 900;

/// Connections, and perhaps datagrams, that go on until [`LoadRun::finish`].
#[derive(Debug)]
pub struct LoadRun {
    child: Child,
    /// The load ends when this is closed.
    input: Option<ChildStdin>,
}

impl LoadRun {
    /// Resolves and connects to `target` (`NAME:PORT`) from the pod, over and over; sends datagrams from one socket to
    /// `udp` meanwhile.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(pod: &Pod, target: &str, udp: Option<SocketAddr>) -> anyhow::Result<Self> {
        let mut flags = vec![format!("--patience={}", PATIENCE * slowness())];
        flags.extend(udp.map(|address| format!("--udp={address}")));
        Self::with_flags(pod.command(programs::lab_pod()?)?, target, &flags)
    }

    /// By a program of anywhere, which is `lab-pod`; its connections are as patient as those of [`LoadRun::patient`], and
    /// leave the machine some time between them.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn patient_of(command: Command, target: SocketAddr) -> anyhow::Result<Self> {
        let flags = [
            "--patience=60000".to_owned(),
            "--pause=3".to_owned(),
            format!("--udp={target}"),
        ];
        Self::with_flags(command, &target.to_string(), &flags)
    }

    /// The same without datagrams, with several clients at a time that are as patient as TCP is: a connection fails when
    /// it is refused or broken, however slow the machine is.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn patient(pod: &Pod, target: &str, clients: usize) -> anyhow::Result<Self> {
        let flags = [
            format!("--clients={clients}"),
            "--patience=60000".to_owned(),
        ];
        Self::with_flags(pod.command(programs::lab_pod()?)?, target, &flags)
    }

    fn with_flags(mut command: Command, target: &str, flags: &[String]) -> anyhow::Result<Self> {
        command.args(["load", target]).args(flags);
        let mut child = command.piped()?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// Ends it and gives the counts of `tcp` and `udp`.
    ///
    /// # Errors
    /// Where it ended by itself.
    pub fn finish(mut self) -> anyhow::Result<BTreeMap<String, Load>> {
        drop(self.input.take());
        let mut text = String::new();
        let mut output = self.child.stdout.take().context("no pipe")?;
        output.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        serde_json::from_str(&text).with_context(|| format!("the load ended: {status}: {text}"))
    }
}

impl Drop for LoadRun {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
