//! Servers behind pods.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{pod::Pod, programs};

/// Starts a server in the pod, which answers on TCP and UDP with the pod's name, and waits until it listens.
///
/// # Errors
/// Where it does not listen in time, with what it said.
pub fn serve(pod: &Pod, ports: &[u16]) -> anyhow::Result<()> {
    serve_as(pod, pod.name(), ports)
}

/// Starts a server that answers with this name.
///
/// # Errors
/// Where it does not listen in time, with what it said.
pub fn serve_as(pod: &Pod, name: &str, ports: &[u16]) -> anyhow::Result<()> {
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    let mut server = pod.command(programs::lab_pod()?)?;
    server.args(["serve", "--name", name, "--ports", &ports.join(",")]);
    server.args(["--addresses", &format!("{},{}", pod.v4(), pod.v6())]);
    pod.start(&mut server)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let listens = format!("{name} listens");
    while !pod.log().contains(&listens) {
        ensure!(Instant::now() < deadline, "no server: {}", pod.log());
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
