//! Two laboratories that are alike, one with kube-proxy and one with signpost on its nodes, and one API server for both;
//! or, where there is no kube-proxy, one with signpost alone.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use signpost_tests::{
    cluster::{
        control_plane::ControlPlane, kube_proxy::KubeProxy, node::ClusterNode, relay::Relay,
        tools::Tools,
    },
    lab::{
        Agent, CLUSTER_CIDR, Cni, Lab, Outside, Pod, PodSpec,
        links::Prefix,
        namespace::Namespace,
        probe::{Prober, Question, Sight},
        programs,
        wait::until,
    },
};

use crate::{
    api::{Server, Store},
    lists::lists,
    place::{BACKEND_PORTS, Backend, Client, Node, THE_WORLD, WORLD_NUMBER, outside_number},
};

/// Ports of Services, which the world listens on for what no node takes.
const PORTS_OF_THE_WORLD: &str = "80,81,82";

/// What carries out Services in a laboratory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Provider {
    KubeProxy,
    Signpost,
}

/// How signpost carries Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Beside kube-proxy and a real API server.
    Ebpf,
    /// Alone, on a kernel that has IPVS: in a virtual machine, whose emulated processor is for nothing else.
    Ipvs,
}

/// The laboratories.
pub(crate) struct Worlds {
    pub(crate) mode: Mode,
    // In the order in which they end.
    pub(crate) worlds: Vec<World>,
    pub(crate) store: Box<dyn Store>,
    _relays: Vec<Relay>,
    _control_plane: Option<ControlPlane>,
}

/// A laboratory with its provider.
pub(crate) struct World {
    pub(crate) provider: Provider,
    probers: BTreeMap<Client, Prober>,
    proxies: Vec<Proxy>,
    _servers: Vec<signpost_tests::lab::Process>,
    _pods: Vec<Pod>,
    _outsides: Vec<Outside>,
    lab: Lab,
}

/// Who carries out Services on a node.
pub(crate) enum Proxy {
    KubeProxy(KubeProxy),
    Signpost(Agent),
}

impl Worlds {
    /// Raises everything, and waits until both providers are up on the nodes that have one.
    pub(crate) fn beside_kube_proxy() -> Result<Self> {
        let tools = Tools::build()?;
        let labs = [lab()?, lab()?];
        let control_node = labs[0].node("control-plane")?.clone();
        let control_plane =
            ControlPlane::without_controllers(&tools, labs[0].folder(), &control_node)?;
        let (admin, url) = control_plane.relay()?;
        let other = control_plane.relay_in(&labs[1])?;

        let write = |lab: &Lab, url: &str| -> Result<PathBuf> {
            let path = lab.folder().join("kubeconfig");
            control_plane.write_kubeconfig(&path, url)?;
            Ok(path)
        };
        let server = {
            let path = write(&labs[0], &url)?;
            Server::new(&path)?
        };
        server.make_namespace()?;
        for node in Node::ALL {
            let node = ClusterNode::new(labs[0].node(node.name())?.clone(), node.zone())?;
            server.write_node(&node.object(), &node.status())?;
        }
        let [first, second] = labs;
        let paths = [
            write(&first, &control_plane.url())?,
            write(&second, &control_plane.url())?,
        ];
        let (of_kube_proxy, of_signpost) = thread::scope(|scope| {
            let one = scope.spawn(|| {
                World::up(Provider::KubeProxy, first, |place| {
                    let settings = json!({"clusterCIDR": CLUSTER_CIDR});
                    KubeProxy::start(&tools, place, &paths[0], &settings).map(Proxy::KubeProxy)
                })
            });
            let other = World::up(Provider::Signpost, second, |place| {
                agent(place, &paths[1], &[])
            });
            (one.join().expect("no panic"), other)
        });
        Ok(Self {
            mode: Mode::Ebpf,
            worlds: vec![of_kube_proxy?, of_signpost?],
            store: Box::new(server),
            _relays: vec![admin, other],
            _control_plane: Some(control_plane),
        })
    }

