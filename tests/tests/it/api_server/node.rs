//! What a real API server says of the node and of the ranges of Services, and what it is told.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use signpost_tests::{
    cluster::{Cluster, node::ClusterNode},
    lab::{Pod, agent::fetch_all, client},
};

use super::story::eventually;

/// Port of `/healthz` and `/livez`.
const HEALTH: u16 = 10_256;
const PATIENCE: Duration = Duration::from_secs(2);

/// A range that no Service has an address in, and one of its addresses.
const NEW_RANGE: [&str; 2] = ["10.120.0.0/24", "fd00:120::/112"];
const NOBODY: [&str; 2] = ["10.120.0.77", "fd00:120::77"];

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_proxy_does_for_its_node_what_the_api_server_says_and_tells_it_what_it_does() -> Result<()> {
    let cluster = Cluster::up(&["zone-a"])?;
    cluster.install()?;
    let node = cluster.nodes().first().context("there is a node")?;
    it_says_that_it_starts(&cluster, node).context("the Event of the start")?;
    let pod = a_pod_that_serves(&cluster)?;
    a_service_of_both_families(&cluster, &pod).context("dual stack")?;
    a_new_range_cuts_off_its_addresses(&cluster, &pod).context("ServiceCIDRs")?;
    a_port_that_is_taken_is_an_event(&cluster, node).context("the Event of a health check")?;
    load_balancers_go_elsewhere_before_the_node_does(&cluster, node).context("eligibility")
}

fn it_says_that_it_starts(cluster: &Cluster, node: &ClusterNode) -> Result<()> {
    let found = events(cluster, "Starting")?;
    let about = |event: &&Value| event["regarding"]["name"] == node.name();
    let event = found.iter().find(about).context("there is none")?;
    ensure!(event["regarding"]["kind"] == "Node", "{event}");
    ensure!(event["type"] == "Normal", "{event}");
    ensure!(event["reportingController"] == "signpost", "{event}");
    Ok(())
}

fn load_balancers_go_elsewhere_before_the_node_does(
    cluster: &Cluster,
    node: &ClusterNode,
) -> Result<()> {
    let is = |what: &str, status: &str, eligible: bool| {
        eventually(what, || {
            let healthz = health(node, "/healthz")?;
            ensure!(healthz.contains(status), "{healthz}");
            let field = format!("\"nodeEligible\":{eligible}");
            ensure!(healthz.contains(&field), "{healthz}");
            let livez = health(node, "/livez")?;
            ensure!(livez.contains(" 200 "), "{livez}");
            Ok(())
        })
    };
    let name = node.name();
    is("a node that stays", " 200 ", true)?;
    let taint = "ToBeDeletedByClusterAutoscaler=1:NoSchedule";
    cluster.kubectl(&format!("taint node {name} {taint}"))?;
    is("a node that the autoscaler takes away", " 503 ", false)?;
    cluster.kubectl(&format!("taint node {name} {taint}-"))?;
    is("a node that it leaves", " 200 ", true)?;
    // A finalizer keeps the object while it is being deleted.
    let finalizers = |list: &str| {
        let patch = format!("--patch={{\"metadata\":{{\"finalizers\":{list}}}}}");
        cluster.kubectl(&format!("patch node {name} --type=merge {patch}"))
    };
    finalizers("[\"example.com/stay\"]")?;
    cluster.kubectl(&format!("delete node {name} --wait=false"))?;
    is("a node that is being deleted", " 503 ", false)?;
    finalizers("null")?;
    cluster.apply(&node.object())?;
    cluster.kubectl(&format!(
        "patch node {name} --subresource=status --type=merge --patch={}",
        node.status()
    ))?;
    is("a node that is there again", " 200 ", true)
}

/// A pod that serves, and asks.
fn a_pod_that_serves(cluster: &Cluster) -> Result<Pod> {
    eventually("a pod is accepted", || {
        cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "default", "name": "server", "labels": {"app": "server"}},
            "spec": {"containers": [{
                "name": "server", "image": "stand-in", "ports": [{"containerPort": 8080}],
            }]},
        }))
    })?;
    cluster.kubectl("wait pod/server --for=condition=Ready --timeout=60s")?;
    cluster.pod("default", "server").context("it runs")
}

