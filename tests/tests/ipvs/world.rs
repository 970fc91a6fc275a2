//! A small cluster whose nodes are in IPVS mode, and what their kernels say.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use signpost_tests::lab::{
    Agent, CLUSTER_CIDR, Cni, Lab, Node, Pod, agent::fetch, client, programs, wait,
};

use crate::small::{MOMENT, PROGRAMMED, Small, Vip, answering};

/// Why nothing can be tried here.
pub(crate) fn obstacle() -> Option<String> {
    programs::obstacle_to_ipvs()
}

/// Nodes `one` and `two`, each with an agent in IPVS mode.
pub(crate) fn two(cni: Cni, flags: &[&str]) -> anyhow::Result<Small> {
    over(
        Lab::builder().node("one", cni).node("two", cni).start()?,
        flags,
    )
}

/// Node `one` alone.
pub(crate) fn one(flags: &[&str]) -> anyhow::Result<Small> {
    over(Lab::builder().node("one", Cni::Routed).start()?, flags)
}

/// Node `one` with pod `client`, which is answered by the only backend of Service `web`.
pub(crate) struct Served {
    pub(crate) client: Pod,
    /// Backend `default/a`.
    pub(crate) server: Pod,
    pub(crate) vip: Vip,
    pub(crate) node: Node,
    pub(crate) small: Small,
}

/// Such a node, with an agent of these flags.
pub(crate) fn served(flags: &[&str]) -> anyhow::Result<Served> {
    let mut small = one(flags)?;
    let client = small.client("one", "client")?;
    let server = small.server("web", "one", "a")?;
    let vip = small.service("web")?;
    answering(&client, vip)?;
    Ok(Served {
        client,
        server,
        vip,
        node: small.lab.node("one")?.clone(),
        small,
    })
}

fn over(lab: Lab, flags: &[&str]) -> anyhow::Result<Small> {
    let agents: anyhow::Result<Vec<Agent>> = lab
        .nodes()
        .iter()
        .map(|node| agent(node, "ipvs", flags))
        .collect();
    Ok(Small::over(lab, agents?))
}

/// An agent in this mode.
pub(crate) fn agent(node: &Node, mode: &str, flags: &[&str]) -> anyhow::Result<Agent> {
    let pods: Vec<String> = node
        .pod_networks()
        .iter()
        .map(|(address, length)| format!("{address}/{length}"))
        .collect();
    let pods = pods.join(",");
    let mut all = vec!["--mode", mode, "--cluster-cidr"];
    all.push(if flags.contains(&"--no-cluster") {
        &pods
    } else {
        CLUSTER_CIDR
    });
    all.extend(flags.iter().filter(|flag| **flag != "--no-cluster"));
    Agent::with_flags(node, &all)
}

/// What `ipvsadm` says of a node's virtual servers, a line each with those of its destinations.
pub(crate) fn ipvsadm(node: &Node) -> anyhow::Result<Vec<String>> {
    let text = node.command("ipvsadm")?.args(["-S", "-n"]).text()?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// The rules and sets of ours that a node's netfilter has, by the names of tables, chains, and sets: as `nft`, `iptables` and
/// `ipset` list them, whichever of them there are.
pub(crate) fn rules(node: &Node) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for (program, arguments) in [
        ("nft", &["list", "tables"][..]),
        ("iptables-legacy-save", &[]),
        ("ip6tables-legacy-save", &[]),
        ("ipset", &["list", "-name"]),
    ] {
        // One that the kernel has no part for fails.
        let said = node.command(program)?.args(arguments).output()?;
        let said = String::from_utf8_lossy(&said.stdout);
        let ours = ["signpost-ipvs", "SIGNPOST-", "signpost-4-", "signpost-6-"];
        let lines = said.lines().filter(|line| !line.starts_with(':'));
        let lines = lines.filter(|line| ours.iter().any(|name| line.contains(name)));
        all.extend(lines.map(str::to_owned));
    }
    Ok(all)
}

/// Whether a node's kernel has nftables.
pub(crate) fn has_nftables(node: &Node) -> anyhow::Result<bool> {
    let said = node.command("nft")?.args(["list", "tables"]).output()?;
    Ok(said.status.success())
}

/// The weight of a destination, by `ipvsadm`; `None` where it is not there.
pub(crate) fn weight(node: &Node, server: SocketAddr, to: IpAddr) -> anyhow::Result<Option<u32>> {
    let to = SocketAddr::new(to, 8080);
    let start = format!("-a -t {server} -r {to} ");
    let lines = ipvsadm(node)?;
    let Some(line) = lines.iter().find(|line| line.starts_with(&start)) else {
        return Ok(None);
    };
    let weight = line.rsplit(' ').next().context("no weight")?;
    Ok(Some(weight.parse()?))
}

/// Asks an address over TCP from a node's own processes.
pub(crate) fn of_node(node: &Node, address: SocketAddr) -> anyhow::Result<String> {
    node.namespace().run(|| client::get(address, MOMENT))?
}

/// What the agent of a node counts.
pub(crate) fn metrics(node: &Node) -> anyhow::Result<String> {
    node.namespace().run(|| fetch(10_249, "/metrics"))?
}

/// What the kernel has on a node, for who wants to know why something failed.
pub(crate) fn seen(node: &Node) -> String {
    let commands = [
        "ipvsadm -Ln",
        "nft list ruleset",
        "iptables-legacy-save",
        "ip6tables-legacy-save",
        "ipset list",
        "nstat -z",
        "ip address show dummy-signpost",
    ];
    commands
        .iter()
        .map(|line| {
            let mut words = line.split(' ');
            let program = words.next().unwrap_or_default();
            let said = node
                .command(program)
                .and_then(|mut command| command.args(words).text());
            format!(
                "# {line}\n{}\n",
                said.unwrap_or_else(|error| error.to_string())
            )
        })
        .collect()
}

/// Waits until something holds.
pub(crate) fn soon(what: &str, holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let mut holds = holds;
    wait::until(what, PROGRAMMED, || {
        anyhow::ensure!(holds()?, "not yet");
        Ok(())
    })
}

/// The error of a connection, in the kernel's words.
pub(crate) fn refusal(result: anyhow::Result<String>) -> String {
    match result {
        Ok(name) => format!("answered by {name}"),
        Err(error) => format!("{error:#}"),
    }
}
