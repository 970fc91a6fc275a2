//! A cgroup for each node, as if its processes were the whole machine.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A cgroup that is removed when this is dropped.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one below the root of the cgroup2 hierarchy.
    ///
    /// # Errors
    /// Where no cgroup2 is mounted or it cannot be written.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        Self::at(root()?.join(name))
    }

    /// Makes one below this one.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn child(&self, name: &str) -> anyhow::Result<Self> {
        Self::at(self.0.join(name))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file that moves a process into it, open for writing.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn processes(&self) -> anyhow::Result<OwnedFd> {
        let path = self.0.join("cgroup.procs");
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        Ok(file.into())
    }

    fn at(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir(&path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Where cgroup2 is mounted.
///
/// # Errors
/// Where it is not.
pub fn root() -> anyhow::Result<PathBuf> {
    super::workplace::mounted("cgroup2")
        .context("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

/// Kills what runs in a cgroup and removes it with those below it. A process leaves its cgroup a moment after its end.
pub(super) fn remove(path: &Path) {
    let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for process in processes.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
    }
    let children = fs::read_dir(path).into_iter().flatten().flatten();
    for child in children.filter(|c| c.path().is_dir()) {
        remove(&child.path());
    }
    for _ in 0..50 {
        if fs::remove_dir(path).is_ok() || !path.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