fn a_service_of_both_families(cluster: &Cluster, pod: &Pod) -> Result<()> {
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "both"},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack", "selector": {"app": "server"},
            "ports": [{"port": 80, "targetPort": 8080}],
        },
    }))?;
    let addresses = cluster_ips(cluster)?;
    ensure!(addresses.len() == 2, "{addresses:?}");
    answers(pod, &addresses)?;
    cluster.kubectl(
        "patch service both --type=merge --patch={\"spec\":{\"ipFamilyPolicy\":\"SingleStack\",\
         \"ipFamilies\":null,\"clusterIPs\":null}}",
    )?;
    let left = cluster_ips(cluster)?;
    ensure!(left == addresses[..1], "{left:?}");
    answers(pod, &left)?;
    eventually("the second family is gone", || {
        let asked = ask(pod, addresses[1]);
        ensure!(asked.is_err(), "{asked:?}");
        Ok(())
    })
}

/// An address of no Service is unreachable by routing, and silent once it is in a range of Services.
fn a_new_range_cuts_off_its_addresses(cluster: &Cluster, pod: &Pod) -> Result<()> {
    let nobody = NOBODY.map(|ip| ip.parse::<IpAddr>());
    for address in nobody.clone() {
        let failed = failure(pod, address?)?;
        ensure!(failed != ErrorKind::TimedOut, "{failed}");
    }
    cluster.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "more"}, "spec": {"cidrs": NEW_RANGE},
    }))?;
    for address in nobody.clone() {
        let address = address?;
        eventually("an address of a new range is silent", || {
            let failed = failure(pod, address)?;
            ensure!(failed == ErrorKind::TimedOut, "{failed}");
            Ok(())
        })?;
    }
    cluster.kubectl("delete servicecidr more --wait=false")?;
    for address in nobody {
        let address = address?;
        eventually("the range is gone", || {
            let failed = failure(pod, address)?;
            ensure!(failed != ErrorKind::TimedOut, "{failed}");
            Ok(())
        })?;
    }
    Ok(())
}

fn a_port_that_is_taken_is_an_event(cluster: &Cluster, node: &ClusterNode) -> Result<()> {
    const PORT: u16 = 31_999;
    let address = SocketAddr::new(node.place.addresses()[0], PORT);
    let _taken = node
        .place
        .namespace()
        .run(|| std::net::TcpListener::bind(address))??;
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "checked"},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": PORT, "selector": {"app": "server"}, "ports": [{"port": 80}],
        },
    }))?;
    eventually("the Event of a health check that cannot start", || {
        let found = events(cluster, "FailedToStartServiceHealthcheck")?;
        let event = found.first().context("there is none")?;
        ensure!(event["type"] == "Warning", "{event}");
        let about = &event["regarding"];
        ensure!(about["kind"] == "Service", "{event}");
        ensure!(about["namespace"] == "default", "{event}");
        ensure!(about["name"] == "checked", "{event}");
        let note = format!(
            "node {} failed to start healthcheck \"default/checked\" on port {PORT}: ",
            node.name()
        );
        let said = event["note"].as_str().unwrap_or_default();
        ensure!(said.starts_with(&note), "{event}");
        Ok(())
    })
}

/// The Events with this reason.
fn events(cluster: &Cluster, reason: &str) -> Result<Vec<Value>> {
    let text = cluster.kubectl("get --raw=/apis/events.k8s.io/v1/events?limit=500")?;
    let list: Value = serde_json::from_str(&text)?;
    let all = list["items"].as_array().context("no list")?;
    let with = all.iter().filter(|event| event["reason"] == reason);
    Ok(with.cloned().collect())
}

fn cluster_ips(cluster: &Cluster) -> Result<Vec<IpAddr>> {
    let text = cluster.kubectl("get service both --output=jsonpath={.spec.clusterIPs}")?;
    Ok(serde_json::from_str(&text)?)
}

fn answers(pod: &Pod, addresses: &[IpAddr]) -> Result<()> {
    for address in addresses {
        eventually(&format!("an answer of {address}"), || {
            ask(pod, *address).map(drop)
        })?;
    }
    Ok(())
}

fn ask(pod: &Pod, address: IpAddr) -> Result<String> {
    pod.run(|| client::get((address, 80).into(), PATIENCE))?
}

/// How connecting fails.
fn failure(pod: &Pod, address: IpAddr) -> Result<ErrorKind> {
    let connected = pod.run(|| TcpStream::connect_timeout(&(address, 80).into(), PATIENCE))?;
    Ok(connected.err().context("somebody answers")?.kind())
}

/// The head and the body of an answer of the node's probes.
fn health(node: &ClusterNode, path: &str) -> Result<String> {
    let address = SocketAddr::new(node.place.addresses()[0], HEALTH);
    node.place.namespace().run(|| fetch_all(address, path))?
}
