//! What goes over the feed's socket: lines of JSON, and with the first bytes the map of the *dns alive* clock.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::IpAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::{
    io::Interest,
    net::{UnixStream, unix::OwnedReadHalf},
};

use super::{cached::Asked, logged::Logged};
use crate::{model::Event, zone::Name};

/// The longest line: an EndpointSlice has at most 1000 endpoints, so this is far from any that is meant.
const MAX_LINE: usize = 16 << 20;
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// The zone's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster domain.
    pub domain: Name,
    /// TTL of every record, in seconds.
    pub ttl: u32,
    /// The cluster DNS addresses.
    pub dns: Vec<IpAddr>,
    /// [`crate::zone::Options::digest`]; an agent that says it wants to hear the server's.
    #[serde(default)]
    pub options: Option<u64>,
    /// Answers to questions outside of the cluster are taken.
    #[serde(default)]
    pub takes_answers: bool,
    /// Somebody watches what is answered, and has to be told.
    #[serde(default)]
    pub watched: bool,
}

/// A line from the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Line {
    /// The zone's configuration: first, and whenever it changes.
    Hello(Hello),
    /// A change.
    Event(Event),
    /// Whether the agent's source is in contact with what it reads.
    InSync(bool),
    /// What the kernel gave of the answers that the server has handed over.
    Asked(Vec<Asked>),
    /// What a server has answered, for who watches.
    Logged(Logged),
}

impl Line {
    /// The line as it is sent, its end included.
    pub fn encode(&self) -> Bytes {
        encode(self)
    }
}

/// A line as it is sent, its end included.
pub fn encode(line: &impl Serialize) -> Bytes {
    let mut bytes = BytesMut::new().writer();
    // Types of plain data serialise; were it not so, an empty line says nothing.
    if let Err(error) = serde_json::to_writer(&mut bytes, line) {
        tracing::error!(%error, "a line of the feed cannot be written");
        return Bytes::from_static(b"\n");
    }
    let mut bytes = bytes.into_inner();
    bytes.put_u8(b'\n');
    bytes.freeze()
}

/// Sends bytes, with a file descriptor that the other side gets a copy of. At least one byte must be sent.
///
/// # Errors
/// Where the other side is gone.
pub(super) async fn send_with_fd(
    stream: &UnixStream,
    bytes: &[u8],
    fd: RawFd,
) -> io::Result<usize> {
    stream
        .async_io(Interest::WRITABLE, || {
            sendmsg::<()>(
                stream.as_raw_fd(),
                &[IoSlice::new(bytes)],
                &[ControlMessage::ScmRights(&[fd])],
                MsgFlags::MSG_NOSIGNAL,
                None,
            )
            .map_err(io::Error::from)
        })
        .await
}

/// Reads lines, and the file descriptors that come with them.
#[derive(Debug)]
pub struct Reader {
    stream: OwnedReadHalf,
    buffer: BytesMut,
    searched: usize,
    fd: Option<OwnedFd>,
}

impl Reader {
    /// Of a connection to the agent.
    pub fn new(stream: OwnedReadHalf) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            searched: 0,
            fd: None,
        }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// Where the connection broke, or what comes is not a line of this version.
    pub async fn line(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(end) = self.buffer[self.searched..]
                .iter()
                .position(|&b| b == b'\n')
            {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                if line.len() > 1 {
                    return Ok(Some(serde_json::from_slice(&line)?));
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_LINE {
                return Err(io::Error::other("a line without end"));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The map of the *dns alive* clock, once it came.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fd.take()
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let old = self.buffer.len();
        self.buffer.resize(old + CHUNK, 0);
        let (stream, buffer): (&UnixStream, _) = (self.stream.as_ref(), &mut self.buffer);
        let got = stream
            .async_io(Interest::READABLE, || {
                receive(stream.as_raw_fd(), &mut buffer[old..])
            })
            .await;
        let (count, fd) = match got {
            Ok(got) => got,
            Err(error) => {
                self.buffer.truncate(old);
                return Err(error);
            }
        };
        self.buffer.truncate(old + count);
        if fd.is_some() {
            self.fd = fd;
        }
        Ok(count)
    }
}

fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket,
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut fd = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            for raw in fds {
                // SAFETY: the kernel has just made this descriptor for this message, and nobody else knows of it.
                fd = Some(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    Ok((message.bytes, fd))
}
