//! Puts many questions to a server, some at a time.

use std::{
    io::{IoSliceMut, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
};

/// Questions that wait for their answers at a time.
const WINDOW: usize = 48;
/// After how long a question is put again.
const AGAIN: Duration = Duration::from_millis(1500);
/// How often a question is put.
const TIMES: u32 = 8;

/// An answer over UDP.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// The message.
    pub(crate) bytes: Vec<u8>,
    /// The IP packet's time to live where it came in.
    pub(crate) time_to_live: i32,
}

/// Puts questions over UDP from the current network namespace. The two bytes of the identification are replaced.
///
/// # Errors
/// Where a question gets no answer.
pub(crate) fn over_udp(server: SocketAddr, messages: &[Vec<u8>]) -> Result<Vec<Reply>> {
    let mut replies = Vec::with_capacity(messages.len());
    for part in messages.chunks(usize::from(u16::MAX)) {
        replies.extend(part_over_udp(server, part)?);
    }
    Ok(replies)
}

fn part_over_udp(server: SocketAddr, messages: &[Vec<u8>]) -> Result<Vec<Reply>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(AGAIN))?;
    setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;

    let mut replies: Vec<Option<Reply>> = vec![None; messages.len()];
    let mut waiting: Vec<(usize, Instant, u32)> = Vec::new();
    let mut next = 0;
    while next < messages.len() || !waiting.is_empty() {
        while next < messages.len() && waiting.len() < WINDOW {
            send(&socket, next, &messages[next])?;
            waiting.push((next, Instant::now(), 1));
            next += 1;
        }
        if let Some((id, reply)) = receive(&socket)? {
            if let Some(at) = waiting.iter().position(|(index, ..)| *index == id) {
                waiting.swap_remove(at);
                replies[id] = Some(reply);
            }
            continue;
        }
        for (index, sent, times) in &mut waiting {
            if sent.elapsed() < AGAIN {
                continue;
            }
            if *times == TIMES {
                bail!("{server} does not answer {:02x?}", messages[*index]);
            }
            send(&socket, *index, &messages[*index])?;
            (*sent, *times) = (Instant::now(), *times + 1);
        }
    }
    replies
        .into_iter()
        .map(|reply| reply.context("an answer is missing"))
        .collect()
}

fn send(socket: &UdpSocket, index: usize, message: &[u8]) -> Result<()> {
    let mut bytes = message.to_vec();
    bytes[..2].copy_from_slice(&u16::try_from(index)?.to_be_bytes());
    socket.send(&bytes)?;
    Ok(())
}

/// The next answer with its identification; nothing where none comes for a while.
fn receive(socket: &UdpSocket) -> Result<Option<(usize, Reply)>> {
    let mut bytes = vec![0; 65_536];
    let mut space = cmsg_space!(libc::c_int);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    );
    let received = match received {
        Err(nix::Error::EAGAIN) => return Ok(None),
        received => received?,
    };
    let length = received.bytes;
    let time_to_live = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4Ttl(ttl) => Some(ttl),
        _ => None,
    });
    bytes.truncate(length);
    ensure!(length >= 12, "an answer of {length} bytes");
    let id = u16::from_be_bytes([bytes[0], bytes[1]]).into();
    bytes[..2].fill(0);
    let reply = Reply {
        bytes,
        time_to_live: time_to_live.context("no time to live")?,
    };
    Ok(Some((id, reply)))
}

/// Puts questions over one TCP connection, one after the other.
///
/// # Errors
/// Where a question gets no answer.
pub(crate) fn over_tcp(server: SocketAddr, messages: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    let mut replies = Vec::with_capacity(messages.len());
    for part in messages.chunks(100) {
        let mut stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        for message in part {
            let mut bytes = u16::try_from(message.len())?.to_be_bytes().to_vec();
            bytes.extend(message);
            stream.write_all(&bytes)?;
            let mut length = [0; 2];
            let got = stream.read_exact(&mut length);
            got.with_context(|| format!("{server} does not answer {message:02x?}"))?;
            let mut reply = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut reply)?;
            replies.push(reply);
        }
    }
    Ok(replies)
}