    /// Raises signpost alone, in IPVS mode.
    pub(crate) fn in_ipvs_mode() -> Result<Self> {
        let lab = lab()?;
        let lists = lists(&lab)?;
        let world = World::up(Provider::Signpost, lab, |place| {
            agent(place, &lists.listen(place)?, &["--mode", "ipvs"])
        })?;
        Ok(Self {
            mode: Mode::Ipvs,
            worlds: vec![world],
            store: Box::new(lists),
            _relays: Vec::new(),
            _control_plane: None,
        })
    }

    /// The nodes of the last laboratory that have a proxy.
    pub(crate) fn nodes(&self) -> Result<Vec<(Node, signpost_tests::lab::Node)>> {
        let world = self.worlds.last().context("no laboratory")?;
        let nodes = Node::WITH_PROXY.into_iter();
        nodes
            .map(|node| Ok((node, world.lab.node(node.name())?.clone())))
            .collect()
    }
}

fn agent(place: &signpost_tests::lab::Node, kubeconfig: &Path, more: &[&str]) -> Result<Proxy> {
    let flags = [&["--cluster-cidr", CLUSTER_CIDR], more].concat();
    Agent::of_cluster(place, kubeconfig, &flags).map(Proxy::Signpost)
}

fn lab() -> Result<Lab> {
    let mut builder = Lab::builder().node("control-plane", Cni::Routed);
    for node in Node::ALL {
        builder = builder.node(node.name(), node.cni());
    }
    builder.start()
}

impl World {
    fn up(
        provider: Provider,
        lab: Lab,
        start: impl Fn(&signpost_tests::lab::Node) -> Result<Proxy>,
    ) -> Result<Self> {
        let mut it = Self {
            provider,
            probers: BTreeMap::new(),
            proxies: Vec::new(),
            _servers: Vec::new(),
            _pods: Vec::new(),
            _outsides: Vec::new(),
            lab,
        };
        for node in Node::ALL {
            let namespace = it.lab.node(node.name())?.namespace();
            never_hold_icmp_back(namespace)?;
            remember_datagrams(namespace)?;
        }
        it.start_pods()?;
        it.start_hosts()?;
        it.start_outside()?;
        for node in Node::WITH_PROXY {
            let proxy = start(it.lab.node(node.name())?)?;
            it.proxies.push(proxy);
        }
        Ok(it)
    }

    /// Puts questions from several places at the same time.
    pub(crate) fn ask(
        &mut self,
        questions: &BTreeMap<Client, Vec<Question>>,
    ) -> Result<BTreeMap<Client, Vec<Sight>>> {
        thread::scope(|scope| {
            let mut running = Vec::new();
            for (client, prober) in &mut self.probers {
                let Some(questions) = questions.get(client) else {
                    continue;
                };
                running.push((*client, scope.spawn(|| prober.ask(questions))));
            }
            ensure!(
                running.len() == questions.len(),
                "a client without a prober"
            );
            let results = running.into_iter().map(|(client, thread)| {
                let sights = thread.join().expect("no panic");
                Ok((client, sights.with_context(|| format!("{client:?}"))?))
            });
            results.collect()
        })
    }

    /// What the proxies have logged, for when one of them does not follow.
    pub(crate) fn log(&self) -> String {
        let logs = self.proxies.iter().map(|proxy| match proxy {
            Proxy::KubeProxy(proxy) => proxy.log(),
            Proxy::Signpost(agent) => agent.log(),
        });
        logs.collect()
    }

    fn start_pods(&mut self) -> Result<()> {
        for backend in Backend::PODS {
            let pod = self.pod(backend.node(), backend.name(), backend.addresses())?;
            let mut server = pod.command(programs::lab_pod()?)?;
            server.args(["report", "--name", backend.name(), "--ports", &ports()]);
            pod.start(&mut server)?;
            wait_for(backend.name(), || pod.log())?;
            self.add_prober(Client::Inside(backend), |program| pod.command(program))?;
            self._pods.push(pod);
        }
        for node in Node::WITH_PROXY {
            let client = Client::Pod(node);
            let pod = self.pod(node, "client", client.addresses())?;
            self.add_prober(client, |program| pod.command(program))?;
            self._pods.push(pod);
        }
        Ok(())
    }

