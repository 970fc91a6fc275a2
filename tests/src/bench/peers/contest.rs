//! The contestants: laboratories that are alike, each with another way to carry out Services, and one API server for all.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    bench::{
        connector::{Connector, exchange},
        objects::{Objects, with_node_port},
        scale,
        site::{DNS, FAR, NEAR, PORTS, Site, service, slice},
    },
    cluster::{control_plane::ControlPlane, kube_proxy::KubeProxy, relay::Relay, tools::Tools},
    lab::{Agent, Cni, Lab, Outside, links::Prefix, wait::until},
};

/// The Service whose endpoint changes.
pub(super) const MOVING: Ipv4Addr = Ipv4Addr::new(10, 96, 100, 3);

/// The NodePort of the Service whose endpoint is on the other node.
pub(super) const NODE_PORT: u16 = 30_080;

/// How long the slowest of them may take to carry out all Services.
const PATIENCE: Duration = Duration::from_secs(900);

/// Where pods have their addresses.
const PODS: &str = "10.244.0.0/16";

/// What carries out Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing does; connections go to pod IPs.
    Direct,
    Signpost,
    /// Signpost with all that makes it faster and is not for everybody: `--pod-sockets all`, `--fast-path`.
    Faster,
    Nftables,
    Iptables,
}

impl Way {
    pub(super) const ALL: [Self; 5] = [
        Self::Direct,
        Self::Signpost,
        Self::Faster,
        Self::Nftables,
        Self::Iptables,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Signpost => "signpost",
            Self::Faster => "signpost at sockets, fast path",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        }
    }
}

/// One laboratory, and the clients in it.
pub(super) struct Contestant {
    pub(super) way: Way,
    /// In a pod of the first node.
    pub(super) pod: Connector,
    /// On the first node itself.
    pub(super) host: Connector,
    /// On a machine that sends what is for a NodePort to the first node.
    pub(super) outside: Connector,
    proxies: Vec<KubeProxy>,
    pub(super) site: Site,
    _outside: Outside,
}

/// All of them.
pub(super) struct Contest {
    // In the order in which they end.
    pub(super) contestants: Vec<Contestant>,
    pub(super) objects: Objects,
    tools: Tools,
    services: u32,
    relays: Vec<Relay>,
    control_plane: ControlPlane,
}

impl Contest {
    /// Raises everything, with the few Services that are connected to.
    pub(super) fn up() -> Result<Self> {
        let tools = Tools::build()?;
        let mut labs = Vec::new();
        for _ in Way::ALL {
            labs.push(lab()?);
        }
        let node = labs[0].node("control-plane")?.clone();
        let control_plane = ControlPlane::without_controllers(&tools, labs[0].folder(), &node)?;
        let (admin, url) = control_plane.relay()?;
        let path = labs[0].folder().join("admin");
        control_plane.write_kubeconfig(&path, &url)?;
        let objects = Objects::new(&path)?;
        objects.write_nodes(&labs[0])?;
        objects.write_namespaces()?;

        let mut contest = Self {
            contestants: Vec::new(),
            objects,
            tools,
            services: 0,
            relays: vec![admin],
            control_plane,
        };
        for (index, (way, lab)) in Way::ALL.into_iter().zip(labs).enumerate() {
            let kubeconfig = if index == 0 {
                contest.write_kubeconfig(&lab)?
            } else {
                contest.connect(&lab)?
            };
            let contestant = Contestant::up(way, lab, &kubeconfig, &contest.tools)?;
            contest.contestants.push(contestant);
        }
        let site = &contest.contestants[0].site;
        let (near, far) = (site.near.v4(), site.far.v4());
        for (name, address, endpoint) in [
            ("near", NEAR, near),
            ("far", FAR, far),
            ("moving", MOVING, near),
        ] {
            let mut object = service("default", name, address, &PORTS);
            if name == "far" {
                object = with_node_port(object, NODE_PORT);
            }
            contest.objects.create(object, slice(name, endpoint))?;
        }
        Ok(contest)
    }

    /// Lets another laboratory reach the API server at the address that it has in the first one, and writes how.
    pub(super) fn connect(&mut self, lab: &Lab) -> Result<PathBuf> {
        self.relays.push(self.control_plane.relay_in(lab)?);
        self.write_kubeconfig(lab)
    }

    fn write_kubeconfig(&self, lab: &Lab) -> Result<PathBuf> {
        let path = lab.folder().join("kubeconfig");
        self.control_plane
            .write_kubeconfig(&path, &self.control_plane.url())?;
        Ok(path)
    }

