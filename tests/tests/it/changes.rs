//! Traffic follows changes, and nothing that lives is cut off.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use signpost_tests::lab::{
    LoadRun,
    client::{Conversation, Datagrams},
    programs, wait,
};

use crate::small::{CNIS, PATIENCE, PROGRAMMED, Small, answering, get};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn traffic_leaves_a_backend_that_is_no_longer_ready() -> anyhow::Result<()> {
    let mut small = Small::two(CNIS[0])?;
    let client = small.client("one", "client")?;
    small.server("web", "one", "stays")?;
    small.server("web", "two", "goes")?;
    let vip = small.service("web")?;
    answering(&client, vip)?;
    wait::until("traffic to both", PROGRAMMED, || {
        let answer = get(&client, vip.v4)?;
        anyhow::ensure!(answer == "default/goes");
        Ok(())
    })?;
    small.kubelet.set_ready("default", "goes", false)?;
    // Twenty in a row are by chance once in a million.
    let mut row = 0;
    wait::until("traffic to one only", PROGRAMMED, || {
        while row < 20 {
            row = if get(&client, vip.v4)? == "default/stays" {
                row + 1
            } else {
                0
            };
            anyhow::ensure!(row > 0);
        }
        Ok(())
    })?;
    small.kubelet.delete("default", "goes")?;
    for address in vip.both() {
        for _ in 0..20 {
            assert_eq!(get(&client, address)?, "default/stays");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn udp_leaves_a_dead_backend_at_its_next_packet() -> anyhow::Result<()> {
    let mut small = Small::one(CNIS[0])?;
    let client = small.client("one", "client")?;
    for name in ["a", "b"] {
        small.server("web", "one", name)?;
    }
    let vip = small.service("web")?;
    answering(&client, vip)?;
    let (flow, first) = client.run(|| {
        let flow = Datagrams::to(vip.v4, PATIENCE)?;
        let first = flow.ask(b"x")?;
        anyhow::Ok((flow, first))
    })??;
    let dead = first.strip_prefix("default/").context("a name")?.to_owned();
    small.kubelet.delete("default", &dead)?;
    // The same socket goes on.
    let second = wait::until("the other backend", PROGRAMMED, || {
        flow.socket()
            .set_read_timeout(Some(Duration::from_millis(100)))?;
        flow.ask(b"y")
    })?;
    assert_ne!(second, first);
    assert!(small.agents[0].counter("backend_gone")? > 0);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn tcp_stays_with_a_backend_that_terminates() -> anyhow::Result<()> {
    let mut small = Small::one(CNIS[0])?;
    let client = small.client("one", "client")?;
    small.server("web", "one", "old")?;
    let vip = small.service("web")?;
    answering(&client, vip)?;
    let mut conversation = client.run(|| Conversation::start(vip.v4, PATIENCE))??;
    assert_eq!(conversation.say("before")?, "default/old");
    small.server("web", "one", "new")?;
    small.kubelet.terminate("default", "old")?;
    wait::until("new connections to the new", PROGRAMMED, || {
        for _ in 0..20 {
            let answer = get(&client, vip.v4)?;
            anyhow::ensure!(answer == "default/new", "{answer}");
        }
        Ok(())
    })?;
    for _ in 0..20 {
        assert_eq!(conversation.say("after")?, "default/old");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_agent_that_is_killed_and_comes_back_loses_nothing() -> anyhow::Result<()> {
    let mut small = Small::one(CNIS[0])?;
    let client = small.client("one", "client")?;
    for name in ["a", "b", "c"] {
        small.server("web", "one", name)?;
    }
    small.dns_service()?;
    let vip = small.service("web")?;
    answering(&client, vip)?;
    let name = "web.default.svc.cluster.local";
    wait::until("the name", PROGRAMMED, || {
        let mut resolve = client.command(programs::lab_pod()?)?;
        resolve.args(["resolve", name]).text()
    })?;
    let mut kept = client.run(|| Conversation::start(vip.v6, PATIENCE))??;
    let first = kept.say("before")?;
    let load = LoadRun::start(&client, &format!("{name}:80"), Some(vip.v4))?;
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..3 {
        small.agents[0].kill();
        std::thread::sleep(Duration::from_millis(700));
        small.agents[0].restart()?;
        std::thread::sleep(Duration::from_millis(300));
    }
    let counts = load.finish()?;
    for protocol in ["tcp", "udp"] {
        let count = &counts[protocol];
        assert_eq!(count.failed, BTreeMap::new(), "{protocol}");
        assert!(count.successes() > 1000, "{protocol}: {counts:?}");
    }
    assert_eq!(kept.say("after")?, first);
    Ok(())
}
