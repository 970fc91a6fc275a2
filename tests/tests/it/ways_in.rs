//! The Service that machines outside are served by: at NodePorts, external IPs, and a load balancer's address.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use signpost_tests::lab::{Lab, Outside, client, links, wait};

use crate::small::{MOMENT, PROGRAMMED, Small};

pub(crate) const NODE_PORT: u16 = 30_080;
pub(crate) const EXTERNAL: [&str; 2] = ["203.0.113.80", "fd00:113::80"];
pub(crate) const BALANCED: &str = "203.0.113.90";

/// A machine outside, which sends what is for the external addresses to node `one`.
pub(crate) fn outside(lab: &Lab) -> anyhow::Result<Outside> {
    let outside = Outside::new(lab, 200)?;
    let networks: Vec<links::Prefix> = EXTERNAL
        .iter()
        .chain([&BALANCED])
        .map(|text| links::alone(text.parse().expect("an address")))
        .collect();
    outside.route_over(lab.node("one")?, &networks)?;
    Ok(outside)
}

/// Service `web` of both families, changed by what is given.
pub(crate) fn service(small: &Small, changed: &Value) -> anyhow::Result<()> {
    let mut spec = json!({
        "type": "LoadBalancer",
        "clusterIP": "10.96.2.1", "clusterIPs": ["10.96.2.1", "fd00:96::2:1"],
        "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
        "externalIPs": EXTERNAL,
        "selector": {"app": "web"},
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT},
            {"name": "udp", "protocol": "UDP", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT},
        ],
    });
    for (field, value) in changed.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    small.kubelet.write(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": [{"ip": BALANCED}]}},
    }))
}

/// Where node `one` is asked.
pub(crate) fn ways_in(small: &Small) -> anyhow::Result<Vec<SocketAddr>> {
    let nodes = small.lab.node("one")?.addresses();
    let node_ports = nodes.map(|address| SocketAddr::new(address, NODE_PORT));
    let external = EXTERNAL.map(|text| SocketAddr::new(text.parse().expect("an address"), 80));
    let balanced = SocketAddr::new(BALANCED.parse::<IpAddr>()?, 80);
    Ok([&node_ports[..], &external, &[balanced]].concat())
}

pub(crate) fn get(outside: &Outside, address: SocketAddr) -> anyhow::Result<String> {
    outside.namespace().run(|| client::get(address, MOMENT))?
}

pub(crate) fn answered_by(
    outside: &Outside,
    address: SocketAddr,
    name: &str,
) -> anyhow::Result<()> {
    wait::until(&format!("an answer of {address}"), PROGRAMMED, || {
        let answer = get(outside, address)?;
        anyhow::ensure!(answer == name, "{answer}");
        Ok(())
    })
}