    /// Makes it so many Services, and waits until all contestants carry them out.
    pub(super) fn grow(&mut self, services: u32) -> Result<()> {
        let first = SocketAddr::from((scale::service_ip(self.services), 80));
        let last = SocketAddr::from((scale::service_ip(services - 1), 80));
        self.fill_up(services)?;
        for contestant in &self.contestants {
            if contestant.way == Way::Direct {
                continue;
            }
            let pod = &contestant.site.clients[0];
            until("all Services", PATIENCE, || {
                pod.run(|| {
                    exchange(first)?;
                    exchange(last)
                })?
            })
            .with_context(|| {
                format!(
                    "{} does not carry out {services} Services",
                    contestant.way.name()
                )
            })?;
        }
        Ok(())
    }

    /// Makes it so many Services for whoever comes later.
    pub(super) fn fill_up(&mut self, services: u32) -> Result<()> {
        let near = self.contestants[0].site.near.v4();
        self.objects.create_many(self.services..services, near)?;
        self.services = self.services.max(services);
        Ok(())
    }

    /// Loads the rule of a CNI that masquerades what leaves the cluster, on all nodes, or takes it away.
    pub(super) fn masquerade(&self, on: bool) -> Result<()> {
        let rules = if on {
            format!(
                "table ip cni {{ chain leaves {{ type nat hook postrouting priority 100; \
                 ip saddr {PODS} ip daddr != {PODS} masquerade\n}}\n}}"
            )
        } else {
            "add table ip cni; delete table ip cni".to_owned()
        };
        for contestant in &self.contestants {
            for name in ["one", "two"] {
                let node = contestant.site.lab.node(name)?;
                node.command("nft")?.arg(&rules).text()?;
            }
        }
        Ok(())
    }

    /// Ends all contestants but the one whose laboratory has the API server.
    pub(super) fn leave_alone(&mut self) {
        self.contestants.truncate(1);
    }

    /// One of them.
    pub(super) fn of(&self, way: Way) -> Result<&Contestant> {
        let mut all = self.contestants.iter();
        all.find(|contestant| contestant.way == way)
            .with_context(|| format!("{} does not take part", way.name()))
    }

    /// Stops all peers where they are, or lets them go on.
    pub(super) fn suspend_peers(&self, suspended: bool) -> Result<()> {
        let signal = if suspended {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        for proxy in self.contestants.iter().flat_map(|one| &one.proxies) {
            proxy.signal(signal)?;
        }
        Ok(())
    }
}

impl Contestant {
    /// An address of its first node.
    pub(super) fn node_address(&self) -> IpAddr {
        self.site.clients[0].node().addresses()[0]
    }

    fn up(way: Way, lab: Lab, kubeconfig: &Path, tools: &Tools) -> Result<Self> {
        let mut site = Site::raise(lab)?;
        let outside = Outside::new(&site.lab, 100)?;
        let one = site.lab.node("one")?.clone();
        let two = site.lab.node("two")?.clone();
        let networks: [Prefix; 1] = [(IpAddr::V4(Ipv4Addr::new(10, 244, 0, 0)), 16)];
        // Only the direct connection from outside needs it.
        outside.route_over(&two, &networks)?;
        let mut proxies = Vec::new();
        for node in [&one, &two] {
            match way {
                Way::Direct => {}
                Way::Signpost => site.agents.push(agent(node, kubeconfig, &[])?),
                Way::Faster => {
                    let flags = ["--pod-sockets", "all", "--fast-path"];
                    site.agents.push(agent(node, kubeconfig, &flags)?);
                }
                Way::Nftables => proxies.push(proxy(tools, node, kubeconfig, "nftables")?),
                Way::Iptables => proxies.push(proxy(tools, node, kubeconfig, "iptables")?),
            }
        }
        Ok(Self {
            way,
            pod: Connector::start(|program| site.clients[0].command(program))?,
            host: Connector::start(|program| one.command(program))?,
            outside: Connector::start(|program| outside.command(program))?,
            proxies,
            site,
            _outside: outside,
        })
    }
}

/// A laboratory of two nodes, and one for the control plane.
pub(super) fn lab() -> Result<Lab> {
    Lab::builder()
        .node("control-plane", Cni::Routed)
        .node("one", Cni::Routed)
        .node("two", Cni::Routed)
        .start()
}

/// An agent of the API server.
pub(super) fn agent(node: &crate::lab::Node, kubeconfig: &Path, more: &[&str]) -> Result<Agent> {
    let dns = DNS.to_string();
    let flags = ["--cluster-cidr", PODS, "--dns-address", &dns];
    Agent::of_cluster(node, kubeconfig, &[&flags, more].concat())
}

/// kube-proxy with its default settings.
fn proxy(
    tools: &Tools,
    node: &crate::lab::Node,
    kubeconfig: &Path,
    mode: &str,
) -> Result<KubeProxy> {
    let settings = json!({
        "mode": mode,
        "clusterCIDR": PODS,
        "nftables": {"minSyncPeriod": "1s", "syncPeriod": "30s"},
        "iptables": {"minSyncPeriod": "1s", "syncPeriod": "30s"},
    });
    KubeProxy::start(tools, node, kubeconfig, &settings)
}
