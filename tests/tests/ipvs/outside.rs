//! What machines outside the cluster get.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use signpost_tests::lab::{client, wait};

use crate::{
    small::{CNIS, MOMENT, PROGRAMMED},
    ways_in::{BALANCED, answered_by, get, outside, service, ways_in},
    world::{self, of_node, refusal},
};

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
                answered_by(&outside, address, "default/server")?;
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
        // One set of endpoints is for all: where that narrows the choice of clients inside, operators are told.
        small.server("web", "two", "elsewhere")?;
        world::soon("a word in the status", || {
            let status = small.agents[0].command("status")?.output()?;
            let status = String::from_utf8(status.stdout)?;
            Ok(status.contains("they get only endpoints of this node") == is_served)
        })?;
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
    answered_by(&outside, node_port, "default/server")?;
    let node = small.lab.node("one")?;
    for said in [get(&outside, balanced), of_node(node, balanced)] {
        let said = refusal(said);
        assert!(said.contains("timed out"), "{said}");
    }
    service(
        &small,
        &json!({"loadBalancerSourceRanges": ["198.51.100.0/24", "192.168.50.0/24"]}),
    )?;
    answered_by(&outside, balanced, "default/server")?;
    // The node's own address is in the range, so its processes are let in.
    assert_eq!(of_node(node, balanced)?, "default/server");
    service(
        &small,
        &json!({"loadBalancerSourceRanges": ["198.51.100.0/24"]}),
    )?;
    world::soon("refusal", || Ok(get(&outside, balanced).is_err()))
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn without_endpoints_every_way_in_refuses() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let small = world::one(&[])?;
    let outside = outside(&small.lab)?;
    service(&small, &json!({}))?;
    let node = small.lab.node("one")?;
    for address in ways_in(&small)? {
        world::soon("a refusal", || {
            Ok(refusal(get(&outside, address)).contains("refused"))
        })?;
        let said = refusal(of_node(node, address));
        assert!(said.contains("refused"), "{address} of the node: {said}");
    }
    Ok(())
}
