//! The programs for processes of the host, at the root of its cgroups.
//!
//! Each attachment is a link that is pinned under `<root>/v<LAYOUT_VERSION>/cgroup/<program>`: it outlives the agent, and
//! the next one replaces its program. A kernel that refuses these programs, or a node without cgroup2, leaves the pods
//! served and is told of by `signpost status`.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tracing::{info, warn};

use super::{
    pins::Pins,
    program::{Programs, SocketProgram},
    sys,
};

/// The programs of the host's processes, and where they are.
#[derive(Debug)]
pub(super) struct HostSockets {
    root: Result<PathBuf, String>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The maps are to be filled first.
    Waiting,
    Attached,
    Failed(String),
}

impl HostSockets {
    /// Of the cgroups below `root`, or why there is none. Attaches at once where the programs of before use
    /// these maps (`same_maps`), else in [`HostSockets::catch_up`].
    pub(super) fn open(
        root: Result<PathBuf, String>,
        pins: &Pins,
        programs: &mut Programs,
        same_maps: bool,
    ) -> Self {
        let mut sockets = Self {
            root,
            state: State::Waiting,
        };
        if same_maps {
            sockets.catch_up(pins, programs);
        }
        sockets
    }

    /// Attaches the programs where they are not: the maps are filled. What was refused is tried again.
    pub(super) fn catch_up(&mut self, pins: &Pins, programs: &mut Programs) {
        if self.state == State::Attached {
            return;
        }
        let state = match &self.root {
            Err(reason) => match detach(pins) {
                Ok(()) => State::Failed(reason.clone()),
                Err(error) => State::Failed(format!("{reason}; {error:#}")),
            },
            Ok(root) => match attach(root, pins, programs) {
                Ok(()) => {
                    info!(cgroup = %root.display(), "processes of the host are served");
                    State::Attached
                }
                Err(error) => State::Failed(format!("{error:#}")),
            },
        };
        if let State::Failed(reason) = &state
            && state != self.state
        {
            warn!("processes of the host are not served: {reason}");
        }
        self.state = state;
    }

    /// Attaches the programs again where somebody has detached one of them.
    pub(super) fn look_again(&mut self, pins: &Pins, programs: &mut Programs) {
        if self.state == State::Attached && !self.is_whole(pins) {
            warn!("somebody has detached the programs of the host's processes; they come back");
            self.state = State::Waiting;
            self.catch_up(pins, programs);
        }
    }

    /// Whether every link is where it was put. A root that cannot be read says nothing of them.
    fn is_whole(&self, pins: &Pins) -> bool {
        let Some(number) = self.root.as_ref().ok().and_then(|root| {
            let metadata = fs::metadata(root).ok()?;
            Some(metadata.ino())
        }) else {
            return true;
        };
        SocketProgram::ALL.into_iter().all(|program| {
            let link = sys::open_pinned(&pins.socket_link(program));
            let linked = link.and_then(|link| sys::linked_cgroup(link.as_fd()));
            linked.is_ok_and(|linked| linked == number)
        })
    }

    /// For operators: whether processes of the host are served, and why not.
    pub(super) fn text(&self) -> String {
        match (&self.state, &self.root) {
            (State::Attached, Ok(root)) => format!("served below cgroup {}", root.display()),
            (State::Failed(reason), _) | (_, Err(reason)) => format!("not served: {reason}"),
            (State::Waiting, Ok(_)) => "not served yet".to_owned(),
        }
    }

    /// Whether they are.
    pub(super) fn are_served(&self) -> bool {
        self.state == State::Attached
    }
}

fn attach(root: &Path, pins: &Pins, programs: &mut Programs) -> anyhow::Result<()> {
    // One that the kernel refuses leaves those of an agent before this one as they are.
    for program in SocketProgram::ALL {
        programs.load_socket(program)?;
    }
    let open = || -> io::Result<_> {
        let cgroup = File::open(root)?;
        let number = cgroup.metadata()?.ino();
        Ok((cgroup, number))
    };
    let (cgroup, number) = open().with_context(|| {
        let root = root.display();
        format!("cannot open cgroup {root}; give the root of cgroup2 with --cgroup-root")
    })?;
    for program in SocketProgram::ALL {
        if let Err(error) = attach_one(program, &cgroup, number, pins, programs) {
            // Addresses that are translated and not put back would be worse than none.
            detach(pins)?;
            let root = root.display();
            return Err(error.context(format!("cgroup {root} refuses {}", program.name())));
        }
    }
    Ok(())
}

fn attach_one(
    program: SocketProgram,
    cgroup: &File,
    number: u64,
    pins: &Pins,
    programs: &Programs,
) -> anyhow::Result<()> {
    let path = pins.socket_link(program);
    let fd = programs.socket_fd(program)?;
    if let Ok(link) = sys::open_pinned(&path) {
        if sys::linked_cgroup(link.as_fd()).is_ok_and(|linked| linked == number) {
            sys::replace_program(link.as_fd(), fd)?;
            return Ok(());
        }
        fs::remove_file(&path)?;
    }
    let link = sys::attach_to_cgroup(fd, cgroup.as_fd(), program.call())?;
    sys::pin(link.as_fd(), &path)
        .with_context(|| format!("cannot pin a link at {}", path.display()))
}

fn detach(pins: &Pins) -> anyhow::Result<()> {
    for program in SocketProgram::ALL.into_iter().rev() {
        let path = pins.socket_link(program);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The root of the cgroup2 hierarchy, out of the text of `/proc/self/mountinfo`. A container may see several: a part of
/// the hierarchy that is its own, and the host's, which is the one that begins furthest up.
pub fn find_root(mountinfo: &str) -> Option<PathBuf> {
    let mut mounts: Vec<(&str, &str)> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = before.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else {
            continue;
        };
        // What is mounted later at the same place hides what was there.
        mounts.retain(|(_, other)| *other != point);
        if after.split(' ').next() == Some("cgroup2") {
            mounts.push((root, point));
        }
    }
    let ups = |root: &str| root.split('/').filter(|part| *part == "..").count();
    let depth = |root: &str| root.split('/').filter(|part| !part.is_empty()).count() - ups(root);
    // Of equals the first one.
    mounts
        .into_iter()
        .rev()
        .max_by_key(|(root, _)| (ups(root), std::cmp::Reverse(depth(root))))
        .map(|(_, point)| point.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_beside_the_old_hierarchies() {
        let mounts = "\
25 1 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw
27 25 0:24 / /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu
";
        assert_eq!(find_root(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_root("25 1 0:22 / / rw - ext4 /dev/vda rw\n"), None);
        assert_eq!(find_root(""), None);
    }

    #[test]
    fn a_container_takes_the_hierarchy_of_the_host_where_it_sees_it() {
        let own = "31 30 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(find_root(own), Some("/sys/fs/cgroup".into()));
        let host = "40 30 0:26 /../../.. /host/cgroup rw - cgroup2 cgroup rw\n";
        for mounts in [format!("{own}{host}"), format!("{host}{own}")] {
            assert_eq!(find_root(&mounts), Some("/host/cgroup".into()), "{mounts}");
        }
        let part = "41 30 0:26 /kubepods /part rw - cgroup2 cgroup rw\n";
        for mounts in [format!("{own}{part}"), format!("{part}{own}")] {
            assert_eq!(
                find_root(&mounts),
                Some("/sys/fs/cgroup".into()),
                "{mounts}"
            );
        }
        let hidden = "42 30 0:99 / /sys/fs/cgroup rw - tmpfs none rw\n";
        assert_eq!(find_root(&format!("{own}{hidden}")), None);
    }
}
