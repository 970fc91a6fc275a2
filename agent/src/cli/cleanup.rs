//! `signpost cleanup`: removes what an instance has pinned, so that the node is as if it had never run.

mod iptables;
mod ipvs;
pub mod kube_proxy;

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::{
    agent::report,
    config::Instance,
    dataplane::{
        ebpf::handing_over::{self, Removed},
        ipvs::{INTERFACE, remains},
    },
};

/// Removes the pins of an instance whose agent does not run. With its links the programs leave the interfaces, and
/// connections through Service addresses break. What a files source gave out stays.
///
/// # Errors
/// Where the agent runs, or a pin cannot be removed.
pub fn run(instance: &Instance) -> anyhow::Result<String> {
    let root = &instance.bpffs_root;
    ensure!(
        !report::is_alive(instance),
        "the agent of this instance runs: stop it first, it would only make its pins anew"
    );
    // A wrong flag must not empty a folder of another kind.
    if root.exists() {
        let kind = statfs(root).with_context(|| format!("{} cannot be read", root.display()))?;
        ensure!(
            kind.filesystem_type() == BPF_FS_MAGIC,
            "{} is not in a bpffs; give the folder that the agent has as --bpffs-root",
            root.display()
        );
    }
    let mut said = virtual_servers()?;
    let Removed { pins, filters } = handing_over::remove(root)?;
    if filters > 0 {
        let _ = writeln!(said, "removed {filters} filters of interfaces");
    }
    let root = root.display();
    let _ = match pins {
        0 => writeln!(said, "nothing is pinned under {root}"),
        _ => writeln!(said, "removed {pins} pins under {root}"),
    };
    Ok(said)
}

/// Removes what the IPVS mode has left in this network namespace.
fn virtual_servers() -> anyhow::Result<String> {
    let removed = remains::remove().context("what the IPVS mode has left cannot be removed")?;
    if !removed.is_any() {
        return Ok(String::new());
    }
    let rules = match (removed.chains, removed.sets) {
        (0, 0) => format!("{} tables of nftables", removed.tables),
        (chains, sets) => format!("{chains} chains of iptables with {sets} sets of ipset"),
    };
    Ok(format!(
        "removed {} virtual servers, interface {INTERFACE} and {rules}\n",
        removed.servers
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    #[test]
    fn a_folder_that_is_not_in_a_bpffs_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "x").unwrap();
        let instance = Instance {
            bpffs_root: folder.path().into(),
            state_folder: folder.path().join("state"),
        };
        assert!(run(&instance).unwrap_err().to_string().contains("bpffs"));
        assert!(precious.exists());
    }

    #[test]
    fn the_pins_of_a_living_agent_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let held = fs::File::open(folder.path()).unwrap();
        let held = Flock::lock(held, FlockArg::LockExclusiveNonblock).unwrap();
        let instance = Instance {
            bpffs_root: folder.path().into(),
            state_folder: folder.path().into(),
        };
        assert!(run(&instance).unwrap_err().to_string().contains("runs"));
        drop(held);
    }
}
