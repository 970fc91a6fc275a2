//! A pod: a namespace with one interface, a `resolv.conf` and programs.

use std::{
    ffi::OsStr,
    fs,
    net::IpAddr,
    os::unix::fs::symlink,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    address,
    links::{self, End, add_addresses, add_neighbour, add_route, alone, anywhere},
    namespace::{Namespace, Overlay, Spec},
    node::{self, BRIDGE, Cni, MTU, Node},
    offload,
    process::{Command, Process},
};

/// The gateway that Calico tells every pod, and its MAC address.
const GATEWAY: &str = "169.254.1.1";
const GATEWAY_V6: &str = "fe80::1";
const GATEWAY_MAC: [u8; 6] = [0xee; 6];

/// Where a pod's names come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The cluster's DNS, with the search list and `ndots:5`.
    ClusterFirst,
    /// The node's own name servers, which are these.
    Default(Vec<IpAddr>),
}

/// What a pod is to be like.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Its namespace in Kubernetes.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// It uses the node's own network.
    pub host_network: bool,
    /// Where its names come from.
    pub dns: DnsPolicy,
}

impl PodSpec {
    /// An ordinary pod.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            host_network: false,
            dns: DnsPolicy::ClusterFirst,
        }
    }

    /// One in the node's own network.
    #[must_use]
    pub const fn on_host_network(mut self) -> Self {
        self.host_network = true;
        self
    }
}

/// A pod. Clones are handles to the same one; it goes with the last of them.
#[derive(Clone, Debug)]
pub struct Pod(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spec: PodSpec,
    addresses: [IpAddr; 2],
    /// The host side of its veth pair.
    interface: Option<String>,
    processes: Mutex<Vec<Process>>,
    namespace: Arc<Namespace>,
    /// The file that keeps its network namespace, as a container runtime has one; none in the host's network.
    kept: Option<PathBuf>,
    node: Node,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(kept) = &self.kept {
            let _ = fs::remove_file(kept);
        }
    }
}

impl Pod {
    pub(crate) fn new(node: &Node, spec: PodSpec) -> anyhow::Result<Self> {
        let folder = node
            .folder()
            .join(format!("{}_{}", spec.namespace, spec.name));
        fs::create_dir_all(&folder)?;
        let overlays = overlays(&folder, node, &spec)?;
        let network_of = spec.host_network.then(|| &**node.namespace());
        let namespace = Namespace::new(Spec {
            network_of,
            host_name: Some(spec.name.clone()),
            overlays,
        })?;
        let mut interface = None;
        let mut kept = None;
        let mut addresses = node.addresses();
        if !spec.host_network {
            let number;
            (number, addresses) = node.next_pod();
            let name = match node.cni() {
                Cni::Routed => format!("cali{:02x}{number:02x}", node.number()),
                Cni::Bridged => format!("veth{:02x}{number:02x}", node.number()),
            };
            node::prepare(&namespace)?;
            // As containerd does: a pod's ports are its own.
            namespace.sysctl("ipv4/ip_unprivileged_port_start", "0")?;
            connect(node, &namespace, &name, &addresses)?;
            interface = Some(name);
            kept = Some(keep(node, &namespace, &spec)?);
        }
        Ok(Self(Arc::new(Inner {
            spec,
            addresses,
            interface,
            processes: Mutex::default(),
            namespace: Arc::new(namespace),
            kept,
            node: node.clone(),
        })))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// Its namespace in Kubernetes.
    pub fn kubernetes_namespace(&self) -> &str {
        &self.0.spec.namespace
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> IpAddr {
        self.0.addresses[0]
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> IpAddr {
        self.0.addresses[1]
    }

    /// Name of the interface on the node that leads to it; none in the host's network.
    pub fn interface(&self) -> Option<&str> {
        self.0.interface.as_deref()
    }

    /// Its namespaces.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.0.namespace
    }

    /// Its node.
    pub fn node(&self) -> &Node {
        &self.0.node
    }

    /// A folder of the host for the pod's files.
    pub fn folder(&self) -> PathBuf {
        let Inner { spec, node, .. } = &*self.0;
        let name = format!("{}_{}", spec.namespace, spec.name);
        node.folder().join(name)
    }

    /// A program inside.
    ///
    /// # Errors
    /// Where the node's cgroup is gone.
    pub fn command(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        let Inner {
            namespace, node, ..
        } = &*self.0;
        Command::new(program, Arc::clone(namespace), node.cgroup())
    }

    /// Runs a closure on a thread inside.
    ///
    /// # Errors
    /// Where the thread cannot enter.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        self.0.namespace.run(f)
    }

    /// Starts a program that runs as long as the pod.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(&self, command: &mut Command) -> anyhow::Result<()> {
        let process = command.background(&self.folder().join("log"))?;
        let processes = self.0.processes.lock();
        processes
            .unwrap_or_else(PoisonError::into_inner)
            .push(process);
        Ok(())
    }

