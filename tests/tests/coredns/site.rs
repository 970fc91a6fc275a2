//! The laboratory: an API server, and one node with a client, CoreDNS and `signpost dns` in pods of their own.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hickory_proto::rr::RecordType;
use signpost_tests::{
    cluster::{
        control_plane::ControlPlane, core_dns::CoreDns, node::ClusterNode, relay::Relay,
        tools::Tools,
    },
    lab::{Agent, Cni, DNS, Lab, Pod, PodSpec, Upstream, dns, programs, wait::until},
};

use crate::{
    answer::Answer,
    api::Server,
    ask::{over_tcp, over_udp},
    cluster::Cluster,
    objects::{self, Endpoint, Objects, Service, Slice, To},
    question::Question,
    verdict::{Pair, Verdict, Way},
};

/// How long a server may take to follow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time to live of packets that begin on the interface itself; what comes out of another pod has crossed the node.
const OF_THE_KERNEL: i32 = 64;

/// The laboratory.
pub(crate) struct Site {
    // In the order in which they end.
    core_dns: Option<CoreDns>,
    client: Pod,
    core_dns_pod: Pod,
    signpost_pod: Pod,
    there: Objects,
    rounds: u8,
    kubeconfig: PathBuf,
    tools: Tools,
    server: Server,
    /// The configuration of DNS, of the agent and of `signpost dns`.
    config: PathBuf,
    /// What CoreDNS is started with, where it is not kubeadm's.
    corefile: Option<String>,
    agent: Agent,
    _relay: Relay,
    _control_plane: ControlPlane,
    upstream: Upstream,
    _lab: Lab,
}

impl Site {
    /// Raises it, with the cluster's DNS Service.
    pub(crate) fn up() -> Result<Self> {
        let tools = Tools::build()?;
        let lab = Lab::builder()
            .node("control-plane", Cni::Routed)
            .node("node-1", Cni::Routed)
            .start()?;
        let upstream = Upstream::start(&lab)?;
        let control_node = lab.node("control-plane")?.clone();
        let control_plane = ControlPlane::without_controllers(&tools, lab.folder(), &control_node)?;
        let (relay, admin, kubeconfig) = control_plane.kubeconfigs(lab.folder())?;
        let server = Server::new(&admin)?;

        let node = lab.node("node-1")?.clone();
        ClusterNode::new(node.clone(), "zone-a")?;
        let pod = |name: &str| node.add(PodSpec::new("kube-system", name));
        let (client, core_dns_pod, signpost_pod) = (pod("client")?, pod("core")?, pod("own")?);
        let there = dns_service(&core_dns_pod, &signpost_pod);
        server.make_namespace("kube-system")?;
        server.change(&Objects::new(), &there)?;

        let config = lab.folder().join("dns.yaml");
        std::fs::write(&config, "{}\n")?;
        let file = config.to_str().context("a path that is text")?;
        let agent = Agent::of_cluster(&node, &kubeconfig, &["--dns-config", file])?;
        let mut own = signpost_pod.command(programs::signpost()?)?;
        own.arg("dns")
            .arg("--run-folder")
            .arg(agent.run_folder())
            .args(["--upstream", &upstream.addresses()[0].to_string()])
            .args(["--dns-config", file])
            .unprivileged();
        signpost_pod.start(&mut own)?;
        Ok(Self {
            core_dns: None,
            client,
            core_dns_pod,
            signpost_pod,
            there,
            rounds: 0,
            kubeconfig,
            tools,
            server,
            config,
            corefile: None,
            agent,
            _relay: relay,
            _control_plane: control_plane,
            upstream,
            _lab: lab,
        })
    }

    /// Makes the API server's objects those of a cluster, and waits until everybody has seen all of them.
    ///
    /// CoreDNS is started anew: it caches reverse names, and what it said of another cluster is not asked for.
    pub(crate) fn become_cluster(&mut self, cluster: &Cluster) -> Result<()> {
        self.core_dns = None;
        let mut wanted = cluster.objects();
        wanted.extend(dns_service(&self.core_dns_pod, &self.signpost_pod));
        self.server.change(&self.there, &wanted)?;
        self.there = wanted;

        // Watches keep the order of each kind: who has these has seen all that was written before.
        self.rounds += 1;
        let mut wanted = self.there.clone();
        let name = format!("marker-{}", self.rounds);
        wanted.extend(marker(&name, self.rounds));
        self.server.change(&self.there, &wanted)?;
        self.there = wanted;

        let upstream = &self.upstream.addresses()[..1];
        let core_dns = match &self.corefile {
            None => CoreDns::start(&self.tools, &self.core_dns_pod, &self.kubeconfig, upstream)?,
            Some(corefile) => CoreDns::start_with(&self.tools, &self.core_dns_pod, corefile)?,
        };
        let asked = format!("{name}.{name}.svc.cluster.local.");
        for server in [self.core_dns_pod.v4(), self.signpost_pod.v4(), DNS.parse()?] {
            until("the marker's name", PATIENCE, || {
                let answer = self
                    .client
                    .run(|| dns::ask(SocketAddr::new(server, 53), &asked, RecordType::A))??;
                ensure!(answer.answers.len() == 1, "{answer}");
                Ok(())
            })
            .with_context(|| {
                format!(
                    "{server}: CoreDNS said\n{}the agent said\n{}signpost dns said\n{}",
                    core_dns.log(),
                    self.agent.log(),
                    self.signpost_pod.log()
                )
            })?;
        }
        self.core_dns = Some(core_dns);
        Ok(())
    }

