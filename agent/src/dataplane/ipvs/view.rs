//! What is served, in the state folder: operators' commands read it with the agent down. The kernel knows addresses only.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{
    desired::Desired,
    kernel::Kernel,
    server::{KnownServer, ServerKey},
};
use crate::{
    model::{Family, Protocol},
    plan::{FrontendKind, PortName, PortPlan},
};

/// Name of the file in the state folder.
const FILE: &str = "ipvs.json";

/// A service port of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port, empty for an unnamed one.
    pub port: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The family.
    pub family: Family,
    /// Where clients send to; the address of a NodePort is the unspecified one.
    pub frontends: Vec<Way>,
    /// Endpoints in the cluster set.
    pub cluster: usize,
    /// Endpoints in the local set.
    pub local: usize,
    /// Every endpoint.
    pub members: Vec<Endpoint>,
    /// Clients inside the cluster use the local set.
    pub internal_local: bool,
    /// Clients outside the cluster use the local set.
    pub external_local: bool,
    /// Session affinity, in seconds.
    pub affinity_timeout: Option<u32>,
    /// It is the cluster's DNS.
    pub dns: bool,
}

/// A way to a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// The Service's own address.
    ClusterIp(SocketAddr),
    /// A port at the node's addresses.
    NodePort(SocketAddr),
    /// An external IP, or a load balancer's.
    External(SocketAddr),
}

/// An endpoint of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address and port.
    pub address: SocketAddr,
    /// New connections may go there.
    pub chosen: bool,
    /// Connections that are there may stay.
    pub serving: bool,
    /// It is on this node.
    pub local: bool,
}

/// What is served, and what the kernel has of it now.
#[derive(Debug)]
pub struct View {
    /// Service ports, ordered.
    pub ports: Vec<Port>,
    /// The virtual servers.
    servers: BTreeMap<ServerKey, KnownServer>,
}

impl View {
    /// Reads both.
    ///
    /// # Errors
    /// Where no agent in IPVS mode has left anything, or the kernel cannot be asked.
    pub fn open(state_folder: &Path) -> anyhow::Result<Self> {
        let path = state_folder.join(FILE);
        let text = fs::read(&path).with_context(|| {
            format!(
                "{} cannot be read: did an agent run in IPVS mode?",
                path.display()
            )
        })?;
        let ports = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what an agent writes", path.display()))?;
        let kernel = Kernel::open().context("the kernel's virtual server cannot be asked")?;
        let servers = kernel
            .all()
            .context("the virtual servers cannot be listed")?;
        Ok(Self { ports, servers })
    }

    /// Connections that the kernel remembers from a port's virtual servers to one of its endpoints.
    pub fn connections(&self, port: &Port, to: SocketAddr) -> u32 {
        let of_port = |key: &ServerKey| {
            key.protocol == port.protocol
                && port.frontends.iter().any(|way| match way {
                    Way::NodePort(at) => at.port() == key.port && same_family(at.ip(), key.address),
                    Way::ClusterIp(at) | Way::External(at) => {
                        *at == SocketAddr::new(key.address, key.port)
                    }
                })
        };
        let servers = self.servers.iter().filter(|(key, _)| of_port(key));
        servers
            .filter_map(|(_, server)| server.destinations.get(&to))
            .map(|destination| destination.connections)
            .sum()
    }

    /// All connections that the kernel remembers.
    pub fn all_connections(&self) -> u64 {
        let destinations = self.servers.values().flat_map(|s| s.destinations.values());
        destinations.map(|d| u64::from(d.connections)).sum()
    }

    /// How many virtual servers of signpost the kernel has.
    pub fn servers(&self) -> usize {
        self.servers.values().filter(|s| s.terms.is_ours()).count()
    }
}

/// Replaces the file.
///
/// # Errors
/// Where the folder cannot be written.
pub(super) fn write(state_folder: &Path, desired: &Desired) -> anyhow::Result<()> {
    let ports: Vec<Port> = desired.plans().iter().map(|(n, p)| port(n, p)).collect();
    let path = state_folder.join(FILE);
    let new = state_folder.join(format!("{FILE}.new"));
    fs::write(&new, serde_json::to_vec(&ports)?)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("{} cannot be written", path.display()))
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    Family::of(a) == Family::of(b)
}

fn port(name: &PortName, plan: &PortPlan) -> Port {
    let frontends = plan.frontends.iter().map(|frontend| {
        let at = SocketAddr::new(frontend.address, frontend.port);
        match frontend.kind {
            FrontendKind::ClusterIp => Way::ClusterIp(at),
            FrontendKind::NodePort => Way::NodePort(at),
            FrontendKind::ExternalIp | FrontendKind::LoadBalancer => Way::External(at),
        }
    });
    let members = plan.members.iter().map(|member| Endpoint {
        address: SocketAddr::new(member.address, member.port),
        chosen: member.chosen,
        serving: member.serving,
        local: member.local,
    });
    Port {
        namespace: name.service.namespace.to_string(),
        name: name.service.name.to_string(),
        port: name.port.to_string(),
        protocol: name.protocol,
        family: name.family,
        frontends: frontends.collect(),
        cluster: plan.cluster.len(),
        local: plan.local.len(),
        members: members.collect(),
        internal_local: plan.internal_local,
        external_local: plan.external_local,
        affinity_timeout: plan.affinity_timeout,
        dns: plan.dns,
    }
}
