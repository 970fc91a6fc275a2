//! A node: a namespace with an uplink, a way to give pods a network, and a cgroup.

use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use super::{
    Shared, WIRE, address,
    cgroup::Cgroup,
    links::{self, End, Prefix, add_addresses, add_route, alone, anywhere},
    namespace::{Namespace, Spec},
    offload,
    pod::{Pod, PodSpec},
    process::Command,
};

/// Name of a node's interface to the others.
pub const UPLINK: &str = "eth0";

/// How a node gives its pods a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cni {
    /// Each pod has one address, and a route of the node leads to it (Calico, ptp).
    Routed,
    /// Pods share a bridge, which is their gateway (kubenet, flannel).
    Bridged,
}

/// Name of the bridge of [`Cni::Bridged`].
pub(crate) const BRIDGE: &str = "cni0";

/// MTU of every interface, until changed.
pub(crate) const MTU: u32 = 1500;

/// A node. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    number: u8,
    cni: Cni,
    namespace: Arc<Namespace>,
    cgroup: Cgroup,
    pods: AtomicU8,
    shared: Arc<Shared>,
}

impl Node {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        name: &str,
        number: u8,
        cni: Cni,
    ) -> anyhow::Result<Self> {
        let namespace = Namespace::new(Spec::default())?;
        let node = Self(Arc::new(Inner {
            name: name.to_owned(),
            number,
            cni,
            namespace: Arc::new(namespace),
            cgroup: shared.workplace.cgroup.child(name)?,
            pods: AtomicU8::new(1),
            shared: Arc::clone(shared),
        }));
        node.connect()?;
        Ok(node)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How pods get their network.
    pub fn cni(&self) -> Cni {
        self.0.cni
    }

    /// The node's network.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.0.namespace
    }

    /// The node's cgroup: the root of what an agent on this node sees.
    pub fn cgroup(&self) -> &Cgroup {
        &self.0.cgroup
    }

    /// The node's addresses, IPv4 and IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        let last = 10 + self.0.number;
        [
            IpAddr::V4(Ipv4Addr::new(192, 168, 50, last)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, last.into())),
        ]
    }

    /// The networks that this node's pods have addresses of.
    pub fn pod_networks(&self) -> [Prefix; 2] {
        [(self.pod_v4(0), 24), (self.pod_v6(0), 64)]
    }

    /// The folder in bpffs that is this node's own.
    pub fn bpffs(&self) -> PathBuf {
        self.0.shared.workplace.bpffs.join(&self.0.name)
    }

    /// A folder for files that is this node's own. It may have to be made.
    pub fn folder(&self) -> PathBuf {
        self.0.shared.workplace.folder.join(&self.0.name)
    }

    /// Where the network namespaces of this node's pods are kept.
    pub fn netns_folder(&self) -> PathBuf {
        self.folder().join("netns")
    }

    /// The folder of manifests that agents watch.
    pub fn manifests(&self) -> PathBuf {
        self.0.shared.workplace.folder.join("manifests")
    }

    /// A program on the node itself.
    ///
    /// # Errors
    /// Where the node's cgroup is gone.
    pub fn command(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        Command::new(program, Arc::clone(&self.0.namespace), &self.0.cgroup)
    }

    /// Adds a pod in Kubernetes' namespace `default`.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        self.add(PodSpec::new("default", name))
    }

    /// Adds a pod.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn add(&self, spec: PodSpec) -> anyhow::Result<Pod> {
        Pod::new(self, spec)
    }

    /// Teaches this node where the other's pods are.
    pub(crate) fn add_route_to(&self, other: &Self) -> anyhow::Result<()> {
        for (network, gateway) in other.pod_networks().into_iter().zip(other.addresses()) {
            add_route(self.namespace(), network, Some(gateway), UPLINK)?;
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// A number for a new pod, and its addresses.
    pub(crate) fn next_pod(&self) -> (u8, [IpAddr; 2]) {
        let number = self.0.pods.fetch_add(1, Ordering::Relaxed) + 1;
        (number, [self.pod_v4(number), self.pod_v6(number)])
    }

    /// The bridge's addresses.
    pub(crate) fn gateways(&self) -> [IpAddr; 2] {
        [self.pod_v4(1), self.pod_v6(1)]
    }

    pub(crate) fn number(&self) -> u8 {
        self.0.number
    }

    fn pod_v4(&self, number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 244, self.0.number, number))
    }

    fn pod_v6(&self, number: u8) -> IpAddr {
        let node = self.0.number.into();
        IpAddr::V6(Ipv6Addr::new(
            0xfd00,
            0x244,
            node,
            0,
            0,
            0,
            0,
            number.into(),
        ))
    }

    fn connect(&self) -> anyhow::Result<()> {
        let Inner {
            namespace, shared, ..
        } = &*self.0;
        prepare(namespace)?;
        forward(namespace)?;
        let port = format!("node{}", self.0.number);
        let uplink = End {
            namespace,
            name: UPLINK,
            mac: None,
        };
        let other = End {
            namespace: &shared.wire,
            name: &port,
            mac: None,
        };
        links::veth(&uplink, &other, MTU)?;
        links::enslave(&shared.wire, &port, "wire")?;
        if !shared.offload {
            offload::switch_off(namespace, UPLINK)?;
            offload::switch_off(&shared.wire, &port)?;
        }
        let [v4, v6] = self.addresses();
        add_addresses(namespace, UPLINK, &[(v4, 24), (v6, 64)])?;
        for gateway in WIRE.map(address) {
            add_route(namespace, anywhere(gateway), Some(gateway), UPLINK)?;
        }
        for (network, gateway) in self.pod_networks().into_iter().zip(self.addresses()) {
            add_route(&shared.wire, network, Some(gateway), "wire")?;
        }
        if self.0.cni == Cni::Bridged {
            links::bridge(namespace, BRIDGE)?;
            if !shared.offload {
                offload::switch_off(namespace, BRIDGE)?;
            }
            let [v4, v6] = self.gateways();
            add_addresses(namespace, BRIDGE, &[(v4, 24), (v6, 64)])?;
        }
        Ok(())
    }
}

/// What every namespace needs: the loopback up, and IPv6 addresses that can be used at once.
pub(crate) fn prepare(namespace: &Namespace) -> anyhow::Result<()> {
    for scope in ["all", "default"] {
        namespace.sysctl(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
        namespace.sysctl(&format!("ipv6/conf/{scope}/accept_ra"), "0")?;
        namespace.sysctl(&format!("ipv6/conf/{scope}/router_solicitations"), "0")?;
    }
    links::up(namespace, "lo")
}

/// Makes a namespace a router. Packets must come in where answers to them would leave, as distributions have it.
pub(crate) fn forward(namespace: &Namespace) -> anyhow::Result<()> {
    namespace.sysctl("ipv4/ip_forward", "1")?;
    namespace.sysctl("ipv6/conf/all/forwarding", "1")?;
    for scope in ["all", "default"] {
        namespace.sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "1")?;
    }
    Ok(())
}

/// The pod's way to the world where it is routed.
pub(crate) fn route_pod(node: &Node, interface: &str, pod: &[IpAddr; 2]) -> anyhow::Result<()> {
    for address in pod {
        add_route(node.namespace(), alone(*address), None, interface)?;
    }
    Ok(())
}
