//! Clients that put questions side by side, and say what came of them.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    io::{self, BufRead as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, stream};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, socket},
};
use signpost_tests::lab::{
    probe::{Protocol, Question, Seen, Sight},
    wait::slowness,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

/// After which time an address counts as silent, where processors are not emulated. A SYN is sent again after one second and
/// after three, a datagram after each [`AGAIN`].
const PATIENCE: Duration = Duration::from_millis(3500);

/// After which time a datagram is sent again.
const AGAIN: Duration = Duration::from_millis(1200);

/// How long an answer takes at most as a rule, likewise.
const AS_A_RULE: Duration = Duration::from_millis(100);

/// How many attempts are under way at a time, silent ones not counted.
const SIDE_BY_SIDE: usize = 24;

/// How often an address is asked before it counts as a silent one.
const FIRST: u32 = 3;

/// Answers lines of standard input until it ends.
pub(crate) fn run() -> anyhow::Result<()> {
    // Each question that waits for a silent address has some open.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let kept = Kept::default();
    for line in io::stdin().lock().lines() {
        let questions: Vec<Question> = serde_json::from_str(&line?)?;
        let sights = runtime.block_on(ask_all(&questions, &kept));
        println!("{}", serde_json::to_string(&sights)?);
        io::stdout().flush()?;
    }
    Ok(())
}

/// Connections by the name that was given to them.
type Kept = Rc<RefCell<HashMap<String, Connection>>>;

/// Local ports, beside those of NodePorts. All probers begin with the first, so that flows meet which only differ in
/// their client.
const PORTS: std::ops::Range<u16> = 33_000..61_000;

thread_local! {
    /// The next local port of each protocol.
    static NEXT_PORT: RefCell<HashMap<Protocol, u16>> = RefCell::default();
}

/// A local port that was not used before, so that no attempt continues an earlier flow.
fn next_port(question: &Question) -> u16 {
    NEXT_PORT.with_borrow_mut(|next| {
        let next = next.entry(question.protocol).or_insert(PORTS.start);
        let port = *next;
        *next = if port + 1 < PORTS.end {
            port + 1
        } else {
            PORTS.start
        };
        port
    })
}

enum Connection {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
    /// A raw socket of ICMP, which is sent to and received from like one of UDP.
    Ping(UdpSocket, IpAddr),
}

async fn ask_all(questions: &[Question], kept: &Kept) -> Vec<Sight> {
    let turns = Semaphore::new(SIDE_BY_SIDE);
    let answers = stream::iter(questions).map(|question| async {
        match &question.over {
            Some(name) => BTreeSet::from([over(name, question, kept).await]),
            None => ask(question, &turns).await,
        }
    });
    // All at once: what is silent must not keep the others waiting.
    answers.buffered(questions.len().max(1)).collect().await
}

async fn ask(question: &Question, turns: &Semaphore) -> Sight {
    let ask_again = async |times: u32| -> Sight {
        let attempts = stream::iter(0..times).map(|_| attempt(question, turns));
        attempts.buffer_unordered(8).collect().await
    };
    let mut sight = ask_again(FIRST.min(question.times)).await;
    if sight != Sight::from([Seen::Silence]) {
        sight.extend(ask_again(question.times.saturating_sub(FIRST)).await);
    }
    sight
}

/// One attempt over a new connection. It gives its turn away once it takes longer than an answer does as a rule.
async fn attempt(question: &Question, turns: &Semaphore) -> Seen {
    let work = async {
        let mut connection = open(question).await?;
        speak(&mut connection).await
    };
    let turn = turns.acquire().await;
    let mut work = std::pin::pin!(timeout(PATIENCE * slowness(), work));
    let soon = timeout(AS_A_RULE * slowness(), &mut work).await;
    drop(turn);
    let done = match soon {
        Ok(done) => done,
        Err(_) => work.await,
    };
    seen(done)
}

/// One exchange over the connection with that name.
async fn over(name: &str, question: &Question, kept: &Kept) -> Seen {
    let known = kept.borrow_mut().remove(name);
    let work = async {
        let mut connection = match known {
            Some(connection) => connection,
            None => open(question).await?,
        };
        let seen = speak(&mut connection).await;
        Ok((connection, seen))
    };
    match timeout(PATIENCE * slowness(), work).await {
        Ok(Ok((connection, done))) => {
            kept.borrow_mut().insert(name.to_owned(), connection);
            seen(Ok(done))
        }
        Ok(Err(error)) => seen(Ok(Err(error))),
        Err(elapsed) => seen(Err(elapsed)),
    }
}

async fn open(question: &Question) -> anyhow::Result<Connection> {
    let any: IpAddr = match question.to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let next = || SocketAddr::new(any, next_port(question));
    match question.protocol {
        Protocol::Tcp => {
            let socket = match question.to {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            // Other processes of the node use ports of these as well.
            while let Err(error) = socket.bind(next()) {
                ensure!(error.kind() == io::ErrorKind::AddrInUse, error);
            }
            let stream = socket.connect(question.to).await?;
            stream.set_nodelay(true)?;
            // A reset at the end: no TIME_WAIT that a later attempt from the same port could run into.
            stream.set_zero_linger()?;
            Ok(Connection::Tcp(BufReader::new(stream)))
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(next()).await?;
            socket.connect(question.to).await?;
            Ok(Connection::Udp(socket))
        }
        Protocol::Ping => {
            let (family, protocol) = match question.to {
                SocketAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
                SocketAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
            };
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(family, SockType::Raw, flags, protocol)?;
            let to = SockaddrStorage::from(SocketAddr::new(question.to.ip(), 0));
            connect(socket.as_raw_fd(), &to)?;
            let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
            Ok(Connection::Ping(socket, question.to.ip()))
        }
    }
}

async fn speak(connection: &mut Connection) -> anyhow::Result<Seen> {
    let mut line = String::new();
    match connection {
        Connection::Ping(socket, to) => return ping(socket, *to).await,
        Connection::Tcp(stream) => {
            stream.write_all(b"?\n").await?;
            stream.read_line(&mut line).await?;
        }
        Connection::Udp(socket) => {
            let mut buffer = [0; 512];
            let length = loop {
                socket.send(b"?\n").await?;
                if let Ok(received) = timeout(AGAIN, socket.recv(&mut buffer)).await {
                    break received?;
                }
            };
            line.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }
    let (name, client) = line
        .trim_end()
        .rsplit_once(' ')
        .with_context(|| format!("{line:?} is not an answer"))?;
    Ok(Seen::Answer {
        by: name.to_owned(),
        to: client.parse()?,
    })
}

/// Asks whether somebody is there, until somebody says so or says that nobody is.
async fn ping(socket: &UdpSocket, to: IpAddr) -> anyhow::Result<Seen> {
    // Types of an echo request, its reply, and an unreachable destination; the code of a port; where the header begins.
    let (request, reply, unreachable, port, at) = match to {
        IpAddr::V4(_) => (8, 0, 3, 3, 20),
        IpAddr::V6(_) => (128, 129, 1, 4, 0),
    };
    // The kernel works out the checksum of ICMPv6 alone: of this message it is the first word's complement.
    let message = [request, 0, !request, 0xff, 0, 0, 0, 0];
    let mut buffer = [0; 512];
    loop {
        socket.send(&message).await?;
        let answered = timeout(AGAIN, async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                // The error is there as a message too.
                match buffer[..length].get(at..at + 2) {
                    Some([kind, _]) if *kind == reply => {
                        return Ok(Seen::Answer {
                            by: "ping".to_owned(),
                            to,
                        });
                    }
                    Some([kind, code]) if *kind == unreachable && *code == port => {
                        return Ok(Seen::Refused);
                    }
                    _ => {}
                }
            }
        });
        if let Ok(answered) = answered.await {
            return answered;
        }
    }
}

fn seen(done: Result<anyhow::Result<Seen>, tokio::time::error::Elapsed>) -> Seen {
    match done {
        Err(_) => Seen::Silence,
        Ok(Ok(seen)) => seen,
        Ok(Err(error)) => match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => Seen::Refused,
            Some(io::ErrorKind::PermissionDenied) => Seen::Denied,
            Some(io::ErrorKind::TimedOut) => Seen::TimedOut,
            _ => Seen::Other(format!("{error:#}")),
        },
    }
}
