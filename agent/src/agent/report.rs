//! What the agent says of itself to operators' commands, also when it is down: a report in its state folder.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};

use super::other_proxy::OtherProxy;
use crate::{config::Instance, model::Problem, probe::Row};

/// Name of the report in the state folder.
pub const REPORT: &str = "report.json";

/// What an agent says of itself. Written whenever it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Folder of the instance's pins: tells it from the report of another one.
    pub instance: PathBuf,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// When the agent started, in seconds since 1970.
    pub started: u64,
    /// Name of the node.
    pub node: String,
    /// How the data path is made: `ebpf` or `ipvs`.
    pub mode: String,
    /// What filters and masquerades in IPVS mode: `nftables`, or `iptables and ipset`; empty in eBPF mode.
    #[serde(default)]
    pub netfilter: String,
    /// What the kernel was found to have, as `signpost doctor` shows it.
    #[serde(default)]
    pub features: Vec<Row>,
    /// Where objects come from: `kube` or `files:DIR`.
    pub source: String,
    /// The cluster's domain.
    pub domain: String,
    /// The cluster's DNS addresses.
    pub dns: Vec<IpAddr>,
    /// What the agent still waits for before it is ready.
    pub pending: Vec<String>,
    /// Interfaces that the programs are attached to.
    pub interfaces: Vec<String>,
    /// Whether processes of the host are served, and why not.
    #[serde(default)]
    pub host_processes: String,
    /// Which pods are served at their sockets, and why none can be.
    #[serde(default)]
    pub pod_sockets: String,
    /// How this node stands to another proxy; `null` while it is not known.
    #[serde(default)]
    pub other_proxy: Option<OtherProxy>,
    /// What is wrong with objects.
    pub problems: Vec<Problem>,
    /// What the kernel does not serve: the object, and why.
    pub refusals: BTreeMap<String, String>,
}

impl Report {
    /// Replaces the report in a state folder.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(REPORT);
        let new = folder.join(format!("{REPORT}.new"));
        let text = serde_json::to_vec_pretty(self)?;
        let written = File::create(&new)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&new, &path));
        written.with_context(|| format!("the report {} cannot be written", path.display()))
    }

    /// Reads the report in a state folder; `None` where no agent has left one.
    ///
    /// # Errors
    /// Where there is one that cannot be read.
    pub fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(REPORT);
        let text = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => {
                read.with_context(|| format!("the report {} cannot be read", path.display()))?
            }
        };
        let report = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not an agent's report", path.display()))?;
        Ok(Some(report))
    }
}

/// Whether an agent of an instance is alive: it holds a lock on the folder of its pins, or in IPVS mode on its state folder,
/// which the kernel takes back when the process ends, however it does.
pub fn is_alive(instance: &Instance) -> bool {
    is_locked(&instance.bpffs_root) || is_locked(&instance.state_folder)
}

fn is_locked(folder: &Path) -> bool {
    File::open(folder).is_ok_and(|folder| {
        matches!(
            Flock::lock(folder, FlockArg::LockSharedNonblock),
            Err((_, Errno::EWOULDBLOCK))
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Report::read(folder.path()).unwrap(), None);
        let report = Report {
            node: "worker-1".to_owned(),
            refusals: [("name a".to_owned(), "full".to_owned())].into(),
            ..Report::default()
        };
        report.write(folder.path()).unwrap();
        assert_eq!(Report::read(folder.path()).unwrap(), Some(report));
        fs::write(folder.path().join(REPORT), "{").unwrap();
        assert!(Report::read(folder.path()).is_err());
    }

    #[test]
    fn an_agent_is_alive_while_it_holds_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_locked(&folder.path().join("none")));
        assert!(!is_locked(folder.path()));
        let open = File::open(folder.path()).unwrap();
        let held = Flock::lock(open, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(is_locked(folder.path()));
        drop(held);
        assert!(!is_locked(folder.path()));
    }
}
