//! `signpost dns`, unprivileged, in a pod of its own.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use serde_json::json;

use super::{Agent, Kubelet, Pod, programs, wait};

/// How long the server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a pod of the `kube-dns` Service on the agent's node, and waits until it answers for the cluster.
///
/// # Errors
/// Where it does not, with what it said.
pub fn start(kubelet: &mut Kubelet, agent: &Agent, name: &str) -> anyhow::Result<Pod> {
    let pod = kubelet.run_pod(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "kube-system", "name": name,
            "labels": {"k8s-app": "kube-dns"},
        },
        "spec": {"nodeName": agent.node().name(), "dnsPolicy": "Default", "containers": []},
    }))?;
    serve(&pod, agent)?;
    Ok(pod)
}

/// Starts the server in a pod, anew where it ran before, and waits until it answers for the cluster.
///
/// # Errors
/// Where it does not, with what it said.
pub fn serve(pod: &Pod, agent: &Agent) -> anyhow::Result<()> {
    let mut server = pod.command(programs::signpost()?)?;
    server
        .arg("dns")
        .arg("--run-folder")
        .arg(agent.run_folder())
        .unprivileged();
    pod.start(&mut server)?;
    let ready = answers(pod, PATIENCE);
    ready.with_context(|| format!("signpost dns said:\n{}", pod.log()))
}

/// Waits until the server in a pod answers for the cluster.
///
/// # Errors
/// Where it does not.
pub fn answers(pod: &Pod, patience: Duration) -> anyhow::Result<()> {
    wait::until("an answer of signpost dns", patience, || {
        pod.run(|| {
            let answer = ask(
                SocketAddr::new(pod.v4(), 53),
                "kubernetes.default.svc.cluster.local.",
                RecordType::SOA,
            )?;
            ensure!(answer.metadata.authoritative, "not in sync yet");
            Ok(())
        })?
    })
}

/// Asks a name server over UDP, once.
///
/// # Errors
/// Where no answer comes within a second.
pub fn ask(server: SocketAddr, name: &str, kind: RecordType) -> anyhow::Result<Message> {
    let id = rand::random();
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name)?, kind));
    let socket = UdpSocket::bind(if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    })?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.send(&question.to_vec()?)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    let answer = Message::from_vec(&buffer[..length])?;
    ensure!(answer.metadata.id == id, "an answer to another question");
    Ok(answer)
}
