//! What is served, in the state folder: operators' commands read it with the agent down. The kernel knows addresses only.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use signpost_common::count::ServiceCount;

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
    /// Connections by service port and endpoint.
    connections: BTreeMap<(usize, SocketAddr), u32>,
}

impl View {
    /// Reads both.
    ///
    /// # Errors
    /// Where no agent in IPVS mode has left anything, or the kernel cannot be asked.
    pub fn open(state_folder: &Path) -> anyhow::Result<Self> {
        let ports = read(state_folder)?;
        let servers = kernel()?
            .all()
            .context("the virtual servers cannot be listed")?;
        let owners = Owners::new(&ports);
        let mut connections = BTreeMap::new();
        for (key, server) in &servers {
            let Some(port) = owners.of(key) else {
                continue;
            };
            for (to, destination) in &server.destinations {
                *connections.entry((port, *to)).or_default() += destination.connections;
            }
        }
        Ok(Self {
            ports,
            servers,
            connections,
        })
    }

    /// Connections that the kernel remembers from the virtual servers of one of the ports to one of its endpoints.
    pub fn connections(&self, port: usize, to: SocketAddr) -> u32 {
        self.connections.get(&(port, to)).copied().unwrap_or(0)
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

/// What went through each service port, of those that the kernel has virtual servers for.
///
/// # Errors
/// As [`View::open`].
pub fn traffic(state_folder: &Path) -> anyhow::Result<Vec<(Port, ServiceCount)>> {
    let ports = read(state_folder)?;
    let owners = Owners::new(&ports);
    let mut counts = BTreeMap::<usize, Vec<ServiceCount>>::new();
    let counted = kernel()?
        .traffic()
        .context("the virtual servers cannot be listed")?;
    for (key, count) in counted {
        if let Some(port) = owners.of(&key) {
            counts.entry(port).or_default().push(count);
        }
    }
    let ports = ports.into_iter().enumerate();
    Ok(ports
        .filter_map(|(number, port)| Some((port, ServiceCount::sum(counts.get(&number)?))))
        .collect())
}

/// Which of some service ports a virtual server is of.
#[derive(Debug, Default)]
struct Owners {
    exact: BTreeMap<ServerKey, usize>,
    node_ports: BTreeMap<(Protocol, Family, u16), usize>,
}

impl Owners {
    fn new(ports: &[Port]) -> Self {
        let mut owners = Self::default();
        for (number, port) in ports.iter().enumerate() {
            for way in &port.frontends {
                match way {
                    Way::NodePort(at) => {
                        let key = (port.protocol, port.family, at.port());
                        owners.node_ports.insert(key, number);
                    }
                    Way::ClusterIp(at) | Way::External(at) => {
                        let key = ServerKey {
                            protocol: port.protocol,
                            address: at.ip(),
                            port: at.port(),
                        };
                        owners.exact.insert(key, number);
                    }
                }
            }
        }
        owners
    }

    /// A NodePort is at addresses that are nobody else's.
    fn of(&self, key: &ServerKey) -> Option<usize> {
        let node_port = (key.protocol, Family::of(key.address), key.port);
        let exact = self.exact.get(key);
        exact.or_else(|| self.node_ports.get(&node_port)).copied()
    }
}

fn read(state_folder: &Path) -> anyhow::Result<Vec<Port>> {
    let path = state_folder.join(FILE);
    let text = fs::read(&path).with_context(|| {
        format!(
            "{} cannot be read: did an agent run in IPVS mode?",
            path.display()
        )
    })?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not what an agent writes", path.display()))
}

fn kernel() -> anyhow::Result<Kernel> {
    Kernel::open().context("the kernel's virtual server cannot be asked")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn serving(frontends: Vec<Way>) -> Port {
        Port {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            port: String::new(),
            protocol: Protocol::Tcp,
            family: Family::V4,
            frontends,
            cluster: 0,
            local: 0,
            members: Vec::new(),
            internal_local: false,
            external_local: false,
            affinity_timeout: None,
            dns: false,
        }
    }

    #[test]
    fn a_virtual_server_is_of_whose_address_it_has_and_else_of_whose_node_port() {
        let ports = [
            serving(vec![
                Way::ClusterIp(at("10.96.0.1:80")),
                Way::NodePort(at("0.0.0.0:30080")),
            ]),
            serving(vec![Way::ClusterIp(at("10.96.0.2:30080"))]),
        ];
        let owners = Owners::new(&ports);
        let of = |protocol, address: &str| {
            let address = at(address);
            owners.of(&ServerKey {
                protocol,
                address: address.ip(),
                port: address.port(),
            })
        };
        for (address, expected) in [
            ("10.96.0.1:80", Some(0)),
            ("192.168.1.1:30080", Some(0)),
            ("10.96.0.2:30080", Some(1)),
            ("10.96.0.3:80", None),
            ("[fd00::1]:30080", None),
        ] {
            assert_eq!(of(Protocol::Tcp, address), expected, "{address}");
        }
        assert_eq!(of(Protocol::Udp, "192.168.1.1:30080"), None);
    }
}
