//! `signpost cleanup --kube-proxy`: removes the rules that kube-proxy leaves behind when it goes, and nobody else's.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

use super::{iptables, ipvs};
use crate::{
    dataplane::netfilter::nat_chains::{self, KEPT},
    model::Family,
};

/// The table of kube-proxy's nftables mode, in each family.
const TABLE: &str = "kube-proxy";

/// Removes kube-proxy's rules from the network namespace of the caller. Connections that it made go on: their
/// translation is connection tracking's, and a NAT chain stays on each hook for it.
///
/// # Errors
/// Where rules are there and cannot be removed.
pub fn run() -> anyhow::Result<String> {
    let mut said = String::new();
    let mut kept = false;
    for family in [Family::V4, Family::V6] {
        // A kernel without nftables has no such table.
        if !nat_chains::has_table(family, TABLE).unwrap_or(false) {
            continue;
        }
        nat_chains::keep_instead_of(family, TABLE)
            .with_context(|| format!("table {TABLE} cannot be removed"))?;
        kept = true;
        said.push_str(&format!("removed table {} {TABLE}\n", word(family)));
    }
    for (tool, family) in iptables::TOOLS {
        let Some(saved) = output(&format!("{tool}-save"), &[]) else {
            continue;
        };
        let Some((script, chains)) = iptables::script(&saved) else {
            continue;
        };
        // Kernels without nftables keep iptables' own chains on the hooks.
        kept |= nat_chains::keep(family).is_ok();
        feed(&format!("{tool}-restore"), &["--noflush"], &script)?;
        said.push_str(&format!("removed {chains} chains of {tool}\n"));
    }
    said.push_str(&ipvs::remove()?);
    for (family, tool) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
        if nat_chains::has_chain(family, "nat", "KUBE-SERVICES").unwrap_or(false) {
            bail!(
                "{said}rules of kube-proxy's iptables mode are left, because {tool} is not there or sees other rules: \
                 run this on the node itself, or where {tool}-nft-save and {tool}-nft-restore are"
            );
        }
    }
    if said.is_empty() {
        said.push_str("kube-proxy has left nothing behind\n");
    }
    if kept {
        said.push_str(&format!(
            "the empty tables {KEPT} keep its connections alive; the agent removes them once the last of them is gone\n"
        ));
    }
    Ok(said)
}

const fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// What a program says; `None` where it is not there or fails.
pub(super) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(said)
}

/// Gives a script to a program.
///
/// # Errors
/// Where it cannot be run or refuses the script.
pub(super) fn feed(program: &str, arguments: &[&str], script: &str) -> anyhow::Result<()> {
    let context = || format!("{program} cannot be run");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(context)?;
    let written: io::Result<()> = child
        .stdin
        .take()
        .map_or(Ok(()), |mut input| input.write_all(script.as_bytes()));
    let output = child.wait_with_output().with_context(context)?;
    ensure!(
        output.status.success(),
        "{program} refused to remove what is kube-proxy's: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    written.with_context(context)
}
