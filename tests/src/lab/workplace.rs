//! What a laboratory leaves on the machine while it is up, and what one that crashed left behind.
//!
//! Namespaces and processes end by themselves when the process that made them is gone. Three folders do not: one for
//! files, one in bpffs, one in the cgroup hierarchy. Their name says whose they are.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::Context as _;

use super::cgroup::{self, Cgroup};

const PREFIX: &str = "signpost-lab-";

/// The folders of one laboratory. They are removed when this is dropped.
#[derive(Debug)]
pub struct Workplace {
    /// For files.
    pub folder: PathBuf,
    /// In bpffs.
    pub bpffs: PathBuf,
    /// In the cgroup hierarchy.
    pub cgroup: Cgroup,
}

impl Workplace {
    /// Makes the folders, after clearing those of laboratories whose process is gone.
    ///
    /// # Errors
    /// Without root, or where bpffs or cgroup2 is not mounted.
    pub fn new() -> anyhow::Result<Self> {
        static CLEARED: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        anyhow::ensure!(
            nix::unistd::geteuid().is_root(),
            "the laboratory needs root: cargo xtask test"
        );
        CLEARED.call_once(clear);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number}", prefix());
        let bpffs = bpffs()?.join(&name);
        let cgroup = Cgroup::new(&name)?;
        fs::create_dir(&bpffs).with_context(|| bpffs.display().to_string())?;
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        // The unprivileged `signpost dns` must reach the agent's socket in it.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            folder,
            bpffs,
            cgroup,
        })
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.bpffs);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where the first file system of a type is mounted.
pub(super) fn mounted(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        (after.split(' ').next() == Some(kind)).then(|| point.into())
    })
}

fn bpffs() -> anyhow::Result<PathBuf> {
    mounted("bpf").context("bpffs is not mounted: mount -t bpf bpf /sys/fs/bpf")
}

/// Ends every laboratory of this process from outside, for when the process is about to be ended: kills what runs in
/// them and removes their folders.
pub fn end_all() {
    let prefix = prefix();
    remove_all(|name| name.starts_with(&prefix));
}

/// Folders for files of all laboratories on this machine that are up.
pub fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten();
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(PREFIX) && !owner_is_gone(&name)
        })
        .map(|entry| entry.path())
        .collect()
}

/// How the names of this process's folders begin.
fn prefix() -> String {
    let pid = std::process::id();
    format!("{PREFIX}{pid}-{}-", born(pid).unwrap_or_default())
}

/// Removes what laboratories left whose process is gone.
fn clear() {
    remove_all(owner_is_gone);
}

fn remove_all(is_to_go: impl Fn(&str) -> bool) {
    // The processes first; the folder for files last, because `folders` tells by it who is there.
    let places = [
        cgroup::root().ok(),
        bpffs().ok(),
        Some(std::env::temp_dir()),
    ];
    for place in places.iter().flatten() {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            if is_to_go(&entry.file_name().to_string_lossy()) {
                remove(&entry.path());
            }
        }
    }
}

fn remove(path: &Path) {
    let in_cgroups = cgroup::root().is_ok_and(|root| path.starts_with(root));
    if in_cgroups {
        cgroup::remove(path);
    } else {
        let _ = fs::remove_dir_all(path);
    }
}

/// Whether the name is of a laboratory whose process is gone. A process id alone may have been given out again.
fn owner_is_gone(name: &str) -> bool {
    let Some(owner) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let mut parts = owner.split('-').map_while(|part| part.parse::<u64>().ok());
    match (parts.next(), parts.next()) {
        (Some(pid), Some(time)) => u32::try_from(pid).ok().and_then(born) != Some(time),
        _ => false,
    }
}

/// When a process that runs was started, in clock ticks since boot.
fn born(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    let (_, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split(' ');
    // One that has ended may still wait for its parent to take notice.
    let state = fields.next().filter(|state| !matches!(*state, "Z" | "X"));
    state.and(fields.nth(18)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_laboratory_belongs_to_a_process_and_its_time_of_birth() {
        let pid = std::process::id();
        let time = born(pid).unwrap();
        assert!(!owner_is_gone(&format!("{PREFIX}{pid}-{time}-1")));
        assert!(owner_is_gone(&format!("{PREFIX}{pid}-{}-1", time + 1)));
        assert!(!owner_is_gone("something-else"));
        assert!(!owner_is_gone(&format!("{PREFIX}by-hand")));
    }
}