    /// The processes of the programs that were started in it.
    pub fn processes(&self) -> Vec<u32> {
        let processes = self.0.processes.lock();
        let processes = processes.unwrap_or_else(PoisonError::into_inner);
        processes.iter().map(Process::id).collect()
    }

    /// Kills its programs, as when its node loses patience.
    pub fn kill(&self) {
        let processes = self.0.processes.lock();
        processes.unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What its programs have printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// Kills its programs and takes it off the network, whoever else holds a handle.
    ///
    /// # Errors
    /// Where its interface is gone already.
    pub fn remove(&self) -> anyhow::Result<()> {
        self.kill();
        match &self.0.interface {
            Some(interface) => links::remove(self.0.node.namespace(), interface),
            None => Ok(()),
        }
    }
}

/// Where a runtime has a mount of the namespace a link does: nothing stays mounted after a laboratory that crashed.
fn keep(node: &Node, namespace: &Namespace, spec: &PodSpec) -> anyhow::Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = node.netns_folder();
    fs::create_dir_all(&folder)?;
    let kept = folder.join(format!("cni-{}-{number}", spec.name));
    let process = std::process::id();
    symlink(format!("/proc/{process}/fd/{}", namespace.fd()), &kept)?;
    Ok(kept)
}

fn connect(
    node: &Node,
    pod: &Namespace,
    interface: &str,
    addresses: &[IpAddr; 2],
) -> anyhow::Result<()> {
    let routed = node.cni() == Cni::Routed;
    let host_side = End {
        namespace: node.namespace(),
        name: interface,
        mac: routed.then_some(GATEWAY_MAC),
    };
    let inside = End {
        namespace: pod,
        name: "eth0",
        mac: None,
    };
    links::veth(&host_side, &inside, MTU)?;
    if !node.shared().offload {
        offload::switch_off(node.namespace(), interface)?;
        offload::switch_off(pod, "eth0")?;
    }
    let [v4, v6] = *addresses;
    match node.cni() {
        Cni::Routed => {
            add_addresses(pod, "eth0", &[alone(v4), alone(v6)])?;
            let gateways = [address(GATEWAY), address(GATEWAY_V6)];
            add_addresses(node.namespace(), interface, &[(gateways[1], 64)])?;
            for gateway in gateways {
                add_neighbour(pod, "eth0", gateway, GATEWAY_MAC)?;
                add_route(pod, anywhere(gateway), Some(gateway), "eth0")?;
            }
            node::route_pod(node, interface, addresses)
        }
        Cni::Bridged => {
            links::enslave(node.namespace(), interface, BRIDGE)?;
            add_addresses(pod, "eth0", &[(v4, 24), (v6, 64)])?;
            for gateway in node.gateways() {
                add_route(pod, anywhere(gateway), Some(gateway), "eth0")?;
            }
            Ok(())
        }
    }
}

/// The files that the kubelet would give the pod.
fn overlays(folder: &std::path::Path, node: &Node, spec: &PodSpec) -> anyhow::Result<Vec<Overlay>> {
    let resolv_conf = match &spec.dns {
        DnsPolicy::ClusterFirst => {
            let mut text = nameservers(&node.shared().nameservers);
            let namespace = &spec.namespace;
            text.push_str(&format!(
                "search {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
            ));
            text
        }
        DnsPolicy::Default(addresses) => nameservers(addresses),
    };
    let hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    // The host's own may ask daemons that are not the pod's.
    let switch = "hosts: files dns\n".to_owned();
    let files = [
        ("resolv.conf", resolv_conf),
        ("hosts", hosts),
        ("nsswitch.conf", switch),
    ];
    let mut overlays = Vec::new();
    for (name, text) in files {
        let content = folder.join(name);
        fs::write(&content, text)?;
        let at = PathBuf::from("/etc").join(name);
        if at.exists() {
            overlays.push(Overlay { content, at });
        }
    }
    Ok(overlays)
}

fn nameservers(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(|address| format!("nameserver {address}\n"))
        .collect()
}
