//! Questions to servers that say who they are and whom they see: what a [`Prober`] is asked, and what it saw.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout},
};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::{process::Command, programs};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// A connection each time.
    Tcp,
    /// A connected socket each time, so that only answers from the address that was asked count.
    Udp,
    /// An ICMP echo request each time; the port says nothing.
    Ping,
}

/// A question that is put a number of times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// How to ask.
    pub protocol: Protocol,
    /// Whom to ask.
    pub to: SocketAddr,
    /// How often, each time from another port. A silent address is asked less often.
    pub times: u32,
    /// Ask once, over the connection that this name was given to earlier; it is opened where there is none.
    pub over: Option<String>,
}

/// What came of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Seen {
    /// A server answered with its name and the address that it saw as the client's.
    Answer {
        /// Its name.
        by: String,
        /// The client's address, as the server saw it.
        to: IpAddr,
    },
    /// ECONNREFUSED: a reset, or ICMP port unreachable.
    Refused,
    /// Nothing came back within the patience of the prober.
    Silence,
    /// EPERM: the client's own kernel did not let it out.
    Denied,
    /// ETIMEDOUT, before the prober lost patience.
    TimedOut,
    /// Another error.
    Other(String),
}

/// Everything that came of a question.
pub type Sight = BTreeSet<Seen>;

/// A process that puts questions wherever it was started, and keeps connections between them. It ends when this is
/// dropped.
#[derive(Debug)]
pub struct Prober {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Prober {
    /// Starts it as the command is to run: in a pod, on a node, or elsewhere. `place` makes the command of a program.
    ///
    /// # Errors
    /// Where the program is not built or cannot be started.
    pub fn start(
        place: impl FnOnce(std::path::PathBuf) -> anyhow::Result<Command>,
    ) -> anyhow::Result<Self> {
        let mut child = place(programs::lab_pod()?)?.arg("probe").piped()?;
        let input = child.stdin.take().context("no pipe to the prober")?;
        let output = child.stdout.take().context("no pipe from the prober")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// Puts all questions at the same time, and gives what came of each.
    ///
    /// # Errors
    /// Where the prober has ended.
    pub fn ask(&mut self, questions: &[Question]) -> anyhow::Result<Vec<Sight>> {
        let mut line = serde_json::to_string(questions)?;
        line.push('\n');
        self.input.write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        ensure!(!answer.is_empty(), "the prober has ended");
        let sights: Vec<Sight> = serde_json::from_str(&answer)?;
        ensure!(sights.len() == questions.len(), "questions without answers");
        Ok(sights)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
