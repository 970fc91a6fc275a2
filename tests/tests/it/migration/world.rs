//! A node on which the real kube-proxy and signpost take turns, and everybody who talks through it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use signpost_tests::{
    cluster::{
        control_plane::ControlPlane, kube_proxy::KubeProxy, node::ClusterNode, tools::Tools,
    },
    lab::{
        Agent, CLUSTER_CIDR, Cni, Lab, LoadRun, Outside, Pod, PodSpec, Sockets,
        client::{Conversation, Load},
        programs, serve,
        wait::until,
    },
};

use crate::small::PATIENCE;

const CLUSTER_IPS: [&str; 2] = ["10.96.7.7", "fd96::77"];
const NODE_PORT: u16 = 30_080;

/// The laboratory.
pub(crate) struct World {
    pub(crate) agent: Option<Agent>,
    kube_proxy: Option<KubeProxy>,
    mode: &'static str,
    client: Pod,
    servers: Vec<Pod>,
    host: Sockets,
    outside: Outside,
    tools: Tools,
    kubeconfig: PathBuf,
    node: ClusterNode,
    _control_plane: ControlPlane,
    _lab: Lab,
}

/// A connection that stays open.
pub(crate) struct Open {
    by: String,
    conversation: Conversation,
}

/// Connections one after the other, and datagrams from one socket.
pub(crate) struct Loads(Vec<(String, LoadRun)>);

impl World {
    /// A cluster with a Service of both families that has a backend on the node and one elsewhere. Nobody proxies it
    /// yet; `mode` is the one that kube-proxy will have.
    pub(crate) fn up(mode: &'static str) -> Result<Self> {
        let tools = Tools::build()?;
        let lab = Lab::builder()
            .node("control-plane", Cni::Routed)
            .node("one", Cni::Routed)
            .node("two", Cni::Bridged)
            .start()?;
        let control_node = lab.node("control-plane")?.clone();
        let control_plane = ControlPlane::without_controllers(&tools, lab.folder(), &control_node)?;
        let path = lab.folder().join("kubeconfig");
        control_plane.write_kubeconfig(&path, &control_plane.url())?;
        let node = ClusterNode::new(lab.node("one")?.clone(), "zone-a")?;
        let mut servers = Vec::new();
        for place in ["one", "two"] {
            let server = lab.node(place)?.add(PodSpec::new("default", place))?;
            // Both proxies give clients ports of their own choice. One that meets the rest of an older connection at
            // the server would have to try again after a second.
            server.namespace().sysctl("ipv4/tcp_max_tw_buckets", "0")?;
            serve(&server, &[8080])?;
            servers.push(server);
        }
        let it = Self {
            agent: None,
            kube_proxy: None,
            mode,
            client: lab.node("one")?.pod("client")?,
            host: Sockets::of_node(lab.node("one")?)?,
            outside: Outside::new(&lab, 200)?,
            servers,
            tools,
            kubeconfig: path,
            node,
            _control_plane: control_plane,
            _lab: lab,
        };
        // What is over is forgotten within the time of a test.
        for setting in [
            "tcp_timeout_time_wait",
            "tcp_timeout_close",
            "udp_timeout",
            "udp_timeout_stream",
        ] {
            it.node
                .place
                .namespace()
                .sysctl(&format!("netfilter/nf_conntrack_{setting}"), "2")?;
        }
        it.write_objects()?;
        Ok(it)
    }

    /// Starts kube-proxy beside whatever runs.
    pub(crate) fn start_kube_proxy(&mut self) -> Result<()> {
        let settings = json!({
            "mode": self.mode,
            // Both proxies run at the same time, and signpost has the usual ports.
            "healthzBindAddress": "0.0.0.0:10266",
            "metricsBindAddress": "127.0.0.1:10259",
        });
        let proxy = KubeProxy::start(&self.tools, &self.node.place, &self.kubeconfig, &settings)?;
        self.kube_proxy = Some(proxy);
        Ok(())
    }

    /// Ends kube-proxy; its rules stay.
    pub(crate) fn stop_kube_proxy(&mut self) -> Result<()> {
        let mut proxy = self.kube_proxy.take().context("kube-proxy runs")?;
        proxy.terminate();
        Ok(())
    }

    /// Starts signpost beside whatever runs.
    pub(crate) fn start_signpost(&mut self) -> Result<()> {
        let flags = ["--cluster-cidr", CLUSTER_CIDR];
        let agent = Agent::of_cluster(&self.node.place, &self.kubeconfig, &flags)?;
        self.agent = Some(agent);
        Ok(())
    }

