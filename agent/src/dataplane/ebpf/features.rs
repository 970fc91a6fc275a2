//! What the BPF of this kernel can do. Everything is asked of the kernel itself: version numbers say little about kernels
//! that distributions have changed. Nothing of it stays.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{
    cgroup::find_root,
    sys::{self, Instruction, MapInfo, MapKind, ProgramKind, Side, SocketCall, namespace_cookie},
    tables,
};
use crate::probe::{Feature, Probe};

/// An index that no interface has.
const NO_INTERFACE: u32 = i32::MAX as u32;

/// A helper of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Helper {
    number: u32,
    name: &'static str,
}

const fn helper(number: u32, name: &'static str) -> Helper {
    Helper { number, name }
}

/// Those that the programs of interfaces cannot do without, with their numbers of `linux/bpf.h`.
const OF_CLASSIFIERS: [Helper; 10] = [
    helper(9, "bpf_skb_store_bytes"),
    helper(11, "bpf_l4_csum_replace"),
    helper(23, "bpf_redirect"),
    helper(26, "bpf_skb_load_bytes"),
    helper(32, "bpf_skb_change_type"),
    helper(38, "bpf_skb_change_tail"),
    helper(50, "bpf_skb_adjust_room"),
    helper(118, "bpf_jiffies64"),
    helper(130, "bpf_ringbuf_output"),
    helper(155, "bpf_redirect_peer"),
];
/// Those that the programs of sockets cannot do without.
const OF_SOCKETS: [Helper; 3] = [
    helper(46, "bpf_get_socket_cookie"),
    helper(118, "bpf_jiffies64"),
    helper(122, "bpf_get_netns_cookie"),
];
const SET_RETVAL: Helper = helper(187, "bpf_set_retval");

/// Asks for everything. `bpffs_root` is where the instance pins, `cgroup_root` what was given for the root of cgroup2.
pub fn probe(bpffs_root: &Path, cgroup_root: Option<&Path>) -> BTreeMap<Feature, Probe> {
    // Without it an older kernel refuses everything as soon as another agent has maps.
    super::raise_memlock_limit();
    BTreeMap::from([
        (Feature::Bpf, allowed()),
        (Feature::MapKinds, map_kinds()),
        (Feature::Classifiers, program(ProgramKind::Classifier)),
        (
            Feature::ClassifierHelpers,
            helpers(ProgramKind::Classifier, &OF_CLASSIFIERS),
        ),
        (Feature::Tcx, tcx()),
        (Feature::Bpffs, bpffs(bpffs_root)),
        (Feature::SocketPrograms, socket_programs()),
        (Feature::NamespaceCookie, cookie()),
        (
            Feature::SetRetval,
            helpers(ProgramKind::SocketAddress, &[SET_RETVAL]),
        ),
        (Feature::Cgroup2, cgroup2(cgroup_root)),
    ])
}

/// Whether programs can be attached by links on TCX (Linux 6.6).
pub fn has_tcx() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| tcx().is_ok())
}

/// Whether programs of sockets can say which error a process gets (`bpf_set_retval`, Linux 5.18).
pub fn has_set_retval() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| helpers(ProgramKind::SocketAddress, &[SET_RETVAL]).is_ok())
}

fn allowed() -> Probe {
    let array = MapInfo {
        kind: MapKind::Array as u32,
        key: 4,
        value: 4,
        size: 1,
        flags: 0,
    };
    match sys::create_map("probe", array) {
        Ok(_) => Ok("allowed".to_owned()),
        Err(error) => Err(format!("refused: {error}")),
    }
}

fn map_kinds() -> Probe {
    let mut refused = Vec::new();
    let mut asked = Vec::new();
    for (_, info) in tables::pinned() {
        // The size says nothing about the kind, and takes memory; that of a ring buffer is in pages.
        let in_bytes = info.kind == MapKind::RingBuf as u32;
        let size = if in_bytes { info.size } else { 8 };
        let small = MapInfo { size, ..info };
        if asked.contains(&(info.kind, info.flags)) {
            continue;
        }
        asked.push((info.kind, info.flags));
        if let Err(error) = sys::create_map("probe", small) {
            refused.push(format!("type {}: {error}", info.kind));
        }
    }
    match &refused[..] {
        [] => Ok(format!("all {}", asked.len())),
        _ => Err(refused.join(", ")),
    }
}

