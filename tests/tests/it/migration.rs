//! From kube-proxy to signpost and back on one node, while connections are open and new ones come all the time.

mod world;

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use signpost_tests::lab::wait::until;

use world::{World, talk};

/// How long the proxies may take to follow.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_connection_is_lost_between_kube_proxy_s_nftables_mode_and_signpost() -> Result<()> {
    there_and_back("nftables")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn no_connection_is_lost_between_kube_proxy_s_iptables_mode_and_signpost() -> Result<()> {
    there_and_back("iptables")
}

fn there_and_back(mode: &'static str) -> Result<()> {
    let mut world = World::up(mode)?;
    world.write_rules_of_others()?;
    let of_others = world.rules_of_others()?;
    world.start_kube_proxy()?;
    there(&mut world).context("from kube-proxy to signpost")?;
    assert_eq!(world.rules_of_others()?, of_others, "nobody else's");
    back(&mut world).context("from signpost to kube-proxy")?;
    assert_eq!(world.rules_of_others()?, of_others, "nobody else's");
    Ok(())
}

fn there(world: &mut World) -> Result<()> {
    let mut old = until("kube-proxy serves everybody", PATIENCE, || world.converse())?;
    let load = world.load()?;

    world.start_signpost()?;
    talk(&mut old).context("signpost is there")?;
    until("the programs serve new connections", PATIENCE, || {
        let counters = world.agent()?.counters()?;
        for cause in [
            "flow_created",
            "socket_connected",
            "masqueraded",
            "takeover",
        ] {
            ensure!(counters[cause] > 0, "{cause}: {counters:?}");
        }
        Ok(())
    })?;
    until(
        "the agent knows of kube-proxy's connections",
        PATIENCE,
        || {
            let other = world.other_proxy()?;
            ensure!(
                other["connections"].as_u64() >= Some(old.len() as u64),
                "{other}"
            );
            Ok(())
        },
    )?;
    let mut new = world.converse()?;

    world.stop_kube_proxy()?;
    let said = world.clean_up_kube_proxy()?;
    ensure!(said.contains("removed"), "{said}");
    let left = world.rules_of_kube_proxy()?;
    ensure!(left.is_empty(), "{said}, and left {left:#?}");
    for open in [&mut old, &mut new] {
        talk(open).context("kube-proxy is cleaned up")?;
    }
    // Longer than connection tracking keeps an entry of UDP that nobody uses.
    thread::sleep(Duration::from_secs(3));
    talk(&mut old)?;
    load.finish()?;

    ensure!(
        world.has_empty_chains()?,
        "the NAT chains are gone too early"
    );
    drop(old);
    until(
        "the last connection of kube-proxy is forgotten",
        PATIENCE,
        || {
            let other = world.other_proxy()?;
            ensure!(
                other["connections"] == 0 && other["datagrams"] == 0,
                "{other}"
            );
            ensure!(!world.has_empty_chains()?, "the empty NAT chains are left");
            Ok(())
        },
    )?;
    talk(&mut new).context("the empty NAT chains are gone")
}

/// A connection of which one side is gone is kept for two minutes.
fn wait_for_the_last(world: &World) -> Result<()> {
    let said = world.signpost("drain", &["--wait", "240"])?;
    ensure!(said.contains("cuts nothing"), "{said}");
    Ok(())
}

fn back(world: &mut World) -> Result<()> {
    let mut old = world.converse()?;
    let load = world.load()?;
    world.start_kube_proxy()?;
    talk(&mut old).context("kube-proxy is there")?;

    let said = world.signpost("drain", &[])?;
    ensure!(said.contains("left to the other proxy"), "{said}");
    talk(&mut old).context("signpost drains")?;
    drop(world.converse().context("new ones while it drains")?);
    until("new connections are left to kube-proxy", PATIENCE, || {
        let counters = world.agent()?.counters()?;
        ensure!(counters["draining"] > 0, "{counters:?}");
        Ok(())
    })?;
    let refused = world.signpost("drain", &["--wait", "0"]);
    ensure!(
        refused.is_err(),
        "connections are open, and it said {refused:?}"
    );

    drop(old);
    wait_for_the_last(world)?;
    // What has ended is remembered a moment longer. One of kube-proxy's with the same port would get another one from our
    // programs, and be lost with them.
    thread::sleep(Duration::from_secs(4));
    let mut new = world.converse()?;
    wait_for_the_last(world)?;
    world.agent.as_mut().context("it runs")?.terminate();
    talk(&mut new).context("the agent is gone")?;
    let said = world.signpost("cleanup", &[])?;
    ensure!(said.contains("removed"), "{said}");
    talk(&mut new).context("signpost is gone")?;
    thread::sleep(Duration::from_secs(3));
    talk(&mut new)?;
    load.finish()
}
