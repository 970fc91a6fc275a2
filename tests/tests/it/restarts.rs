//! What is pinned and attached, when somebody else lays hands on it.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use signpost::dataplane::ebpf::sys::{link_info, open_pinned};
use signpost_common::layout::LAYOUT_VERSION;
use signpost_tests::lab::{Sockets, wait};

use crate::small::{CNIS, PROGRAMMED, Small, Vip, answering};

const PATIENCE: Duration = Duration::from_millis(300);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn programs_that_somebody_detaches_come_back() -> Result<()> {
    let mut small = Small::one(CNIS[0])?;
    let node = small.lab.node("one")?.clone();
    let host = Sockets::of_node(&node)?;
    let pod = small.client("one", "client")?;
    small.server("web", "one", "web")?;
    let vip = small.service("web")?;
    answering(&pod, vip)?;
    host_is_answered(&host, vip)?;
    let folder = node.bpffs().join(format!("v{LAYOUT_VERSION}"));
    let links = files(&folder.join("links"))?;
    let cgroup = files(&folder.join("cgroup"))?;
    ensure!(links.len() >= 4, "{links:?}");
    for link in links.iter().chain(&cgroup) {
        detach(link).with_context(|| link.display().to_string())?;
    }
    all_attached(&links)?;
    answering(&pod, vip)?;
    host_is_answered(&host, vip)?;

    // And where the pins are taken away, which are all that holds the programs.
    for link in &links {
        fs::remove_file(link)?;
    }
    all_attached(&links)?;
    answering(&pod, vip)
}

fn all_attached(links: &[PathBuf]) -> Result<()> {
    for link in links {
        wait::until("a link on its interface", PROGRAMMED, || {
            let info = link_info(open_pinned(link)?.as_fd())?;
            ensure!(info.ifindex != 0, "{} is detached", link.display());
            Ok(())
        })?;
    }
    Ok(())
}

fn host_is_answered(host: &Sockets, vip: Vip) -> Result<()> {
    for address in vip.both() {
        wait::until("an answer to the host", PROGRAMMED, || {
            host.converse(address, PATIENCE)?.say("x")
        })?;
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Detaches a link as `bpftool link detach` does; its pin stays.
fn detach(path: &Path) -> Result<()> {
    const BPF_LINK_DETACH: libc::c_long = 34;
    let link = open_pinned(path)?;
    let attributes = [link.as_raw_fd()];
    // SAFETY: the pointer is to the attributes, which are as long as is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_DETACH,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    ensure!(result == 0, "{}", io::Error::last_os_error());
    Ok(())
}
