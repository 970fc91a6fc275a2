//! What machines outside the cluster get.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use signpost_tests::lab::{Lab, Outside, client, links, wait};

use crate::{
    small::{CNIS, PROGRAMMED, Small},
    world::{self, MOMENT, of_node, refusal},
};

const NODE_PORT: u16 = 30_080;
const EXTERNAL: [&str; 2] = ["203.0.113.80", "fd00:113::80"];
const BALANCED: &str = "203.0.113.90";

fn outside(lab: &Lab) -> anyhow::Result<Outside> {
    let outside = Outside::new(lab, 200)?;
    let networks: Vec<links::Prefix> = EXTERNAL
        .iter()
        .chain([&BALANCED])
        .map(|text| links::alone(text.parse().expect("an address")))
        .collect();
    outside.route_over(lab.node("one")?, &networks)?;
    Ok(outside)
}

fn service(small: &Small, changed: &Value) -> anyhow::Result<()> {
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

fn ways_in(small: &Small) -> anyhow::Result<Vec<SocketAddr>> {
    let nodes = small.lab.node("one")?.addresses();
    let node_ports = nodes.map(|address| SocketAddr::new(address, NODE_PORT));
    let external = EXTERNAL.map(|text| SocketAddr::new(text.parse().expect("an address"), 80));
    let balanced = SocketAddr::new(BALANCED.parse::<IpAddr>()?, 80);
    Ok([&node_ports[..], &external, &[balanced]].concat())
}

fn get(outside: &Outside, address: SocketAddr) -> anyhow::Result<String> {
    outside.namespace().run(|| client::get(address, MOMENT))?
}

fn answered(outside: &Outside, address: SocketAddr) -> anyhow::Result<()> {
    wait::until(&format!("an answer of {address}"), PROGRAMMED, || {
        let answer = get(outside, address)?;
        anyhow::ensure!(answer == "default/server", "{answer}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn node_ports_external_ips_and_load_balancers_are_served() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    for cni in CNIS {
        for there in ["one", "two"] {
            let mut small = world::two(cni, &[])?;
            let outside = outside(&small.lab)?;
            let pod = small.client("one", "client")?;
            small.server("web", there, "server")?;
            service(&small, &json!({}))?;
            for address in ways_in(&small)? {
                answered(&outside, address)?;
                let datagram = outside
                    .namespace()
                    .run(|| client::Datagrams::to(address, MOMENT)?.ask(b"hello"))??;
                assert_eq!(datagram, "default/server", "{address} over UDP");
                assert_eq!(pod.run(|| client::get(address, MOMENT))??, "default/server");
                let node = small.lab.node("one")?;
                assert_eq!(of_node(node, address)?, "default/server", "{address}");
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn with_policy_local_only_clients_inside_are_sent_elsewhere() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    for (there, is_served) in [("one", true), ("two", false)] {
        let mut small = world::two(signpost_tests::lab::Cni::Routed, &[])?;
        let outside = outside(&small.lab)?;
        let pod = small.client("one", "client")?;
        small.server("web", there, "server")?;
        service(&small, &json!({"externalTrafficPolicy": "Local"}))?;
        for address in ways_in(&small)? {
            wait::until(&format!("an answer of {address}"), PROGRAMMED, || {
                pod.run(|| client::get(address, MOMENT))?
            })?;
            let node = small.lab.node("one")?;
            assert_eq!(of_node(node, address)?, "default/server", "{address}");
            let said = refusal(get(&outside, address));
            let expected = if is_served { "answered" } else { "timed out" };
            assert!(said.contains(expected), "{address} from {there}: {said}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn only_sources_in_the_ranges_may_use_the_load_balancer() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let mut small = world::two(signpost_tests::lab::Cni::Routed, &[])?;
    let outside = outside(&small.lab)?;
    small.server("web", "two", "server")?;
    let balanced = SocketAddr::new(BALANCED.parse::<IpAddr>()?, 80);
    service(
        &small,
        &json!({"loadBalancerSourceRanges": ["198.51.100.0/24"]}),
    )?;
    let [node_port, ..] = ways_in(&small)?[..] else {
        anyhow::bail!("no way in");
    };
    answered(&outside, node_port)?;
    let said = refusal(get(&outside, balanced));
    assert!(said.contains("timed out"), "{said}");
    service(
        &small,
        &json!({"loadBalancerSourceRanges": ["198.51.100.0/24", "192.168.50.0/24"]}),
    )?;
    answered(&outside, balanced)?;
    service(
        &small,
        &json!({"loadBalancerSourceRanges": ["198.51.100.0/24"]}),
    )?;
    world::soon("refusal", || Ok(get(&outside, balanced).is_err()))
}