    /// The agent, which runs.
    pub(crate) fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("signpost runs")
    }

    /// A command of the agent's instance; what it says.
    pub(crate) fn signpost(&self, verb: &str, flags: &[&str]) -> Result<String> {
        self.agent()?.command(verb)?.args(flags).text()
    }

    /// What the agent says of the other proxy.
    pub(crate) fn other_proxy(&self) -> Result<Value> {
        let mut command = self.agent()?.command("status")?;
        let output = command.args(["-o", "json"]).output()?;
        let status: Value = serde_json::from_slice(&output.stdout)?;
        Ok(status["agent"]["other_proxy"].clone())
    }

    /// Opens a connection of everybody: the pod, the node itself, and a machine outside.
    pub(crate) fn converse(&self) -> Result<Vec<Open>> {
        let mut open = Vec::new();
        for address in services()? {
            open.push(Open::new("the pod", address, || {
                Ok(self
                    .client
                    .run(|| Conversation::start(address, PATIENCE))??)
            })?);
            open.push(Open::new("the node", address, || {
                self.host.converse(address, PATIENCE)
            })?);
        }
        for address in self.node_ports() {
            let namespace = self.outside.namespace();
            open.push(Open::new("outside", address, || {
                Ok(namespace.run(|| Conversation::start(address, PATIENCE))??)
            })?);
        }
        talk(&mut open)?;
        Ok(open)
    }

    /// Starts load of everybody.
    pub(crate) fn load(&self) -> Result<Loads> {
        let program = programs::lab_pod()?;
        let mut loads = Vec::new();
        for address in services()? {
            let load = LoadRun::patient_of(self.client.command(&program)?, address)?;
            loads.push((format!("the pod to {address}"), load));
            let load = LoadRun::patient_of(self.node.place.command(&program)?, address)?;
            loads.push((format!("the node to {address}"), load));
        }
        for address in self.node_ports() {
            let load = LoadRun::patient_of(self.outside.command(&program)?, address)?;
            loads.push((format!("outside to {address}"), load));
        }
        Ok(Loads(loads))
    }

    /// What a program says that is run on the node.
    fn on_node(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.node.place.command(program)?;
        command.args(arguments).text()
    }

    /// Removes what kube-proxy has left, as an operator does; what is said.
    pub(crate) fn clean_up_kube_proxy(&self) -> Result<String> {
        let program = programs::signpost()?;
        let program = program.to_str().context("a path that is text")?;
        self.on_node(program, &["cleanup", "--kube-proxy"])
    }

    /// The lines of kube-proxy's among the rules. It also makes a chain of kubelet's where that is missing, and leaves
    /// it when it cleans up itself.
    pub(crate) fn rules_of_kube_proxy(&self) -> Result<Vec<String>> {
        let rules = self.on_node("nft", &["list", "ruleset"])?;
        let words = ["table ip kube-proxy", "table ip6 kube-proxy", "KUBE-"];
        let its = rules
            .lines()
            .filter(|line| words.iter().any(|word| line.contains(word)))
            .filter(|line| !line.contains("KUBE-FIREWALL"));
        Ok(its.map(str::to_owned).collect())
    }

    /// Writes rules as a CNI and a firewall of the node do.
    pub(crate) fn write_rules_of_others(&self) -> Result<()> {
        self.on_node("nft", &[FIREWALL])?;
        for program in ["iptables-nft", "ip6tables-nft"] {
            for rule in RULES_OF_OTHERS {
                let arguments: Vec<_> = rule.split(' ').collect();
                self.on_node(program, &arguments)?;
            }
        }
        self.on_node("ipset", &["create", "OTHERS", "hash:ip"])?;
        self.on_node("ipset", &["add", "OTHERS", "198.51.100.7"])?;
        Ok(())
    }

    /// What is there of these.
    pub(crate) fn rules_of_others(&self) -> Result<String> {
        let mut text = self.on_node("nft", &["list", "table", "inet", "firewall"])?;
        for program in ["iptables-nft-save", "ip6tables-nft-save"] {
            let all = self.on_node(program, &[])?;
            for line in all.lines().filter(|line| line.contains("OTHERS")) {
                text.push_str(line);
                text.push('\n');
            }
        }
        text.push_str(&self.on_node("ipset", &["save", "OTHERS"])?);
        Ok(text)
    }

    /// Whether the empty NAT chains are there.
    pub(crate) fn has_empty_chains(&self) -> Result<bool> {
        Ok(self
            .on_node("nft", &["list", "tables"])?
            .contains("signpost-nat"))
    }

    fn node_ports(&self) -> Vec<SocketAddr> {
        let addresses = self.node.place.addresses();
        addresses.map(|ip| SocketAddr::new(ip, NODE_PORT)).to_vec()
    }

    fn write_objects(&self) -> Result<()> {
        let name = self.node.name();
        let mut items = vec![self.node.object()];
        items.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {
                "type": "NodePort",
                "clusterIP": CLUSTER_IPS[0], "clusterIPs": CLUSTER_IPS,
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
                "ports": [
                    {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT},
                    {"name": "udp", "protocol": "UDP", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT},
                ],
            },
        }));
        for (family, of) in [("IPv4", Pod::v4 as fn(&Pod) -> IpAddr), ("IPv6", Pod::v6)] {
            let endpoints = self.servers.iter().map(|server| {
                json!({
                    "addresses": [of(server)], "nodeName": server.node().name(),
                    "conditions": {"ready": true},
                })
            });
            items.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "namespace": "default", "name": format!("web-{}", family.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": family,
                "endpoints": endpoints.collect::<Vec<_>>(),
                "ports": [
                    {"name": "tcp", "protocol": "TCP", "port": 8080},
                    {"name": "udp", "protocol": "UDP", "port": 8080},
                ],
            }));
        }
        let file = self.node.place.folder().join("objects.json");
        fs::create_dir_all(self.node.place.folder())?;
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        fs::write(&file, list.to_string())?;
        let kubectl = |arguments: &[&str]| {
            let mut command = self.node.place.command(self.tools.path("kubectl"))?;
            command.arg("--kubeconfig").arg(&self.kubeconfig);
            command.args(arguments).text()
        };
        let apply = ["apply", "--filename", &file.to_string_lossy()];
        // The API server makes its namespaces and ranges a moment after it is ready. An attempt in earnest would keep
        // the address of the first family.
        until("the objects would be accepted", PATIENCE * 15, || {
            kubectl(&[&apply[..], &["--dry-run=server"]].concat())
        })?;
        kubectl(&apply)?;
        let status = self.node.status().to_string();
        kubectl(&[
            "patch",
            "node",
            name,
            "--subresource=status",
            "--type=merge",
            "--patch",
            &status,
        ])?;
        Ok(())
    }
}

