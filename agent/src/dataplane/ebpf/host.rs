//! Which network namespace is the host's: the one that the agent is in.
//!
//! Programs of sockets compare its cookie with that of the socket's namespace. Linux 5.14 tells it to processes. Before, only
//! programs get to know it, so one is attached for the moment in which a socket of ours is connected.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsFd as _,
    path::Path,
};

use anyhow::{Context as _, ensure};

use super::{
    program::Programs,
    sys::{self, SocketCall},
};

/// What to do where no cgroup2 is there.
pub(super) const NO_CGROUP: &str =
    "no cgroup2 is mounted here; mount it, or give its folder with --cgroup-root";

/// Under which the program finds the cookie of our socket, and leaves that of its namespace.
const SOCKET: u32 = 0;
const NAMESPACE: u32 = 1;

/// The cookie of this thread's network namespace, or why it is not known. `root` is that of the cgroups.
pub(super) fn cookie(root: Option<&Path>, programs: &mut Programs) -> Result<u64, String> {
    if let Ok(cookie) = sys::namespace_cookie() {
        return Ok(cookie);
    }
    let Some(root) = root else {
        return Err(NO_CGROUP.to_owned());
    };
    learn(root, programs).map_err(|error| {
        format!("the kernel does not tell network namespaces apart, which takes Linux 5.14, and {error:#}")
    })
}

fn learn(root: &Path, programs: &mut Programs) -> anyhow::Result<u64> {
    let (program, learned) = programs.that_learns()?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    sys::update(learned, &SOCKET, &sys::socket_cookie(socket.as_fd())?)?;
    let attach = || -> io::Result<_> {
        sys::attach_to_cgroup(program, File::open(root)?.as_fd(), SocketCall::Connect4)
    };
    let attached = attach().with_context(|| {
        let root = root.display();
        format!("cgroup {root} refuses a program")
    })?;
    // Nothing is sent.
    socket.connect(socket.local_addr()?)?;
    drop(attached);
    let cookie: u64 = sys::lookup(learned, &NAMESPACE)?.unwrap_or(0);
    ensure!(
        cookie != 0,
        "the agent itself is not below cgroup {}",
        root.display()
    );
    Ok(cookie)
}