    /// Gives all another configuration: a Corefile, and what `import-corefile` makes of it. `KUBECONFIG` and `UPSTREAM`
    /// are put in. CoreDNS takes it with the next cluster; the others take it over while they run.
    ///
    /// `name` has to be one that exists with this configuration and with no other one, as an address of 192.0.2.0/24.
    pub(crate) fn configure(&mut self, corefile: &str, name: &str) -> Result<()> {
        let kubeconfig = self.kubeconfig.display().to_string();
        let upstream = self.upstream.addresses()[0].to_string();
        let corefile = corefile
            .replace("KUBECONFIG", &kubeconfig)
            .replace("UPSTREAM", &upstream);
        let imported = signpost::corefile::import(&corefile, |_| None)?;
        let left_out = imported.left_out.iter();
        let left_out: Vec<_> = left_out
            .filter(|l| !l.text.contains("kubeconfig"))
            .collect();
        ensure!(left_out.is_empty(), "{left_out:?}");
        let yaml = serde_saphyr::to_string(&imported.config)?;
        let new = self.config.with_extension("new");
        std::fs::write(&new, &yaml)?;
        std::fs::rename(&new, &self.config)?;
        self.corefile = Some(corefile);
        // The kernel denies the name until the agent has the file, and the server does.
        for server in [self.signpost_pod.v4(), DNS.parse()?] {
            until("the other configuration", PATIENCE, || {
                let answer = self
                    .client
                    .run(|| dns::ask(SocketAddr::new(server, 53), name, RecordType::A))??;
                ensure!(answer.answers.len() == 1, "{answer}");
                Ok(())
            })
            .with_context(|| {
                format!("{yaml}\n{}\n{}", self.agent.log(), self.signpost_pod.log())
            })?;
        }
        Ok(())
    }

    /// Puts questions to all, and hands what they say to the verdict.
    pub(crate) fn put(
        &self,
        udp: &[Question],
        tcp: &[Question],
        verdict: &mut Verdict,
    ) -> Result<()> {
        let messages: Vec<Vec<u8>> = udp.iter().map(Question::message).collect();
        let at = |server: IpAddr| -> Result<_> {
            let server = SocketAddr::new(server, 53);
            self.client.run(|| over_udp(server, &messages))?
        };
        let of_core_dns = at(self.core_dns_pod.v4())?;
        let own = at(self.signpost_pod.v4())?;
        let over_cluster_ip = at(DNS.parse()?)?;
        for (index, question) in udp.iter().enumerate() {
            let length = question.section().len();
            let read =
                |bytes: &[u8]| Answer::read(bytes, length).with_context(|| format!("{question:?}"));
            let core_dns = read(&of_core_dns[index].bytes)?;
            let by_kernel = &over_cluster_ip[index];
            verdict.add(&Pair {
                question,
                way: Way::UserSpace,
                core_dns: &core_dns,
                signpost: &read(&own[index].bytes)?,
            });
            verdict.add(&Pair {
                question,
                way: if by_kernel.time_to_live == OF_THE_KERNEL {
                    Way::Kernel
                } else {
                    Way::ClusterIp
                },
                core_dns: &core_dns,
                signpost: &read(&by_kernel.bytes)?,
            });
        }

        let messages: Vec<Vec<u8>> = tcp.iter().map(Question::message).collect();
        let at = |server: IpAddr| -> Result<_> {
            let server = SocketAddr::new(server, 53);
            self.client.run(|| over_tcp(server, &messages))?
        };
        let of_core_dns = at(self.core_dns_pod.v4())?;
        let own = at(DNS.parse()?)?;
        for (index, question) in tcp.iter().enumerate() {
            let length = question.section().len();
            verdict.add(&Pair {
                question,
                way: Way::Tcp,
                core_dns: &Answer::read(&of_core_dns[index], length)?,
                signpost: &Answer::read(&own[index], length)?,
            });
        }
        Ok(())
    }
}

/// The Service of the cluster's DNS. CoreDNS finds its own name by its endpoint; who asks the Service is led to signpost,
/// which is on the node of the client.
fn dns_service(core_dns: &Pod, signpost: &Pod) -> Objects {
    let ports = vec![("dns", 53, "UDP"), ("dns-tcp", 53, "TCP")];
    let service = Service {
        namespace: "kube-system".to_owned(),
        name: "kube-dns".to_owned(),
        to: To::Addresses(vec![
            DNS.parse().expect("an address"),
            "fd96::a".parse().expect("an address"),
        ]),
        kind: "ClusterIP",
        ports: ports.clone(),
    };
    let slice = |name: &str, addresses: [IpAddr; 2]| Slice {
        namespace: "kube-system".to_owned(),
        name: name.to_owned(),
        service: "kube-dns".to_owned(),
        ports: ports.clone(),
        endpoints: addresses
            .into_iter()
            .zip(["elsewhere", "node-1"])
            .map(|(address, node)| Endpoint {
                node: Some(node.to_owned()),
                ..Endpoint::ready(address)
            })
            .collect(),
    };
    let slices = [
        slice("kube-dns-v4", [core_dns.v4(), signpost.v4()]),
        slice("kube-dns-v6", [core_dns.v6(), signpost.v6()]),
    ];
    let slices = slices.iter().map(objects::slice);
    slices.chain([objects::service(&service)]).collect()
}

/// A namespace with a headless Service of one endpoint.
fn marker(name: &str, number: u8) -> Objects {
    let service = Service {
        namespace: name.to_owned(),
        name: name.to_owned(),
        to: To::Endpoints,
        kind: "ClusterIP",
        ports: Vec::new(),
    };
    let slice = Slice {
        namespace: name.to_owned(),
        name: name.to_owned(),
        service: name.to_owned(),
        ports: Vec::new(),
        endpoints: vec![Endpoint::ready(IpAddr::from([10, 98, 0, number]))],
    };
    [
        objects::namespace(name),
        objects::service(&service),
        objects::slice(&slice),
    ]
    .into()
}