/// A firewall of the node's own.
const FIREWALL: &str = "table inet firewall { set bad { type ipv4_addr; elements = { 198.51.100.7 }; }; \
    chain in { type filter hook input priority 10; ip saddr @bad drop; }; \
    chain nat { type nat hook postrouting priority 150; ip saddr @bad masquerade; }; }";

/// A CNI's rules: in chains of its own, in the kernel's, and one that leads to a packet that is to be dropped.
const RULES_OF_OTHERS: [&str; 6] = [
    "--wait --new OTHERS-FORWARD",
    "--wait --append OTHERS-FORWARD --protocol tcp --dport 9 --jump DROP",
    "--wait --append FORWARD --jump OTHERS-FORWARD",
    "--wait --table nat --new OTHERS-POSTROUTING",
    "--wait --table nat --append OTHERS-POSTROUTING --protocol tcp --dport 9 --jump MASQUERADE",
    "--wait --table nat --append POSTROUTING --jump OTHERS-POSTROUTING",
];

impl Open {
    fn new(
        by: &str,
        address: SocketAddr,
        start: impl FnOnce() -> Result<Conversation>,
    ) -> Result<Self> {
        let by = format!("{by} to {address}");
        let conversation = start().with_context(|| format!("a connection of {by}"))?;
        Ok(Self { by, conversation })
    }
}

/// Says something over every connection that is open, and hears the answer.
pub(crate) fn talk(open: &mut [Open]) -> Result<()> {
    for Open { by, conversation } in open {
        let said = conversation.say("are you there?");
        said.with_context(|| format!("a connection of {by} is lost"))?;
    }
    Ok(())
}

impl Loads {
    /// Ends all of it. Nothing of it may have failed.
    pub(crate) fn finish(self) -> Result<()> {
        for (who, load) in self.0 {
            for (protocol, load) in load.finish()? {
                let Load { answered, failed } = &load;
                println!("{who} over {protocol}: {answered:?}, failed {failed:?}");
                ensure!(load.failures() == 0, "{who} over {protocol}: {failed:?}");
                ensure!(load.successes() > 0, "{who} over {protocol} did nothing");
            }
        }
        Ok(())
    }
}

fn services() -> Result<Vec<SocketAddr>> {
    let addresses = CLUSTER_IPS
        .iter()
        .map(|ip| anyhow::Ok((ip.parse::<IpAddr>()?, 80).into()));
    addresses.collect()
}
