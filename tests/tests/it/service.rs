//! From a pod through a ClusterIP to a backend and back.

use anyhow::Context as _;
use signpost_tests::lab::{
    Agent, Lab,
    agent::fetch,
    client::{Conversation, Datagrams},
};

use crate::small::{CNIS, PATIENCE, Small, answering, ask, get};

/// Where an agent's metrics are.
const METRICS: u16 = 10249;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn tcp_and_udp_reach_local_remote_and_host_network_backends() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::two(cni)?;
        let client = small.client("one", "client")?;
        small.server("local", "one", "local")?;
        small.server("remote", "two", "remote")?;
        small.host_server("host", "one", "host")?;
        small.host_server("remote-host", "two", "remote-host")?;
        for name in ["local", "remote", "host", "remote-host"] {
            let vip = small.service(name)?;
            answering(&client, vip)?;
            for address in vip.both() {
                let expected = format!("default/{name}");
                assert_eq!(get(&client, address)?, expected, "{cni:?} {address}");
                assert_eq!(ask(&client, address, b"x")?, expected, "{cni:?} {address}");
            }
        }
        assert_eq!(small.agents[0].counter("helper_failed")?, 0);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_backend_gets_its_share() -> anyhow::Result<()> {
    let mut small = Small::two(CNIS[0])?;
    let client = small.client("one", "client")?;
    for (node, name) in [("one", "a"), ("one", "b"), ("two", "c")] {
        small.server("web", node, name)?;
    }
    let vip = small.service("web")?;
    answering(&client, vip)?;
    for address in vip.both() {
        let mut found = std::collections::BTreeMap::new();
        for _ in 0..60 {
            *found.entry(get(&client, address)?).or_insert(0) += 1;
        }
        assert_eq!(found.len(), 3, "{found:?}");
        // With 60 fair draws of three, fewer than 5 of one come once in a hundred thousand runs.
        assert!(found.values().all(|count| *count >= 5), "{found:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_reaches_itself_through_its_own_service() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::one(cni)?;
        let pod = small.server("web", "one", "self")?;
        let vip = small.service("web")?;
        answering(&pod, vip)?;
        for address in vip.both() {
            assert_eq!(get(&pod, address)?, "default/self", "{cni:?} {address}");
            assert_eq!(ask(&pod, address, b"x")?, "default/self", "{cni:?}");
        }
        assert!(small.agents[0].counter("hairpin")? > 0, "{cni:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn datagrams_larger_than_a_packet_arrive_whole() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::two(cni)?;
        let client = small.client("one", "client")?;
        for (service, node) in [("local", "one"), ("remote", "two")] {
            small.server(service, node, service)?;
            let vip = small.service(service)?;
            answering(&client, vip)?;
            for address in vip.both() {
                let payload: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
                let answer = ask(&client, address, &payload)?;
                assert_eq!(answer, format!("default/{service}"), "{cni:?} {address}");
            }
        }
        assert!(small.agents[0].counter("fragment_translated")? > 0);
    }
    Ok(())
}

/// Of the first datagram the client's interface learns where such go; then their fragments may come in any order.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn fragments_may_come_in_another_order() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::two(cni)?;
        let client = small.client("one", "client")?;
        small.server("web", "two", "server")?;
        let vip = small.service("web")?;
        answering(&client, vip)?;
        for address in vip.both() {
            let payload: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
            client.run(|| {
                let datagrams = Datagrams::to(address, PATIENCE)?;
                anyhow::ensure!(datagrams.ask(&payload)? == "default/server");
                anyhow::ensure!(datagrams.ask_in_reverse(&payload)? == "default/server");
                Ok(())
            })??;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn one_client_port_reaches_two_services_that_share_a_backend() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::one(cni)?;
        let client = small.client("one", "client")?;
        let server = small.server("first", "one", "server")?;
        let first = small.service("first")?;
        // The same pod again, under another Service.
        small.kubelet.write(&serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": "second-by-hand",
                "labels": {"kubernetes.io/service-name": "second"}},
            "addressType": "IPv4",
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": 8080},
                {"name": "udp", "protocol": "UDP", "port": 8080},
            ],
            "endpoints": [{"addresses": [server.v4()], "nodeName": "one"}],
        }))?;
        let second = small.service("second")?;
        answering(&client, first)?;
        signpost_tests::lab::wait::until("the second", PATIENCE, || get(&client, second.v4))?;
        client.run(|| {
            let port = 4321;
            let one = Datagrams::from_port(port, first.v4, PATIENCE)?;
            let two = Datagrams::from_port(port, second.v4, PATIENCE)?;
            for round in 0..10_u8 {
                anyhow::ensure!(one.ask(&[b'1', round])? == "default/server");
                anyhow::ensure!(two.ask(&[b'2', round])? == "default/server");
            }
            let mut one = Conversation::from_port(port, first.v4, PATIENCE)?;
            let mut two = Conversation::from_port(port, second.v4, PATIENCE)?;
            for round in 0..10 {
                anyhow::ensure!(one.say(&format!("1 {round}"))? == "default/server");
                anyhow::ensure!(two.say(&format!("2 {round}"))? == "default/server");
            }
            Ok(())
        })??;
        assert!(small.agents[0].counter("flow_clash")? > 0, "{cni:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_goes_through_a_service_shows_in_the_metrics_where_it_is_counted() -> anyhow::Result<()> {
    let lab = Lab::builder().node("one", CNIS[0]).start()?;
    let node = lab.node("one")?.clone();
    let agent = Agent::with_flags(&node, &["--count-services"])?;
    let mut small = Small::over(lab, vec![agent]);
    let client = small.client("one", "client")?;
    small.server("web", "one", "web")?;
    let vip = small.service("web")?;
    answering(&client, vip)?;

    let connections = || {
        let text = node.namespace().run(|| fetch(METRICS, "/metrics"))??;
        let counted = text.lines().find_map(|line| {
            let labels = line.strip_prefix("signpost_service_connections_total{")?;
            let (labels, number) = labels.split_once("} ")?;
            let ours = labels.contains("namespace=\"default\",service=\"web\"")
                && labels.contains("ip_family=\"IPv4\"")
                && labels.contains("port=\"tcp\"");
            ours.then(|| number.parse::<u64>().ok()).flatten()
        });
        counted.with_context(|| format!("no such line in\n{text}"))
    };
    let before = connections()?;
    for _ in 0..3 {
        get(&client, vip.v4)?;
    }
    assert_eq!(connections()? - before, 3);
    Ok(())
}