    fn pod(&self, node: Node, name: &str, addresses: [IpAddr; 2]) -> Result<Pod> {
        let pod = self
            .lab
            .node(node.name())?
            .add(PodSpec::new("default", name))?;
        never_hold_icmp_back(pod.namespace())?;
        ensure!(
            [pod.v4(), pod.v6()] == addresses,
            "{name} of {node:?} has not the addresses that scenarios name"
        );
        Ok(pod)
    }

    fn start_hosts(&mut self) -> Result<()> {
        for backend in Backend::ON_HOSTS {
            let node = self.lab.node(backend.node().name())?.clone();
            let log = node.folder().join(format!("{}.log", backend.name()));
            let server = node
                .command(programs::lab_pod()?)?
                .args(["report", "--name", backend.name(), "--ports", &ports()])
                .background(&log)?;
            wait_for(backend.name(), || server.log())?;
            self._servers.push(server);
            self.add_prober(Client::Host(backend.node()), |program| {
                node.command(program)
            })?;
        }
        Ok(())
    }

    fn start_outside(&mut self) -> Result<()> {
        let of_services = networks(&[
            "10.96.0.0/12",
            "fd96::/112",
            "198.18.0.0/15",
            "2001:db8:18::/48",
            "2001:db8:19::/48",
        ])?;
        for node in Node::WITH_PROXY {
            let client = Outside::new(&self.lab, outside_number(node))?;
            client.route_over(self.lab.node(node.name())?, &of_services)?;
            self.add_prober(Client::Outside(node), |program| client.command(program))?;
            self._outsides.push(client);
        }
        let world = Outside::new(&self.lab, WORLD_NUMBER)?;
        world.stand_in_for(&self.lab, &of_services)?;
        world.namespace().sysctl("ipv6/ip_nonlocal_bind", "1")?;
        let server = world
            .command(programs::lab_pod()?)?
            .args(["report", "--name", THE_WORLD, "--ports", PORTS_OF_THE_WORLD])
            .background(&self.lab.folder().join("world.log"))?;
        wait_for(THE_WORLD, || server.log())?;
        self._servers.push(server);
        self._outsides.push(world);
        Ok(())
    }

    fn add_prober(
        &mut self,
        client: Client,
        place: impl FnOnce(PathBuf) -> Result<signpost_tests::lab::Command>,
    ) -> Result<()> {
        self.probers.insert(client, Prober::start(place)?);
        Ok(())
    }
}

/// Hundreds of attempts at a time are refused here: none of them may look like a silent one.
fn never_hold_icmp_back(namespace: &Namespace) -> Result<()> {
    namespace.sysctl("ipv4/icmp_ratemask", "0")?;
    namespace.sysctl("ipv6/icmp/ratemask", "\n")?;
    namespace.sysctl("ipv6/icmp/ratelimit", "0")
}

/// kube-proxy's UDP flows are entries of connection tracking, which forgets them after half a minute: on a slow machine
/// between two looks.
fn remember_datagrams(namespace: &Namespace) -> Result<()> {
    for name in [
        "nf_conntrack_udp_timeout",
        "nf_conntrack_udp_timeout_stream",
    ] {
        namespace.sysctl(&format!("netfilter/{name}"), "3600")?;
    }
    Ok(())
}

fn networks(texts: &[&str]) -> Result<Vec<Prefix>> {
    texts
        .iter()
        .map(|text| {
            let (address, length) = text.split_once('/').context("no length")?;
            Ok((address.parse()?, length.parse()?))
        })
        .collect()
}

fn ports() -> String {
    BACKEND_PORTS.map(|port| port.to_string()).join(",")
}

fn wait_for(name: &str, log: impl Fn() -> String) -> Result<()> {
    until(name, std::time::Duration::from_secs(10), || {
        ensure!(log().contains("listens"), "it said {}", log());
        Ok(())
    })
}
