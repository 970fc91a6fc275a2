//! A client in a process of its own: programs at a cgroup only see processes in it, and resolvers read its `resolv.conf`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _, stdin, stdout},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    process::{Child, ChildStdin, ChildStdout},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use super::{
    rounds::{Sample, cpu_time, pin},
    site::ANSWER,
};
use crate::lab::Command;

const PATIENCE: Duration = Duration::from_secs(2);

/// What a [`Connector`] is to do so many times, one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Order {
    Connect { to: SocketAddr, times: u32 },
    Resolve { name: String, times: u32 },
}

/// What connections took, with the CPU time of the process that made them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Took {
    seconds: f64,
    cpu_seconds: f64,
}

impl Took {
    /// So many connections: how many there are a second, and the CPU time of each, with that of other processes added.
    pub fn sample(&self, connections: u32, others: Duration) -> Sample {
        let each = f64::from(connections);
        Sample {
            value: each / self.seconds,
            cpu: (self.cpu_seconds + others.as_secs_f64()) * 1e9 / each,
            ..Sample::default()
        }
    }
}

/// A process that connects wherever it was started. It ends when this is dropped.
#[derive(Debug)]
pub struct Connector {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Connector {
    /// Starts this program once more, as the command that `place` makes of it.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(
        place: impl FnOnce(std::path::PathBuf) -> anyhow::Result<Command>,
    ) -> anyhow::Result<Self> {
        let mut child = place(std::env::current_exe()?)?.arg("connect").piped()?;
        let input = child.stdin.take().context("no pipe to the connector")?;
        let output = child.stdout.take().context("no pipe from the connector")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// Connects so many times. The sample has connections a second, and the CPU time of client and server.
    ///
    /// # Errors
    /// Where a connection fails.
    pub fn slice(&mut self, to: SocketAddr, connections: u32) -> anyhow::Result<Sample> {
        let before = cpu_time()?;
        let times = connections;
        let took = self.carry_out(&Order::Connect { to, times })?;
        Ok(took.sample(connections, cpu_time()? - before))
    }

    /// Resolves a name so many times with the C library. Returns how many microseconds each time took.
    ///
    /// # Errors
    /// Where it leads nowhere.
    pub fn resolve(&mut self, name: &str, times: u32) -> anyhow::Result<Sample> {
        let name = name.to_owned();
        let took = self.carry_out(&Order::Resolve { name, times })?;
        Ok(Sample {
            value: took.seconds * 1e6 / f64::from(times),
            cpu: took.cpu_seconds * 1e9 / f64::from(times),
            ..Sample::default()
        })
    }

    fn carry_out(&mut self, order: &Order) -> anyhow::Result<Took> {
        serde_json::to_writer(&mut self.input, order)?;
        self.input.write_all(b"\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{order:?} failed: {line}"))
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other side of a [`Connector`]: carries out what standard input says, until it ends.
///
/// # Errors
/// Where standard output is closed.
pub fn obey() -> anyhow::Result<()> {
    pin()?;
    for line in stdin().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let mut output = stdout().lock();
        let took = match order {
            Order::Connect { to, times } => connect(to, times),
            Order::Resolve { name, times } => resolve(&name, times),
        };
        match took {
            Ok(took) => serde_json::to_writer(&mut output, &took)?,
            Err(error) => write!(output, "{error:#}")?,
        }
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

/// Connects so many times, one connection after the other.
///
/// # Errors
/// As [`exchange`].
pub fn connect(to: SocketAddr, connections: u32) -> anyhow::Result<Took> {
    again(connections, || exchange(to).map(|_| ()))
}

/// Resolves so many times, as [`Connector::resolve`] says.
fn resolve(name: &str, times: u32) -> anyhow::Result<Took> {
    again(times, || {
        let found = (name, 0).to_socket_addrs()?.count();
        ensure!(found > 0, "{name} leads nowhere");
        Ok(())
    })
}

fn again(times: u32, mut once: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Took> {
    let (start, cpu) = (Instant::now(), cpu_time()?);
    for _ in 0..times {
        once()?;
    }
    let (time, cpu) = (start.elapsed(), cpu_time()? - cpu);
    Ok(Took {
        seconds: time.as_secs_f64(),
        cpu_seconds: cpu.as_secs_f64(),
    })
}

/// Connects, asks, reads to the end; returns the first byte, which tells the servers apart. The connection is then reset,
/// so that nobody keeps it in TIME_WAIT: its port may come back at any time, and no run is slowed down by what an earlier
/// one left.
///
/// # Errors
/// Where the connection fails, or the answer is not one of these servers'.
pub fn exchange(to: SocketAddr) -> anyhow::Result<u8> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)
        .with_context(|| format!("no connection to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[b'?'; 64])?;
    let mut answer = [0; 2 * ANSWER];
    let mut length = 0;
    loop {
        match stream.read(&mut answer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    ensure!(length == ANSWER, "an answer of {length} bytes");
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &at_once)?;
    Ok(answer[0])
}
