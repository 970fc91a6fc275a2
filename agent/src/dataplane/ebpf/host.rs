//! The cookies of network namespaces: the host's, which is the one that the agent is in, and pods'.
//!
//! Programs of sockets compare them with that of the socket's namespace. Linux 5.14 tells it to processes. Before, only
//! programs get to know it, so one is attached for the moment in which a socket of ours is connected.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    path::Path,
};

use anyhow::{Context as _, ensure};

use super::{
    program::Programs,
    sys::{self, SocketCall},
};
use crate::namespaces::PodNamespace;

/// What to do where no cgroup2 is there.
pub(super) const NO_CGROUP: &str =
    "no cgroup2 is mounted here; mount it, or give its folder with --cgroup-root";

/// Under which the program finds the cookie of our socket, and leaves that of its namespace.
const SOCKET: u32 = 0;
const NAMESPACE: u32 = 1;
/// Nothing is sent there: the discard port.
const NOWHERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9);

/// The cookie of a pod's network namespace or of this thread's, or why it is not known. `root` is that of the cgroups.
pub(super) fn cookie(
    of: Option<&PodNamespace>,
    root: Option<&Path>,
    programs: &mut Programs,
) -> Result<u64, String> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let socket = match of {
        None => UdpSocket::bind(any),
        Some(pod) => pod.run(|| UdpSocket::bind(any)).and_then(|socket| socket),
    };
    let socket = socket.map_err(|error| error.to_string())?;
    if let Ok(cookie) = sys::namespace_cookie(socket.as_fd()) {
        return Ok(cookie);
    }
    let Some(root) = root else {
        return Err(NO_CGROUP.to_owned());
    };
    learn(&socket, root, programs).map_err(|error| {
        format!("the kernel does not tell network namespaces apart, which takes Linux 5.14, and {error:#}")
    })
}

fn learn(socket: &UdpSocket, root: &Path, programs: &mut Programs) -> anyhow::Result<u64> {
    let (program, learned) = programs.that_learns()?;
    sys::update(learned, &NAMESPACE, &0_u64)?;
    sys::update(learned, &SOCKET, &sys::socket_cookie(socket.as_fd())?)?;
    let attach = || -> io::Result<_> {
        sys::attach_to_cgroup(program, File::open(root)?.as_fd(), SocketCall::Connect4)
    };
    let attached = attach().with_context(|| {
        let root = root.display();
        format!("cgroup {root} refuses a program")
    })?;
    // The program has run even where the namespace's loopback interface is down.
    let _ = socket.connect(NOWHERE);
    drop(attached);
    let cookie: u64 = sys::lookup(learned, &NAMESPACE)?.unwrap_or(0);
    ensure!(
        cookie != 0,
        "the agent itself is not below cgroup {}",
        root.display()
    );
    Ok(cookie)
}
