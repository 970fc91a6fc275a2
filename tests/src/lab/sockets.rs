//! Sockets of a process that is elsewhere: in a node's or a pod's network, and in the node's cgroup. Tests use them like
//! their own.

use std::{
    fs,
    io::{IoSliceMut, Write as _},
    net::SocketAddr,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};

use super::{
    Command, Node, Pod, Process,
    client::{Conversation, Datagrams},
    programs, wait,
};

/// How long the process may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that makes sockets.
#[derive(Debug)]
pub struct Sockets {
    stream: UnixStream,
    _process: Process,
}

impl Sockets {
    /// Of a process on the node itself.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn of_node(node: &Node) -> anyhow::Result<Self> {
        let folder = node.folder();
        fs::create_dir_all(&folder)?;
        Self::start(node.command(programs::lab_pod()?)?, &folder)
    }

    /// Of a process in a pod.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn of_pod(pod: &Pod) -> anyhow::Result<Self> {
        Self::start(pod.command(programs::lab_pod()?)?, &pod.folder())
    }

    /// A TCP connection; its socket is of IPv6 where the address is, a v4-mapped one included.
    ///
    /// # Errors
    /// What the connection failed with.
    pub fn converse(&self, to: SocketAddr, patience: Duration) -> anyhow::Result<Conversation> {
        Ok(Conversation::over(self.socket(to, b't')?, to, patience)?)
    }

    /// A UDP socket that is connected to an address.
    ///
    /// # Errors
    /// What connecting failed with.
    pub fn connected(&self, to: SocketAddr, patience: Duration) -> anyhow::Result<Datagrams> {
        let socket = self.datagrams(to, patience)?;
        socket.connect(to)?;
        Ok(socket)
    }

    /// A UDP socket of an address's family that is not connected.
    ///
    /// # Errors
    /// Where the process is gone.
    pub fn datagrams(&self, like: SocketAddr, patience: Duration) -> anyhow::Result<Datagrams> {
        Ok(Datagrams::over(self.socket(like, b'u')?, patience)?)
    }

    fn start(mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("sockets-{number}"));
        command.arg("sockets").arg(&path);
        let process = command.background(&folder.join("sockets.log"))?;
        let stream = wait::until("a process that makes sockets", PATIENCE, || {
            Ok(UnixStream::connect(&path)?)
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            _process: process,
        })
    }

    fn socket(&self, like: SocketAddr, kind: u8) -> anyhow::Result<OwnedFd> {
        let family = if like.is_ipv4() { b'4' } else { b'6' };
        (&self.stream).write_all(&[family, kind])?;
        let mut byte = [0];
        let mut space = cmsg_space!(i32);
        let mut slices = [IoSliceMut::new(&mut byte)];
        let message = recvmsg::<()>(
            self.stream.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let fd = message
            .cmsgs()?
            .find_map(|control| match control {
                ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                _ => None,
            })
            .context("the process made no socket")?;
        // SAFETY: the kernel made this descriptor for us just now.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
