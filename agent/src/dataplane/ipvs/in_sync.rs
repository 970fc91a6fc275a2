//! When the agent was last in sync with its source, by the time of a file in the state folder: names are not answered by
//! the kernel, and operators want to know.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;

/// How often the state folder is told.
const SAY: Duration = Duration::from_secs(10);
const FILE: &str = "in-sync";

/// What was said of it.
#[derive(Debug, Default)]
pub(super) struct InSync {
    said: Option<Instant>,
}

impl InSync {
    /// Says that the agent is in sync.
    pub(super) fn say(&mut self, state_folder: &Path) -> anyhow::Result<()> {
        if self.said.is_none_or(|said| said.elapsed() > SAY) {
            fs::write(state_folder.join(FILE), "").context("--state-folder cannot be written")?;
            self.said = Some(Instant::now());
        }
        Ok(())
    }
}

/// When an agent in IPVS mode was last in sync with its source, to some seconds; `None` for never.
pub fn synced(state_folder: &Path) -> Option<SystemTime> {
    fs::metadata(state_folder.join(FILE)).ok()?.modified().ok()
}
