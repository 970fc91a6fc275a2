//! From one mode to the other and back, with connections alive.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use signpost_tests::lab::{Cni, Lab, Node, Pod, client::Conversation, wait};

use crate::{
    small::{PATIENCE, PROGRAMMED, Small, Vip, answering, get},
    world::{self, Served, agent, ipvsadm, soon},
};

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn the_mode_changes_both_ways_without_a_lost_connection() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let Served {
        mut small,
        client,
        vip,
        node,
        ..
    } = world::served(&[])?;
    let converse = || -> anyhow::Result<Conversation> {
        let mut conversation = client.run(|| Conversation::start(vip.v4, PATIENCE))??;
        conversation.say("hello")?;
        Ok(conversation)
    };
    let mut of_ipvs = converse()?;

    small.agents.clear();
    small.agents.push(agent(&node, "ebpf", &[])?);
    let mut of_programs = converse()?;
    assert_eq!(of_ipvs.say("still there?")?, "default/a");
    assert_eq!(get(&client, vip.v6)?, "default/a");
    reset(of_ipvs)?;
    wait::until("the end of IPVS", PROGRAMMED, || {
        let links = node.command("ip")?.args(["-br", "link"]).text()?;
        let rules = world::rules(&node)?;
        let counted = node.command("ipvsadm")?.arg("-Ln").text()?;
        ensure!(
            ipvsadm(&node)?.is_empty() && !links.contains("dummy-signpost") && rules.is_empty(),
            "{links}{rules:?}{counted}{}",
            small.agents[0].log()
        );
        Ok(())
    })?;
    assert_eq!(of_programs.say("still there?")?, "default/a");

    small.agents.clear();
    small.agents.push(agent(&node, "ipvs", &[])?);
    through_ipvs(&node, &client, vip)?;
    let mut of_ipvs = converse()?;
    assert_eq!(of_programs.say("and now?")?, "default/a");
    assert_eq!(get(&client, vip.v6)?, "default/a");
    reset(of_programs)?;
    wait::until("the end of the programs", PROGRAMMED, || {
        let (pins, filters) = (node.bpffs().exists(), filters(&node)?);
        ensure!(
            !pins && filters.is_empty(),
            "pins: {pins}\n{filters}{}",
            small.agents[0].log()
        );
        Ok(())
    })?;
    assert_eq!(of_ipvs.say("still there?")?, "default/a");
    let status = small.agents[0].command("status")?.output()?;
    let status = String::from_utf8(status.stdout)?;
    assert!(status.contains("ipvs"), "{status}");
    let services = small.agents[0].command("service list")?.text()?;
    assert!(services.contains("web"), "{services}");
    let backends = small.agents[0].command("backend list")?.text()?;
    assert!(backends.contains("8080"), "{backends}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn programs_that_were_left_with_a_connection_are_taken_back() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let lab = Lab::builder().node("one", Cni::Routed).start()?;
    let node = lab.node("one")?.clone();
    let agents = vec![agent(&node, "ebpf", &[])?];
    let mut small = Small::over(lab, agents);
    let client = small.client("one", "client")?;
    small.server("web", "one", "a")?;
    let vip = small.service("web")?;
    answering(&client, vip)?;
    let mut kept = client.run(|| Conversation::start(vip.v6, PATIENCE))??;
    kept.say("hello")?;

    small.agents.clear();
    small.agents.push(agent(&node, "ipvs", &[])?);
    through_ipvs(&node, &client, vip)?;
    assert_eq!(kept.say("still there?")?, "default/a");

    small.agents.clear();
    small.agents.push(agent(&node, "ebpf", &[])?);
    let by_programs = || small.agents[0].counter("flow_created");
    let before = by_programs()?;
    soon("new connections by programs", || {
        get(&client, vip.v4)?;
        Ok(by_programs()? > before)
    })?;
    assert_eq!(kept.say("and now?")?, "default/a");
    Ok(())
}

/// Waits until new connections go through the virtual server: the programs are told once that has all Services, which an agent
/// that is ready may be about to do.
fn through_ipvs(node: &Node, client: &Pod, vip: Vip) -> anyhow::Result<()> {
    soon("a connection through IPVS", || {
        get(client, vip.v4)?;
        let counted = node.command("ipvsadm")?.args(["-Ln", "--stats"]).text()?;
        Ok(counted.lines().any(|line| has_connections(line, vip.v4)))
    })
}

/// The filters of a node's interfaces, which programs are on kernels without TCX.
fn filters(node: &Node) -> anyhow::Result<String> {
    let mut all = String::new();
    let links = node.command("ip")?.args(["-br", "link"]).text()?;
    for link in links.lines() {
        let name = link.split([' ', '@']).next().context("no name")?;
        for side in ["ingress", "egress"] {
            // An interface without the qdisc has none.
            let shown = node
                .command("tc")?
                .args(["filter", "show", "dev", name, side])
                .output()?;
            all.push_str(&String::from_utf8_lossy(&shown.stdout));
        }
    }
    Ok(all)
}

/// Whether a line of `ipvsadm --stats` is of this virtual server, and counts connections: `TCP  10.96.1.1:80  2 …`.
fn has_connections(line: &str, server: SocketAddr) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("TCP")
        && words.next() == Some(&server.to_string())
        && words.next().is_some_and(|count| count != "0")
}

/// Ends a connection at once, so that nobody remembers it for minutes.
fn reset(conversation: Conversation) -> anyhow::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let stream = conversation.stream();
    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger)?;
    Ok(())
}
