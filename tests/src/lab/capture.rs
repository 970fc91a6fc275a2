//! Every packet that passes through namespaces, judged by its checksums.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};

use super::namespace::Namespace;

mod verdict;

pub use verdict::Judge;

/// A packet as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Name of the place that it was seen in.
    pub place: String,
    /// Index of the interface there.
    pub interface: i32,
    /// It went out.
    pub outgoing: bool,
    /// The frame, from its Ethernet header.
    pub frame: Vec<u8>,
}

/// Watches namespaces until it is asked what it saw.
#[derive(Debug, Default)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<Vec<Seen>>>,
}

impl Capture {
    /// Watches nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches every interface of a namespace but the loopback, from now on.
    ///
    /// # Errors
    /// Without root.
    pub fn watch(&mut self, place: &str, namespace: &Namespace) -> anyhow::Result<()> {
        let socket = namespace.run(open)??;
        let (place, stop) = (place.to_owned(), Arc::clone(&self.stop));
        self.watchers
            .push(thread::spawn(move || receive(&socket, &place, &stop)));
        Ok(())
    }

    /// Ends, and gives every packet that was seen.
    ///
    /// # Errors
    /// Where a watcher panicked.
    pub fn finish(mut self) -> anyhow::Result<Vec<Seen>> {
        // What is on its way arrives within this time.
        thread::sleep(Duration::from_millis(100));
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Vec::new();
        for watcher in self.watchers.drain(..) {
            let of_one = watcher.join();
            seen.extend(of_one.map_err(|_| anyhow::anyhow!("a watcher panicked"))?);
        }
        Ok(seen)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Fails where a packet has a wrong checksum, and where there are none to judge.
///
/// # Errors
/// Names the first few wrong packets.
pub fn all_right(seen: &[Seen]) -> anyhow::Result<()> {
    let mut judge = Judge::default();
    let mut wrong = Vec::new();
    for packet in seen {
        if let Err(fault) = judge.judge(packet) {
            wrong.push(format!("{}: {fault}: {:02x?}", packet.place, packet.frame));
        }
    }
    ensure!(!seen.is_empty(), "no packet was seen");
    let shown = wrong.iter().take(5).cloned().collect::<Vec<_>>();
    ensure!(
        wrong.is_empty(),
        "{} of {} packets are wrong:\n{}",
        wrong.len(),
        seen.len(),
        shown.join("\n")
    );
    Ok(())
}

fn open() -> anyhow::Result<OwnedFd> {
    // SAFETY: the arguments are those of packet(7); the file descriptor is checked and owned by nobody else.
    let socket = unsafe {
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from((libc::ETH_P_ALL as u16).to_be()),
        );
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("packet socket");
        }
        OwnedFd::from_raw_fd(fd)
    };
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    Ok(socket)
}

fn receive(socket: &OwnedFd, place: &str, stop: &AtomicBool) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut buffer = vec![0_u8; 1 << 17];
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: all bytes zero is a valid sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointers are to memory of the lengths given, which lives over the call.
        let length = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut from).cast(),
                &raw mut size,
            )
        };
        let Ok(length) = usize::try_from(length) else {
            continue;
        };
        if from.sll_hatype != libc::ARPHRD_LOOPBACK {
            seen.push(Seen {
                place: place.to_owned(),
                interface: from.sll_ifindex,
                outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
                frame: buffer[..length].to_vec(),
            });
        }
    }
    seen
}
