//! What somebody else does to the node.

use crate::{
    small::{answering, get},
    world::{self, Served, ipvsadm, soon},
};

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn what_somebody_takes_away_comes_back_and_what_is_theirs_stays() -> anyhow::Result<()> {
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
    let theirs = ["-A", "-t", "192.0.2.77:80", "-s", "rr"];
    node.command("ipvsadm")?.args(theirs).text()?;
    let before = ipvsadm(&node)?;
    assert!(before.contains(&theirs.join(" ")), "{before:?}");

    let rules = world::rules(&node)?;
    if rules.iter().any(|rule| rule.contains("signpost-ipvs")) {
        let table = ["delete", "table", "ip", "signpost-ipvs"];
        node.command("nft")?.args(table).text()?;
    } else {
        let chain = ["-t", "nat", "-F", "SIGNPOST-MARK"];
        node.command("iptables-legacy")?.args(chain).text()?;
    }
    soon("the rules", || Ok(world::rules(&node)? == rules))?;
    node.command("ipvsadm")?
        .args(["-D", "-t", &vip.v4.to_string()])
        .text()?;
    node.command("ip")?
        .args(["link", "delete", "dummy-signpost"])
        .text()?;
    soon("all", || Ok(ipvsadm(&node)? == before))?;
    answering(&client, vip)?;
    assert_eq!(get(&client, vip.v4)?, "default/a");
    small.agents[0].terminate();
    let said = small.agents[0].command("cleanup")?.text()?;
    assert!(said.contains("interface dummy-signpost"), "{said}");
    assert_eq!(ipvsadm(&node)?, [theirs.join(" ")]);
    let links = node.command("ip")?.args(["-br", "link"]).text()?;
    assert!(!links.contains("dummy-signpost"), "{links}");
    assert_eq!(world::rules(&node)?, [""; 0]);
    Ok(())
}
