//! Makes sockets for another process. A socket belongs for good to the network and the cgroup of who made it.

use std::{
    io::{IoSlice, Read as _},
    os::{
        fd::AsRawFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    thread,
};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socket,
};

/// Listens at a path, and answers each request of two letters, `4` or `6` and `t` or `u`, with a socket.
pub(crate) fn run(path: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(path)?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            // Who asks knows best what went wrong: nothing comes.
            let _ = answer(&stream);
        });
    }
    Ok(())
}

fn answer(mut stream: &UnixStream) -> anyhow::Result<()> {
    let mut request = [0; 2];
    loop {
        stream.read_exact(&mut request)?;
        let family = match request[0] {
            b'4' => AddressFamily::Inet,
            _ => AddressFamily::Inet6,
        };
        let kind = match request[1] {
            b't' => SockType::Stream,
            _ => SockType::Datagram,
        };
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(b".")],
            &[ControlMessage::ScmRights(&[socket.as_raw_fd()])],
            MsgFlags::empty(),
            None,
        )?;
    }
}
