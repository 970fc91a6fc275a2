//! Sets of addresses and ports that rules of iptables ask, by `ipset`.

use std::{collections::BTreeSet, path::Path};

use super::program::{feed, output};

const PROGRAM: &str = "ipset";
/// Where a kernel that has sets says so; asking the program would load the module.
const MODULE: &str = "/sys/module/ip_set";

/// The sets whose names begin in this way; none where they cannot be listed.
pub fn names(prefix: &str) -> BTreeSet<String> {
    if !Path::new(MODULE).exists() {
        return BTreeSet::new();
    }
    output(PROGRAM, &["list", "-name"])
        .unwrap_or_default()
        .lines()
        .filter(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

/// Carries out a script line by line, up to the first that is refused.
///
/// # Errors
/// What the program says.
pub fn restore(script: &str) -> anyhow::Result<()> {
    if script.is_empty() {
        return Ok(());
    }
    feed(PROGRAM, &["restore"], script)
}

/// Removes sets that no rule asks.
///
/// # Errors
/// What the program says.
pub fn destroy(names: &BTreeSet<String>) -> anyhow::Result<()> {
    let script: String = names
        .iter()
        .map(|name| format!("destroy {name}\n"))
        .collect();
    restore(&script)
}
