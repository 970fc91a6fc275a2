//! Clients of the pods' servers.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use serde::{Deserialize, Serialize};

use super::raw;

/// What came of many attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Attempts that came to a good end, by the pod that answered.
    pub answered: BTreeMap<String, u64>,
    /// Attempts that failed, by what went wrong.
    pub failed: BTreeMap<String, u64>,
}

impl Load {
    /// Counts an attempt.
    pub fn count(&mut self, attempt: anyhow::Result<String>) {
        let (counts, what) = match attempt {
            Ok(name) => (&mut self.answered, name),
            Err(error) => (&mut self.failed, format!("{error:#}")),
        };
        *counts.entry(what).or_default() += 1;
    }

    /// Counts what another one has counted, too.
    pub fn add(&mut self, other: Self) {
        let pairs = [
            (&mut self.answered, other.answered),
            (&mut self.failed, other.failed),
        ];
        for (counts, others) in pairs {
            for (what, count) in others {
                *counts.entry(what).or_default() += count;
            }
        }
    }

    /// How many came to a good end.
    pub fn successes(&self) -> u64 {
        self.answered.values().sum()
    }

    /// How many failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// Asks a server over a new TCP connection who it is.
///
/// # Errors
/// Where it cannot be reached in time or says something else than a name.
pub fn get(address: SocketAddr, patience: Duration) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience).context("connect")?;
    stream.set_read_timeout(Some(patience))?;
    stream
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .context("send")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("receive")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.0 200"), "answered {head}");
    Ok(body.trim_end().to_owned())
}

/// A TCP connection that stays open.
#[derive(Debug)]
pub struct Conversation(BufReader<TcpStream>);

impl Conversation {
    /// Connects.
    ///
    /// # Errors
    /// Where the server cannot be reached in time.
    pub fn start(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Connects from this local port, which other connections to other peers may use too.
    ///
    /// # Errors
    /// Where the port is taken or the server refuses.
    pub fn from_port(port: u16, address: SocketAddr, patience: Duration) -> io::Result<Self> {
        Self::over(bound(SockType::Stream, port, address)?, address, patience)
    }

    /// Connects a socket that somebody has made.
    ///
    /// # Errors
    /// Where the server refuses.
    pub fn over(socket: OwnedFd, address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::from(socket);
        // Connecting takes no longer than sending may.
        stream.set_write_timeout(Some(patience))?;
        connect(stream.as_raw_fd(), &SockaddrStorage::from(address))?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a line and gives the name of who answered.
    ///
    /// # Errors
    /// Where no answer comes in time, or not to this line.
    pub fn say(&mut self, line: &str) -> anyhow::Result<String> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        named(answer.trim_end().as_bytes(), line.as_bytes())
    }

    /// The stream underneath.
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }
}

/// A UDP socket that is connected to a server.
#[derive(Debug)]
pub struct Datagrams(UdpSocket);

impl Datagrams {
    /// From any local port.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn to(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        Self::from_port(0, address, patience)
    }

    /// From this local port, which other sockets with other peers may use too.
    ///
    /// # Errors
    /// Where the port is taken.
    pub fn from_port(port: u16, address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let socket = UdpSocket::from(bound(SockType::Datagram, port, address)?);
        socket.connect(address)?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self(socket))
    }

    /// Over a socket that somebody has made.
    ///
    /// # Errors
    /// Where it is none of UDP.
    pub fn over(socket: OwnedFd, patience: Duration) -> io::Result<Self> {
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(patience))?;
        Ok(Self(socket))
    }

    /// Connects the socket.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn connect(&self, address: SocketAddr) -> io::Result<()> {
        Ok(connect(
            self.0.as_raw_fd(),
            &SockaddrStorage::from(address),
        )?)
    }

    /// Sends a datagram to an address, and gives the name of who sent it back and the address that it came from.
    ///
    /// # Errors
    /// Where no answer comes in time, or not to this datagram.
    pub fn ask_of(
        &self,
        address: SocketAddr,
        payload: &[u8],
    ) -> anyhow::Result<(String, SocketAddr)> {
        self.0.send_to(payload, address)?;
        let mut buffer = vec![0; 65_536];
        let (length, from) = self.0.recv_from(&mut buffer)?;
        Ok((named(&buffer[..length], payload)?, from))
    }

    /// Sends a datagram and gives the name of who sent it back. A connected socket takes answers from nobody else
    /// than the address that it asked.
    ///
    /// # Errors
    /// Where no answer comes in time, or not to this datagram.
    pub fn ask(&self, payload: &[u8]) -> anyhow::Result<String> {
        self.0.send(payload)?;
        let mut buffer = vec![0; 65_536];
        let length = self.0.recv(&mut buffer)?;
        named(&buffer[..length], payload)
    }

    /// Sends a datagram in fragments, the last one first, past the socket, and gives the name of who sent it back to
    /// the socket.
    ///
    /// # Errors
    /// As [`Datagrams::ask`].
    pub fn ask_in_reverse(&self, payload: &[u8]) -> anyhow::Result<String> {
        raw::send_in_reverse(self.0.local_addr()?, self.0.peer_addr()?, payload)?;
        let mut buffer = vec![0; 65_536];
        let length = self.0.recv(&mut buffer)?;
        named(&buffer[..length], payload)
    }

    /// The socket underneath.
    pub const fn socket(&self) -> &UdpSocket {
        &self.0
    }
}

/// A socket of the peer's family on a local port that others may use too.
fn bound(kind: SockType, port: u16, peer: SocketAddr) -> io::Result<OwnedFd> {
    let (family, any): (_, IpAddr) = match peer {
        SocketAddr::V4(_) => (AddressFamily::Inet, [0; 4].into()),
        SocketAddr::V6(_) => (AddressFamily::Inet6, [0; 16].into()),
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let local = SockaddrStorage::from(SocketAddr::new(any, port));
    bind(socket.as_raw_fd(), &local)?;
    Ok(socket)
}

/// The name before what was sent.
fn named(answer: &[u8], sent: &[u8]) -> anyhow::Result<String> {
    let space = answer.iter().position(|byte| *byte == b' ');
    let (name, rest) = answer.split_at(space.context("not an answer")?);
    ensure!(&rest[1..] == sent, "an answer to something else");
    Ok(String::from_utf8_lossy(name).into_owned())
}
