//! Readiness probes.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use k8s_openapi::{
    api::core::v1::{Container, ContainerPort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::lab::Pod;

const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a container's readiness probe is content. One without a probe is ready when its TCP ports take
/// connections.
pub fn ready(pod: &Pod, container: &Container) -> bool {
    let probe = container.readiness_probe.as_ref();
    let Some(get) = probe.and_then(|probe| probe.http_get.as_ref()) else {
        return listens(pod, container);
    };
    let port = match &get.port {
        IntOrString::Int(port) => Some(*port),
        IntOrString::String(name) => ports(container)
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.container_port),
    };
    let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else {
        return false;
    };
    let address = SocketAddr::new(pod.v4(), port);
    let path = get.path.as_deref().unwrap_or("/");
    pod.node()
        .namespace()
        .run(|| status(address, path))
        .and_then(|status| status)
        .is_ok_and(|status| (200..400).contains(&status))
}

fn listens(pod: &Pod, container: &Container) -> bool {
    let addresses: Vec<_> = ports(container)
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .map(|port| SocketAddr::new(pod.v4(), port))
        .collect();
    let connect = || {
        addresses
            .iter()
            .all(|address| TcpStream::connect_timeout(address, PATIENCE).is_ok())
    };
    addresses.is_empty() || pod.node().namespace().run(connect).unwrap_or(false)
}

fn ports(container: &Container) -> impl Iterator<Item = &ContainerPort> {
    container.ports.iter().flatten()
}

/// The status code of a GET.
fn status(address: SocketAddr, path: &str) -> Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    let status = std::str::from_utf8(&answer)?.rsplit(' ').next();
    Ok(status.context("no status in the answer")?.parse()?)
}
