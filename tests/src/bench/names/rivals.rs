//! The two nodes.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::{
    bench::{
        connector::Connector,
        objects::{self, Objects},
        scale,
        site::{
            DNS, ENDPOINTS_OF_SET, NEAR, PORTS, headless, headless_slice, pods_elsewhere, service,
        },
    },
    cluster::{control_plane::ControlPlane, core_dns::CoreDns, relay::Relay, tools::Tools},
    lab::{
        Agent, Cni, Lab, Pod, PodSpec, Upstream, dns,
        links::{add_addresses, add_route, alone},
        programs,
        wait::until,
    },
};

/// Services with a ClusterIP.
pub(super) const SERVICES: u32 = 10_000;
/// Endpoints of headless Services.
pub(super) const HEADLESS_ENDPOINTS: u32 = 5_000;
/// Endpoints of each other headless Service.
const ENDPOINTS_EACH: u32 = 100;
/// How long a server may take to follow.
const PATIENCE: Duration = Duration::from_secs(120);

/// A name server for clients on its node.
pub(super) struct Rival {
    pub(super) client: Pod,
    /// Where it is in user space.
    pub(super) server: Pod,
    /// The process of that.
    pub(super) process: u32,
}

/// Both of them.
pub(super) struct Rivals {
    // In the order in which they end.
    /// Processes in the clients' pods, of CoreDNS and of signpost.
    pub(super) resolvers: [Connector; 2],
    pub(super) core_dns: Rival,
    pub(super) signpost: Rival,
    /// A pod on CoreDNS's node, where no program of signpost is.
    pub(super) floor: Pod,
    pub(super) objects: Objects,
    _core_dns: CoreDns,
    agent: Agent,
    _relay: Relay,
    _control_plane: ControlPlane,
    _upstream: Upstream,
    _lab: Lab,
}

impl Rivals {
    /// Raises everything, and waits until both know all Services.
    pub(super) fn up() -> Result<Self> {
        let tools = Tools::build()?;
        let lab = Lab::builder()
            .node("control-plane", Cni::Routed)
            .node("one", Cni::Routed)
            .node("two", Cni::Routed)
            .start()?;
        let upstream = Upstream::start(&lab)?;
        let node = lab.node("control-plane")?.clone();
        let control_plane = ControlPlane::without_controllers(&tools, lab.folder(), &node)?;
        let (relay, admin, kubeconfig) = control_plane.kubeconfigs(lab.folder())?;
        let objects = Objects::new(&admin)?;
        objects.write_nodes(&lab)?;
        objects.write_namespaces()?;

        let pod = |node: &str, name: &str| lab.node(node)?.add(PodSpec::new("default", name));
        let (core, own) = (pod("one", "core")?, pod("two", "own")?);
        write_services(&objects, own.v4())?;
        let upstreams = &upstream.addresses()[..1];
        let core_dns = CoreDns::start(&tools, &core, &kubeconfig, upstreams)?;
        take_the_cluster_ip(&core)?;
        let agent = start_signpost(&lab, &own, &kubeconfig, upstreams[0])?;
        let clients = [pod("one", "client")?, pod("two", "client")?];
        for client in &clients {
            until("the last Service's name", PATIENCE, || {
                let server = SocketAddr::from((DNS, 53));
                let name = format!(
                    "service-{}.{}.svc.cluster.local.",
                    SERVICES - 1,
                    scale::namespace(SERVICES - 1)
                );
                let answer = client.run(|| dns::ask(server, &name, RecordType::A))??;
                ensure!(answer.answers.len() == 1, "{answer}");
                Ok(())
            })
            .with_context(|| format!("{}\n{}\n{}", core_dns.log(), agent.log(), own.log()))?;
        }
        let [of_core_dns, of_signpost] = clients;
        let resolvers = [&of_core_dns, &of_signpost]
            .map(|client| Connector::start(|program| client.command(program)));
        let [first, second] = resolvers;
        let process = own.processes();
        Ok(Self {
            resolvers: [first?, second?],
            core_dns: Rival {
                client: of_core_dns,
                server: core,
                process: core_dns.id(),
            },
            signpost: Rival {
                client: of_signpost,
                server: own,
                process: *process.first().context("signpost dns does not run")?,
            },
            floor: pod("one", "floor")?,
            objects,
            _core_dns: core_dns,
            agent,
            _relay: relay,
            _control_plane: control_plane,
            _upstream: upstream,
            _lab: lab,
        })
    }

    /// Where the agent has its maps.
    pub(super) fn bpffs(&self) -> PathBuf {
        self.agent.node().bpffs()
    }
}

/// Gives a pod the cluster's DNS address, so that clients on its node reach it there with nothing in between: no proxy
/// can make that faster.
fn take_the_cluster_ip(pod: &Pod) -> Result<()> {
    let interface = pod.interface().context("a pod without an interface")?;
    let address = alone(DNS.into());
    add_addresses(pod.namespace(), "eth0", &[address])?;
    add_route(pod.node().namespace(), address, None, interface)
}

/// An agent, and `signpost dns` in a pod of its node.
fn start_signpost(lab: &Lab, pod: &Pod, kubeconfig: &Path, upstream: IpAddr) -> Result<Agent> {
    let agent = Agent::of_cluster(lab.node("two")?, kubeconfig, &[])?;
    let mut own = pod.command(programs::signpost()?)?;
    own.arg("dns")
        .arg("--run-folder")
        .arg(agent.run_folder())
        .args(["--upstream", &upstream.to_string()])
        .unprivileged();
    pod.start(&mut own)?;
    Ok(agent)
}

fn write_services(objects: &Objects, dns_pod: IpAddr) -> Result<()> {
    objects.create_namespace("kube-system")?;
    let ports = [("dns", 53, "UDP"), ("dns-tcp", 53, "TCP")];
    let mut slices = vec![dns_slice(dns_pod)];
    let mut services = vec![
        service("kube-system", "kube-dns", DNS, &ports),
        service("default", "near", NEAR, &PORTS),
        headless("set"),
    ];
    services.extend((0..SERVICES).map(objects::service));
    let mut endpoints = pods_elsewhere(HEADLESS_ENDPOINTS);
    let mut endpoints = |count: u32| endpoints.by_ref().take(count as usize).collect::<Vec<_>>();
    slices.push(headless_slice(
        "set",
        endpoints(ENDPOINTS_OF_SET).into_iter(),
    ));
    for number in 0..(HEADLESS_ENDPOINTS - ENDPOINTS_OF_SET) / ENDPOINTS_EACH {
        let name = format!("headless-{number}");
        slices.push(headless_slice(&name, endpoints(ENDPOINTS_EACH).into_iter()));
        services.push(headless(&name));
    }
    objects.create_services(services)?;
    objects.create_slices(slices)
}

fn dns_slice(pod: IpAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "kube-system", "name": "kube-dns-1",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
        "endpoints": [
            {"addresses": [pod], "conditions": {"ready": true}, "nodeName": "two"},
        ],
    })
}
