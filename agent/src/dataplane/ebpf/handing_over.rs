//! Handing a node over to a dataplane without BPF: connections that go through the pinned programs do so to their end, and
//! what is pinned goes with the last of them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use signpost_common::dns::Config;

use super::{
    attach,
    drain::{self, Remaining},
    now, pins,
    sweep::Sweeper,
    sys,
    tables::{Configs, Flows, Fragments, KernelTables, Sockets, Table as _, Tables as _},
    view::View,
};

/// What an agent with BPF has left, and nobody else looks after.
#[derive(Debug)]
pub struct HandingOver {
    root: PathBuf,
    tables: KernelTables,
    sweeper: Sweeper,
}

impl HandingOver {
    /// Leaves new connections to the other dataplane, and questions to the DNS pods: no one keeps the names true any more.
    /// `None` where nothing is pinned.
    ///
    /// # Errors
    /// Where the programs cannot be told.
    pub fn begin(root: &Path) -> anyhow::Result<Option<Self>> {
        if View::open(root).is_err() {
            return Ok(None);
        }
        drain::hand_over(root)?;
        let folder = pins::maps_folder(&pins::folder(root));
        let mut maps = BTreeMap::new();
        for name in [Configs::NAME, Flows::NAME, Fragments::NAME, Sockets::NAME] {
            let map = sys::open_pinned(&folder.join(name))
                .with_context(|| format!("map {name} cannot be opened"))?;
            maps.insert(name, map);
        }
        let mut tables = KernelTables::new(maps);
        if let Some(mut config) = tables.get::<Configs>(&0)? {
            config.flags &= !Config::DNS;
            if let Some(failed) = tables.put::<Configs>(&[(0, config)]).pop() {
                return Err(failed.error).context("the programs go on answering questions");
            }
        }
        Ok(Some(Self {
            root: root.to_owned(),
            tables,
            sweeper: Sweeper::default(),
        }))
    }

    /// Forgets what has ended, and leaves datagrams to the other dataplane. Returns what goes on; to be called again and
    /// again.
    ///
    /// # Errors
    /// Where the maps cannot be read or changed.
    pub fn turn(&mut self) -> anyhow::Result<Remaining> {
        drain::leave_datagrams(&mut self.tables)?;
        self.sweeper.sweep(&mut self.tables, now()?, true)?;
        let (mut remaining, _) = drain::remaining(&View::open(&self.root)?)?;
        // Only answers that are under way are left of them.
        remaining.datagrams = 0;
        Ok(remaining)
    }

    /// Removes the programs and all that is pinned, as [`remove`] does.
    ///
    /// # Errors
    /// As there.
    pub fn end(self) -> anyhow::Result<Removed> {
        remove(&self.root)
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files below the instance's folder.
    pub pins: usize,
    /// Filters of interfaces, on kernels where programs are no links.
    pub filters: usize,
}

/// Removes an instance's folder, and with its links the programs; where these are filters of the interfaces of this
/// network namespace, the filters. The qdisc that has them stays: others may have filters there.
///
/// # Errors
/// Where something cannot be removed.
pub fn remove(root: &Path) -> anyhow::Result<Removed> {
    // What is translated when it arrives has to be finished when it leaves: the filters know their order.
    let filters = attach::remove_filters().context("interfaces cannot be listed")?;
    let pins = match remove_all(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        removed => removed.with_context(|| format!("{} cannot be removed", root.display()))?,
    };
    Ok(Removed { pins, filters })
}

/// Removes a folder with all that is in it; returns how many files that were.
fn remove_all(folder: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            removed += remove_all(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    fs::remove_dir(folder)?;
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_removed_with_all_that_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("v1/links")).unwrap();
        fs::write(root.join("v1/links/7"), "").unwrap();
        fs::write(root.join("v1/flows"), "").unwrap();
        assert_eq!(remove_all(&root).unwrap(), 2);
        assert!(!root.exists());
    }
}
