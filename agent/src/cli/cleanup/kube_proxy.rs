//! `signpost cleanup --kube-proxy`: removes the rules that kube-proxy leaves behind when it goes, and nobody else's.

use anyhow::{Context as _, bail};

use super::{iptables, ipvs};
use crate::{
    dataplane::netfilter::{
        nat_chains::{self, KEPT},
        program::{feed, output},
    },
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
        feed(&format!("{tool}-restore"), &["--noflush"], &script)
            .context("kube-proxy's chains are not removed")?;
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
