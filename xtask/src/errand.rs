//! What is to be done inside of a virtual machine, and how its output is marked.
//!
//! The machine's first serial port is the kernel's console. The second one carries what the commands print, between
//! lines that say which command it is. The third one is given to the commands as [`REPORT`], for what is to be kept.

use serde::{Deserialize, Serialize};

/// Where the errand is inside of the machine.
pub const FILE: &str = "/errand.json";

/// Where the machine's index of kernel modules is: see [`Module`].
pub const MODULES: &str = "/modules.json";

/// The port for what the commands print.
pub const OUTPUT: &str = "/dev/ttyS1";

/// Environment variable with the name of a file to append lines of JSON to that outlive the machine.
pub const REPORT: &str = "SIGNPOST_REPORT";

/// The file that is meant.
pub const REPORT_PORT: &str = "/dev/ttyS2";

const MARK: &str = "signpost-vm:";

/// Everything that a machine does before it powers off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// Kernel modules that are loaded first, those that they need included. What is missing is passed over.
    pub modules: Vec<String>,
    /// What runs then, one after the other.
    pub commands: Vec<Command>,
}

/// A command inside of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The program's path.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Environment variables beyond the usual ones.
    pub environment: Vec<(String, String)>,
    /// The folder that it runs in; made where it is missing.
    pub folder: String,
}

/// A kernel module, with what loads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Its file inside of the machine.
    pub path: String,
    /// Modules that come before it.
    pub needs: Vec<String>,
    /// Other names that the kernel asks for it by. Those with wildcards are left out.
    pub aliases: Vec<String>,
}

/// A line that divides the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The command of this number begins.
    Begin(usize),
    /// It has ended, with an exit status as a shell gives it.
    End(usize, i32),
}

impl Mark {
    /// Out of a line of output.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.trim().strip_prefix(MARK)?.split_whitespace();
        match (words.next()?, words.next()?.parse().ok()?, words.next()) {
            ("begin", number, None) => Some(Self::Begin(number)),
            ("end", number, Some(status)) => Some(Self::End(number, status.parse().ok()?)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Begin(number) => write!(f, "{MARK} begin {number}"),
            Self::End(number, status) => write!(f, "{MARK} end {number} {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_are_written() {
        for mark in [Mark::Begin(3), Mark::End(0, 0), Mark::End(12, 101)] {
            assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        }
        assert_eq!(Mark::parse("test result: ok. 1 passed"), None);
        assert_eq!(Mark::parse("signpost-vm: end 1"), None);
    }
}
