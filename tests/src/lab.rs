//! The laboratory: nodes, pods and wires out of network namespaces and veth pairs, with real programs in them.
//!
//! ```text
//!   pod ── veth ── node one ── eth0 ┐
//!   pod ── veth ──                  ├── wire (a bridge; beyond it the world, 192.0.2.0/24)
//!   pod ── veth ── node two ── eth0 ┘
//! ```
//! A node gives its pods addresses of 10.244.N.0/24 and fd00:244:N::/64, either routed (each pod has one address and a
//! route through its own interface, as with Calico and ptp) or bridged (as with kubenet and flannel).
//! Nothing of it touches the network of the host, and nothing of it outlives the process for longer than its folders.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;

pub mod agent;
pub mod capture;
pub mod cgroup;
pub mod client;
pub mod dns;
pub mod kubelet;
pub mod links;
pub mod load;
pub mod namespace;
pub mod node;
pub mod offload;
pub mod outside;
pub mod pod;
pub mod probe;
pub mod process;
pub mod programs;
pub mod raw;
pub mod server;
pub mod sockets;
pub mod upstream;
pub mod wait;
pub mod workplace;

pub use agent::Agent;
pub use kubelet::Kubelet;
pub use load::LoadRun;
pub use node::{Cni, Node};
pub use outside::Outside;
pub use pod::{DnsPolicy, Pod, PodSpec};
pub use process::{Command, Process};
pub use server::{serve, serve_as};
pub use sockets::Sockets;
pub use upstream::Upstream;

use links::{Prefix, add_addresses, bridge};
use namespace::{Namespace, Spec};
use workplace::Workplace;

/// Addresses of the wire, where the nodes' default routes lead.
pub const WIRE: [&str; 2] = ["192.168.50.1", "fd00:50::1"];

/// Addresses in the world beyond the wire, where a name server may listen.
pub const WORLD: [&str; 2] = ["192.0.2.53", "2001:db8::53"];

/// The pods' networks of all nodes, as flags and configurations name them.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16,fd00:244::/32";

/// The cluster DNS address that pods are told.
pub const DNS: &str = "10.96.0.10";

/// What a laboratory is to be like.
#[derive(Clone, Debug)]
pub struct Builder {
    nodes: Vec<(String, Cni)>,
    offload: bool,
    nameservers: Vec<IpAddr>,
}

impl Builder {
    /// Adds a node.
    #[must_use]
    pub fn node(mut self, name: &str, cni: Cni) -> Self {
        self.nodes.push((name.to_owned(), cni));
        self
    }

    /// Switches transmit offload of all interfaces off: every packet is finished wherever one looks at it.
    #[must_use]
    pub const fn without_offload(mut self) -> Self {
        self.offload = false;
        self
    }

    /// The name servers in the pods' `resolv.conf`, instead of [`DNS`].
    #[must_use]
    pub fn nameservers(mut self, addresses: &[IpAddr]) -> Self {
        self.nameservers = addresses.to_vec();
        self
    }

    /// Raises it.
    ///
    /// # Errors
    /// Without root, or where the kernel lacks something; says what.
    pub fn start(self) -> anyhow::Result<Lab> {
        let workplace = Workplace::new()?;
        std::fs::create_dir(workplace.folder.join("manifests"))?;
        let wire = Namespace::new(Spec::default())?;
        make_wire(&wire)?;
        if !self.offload {
            offload::switch_off(&wire, "wire")?;
        }
        let shared = Arc::new(Shared {
            workplace,
            wire: Arc::new(wire),
            offload: self.offload,
            nameservers: self.nameservers,
        });
        let mut lab = Lab {
            nodes: Vec::new(),
            shared,
        };
        for (name, cni) in &self.nodes {
            lab.add_node(name, *cni)?;
        }
        Ok(lab)
    }
}

/// What all nodes of a laboratory have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) workplace: Workplace,
    pub(crate) wire: Arc<Namespace>,
    pub(crate) offload: bool,
    pub(crate) nameservers: Vec<IpAddr>,
}

/// A laboratory. Everything in it ends when the last handle to it or to one of its parts is dropped.
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<Node>,
    shared: Arc<Shared>,
}

impl Lab {
    /// Describes a laboratory; [`Builder::start`] raises it.
    pub fn builder() -> Builder {
        Builder {
            nodes: Vec::new(),
            offload: true,
            nameservers: vec![address(DNS)],
        }
    }

    /// Adds a node, with routes to and from the others.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn add_node(&mut self, name: &str, cni: Cni) -> anyhow::Result<&Node> {
        let number = u8::try_from(self.nodes.len() + 1)?;
        let node = Node::new(&self.shared, name, number, cni)?;
        for other in &self.nodes {
            other.add_route_to(&node)?;
            node.add_route_to(other)?;
        }
        self.nodes.push(node);
        self.node(name)
    }

    /// The node with this name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn node(&self, name: &str) -> anyhow::Result<&Node> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|node| node.name() == name)
            .with_context(|| format!("the laboratory has no node {name}"))
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The namespace that joins the nodes, and the world beyond.
    pub fn wire(&self) -> &Arc<Namespace> {
        &self.shared.wire
    }

    /// A folder for files, which goes with the laboratory.
    pub fn folder(&self) -> &Path {
        &self.shared.workplace.folder
    }

    /// The folder of manifests that agents watch.
    pub fn manifests(&self) -> PathBuf {
        self.folder().join("manifests")
    }
}

/// An address that is written in the code.
pub(crate) fn address(text: &str) -> IpAddr {
    #[expect(clippy::expect_used, reason = "the texts are constants of this crate")]
    text.parse().expect("an address")
}

fn make_wire(wire: &Namespace) -> anyhow::Result<()> {
    node::prepare(wire)?;
    node::forward(wire)?;
    bridge(wire, "wire")?;
    let of_wire: Vec<Prefix> = WIRE
        .map(address)
        .map(|a| (a, if a.is_ipv4() { 24 } else { 64 }))
        .to_vec();
    add_addresses(wire, "wire", &of_wire)?;
    add_addresses(wire, "lo", &WORLD.map(address).map(links::alone))
}
