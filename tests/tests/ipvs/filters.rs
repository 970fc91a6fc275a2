//! What filters and masquerades beside the virtual server: nftables, or iptables and ipset.

use signpost_tests::lab::client::Conversation;

use crate::{
    small::{PATIENCE, get},
    world::{self, Served, agent, has_nftables, soon},
};

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn without_being_asked_iptables_is_taken_only_where_there_is_no_nftables() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let Served { small, node, .. } = world::served(&[])?;
    // Whoever runs the suite may have asked for one.
    let asked = std::env::var("SIGNPOST_NETFILTER").is_ok_and(|asked| asked == "iptables");
    let by_tables = has_nftables(&node)? && !asked;
    let (text, name) = if by_tables {
        ("nftables", "nftables")
    } else {
        ("iptables and ipset", "iptables")
    };
    let status = small.agents[0].command("status")?.output()?;
    let status = String::from_utf8(status.stdout)?;
    assert!(status.contains(&format!("ipvs, with {text}\n")), "{status}");
    let mut doctor = small.agents[0].command("doctor")?;
    let doctor = doctor.args(["--mode", "ipvs", "-o", "json"]).text()?;
    let doctor: serde_json::Value = serde_json::from_str(&doctor)?;
    assert_eq!(doctor["netfilter"], name, "{doctor}");
    let is_table = |rule: &String| rule.contains("table ip");
    let rules = world::rules(&node)?;
    assert!(!rules.is_empty());
    assert_eq!(rules.iter().all(is_table), by_tables, "{rules:?}");
    assert_eq!(rules.iter().any(is_table), by_tables, "{rules:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn what_filters_may_change_and_leaves_nothing_behind() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let Served {
        mut small,
        client,
        vip,
        node,
        ..
    } = world::served(&["--netfilter", "iptables"])?;
    let mut conversation = client.run(|| Conversation::start(vip.v4, PATIENCE))??;
    conversation.say("hello")?;
    let chains = world::rules(&node)?;
    let is_table = |rule: &String| rule.contains("table ip");
    assert!(
        !chains.is_empty() && !chains.iter().any(is_table),
        "{chains:?}"
    );

    let kinds = if has_nftables(&node)? {
        &["nftables", "iptables"][..]
    } else {
        &["iptables"]
    };
    for kind in kinds {
        small.agents.clear();
        small
            .agents
            .push(agent(&node, "ipvs", &["--netfilter", kind])?);
        let tables = *kind == "nftables";
        soon("the rules of the other kind alone", || {
            let rules = world::rules(&node)?;
            Ok(!rules.is_empty() && rules.iter().all(|rule| is_table(rule) == tables))
        })?;
        assert_eq!(conversation.say("still there?")?, "default/a");
        for address in vip.both() {
            assert_eq!(get(&client, address)?, "default/a", "{kind}");
        }
    }
    assert_eq!(world::rules(&node)?, chains);
    small.agents[0].terminate();
    let said = small.agents[0].command("cleanup")?.text()?;
    assert!(
        said.contains("12 chains of iptables with 22 sets of ipset"),
        "{said}"
    );
    assert_eq!(world::rules(&node)?, [""; 0]);
    Ok(())
}
