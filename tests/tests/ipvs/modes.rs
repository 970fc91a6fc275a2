//! From one mode to the other and back, with connections alive.

use signpost_tests::lab::client::Conversation;

use crate::{
    small::{PATIENCE, get},
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
    soon("the end of IPVS", || {
        let links = node.command("ip")?.args(["-br", "link"]).text()?;
        let tables = node.command("nft")?.args(["list", "tables"]).text()?;
        Ok(ipvsadm(&node)?.is_empty()
            && !links.contains("dummy-signpost")
            && !tables.contains("signpost-ipvs"))
    })?;
    assert_eq!(of_programs.say("still there?")?, "default/a");

    small.agents.clear();
    small.agents.push(agent(&node, "ipvs", &[])?);
    let mut of_ipvs = converse()?;
    assert_eq!(of_programs.say("and now?")?, "default/a");
    assert_eq!(get(&client, vip.v6)?, "default/a");
    reset(of_programs)?;
    soon("the end of the programs", || {
        Ok(!node.bpffs().join("drain").exists())
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
