//! A small cluster that each test builds for itself: nodes with an agent each, servers and Services.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use signpost_tests::lab::{Agent, Cni, Kubelet, Lab, Pod, client, wait};

/// How long anything in a laboratory may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long a change may take until it is in the kernel: milliseconds, but on a machine that is busy otherwise. It decides
/// nothing.
pub(crate) const PROGRAMMED: Duration = Duration::from_secs(60);

/// How long a client waits for an answer that may never come.
pub(crate) const MOMENT: Duration = Duration::from_millis(1500);

/// Both ways of giving pods a network.
pub(crate) const CNIS: [Cni; 2] = [Cni::Routed, Cni::Bridged];

/// The port of every Service.
pub(crate) const PORT: u16 = 80;

/// A cluster. Fields are dropped in their order: agents before what they run on.
pub(crate) struct Small {
    pub(crate) agents: Vec<Agent>,
    pub(crate) kubelet: Kubelet,
    pub(crate) lab: Lab,
    services: u8,
}

/// A Service's addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vip {
    pub(crate) v4: SocketAddr,
    pub(crate) v6: SocketAddr,
}

impl Vip {
    /// Both addresses.
    pub(crate) const fn both(self) -> [SocketAddr; 2] {
        [self.v4, self.v6]
    }
}

impl Small {
    /// One node.
    pub(crate) fn one(cni: Cni) -> anyhow::Result<Self> {
        Self::of(Lab::builder().node("one", cni).start()?)
    }

    /// Two nodes.
    pub(crate) fn two(cni: Cni) -> anyhow::Result<Self> {
        Self::of(Lab::builder().node("one", cni).node("two", cni).start()?)
    }

    /// The nodes of a laboratory, with an agent on each.
    pub(crate) fn of(lab: Lab) -> anyhow::Result<Self> {
        let agents: Result<_, _> = lab.nodes().iter().map(Agent::start).collect();
        Ok(Self::over(lab, agents?))
    }

    /// The nodes of a laboratory with agents that run.
    pub(crate) fn over(lab: Lab, agents: Vec<Agent>) -> Self {
        Self {
            agents,
            kubelet: Kubelet::new(&lab),
            lab,
            services: 0,
        }
    }

    /// The cluster's DNS Service without a server behind it: what the kernel does not answer is refused.
    pub(crate) fn dns_service(&mut self) -> anyhow::Result<()> {
        self.kubelet.write(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "kube-system", "name": "kube-dns"},
            "spec": {
                "clusterIP": "10.96.0.10", "selector": {"k8s-app": "kube-dns"},
                "ports": [
                    {"name": "dns", "protocol": "UDP", "port": 53},
                    {"name": "dns-tcp", "protocol": "TCP", "port": 53},
                ],
            },
        }))
    }

    /// A pod on a node that serves nothing.
    pub(crate) fn client(&mut self, node: &str, name: &str) -> anyhow::Result<Pod> {
        self.run(node, name, json!({}), json!({"containers": []}))
    }

    /// A pod on a node that is an endpoint of the Service and answers with `default/NAME`.
    pub(crate) fn server(&mut self, service: &str, node: &str, name: &str) -> anyhow::Result<Pod> {
        self.run(
            node,
            name,
            json!({"app": service}),
            json!({"containers": [listening()]}),
        )
    }

    /// The same in the node's own network.
    pub(crate) fn host_server(
        &mut self,
        service: &str,
        node: &str,
        name: &str,
    ) -> anyhow::Result<Pod> {
        let spec = json!({"containers": [listening()], "hostNetwork": true});
        self.run(node, name, json!({"app": service}), spec)
    }

    /// A pod on a node that is an endpoint of the Service, with nothing behind its ports.
    pub(crate) fn deaf_server(
        &mut self,
        service: &str,
        node: &str,
        name: &str,
    ) -> anyhow::Result<Pod> {
        self.run(
            node,
            name,
            json!({"app": service}),
            json!({"containers": []}),
        )
    }

    /// A Service of both families for pods with label `app: NAME`: [`PORT`] to 8080, TCP and UDP.
    pub(crate) fn service(&mut self, name: &str) -> anyhow::Result<Vip> {
        self.services += 1;
        let number = self.services;
        let v4 = format!("10.96.1.{number}");
        let v6 = format!("fd00:96::1:{number:x}");
        self.kubelet.write(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": name},
            "spec": {
                "clusterIP": v4, "clusterIPs": [v4, v6],
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
                "selector": {"app": name},
                "ports": [
                    {"name": "tcp", "protocol": "TCP", "port": PORT, "targetPort": 8080},
                    {"name": "udp", "protocol": "UDP", "port": PORT, "targetPort": 8080},
                ],
            },
        }))?;
        Ok(Vip {
            v4: SocketAddr::new(v4.parse::<IpAddr>()?, PORT),
            v6: SocketAddr::new(v6.parse::<IpAddr>()?, PORT),
        })
    }

    fn run(&mut self, node: &str, name: &str, labels: Value, spec: Value) -> anyhow::Result<Pod> {
        let mut spec = spec;
        spec["nodeName"] = node.into();
        self.kubelet.run_pod(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "default", "name": name, "labels": labels},
            "spec": spec,
        }))
    }
}

fn listening() -> Value {
    json!({"name": "server", "ports": [{"containerPort": 8080}]})
}

/// Waits until a Service answers a pod over both families, and gives who answered.
pub(crate) fn answering(client: &Pod, vip: Vip) -> anyhow::Result<()> {
    for address in vip.both() {
        wait::until(&format!("an answer of {address}"), PROGRAMMED, || {
            client.run(|| client::get(address, Duration::from_millis(300)))?
        })?;
    }
    Ok(())
}

/// Asks once over TCP.
pub(crate) fn get(client: &Pod, address: SocketAddr) -> anyhow::Result<String> {
    client
        .run(|| client::get(address, PATIENCE))?
        .with_context(|| format!("{} to {address} over TCP", client.name()))
}

/// Asks once over UDP.
pub(crate) fn ask(client: &Pod, address: SocketAddr, payload: &[u8]) -> anyhow::Result<String> {
    client
        .run(|| client::Datagrams::to(address, PATIENCE)?.ask(payload))?
        .with_context(|| format!("{} to {address} over UDP", client.name()))
}
