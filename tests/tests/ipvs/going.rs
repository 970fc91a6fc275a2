//! Backends that go, and agents that come again.

use std::net::SocketAddr;

use signpost_tests::lab::client::{Conversation, Datagrams};

use crate::{
    small::{PATIENCE, answering, get},
    world::{self, Served, ipvsadm, soon, weight},
};

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn a_backend_that_goes_keeps_its_connections_and_gets_no_new_ones() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let Served {
        mut small,
        client,
        server: leaving,
        vip,
        node,
        ..
    } = world::served(&[])?;
    let start = || Conversation::start(vip.v4, PATIENCE);
    let mut conversation = client.run(start)??;
    assert_eq!(conversation.say("hello")?, "default/a");

    small.server("web", "one", "b")?;
    small.kubelet.set_ready("default", "a", false)?;
    soon("weight 0", || {
        Ok(weight(&node, vip.v4, leaving.v4())? == Some(0))
    })?;
    for _ in 0..6 {
        assert_eq!(get(&client, vip.v4)?, "default/b");
    }
    assert_eq!(conversation.say("still there?")?, "default/a");

    // kubernetes/kubernetes#92019: the weight that the agent before had set stayed.
    small.agents[0].kill();
    small.kubelet.set_ready("default", "a", true)?;
    small.agents[0].restart()?;
    soon("weight 1", || {
        Ok(weight(&node, vip.v4, leaving.v4())? == Some(1))
    })?;
    assert_eq!(conversation.say("and now?")?, "default/a");

    small.kubelet.set_ready("default", "a", false)?;
    soon("weight 0", || {
        Ok(weight(&node, vip.v4, leaving.v4())? == Some(0))
    })?;
    soon("the end of the backend that nobody uses", || {
        let asked = SocketAddr::new(leaving.v4(), 8080).to_string();
        let of_udp = format!("-a -u {} -r {asked}", vip.v4);
        Ok(!ipvsadm(&node)?.iter().any(|line| line.starts_with(&of_udp)))
    })
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn datagrams_leave_a_backend_that_goes_with_the_next_one() -> anyhow::Result<()> {
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
    for address in vip.both() {
        let socket = client.run(|| Datagrams::to(address, PATIENCE))??;
        assert_eq!(socket.ask(b"one")?, "default/a");
        small.server("web", "one", "b")?;
        small.kubelet.set_ready("default", "a", false)?;
        let gone = format!("-a -u {address} -r ");
        soon("one backend", || {
            let lines = ipvsadm(&node)?;
            Ok(lines.iter().filter(|line| line.starts_with(&gone)).count() == 1)
        })?;
        soon("an answer of the other", || {
            Ok(client.run(|| socket.ask(b"two"))?? == "default/b")
        })?;
        assert_eq!(socket.ask(b"three")?, "default/b");
        small.kubelet.delete("default", "b")?;
        small.kubelet.set_ready("default", "a", true)?;
        answering(&client, vip)?;
        soon("an answer of the first", || {
            Ok(get(&client, address)? == "default/a")
        })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn an_agent_that_comes_again_changes_nothing() -> anyhow::Result<()> {
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
    let before = ipvsadm(&node)?;
    let mut conversation = client.run(|| Conversation::start(vip.v6, PATIENCE))??;
    conversation.say("hello")?;
    small.agents[0].kill();
    assert_eq!(get(&client, vip.v4)?, "default/a", "without an agent");
    small.agents[0].restart()?;
    assert_eq!(conversation.say("still there?")?, "default/a");
    assert_eq!(ipvsadm(&node)?, before);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn a_service_that_is_deleted_ends_with_its_connections() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let Served {
        small, client, vip, ..
    } = world::served(&[])?;
    let mut conversation = client.run(|| Conversation::start(vip.v4, PATIENCE))??;
    conversation.say("hello")?;
    small.kubelet.forget(&serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "web"},
    }))?;
    soon("a refusal", || Ok(get(&client, vip.v4).is_err()))?;
    assert_eq!(conversation.say("still there?")?, "default/a");
    Ok(())
}
