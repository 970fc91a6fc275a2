//! What is known between calls: a file that a running cluster leaves behind.

use std::{fs, io, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use signpost_tests::cluster::tools;

/// A cluster that is up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The process that it lives in.
    pub(crate) process: u32,
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
    /// The kubectl of the control plane's own version.
    pub(crate) kubectl: PathBuf,
    /// The folder with the logs of everything.
    pub(crate) logs: PathBuf,
}

impl State {
    /// Reads it; nothing where no cluster is up.
    pub(crate) fn read() -> Result<Option<Self>> {
        let text = match fs::read(path()?) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).context("what is known of the cluster cannot be read"),
        };
        let state: Self = serde_json::from_slice(&text)?;
        let name = fs::read_to_string(format!("/proc/{}/comm", state.process));
        Ok(name
            .is_ok_and(|name| name.trim() == "cluster")
            .then_some(state))
    }

    pub(crate) fn write(&self) -> Result<()> {
        Ok(fs::write(path()?, serde_json::to_vec_pretty(self)?)?)
    }

    pub(crate) fn remove() -> Result<()> {
        Ok(fs::remove_file(path()?)?)
    }
}

/// Where the output of the cluster's process goes.
pub(crate) fn log() -> Result<PathBuf> {
    Ok(tools::folder()?.join("up.log"))
}

fn path() -> Result<PathBuf> {
    Ok(tools::folder()?.join("up.json"))
}
