//! The folder on the BPF file system where an instance's maps and links outlive its agent.
//!
//! `<root>/v<LAYOUT_VERSION>/{maps,links,cgroup}`. Maps are pinned under their names, links to interfaces under
//! `<ifindex>_<program>`, those to the root of the cgroups under the program's name. An agent holds a lock on the root, so that two agents never write to one instance.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use signpost_common::layout::LAYOUT_VERSION;
use tracing::{info, warn};

use super::{
    program::{Program, SocketProgram},
    sys,
    tables::{self, KernelTables},
};

/// For how long a lock may be in the way that no agent holds.
const A_MOMENT: Duration = Duration::from_secs(1);

/// An instance's pins, locked.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    folder: PathBuf,
    _lock: Flock<File>,
}

/// A pinned link of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Where it is pinned.
    pub path: PathBuf,
    /// The interface that it was made for; the link itself may have lost it.
    pub ifindex: u32,
    /// The program that it was made for.
    pub program: Program,
}

impl Pins {
    /// Makes the folder where it is missing, and locks it.
    ///
    /// # Errors
    /// Where the root is not on a BPF file system, or another agent has it.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        check_bpffs(root)?;
        let folder = folder(root);
        for made in [
            root,
            &maps_folder(&folder),
            &links_folder(&folder),
            &cgroup_folder(&folder),
        ] {
            fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        let file = File::open(root).with_context(|| format!("cannot open {}", root.display()))?;
        let lock = lock(file).map_err(|error| {
            anyhow::anyhow!(
                "another agent uses {} ({error}); stop it, or give this one another --bpffs-root",
                root.display()
            )
        })?;
        Ok(Self {
            root: root.to_owned(),
            folder,
            _lock: lock,
        })
    }

    /// Opens the maps, and makes those that are missing or not as they must be. Also says whether all of them were
    /// there already, so that the programs that are attached use these.
    ///
    /// # Errors
    /// Where a map cannot be created or pinned.
    pub fn maps(&self) -> anyhow::Result<(KernelTables, bool)> {
        let mut maps = BTreeMap::new();
        let mut all_there = true;
        for (name, expected) in tables::pinned() {
            let path = self.map(name);
            let map = match open_as_expected(&path, expected)? {
                Some(map) => map,
                None => {
                    all_there = false;
                    let map = sys::create_map(name, expected).with_context(|| {
                        format!("cannot create map {name}; is this root, and is BPF allowed?")
                    })?;
                    sys::pin(map.as_fd(), &path)
                        .with_context(|| format!("cannot pin a map at {}", path.display()))?;
                    map
                }
            };
            maps.insert(name, map);
        }
        Ok((KernelTables::new(maps), all_there))
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        maps_folder(&self.folder).join(name)
    }

    /// Where a link is pinned.
    pub fn link(&self, ifindex: u32, program: Program) -> PathBuf {
        links_folder(&self.folder).join(link_name(ifindex, program))
    }

    /// Where the link of a program for the host's sockets is pinned.
    pub fn socket_link(&self, program: SocketProgram) -> PathBuf {
        cgroup_folder(&self.folder).join(program.name())
    }

    /// The pinned links of this layout.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn links(&self) -> io::Result<Vec<Pin>> {
        links(&self.folder)
    }

    /// Folders of other layouts under the same root.
    ///
    /// # Errors
    /// Where the root cannot be read.
    pub fn other_layouts(&self) -> io::Result<Vec<PathBuf>> {
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path != self.folder && layout_of(&path).is_some() {
                others.push(path);
            }
        }
        Ok(others)
    }
}

/// Commands that ask whether an agent runs hold the lock for a moment; an agent holds it for as long as it runs.
fn lock(mut file: File) -> nix::Result<Flock<File>> {
    let begun = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EWOULDBLOCK)) if begun.elapsed() < A_MOMENT => file = again,
            Err((_, error)) => return Err(error),
        }
        std::thread::sleep(A_MOMENT / 50);
    }
}

/// The folder of this layout.
pub fn folder(root: &Path) -> PathBuf {
    root.join(format!("v{LAYOUT_VERSION}"))
}

/// Where a layout's maps are.
pub fn maps_folder(folder: &Path) -> PathBuf {
    folder.join("maps")
}

/// The links pinned in a layout's folder, by interface and program.
///
/// # Errors
/// Where the folder cannot be read.
pub fn links(folder: &Path) -> io::Result<Vec<Pin>> {
    let entries = match fs::read_dir(links_folder(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut links = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if let Some((ifindex, program)) = name.to_str().and_then(parse_link_name) {
            links.push(Pin {
                path: entry.path(),
                ifindex,
                program,
            });
        }
    }
    links.sort_by_key(|pin| (pin.ifindex, pin.program));
    Ok(links)
}

/// Removes a layout's folder with all that is in it: maps that nobody uses any more are freed, links that are not
/// pinned elsewhere are detached.
///
/// # Errors
/// Where something in it cannot be removed.
pub fn remove_layout(folder: &Path) -> io::Result<()> {
    info!(folder = %folder.display(), "removing the pins of another layout");
    fs::remove_dir_all(folder)
}

fn cgroup_folder(folder: &Path) -> PathBuf {
    folder.join("cgroup")
}

fn links_folder(folder: &Path) -> PathBuf {
    folder.join("links")
}

fn link_name(ifindex: u32, program: Program) -> String {
    format!("{ifindex}_{}", program.name())
}

fn parse_link_name(name: &str) -> Option<(u32, Program)> {
    let (ifindex, program) = name.split_once('_')?;
    Some((ifindex.parse().ok()?, Program::from_name(program)?))
}

fn layout_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok()
}

fn open_as_expected(path: &Path, expected: sys::MapInfo) -> anyhow::Result<Option<OwnedFd>> {
    let map = match sys::open_pinned(path) {
        Ok(map) => map,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let found = sys::map_info(map.as_fd());
    if found.as_ref().is_ok_and(|found| *found == expected) {
        return Ok(Some(map));
    }
    warn!(path = %path.display(), ?found, ?expected, "a pinned map is not as it must be and is replaced");
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(None)
}

fn check_bpffs(root: &Path) -> anyhow::Result<()> {
    let there = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    let kind = nix::sys::statfs::statfs(there)
        .with_context(|| format!("cannot look at {}", there.display()))?
        .filesystem_type();
    if kind != nix::sys::statfs::BPF_FS_MAGIC {
        bail!(
            "{} is not on a BPF file system; run `mount -t bpf bpf /sys/fs/bpf`, or give a folder of one with \
             --bpffs-root",
            root.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_named_after_interface_and_program() {
        assert_eq!(
            parse_link_name(&link_name(12, Program::ToPod)),
            Some((12, Program::ToPod))
        );
        assert_eq!(parse_link_name("12_else"), None);
        assert_eq!(parse_link_name("x_to_pod"), None);
        assert_eq!(layout_of(Path::new("/sys/fs/bpf/signpost/v3")), Some(3));
        assert_eq!(layout_of(Path::new("/sys/fs/bpf/signpost/maps")), None);
    }

    #[test]
    fn a_folder_that_is_not_on_a_bpf_file_system_is_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let error = Pins::open(&folder.path().join("signpost")).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
    }
}
