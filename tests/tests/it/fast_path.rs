//! `--fast-path`: what only goes through a node is sent on past its IP stack.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, SlicedPacket};
use signpost_tests::lab::{
    Agent, Lab, Node, Outside,
    capture::{Capture, Seen, all_right},
    client::{Conversation, Datagrams},
    offload,
};

use crate::{
    small::{CNIS, PATIENCE, Small},
    ways_in::{answered_by, get, outside, service, ways_in},
};

/// The TTL and hop limit that Linux sends with.
const TTL: u8 = 64;

/// A client outside, Service `web` and its one server on this node; the agents take the fast path.
fn world(mut lab: impl FnMut() -> Result<Lab>, server: &str) -> Result<(Small, Outside)> {
    let lab = lab()?;
    let agents: Result<_> = lab
        .nodes()
        .iter()
        .map(|node| Agent::with_flags(node, &["--fast-path"]))
        .collect();
    let mut small = Small::over(lab, agents?);
    let outside = outside(&small.lab)?;
    small.server("web", server, "server")?;
    service(&small, &serde_json::json!({}))?;
    for address in ways_in(&small)? {
        answered_by(&outside, address, "default/server")?;
    }
    Ok((small, outside))
}

fn two(cni: signpost_tests::lab::Cni) -> Result<Lab> {
    Lab::builder().node("one", cni).node("two", cni).start()
}

/// The node forwards nothing any more: what still arrives has not been in its stack.
fn forward_nothing(node: &Node) -> Result<()> {
    let rules = "table inet stack {
    chain forward {
        type filter hook forward priority 0; policy drop;
    }
}
";
    let file = node.folder().join("stack.nft");
    std::fs::write(&file, rules)?;
    node.command("nft")?.arg("-f").arg(&file).text()?;
    Ok(())
}

fn ask(outside: &Outside, address: SocketAddr, payload: &[u8]) -> Result<String> {
    outside
        .namespace()
        .run(|| Datagrams::to(address, PATIENCE)?.ask(payload))?
}

fn say(outside: &Outside, address: SocketAddr, line: &str) -> Result<String> {
    outside
        .namespace()
        .run(|| Conversation::start(address, PATIENCE)?.say(line))?
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_goes_through_the_node_is_not_seen_by_its_stack() -> Result<()> {
    for cni in CNIS {
        let (small, outside) = world(|| two(cni), "two")?;
        let node = small.lab.node("one")?;
        forward_nothing(node)?;
        for address in ways_in(&small)? {
            let line = "x".repeat(200_000);
            assert_eq!(say(&outside, address, &line)?, "default/server", "{cni:?}");
            assert_eq!(
                ask(&outside, address, b"hello")?,
                "default/server",
                "{cni:?}"
            );
        }
        // The stack would ask for its neighbours; so does the fast path.
        for address in ways_in(&small)? {
            node.command("ip")?.args(["neigh", "flush", "all"]).text()?;
            assert_eq!(get(&outside, address)?, "default/server", "{cni:?}");
        }
        let counters = small.agents[0].counters()?;
        assert!(counters["masqueraded"] > 0, "{counters:?}");
        assert_eq!(counters["helper_failed"], 0);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_the_stack_has_to_see_still_goes_there() -> Result<()> {
    // To a pod of the node itself, the CNI's rules may say something.
    for cni in CNIS {
        let (small, outside) = world(|| two(cni), "one")?;
        let address = ways_in(&small)?[0];
        assert_eq!(get(&outside, address)?, "default/server");
        if cni == CNIS[0] {
            forward_nothing(small.lab.node("one")?)?;
            ensure!(get(&outside, address).is_err(), "the stack was passed by");
        }
    }
    // Fragments, and packets that are too long for the way.
    let (small, outside) = world(|| two(CNIS[0]), "two")?;
    let payload: Vec<u8> = (0..8192_u32).map(|n| (n % 251) as u8).collect();
    for address in ways_in(&small)? {
        assert_eq!(ask(&outside, address, &payload)?, "default/server");
    }
    let node = small.lab.node("one")?;
    for (family, network) in ["-4", "-6"]
        .into_iter()
        .zip(small.lab.node("two")?.pod_networks())
    {
        let network = format!("{}/{}", network.0, network.1);
        let route = |verb: &str, more: &[&str]| {
            let mut command = node.command("ip")?;
            command.args([family, "route", verb]).args(more);
            command.text()
        };
        let known = route("show", &[&network])?;
        let known: Vec<&str> = known
            .lines()
            .next()
            .context(network)?
            .split_whitespace()
            .collect();
        route("replace", &[&known[..], &["mtu", "lock", "1300"]].concat())?;
    }
    for address in ways_in(&small)? {
        let line = "x".repeat(200_000);
        assert_eq!(say(&outside, address, &line)?, "default/server");
        let mtu = outside
            .namespace()
            .run(|| crate::errors::path_mtu(address))??;
        assert_eq!(mtu, 1300, "{address}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn packets_on_the_fast_path_are_as_a_router_leaves_them() -> Result<()> {
    let without_offload = || {
        let builder = Lab::builder().node("one", CNIS[0]).node("two", CNIS[0]);
        builder.without_offload().start()
    };
    let (small, outside) = world(without_offload, "two")?;
    offload::switch_off(outside.namespace(), "eth0")?;
    let server = small
        .kubelet
        .pod("default", "server")
        .context("the server")?;
    let mut capture = Capture::new();
    capture.watch("server", server.namespace())?;
    capture.watch("outside", outside.namespace())?;
    for address in ways_in(&small)? {
        assert_eq!(get(&outside, address)?, "default/server");
        assert_eq!(ask(&outside, address, b"hello")?, "default/server");
    }
    let seen = capture.finish()?;
    all_right(&seen)?;
    // Node one and node two are between client and server.
    for (place, from) in [("server", server.v4()), ("server", server.v6())] {
        let ttls = ttls(&seen, place, from)?;
        ensure!(
            !ttls.is_empty() && ttls.iter().all(|&ttl| ttl == TTL - 2),
            "to {from}: {ttls:?}"
        );
    }
    Ok(())
}

/// TTLs of the packets of TCP and UDP that came in at a place for an address.
fn ttls(seen: &[Seen], place: &str, to: IpAddr) -> Result<Vec<u8>> {
    let mut ttls = Vec::new();
    for packet in seen
        .iter()
        .filter(|seen| seen.place == place && !seen.outgoing)
    {
        let sliced = SlicedPacket::from_ethernet(&packet.frame)?;
        if sliced.transport.is_none() {
            continue;
        }
        match sliced.net {
            Some(NetSlice::Ipv4(ip)) if to == IpAddr::V4(ip.header().destination_addr()) => {
                ttls.push(ip.header().ttl());
            }
            Some(NetSlice::Ipv6(ip))
                if to == IpAddr::V6(ip.header().destination_addr())
                    && matches!(
                        sliced.transport,
                        Some(
                            etherparse::TransportSlice::Tcp(_) | etherparse::TransportSlice::Udp(_)
                        )
                    ) =>
            {
                ttls.push(ip.header().hop_limit());
            }
            _ => {}
        }
    }
    Ok(ttls)
}
