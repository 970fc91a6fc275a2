//! What load balancers and clients outside the cluster find, through a real API server.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use signpost_tests::{cluster::node::ClusterNode, lab::Outside};

use super::story::{Story, eventually};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_load_balancer_finds_the_nodes_that_have_endpoints() -> Result<()> {
    let story = Story::begin()?;
    let outside = Outside::new(story.cluster.lab(), 200)?;
    story.cluster.kubectl(
        "--namespace=dev patch service ent --type=merge \
         --patch={\"spec\":{\"type\":\"LoadBalancer\",\"externalTrafficPolicy\":\"Local\"}}",
    )?;
    let field = |path: &str| -> Result<u16> {
        let line = format!("--namespace=dev get service ent --output=jsonpath={{{path}}}");
        let text = story.cluster.kubectl(&line)?;
        text.parse().with_context(|| format!("{path}: {text:?}"))
    };
    let check = field(".spec.healthCheckNodePort")?;
    let node_port = field(".spec.ports[0].nodePort")?;
    for replicas in [2, 0, 3] {
        story.cluster.kubectl(&format!(
            "--namespace=dev scale deployment/enterprise --replicas={replicas}"
        ))?;
        eventually(
            &format!("the health checks of {replicas} endpoints"),
            || {
                ensure!(story.pods("dev")?.len() == replicas, "the pods");
                let here = endpoints_by_node(&story)?;
                for node in story.cluster.nodes() {
                    let count = here.get(node.name()).copied().unwrap_or(0);
                    is_healthy(node, check, count)?;
                    if count > 0 {
                        answers_outside(&story, &outside, node, node_port)?;
                    }
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn endpoints_by_node(story: &Story) -> Result<BTreeMap<String, usize>> {
    let text = story.cluster.kubectl(
        "--namespace=dev get endpointslices --selector=kubernetes.io/service-name=ent \
         --output=jsonpath={range.items[*].endpoints[*]}{.nodeName}{\"\\n\"}{end}",
    )?;
    let mut counts = BTreeMap::new();
    for node in text.lines() {
        *counts.entry(node.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

/// The health check of a node says how many endpoints it has, byte for byte as kube-proxy's does.
fn is_healthy(node: &ClusterNode, port: u16, endpoints: usize) -> Result<()> {
    let address = SocketAddr::new(node.place.addresses()[0], port);
    let answer = node.place.namespace().run(|| ask(address))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = if endpoints > 0 { " 200 " } else { " 503 " };
    ensure!(head.contains(status), "{}: {head}", node.name());
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
    ] {
        ensure!(head.to_ascii_lowercase().contains(header), "{head}");
    }
    let expected = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"dev\",\n\t\t\"name\": \"ent\"\n\t}},\n\
         \t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": true\n}}"
    );
    ensure!(
        body == expected,
        "{}: {body:?} and not {expected:?}",
        node.name()
    );
    Ok(())
}

/// A client outside the cluster is answered by a pod of this node.
fn answers_outside(story: &Story, outside: &Outside, node: &ClusterNode, port: u16) -> Result<()> {
    let address = SocketAddr::new(node.place.addresses()[0], port);
    let answer = outside.namespace().run(|| ask(address))??;
    let pods = story.pods("dev")?;
    let (_, name) = answer.split_once("\r\n\r\n").context("no answer")?;
    let name = name.trim().rsplit('/').next().unwrap_or_default();
    let pod = story.cluster.pod("dev", name);
    ensure!(pods.contains(name), "{name:?} is none of {pods:?}");
    let at = pod.map(|pod| pod.node().name().to_owned());
    ensure!(at.as_deref() == Some(node.name()), "{name} is at {at:?}");
    Ok(())
}

fn ask(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
