//! From a machine outside the cluster through a NodePort or an external IP to a backend and back.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream},
};

use serde_json::{Value, json};
use signpost_tests::lab::{
    Cni, Lab, Outside,
    capture::{Capture, all_right},
    client::{self, Datagrams},
    links, offload, wait,
};

use crate::small::{CNIS, PATIENCE, PROGRAMMED, Small};

const NODE_PORT: u16 = 30_080;
const EXTERNAL: [&str; 2] = ["203.0.113.80", "fd00:113::80"];

/// A machine outside, which sends what is for the external addresses to node `one`.
fn outside(lab: &Lab) -> anyhow::Result<Outside> {
    let outside = Outside::new(lab, 200)?;
    let networks: Vec<links::Prefix> = EXTERNAL
        .map(|text| text.parse::<IpAddr>().expect("an address"))
        .map(links::alone)
        .to_vec();
    outside.route_over(lab.node("one")?, &networks)?;
    Ok(outside)
}

/// Service `web` of both families with a NodePort and external IPs, changed by what is given.
fn service(small: &Small, changed: &Value) -> anyhow::Result<()> {
    let mut spec = json!({
        "type": "NodePort",
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
    }))
}

/// Where node `one` is asked.
fn ways_in(small: &Small) -> anyhow::Result<Vec<SocketAddr>> {
    let nodes = small.lab.node("one")?.addresses();
    let node_ports = nodes.map(|address| SocketAddr::new(address, NODE_PORT));
    let external = EXTERNAL.map(|text| SocketAddr::new(text.parse().expect("an address"), 80));
    Ok([node_ports, external].concat())
}

fn get(outside: &Outside, address: SocketAddr) -> anyhow::Result<String> {
    outside
        .namespace()
        .run(|| client::get(address, std::time::Duration::from_millis(500)))?
}

fn answered_by(outside: &Outside, address: SocketAddr, name: &str) -> anyhow::Result<()> {
    wait::until(&format!("an answer of {address}"), PROGRAMMED, || {
        let answer = get(outside, address)?;
        anyhow::ensure!(answer == name, "{answer}");
        Ok(())
    })
}

/// Sends a datagram that takes many packets; the answer brings it back.
fn long_datagram(outside: &Outside, address: SocketAddr) -> anyhow::Result<String> {
    let payload: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
    outside
        .namespace()
        .run(|| Datagrams::to(address, PATIENCE)?.ask(&payload))?
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn fragments_from_outside_may_come_in_another_order() -> anyhow::Result<()> {
    for node in ["one", "two"] {
        let mut small = Small::two(Cni::Routed)?;
        let outside = outside(&small.lab)?;
        small.server("web", node, "server")?;
        service(&small, &json!({}))?;
        for address in ways_in(&small)? {
            answered_by(&outside, address, "default/server")?;
            let payload: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
            outside.namespace().run(|| {
                let datagrams = Datagrams::to(address, PATIENCE)?;
                anyhow::ensure!(datagrams.ask(&payload)? == "default/server");
                anyhow::ensure!(datagrams.ask_in_reverse(&payload)? == "default/server");
                Ok(())
            })??;
        }
    }
    Ok(())
}

/// With offload and without, routed and bridged: every packet that anybody sees has right checksums.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_clients_reach_backends_of_this_node_and_of_others() -> anyhow::Result<()> {
    for (cni, offloaded) in [
        (Cni::Routed, true),
        (Cni::Bridged, true),
        (Cni::Routed, false),
    ] {
        for node in ["one", "two"] {
            let mut builder = Lab::builder().node("one", cni).node("two", cni);
            if !offloaded {
                builder = builder.without_offload();
            }
            let mut small = Small::of(builder.start()?)?;
            let outside = outside(&small.lab)?;
            let server = small.server("web", node, "server")?;
            service(&small, &json!({}))?;
            for address in ways_in(&small)? {
                answered_by(&outside, address, "default/server")?;
            }
            let mut capture = Capture::default();
            if !offloaded {
                offload::switch_off(outside.namespace(), "eth0")?;
                capture.watch("outside", outside.namespace())?;
                capture.watch("server", server.namespace())?;
            }
            for address in ways_in(&small)? {
                assert_eq!(get(&outside, address)?, "default/server");
                let answer = long_datagram(&outside, address)?;
                assert_eq!(answer, "default/server", "{cni:?} {node} {address}");
            }
            let seen = capture.finish()?;
            if !offloaded {
                all_right(&seen)?;
            }
            let counters = small.agents[0].counters()?;
            assert!(counters["masqueraded"] > 0, "{cni:?} {node}: {counters:?}");
            assert_eq!(counters["helper_failed"], 0);
            assert_eq!(counters["no_masquerade_address"], 0);
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_local_policy_shows_backends_the_outside_client() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::two(cni)?;
        let outside = outside(&small.lab)?;
        small.server("web", "one", "here")?;
        small.server("web", "two", "far")?;
        service(&small, &json!({"externalTrafficPolicy": "Local"}))?;
        for address in ways_in(&small)? {
            answered_by(&outside, address, "default/here")?;
            for _ in 0..10 {
                assert_eq!(get(&outside, address)?, "default/here", "{cni:?} {address}");
            }
        }
        assert_eq!(small.agents[0].counter("masqueraded")?, 0, "{cni:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_clients_are_refused_where_nobody_serves() -> anyhow::Result<()> {
    let small = Small::one(CNIS[0])?;
    let outside = outside(&small.lab)?;
    service(&small, &json!({}))?;
    // At the node's own address nothing listens either, so that only the external ones tell something.
    for address in ways_in(&small)?.into_iter().filter(|a| a.port() == 80) {
        wait::until("a refusal", PROGRAMMED, || {
            let connected = outside
                .namespace()
                .run(|| TcpStream::connect_timeout(&address, PATIENCE))?;
            let error = connected.err().map(|error| error.kind());
            anyhow::ensure!(error == Some(io::ErrorKind::ConnectionRefused), "{error:?}");
            Ok(())
        })?;
    }
    assert!(small.agents[0].counter("no_endpoints_rejected")? > 0);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn outside_clients_stay_with_their_backend() -> anyhow::Result<()> {
    let mut small = Small::two(CNIS[0])?;
    let outside = outside(&small.lab)?;
    for (node, name) in [("one", "a"), ("one", "b"), ("two", "c"), ("two", "d")] {
        small.server("web", node, name)?;
    }
    service(&small, &json!({"sessionAffinity": "ClientIP"}))?;
    for address in ways_in(&small)? {
        let mut answers = std::collections::BTreeSet::new();
        wait::until("an answer", PROGRAMMED, || get(&outside, address))?;
        for _ in 0..20 {
            answers.insert(get(&outside, address)?);
        }
        assert_eq!(answers.len(), 1, "{address}: {answers:?}");
    }
    Ok(())
}