fn program(kind: ProgramKind) -> Probe {
    match trivial(kind, attach_type(kind)) {
        Ok(_) => Ok("accepted".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn trivial(kind: ProgramKind, attach_type: u32) -> io::Result<std::os::fd::OwnedFd> {
    let instructions = [Instruction::result(1), Instruction::EXIT];
    sys::load(kind, attach_type, &instructions).map_err(|(error, _)| error)
}

/// The verifier names a helper that it does not know, or not for this kind of program, before it looks at arguments.
fn helpers(kind: ProgramKind, helpers: &[Helper]) -> Probe {
    let mut missing = Vec::new();
    for helper in helpers {
        let instructions = [Instruction::call(helper.number), Instruction::EXIT];
        match sys::load(kind, attach_type(kind), &instructions) {
            Err((error, log)) if log.is_empty() => return Err(error.to_string()),
            Err((_, log)) if is_unknown(&log) => missing.push(helper.name),
            _ => {}
        }
    }
    match &missing[..] {
        [] => Ok(match helpers {
            [one] => one.name.to_owned(),
            all => format!("all {}", all.len()),
        }),
        _ => Err(format!("without {}", missing.join(", "))),
    }
}

fn is_unknown(log: &str) -> bool {
    ["unknown func", "invalid func", "cannot use helper"]
        .iter()
        .any(|words| log.contains(words))
}

const fn attach_type(kind: ProgramKind) -> u32 {
    match kind {
        ProgramKind::Classifier => 0,
        ProgramKind::SocketAddress => SocketCall::Connect4 as u32,
    }
}

/// With TCX the kernel looks for the interface, which is not there; without, it knows no such link.
fn tcx() -> Probe {
    let program = trivial(ProgramKind::Classifier, 0).map_err(|error| error.to_string())?;
    match sys::attach(program.as_fd(), NO_INTERFACE, Side::Ingress) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
            Err("not there (Linux 6.6 has it)".to_owned())
        }
        _ => Ok("there".to_owned()),
    }
}

fn bpffs(root: &Path) -> Probe {
    let there = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    match statfs(there) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {
            Ok(format!("mounted above {}", root.display()))
        }
        Ok(_) => Err(format!("{} is not on one", root.display())),
        Err(error) => Err(format!("{}: {error}", there.display())),
    }
}

fn socket_programs() -> Probe {
    let calls = [
        SocketCall::Connect4,
        SocketCall::Connect6,
        SocketCall::Sendmsg4,
        SocketCall::Sendmsg6,
        SocketCall::Recvmsg4,
        SocketCall::Recvmsg6,
        SocketCall::Getpeername4,
        SocketCall::Getpeername6,
    ];
    let refused: Vec<String> = calls
        .iter()
        .filter_map(|call| {
            let error = trivial(ProgramKind::SocketAddress, *call as u32).err()?;
            Some(format!("{call:?}: {error}"))
        })
        .collect();
    if !refused.is_empty() {
        return Err(refused.join(", "));
    }
    helpers(ProgramKind::SocketAddress, &OF_SOCKETS).map(|_| format!("all {}", calls.len()))
}

fn cookie() -> Probe {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|error| error.to_string())?;
    match namespace_cookie(socket.as_fd()) {
        Ok(_) => Ok("told".to_owned()),
        Err(_) => Err("not told (Linux 5.14 tells)".to_owned()),
    }
}

fn cgroup2(given: Option<&Path>) -> Probe {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let found: Option<PathBuf> = given.map(Path::to_owned).or_else(|| find_root(&mounts));
    match found {
        Some(root) => Ok(root.display().to_string()),
        None => Err("not mounted".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_words_for_an_unknown_helper_are_known() {
        for log in [
            "0: (85) call unknown#187\ninvalid func unknown#187\n",
            "unknown func bpf_set_retval#187",
            "program of this type cannot use helper bpf_set_retval#187",
        ] {
            assert!(is_unknown(log), "{log}");
        }
        assert!(!is_unknown("R1 type=ctx expected=fp"));
    }
}
