//! Where the benchmarks take place: two laboratories that are alike, one without signpost and one with it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use aya::programs::{ProgramFd, SchedClassifier, TcAttachType};
use serde_json::{Value, json};
use signpost_common::layout::program;

use super::rounds;
use crate::lab::{Agent, Cni, Lab, Pod, wait};

/// Port of the servers that answer a request and close.
pub const ANSWERS: u16 = 8080;
/// Port of the servers that take whatever comes.
pub const SINK: u16 = 9000;

/// How long an answer is.
pub const ANSWER: usize = 256;
/// What the first byte of the server on the clients' node is.
pub const NEAR_SAYS: u8 = b'n';
/// What the first byte of the server on the other node is.
pub const FAR_SAYS: u8 = b'f';

/// The Service whose endpoint is on the clients' node.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 96, 100, 1);
/// The Service whose endpoint is on the other node.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 96, 100, 2);
/// The cluster's DNS.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Endpoints of the headless Service `set`.
pub const ENDPOINTS_OF_SET: u32 = 20;

/// Ports of the Services of the servers.
pub const PORTS: [(&str, u16, &str); 2] = [("answers", 80, "TCP"), ("sink", SINK, "TCP")];

/// One laboratory: two nodes, clients on the first, a server on each.
#[derive(Debug)]
pub struct Site {
    /// Clients on the first node.
    pub clients: [Pod; 2],
    /// The server on the first node.
    pub near: Pod,
    /// The server on the second node.
    pub far: Pod,
    /// Agents of the nodes, where there are any.
    pub agents: Vec<Agent>,
    /// The laboratory.
    pub lab: Lab,
}

impl Site {
    /// Nothing is loaded in it.
    ///
    /// # Errors
    /// Without root.
    pub fn plain() -> anyhow::Result<Self> {
        Self::raise(
            Lab::builder()
                .node("one", Cni::Routed)
                .node("two", Cni::Routed)
                .start()?,
        )
    }

    /// Pods and servers on the nodes `one` and `two` of a laboratory.
    ///
    /// # Errors
    /// Where there are no such nodes.
    pub fn raise(lab: Lab) -> anyhow::Result<Self> {
        let one = lab.node("one")?;
        let clients = [one.pod("client")?, one.pod("other-client")?];
        let near = one.pod("near")?;
        let far = lab.node("two")?.pod("far")?;
        for pod in [&clients[0], &clients[1], &near, &far] {
            // Each slice begins with the window that the last one ended with.
            pod.namespace()
                .sysctl("ipv4/tcp_slow_start_after_idle", "0")?;
        }
        serve(&near, NEAR_SAYS)?;
        serve(&far, FAR_SAYS)?;
        Ok(Self {
            clients,
            near,
            far,
            agents: Vec::new(),
            lab,
        })
    }

    /// An agent runs on each node.
    ///
    /// # Errors
    /// Without root, or where an agent does not become ready.
    pub fn served() -> anyhow::Result<Self> {
        Self::served_with(&[])
    }

    /// The same with more flags for the agents.
    ///
    /// # Errors
    /// As [`Site::served`].
    pub fn served_with(flags: &[&str]) -> anyhow::Result<Self> {
        let mut site = Self::plain()?;
        let objects = [
            service("kube-system", "kube-dns", DNS, &[("dns", 53, "UDP")]),
            service("default", "near", NEAR, &PORTS),
            slice("near", site.near.v4()),
            service("default", "far", FAR, &PORTS),
            slice("far", site.far.v4()),
            headless("set"),
            headless_slice("set", pods_elsewhere(ENDPOINTS_OF_SET)),
        ];
        write(&site.lab, "services", &objects)?;
        for node in site.lab.nodes() {
            site.agents.push(Agent::with_flags(node, flags)?);
        }
        let [one, other] = &site.clients;
        for pod in [one, other, &site.near, &site.far] {
            wait::until("the programs", Duration::from_secs(5), || {
                site.program(pod, program::FROM_POD, TcAttachType::Ingress)
            })
            .with_context(|| site.agents[0].log())?;
        }
        Ok(site)
    }

    /// A program of signpost at a pod's interface.
    ///
    /// # Errors
    /// Where it is not attached.
    pub fn program(&self, pod: &Pod, name: &str, side: TcAttachType) -> anyhow::Result<ProgramFd> {
        let interface = pod.interface().context("a pod without an interface")?;
        pod.node().namespace().run(|| {
            let (_, programs) = SchedClassifier::query_tcx(interface, side)?;
            let program = programs
                .iter()
                .find(|program| program.name_as_str() == Some(name))
                .with_context(|| format!("{name} is not attached to {interface}"))?;
            anyhow::Ok(program.fd()?)
        })?
    }
}

/// Writes objects into a file of the folder that agents watch, in one step.
///
/// # Errors
/// Where the disk is full.
pub fn write(lab: &Lab, name: &str, objects: &[Value]) -> anyhow::Result<()> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(object)?);
    }
    let hidden = lab.folder().join(name);
    fs::write(&hidden, text)?;
    fs::rename(&hidden, lab.manifests().join(format!("{name}.yaml")))?;
    Ok(())
}

/// A Service without a selector. Its ports are name, number and protocol.
pub fn service(
    namespace: &str,
    name: &str,
    address: Ipv4Addr,
    ports: &[(&str, u16, &str)],
) -> Value {
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ports": ports,
        },
    })
}

/// The endpoint of a Service in `default`, with the ports of the servers.
pub fn slice(service: &str, address: IpAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": format!("{service}-1"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [
            {"name": "answers", "port": ANSWERS, "protocol": "TCP"},
            {"name": "sink", "port": SINK, "protocol": "TCP"},
        ],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    })
}

/// A headless Service in `default`.
pub fn headless(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": "None", "ports": [{"name": "answers", "port": 80}]},
    })
}

/// Its endpoints.
pub fn headless_slice(name: &str, endpoints: impl Iterator<Item = IpAddr>) -> Value {
    let mut object = slice(name, Ipv4Addr::UNSPECIFIED.into());
    object["endpoints"] = endpoints
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    object
}

/// Addresses of pods that nobody connects to.
pub fn pods_elsewhere(count: u32) -> impl Iterator<Item = IpAddr> {
    let first = u32::from(Ipv4Addr::new(10, 128, 0, 1));
    (first..first + count).map(|bits| Ipv4Addr::from(bits).into())
}

/// Starts both servers of a pod, on threads of this process, so that its CPU time is all that a connection costs.
fn serve(pod: &Pod, says: u8) -> anyhow::Result<()> {
    let (answers, sink) = pod.run(|| {
        rounds::pin()?;
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        anyhow::Ok((
            TcpListener::bind(any(ANSWERS))?,
            TcpListener::bind(any(SINK))?,
        ))
    })??;
    thread::spawn(move || {
        let _ = rounds::pin();
        for mut stream in answers.incoming().flatten() {
            let mut request = [0; 128];
            if stream.read(&mut request).is_ok_and(|length| length > 0) {
                let _ = stream.write_all(&[says; ANSWER]);
            }
        }
    });
    thread::spawn(move || {
        for mut stream in sink.incoming().flatten() {
            thread::spawn(move || {
                let _ = rounds::pin();
                let mut buffer = vec![0; 256 << 10];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
            });
        }
    });
    Ok(())
}
