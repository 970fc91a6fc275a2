//! The command line: roles and operators' commands, one file for each.
//!
//! Exit status: 0 all is well, 1 something is wrong, 64 the command line cannot be understood (`EX_USAGE` of
//! sysexits.h).

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

pub mod backend;
pub mod cleanup;
pub mod counters;
pub mod names;
pub mod output;
pub mod service;
pub mod status;

use crate::config::Instance;

/// Services and cluster DNS of a Kubernetes node, from BPF maps.
#[derive(Debug, Parser)]
#[command(
    name = "signpost",
    version,
    after_help = "Every flag is also an environment variable. The commands that read work from the pinned maps, also \
                  while the agent is down.\n\
                  Exit status: 0 all is well, 1 something is wrong, 64 wrong usage."
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Remove what this instance has pinned: programs, maps, flows
    Cleanup(CleanupArgs),
    /// Print the script that completes this command in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
struct CleanupArgs {
    #[command(flatten)]
    instance: Instance,
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    const USAGE: u8 = 64;
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no reason to fail once more.
            let _ = error.print();
            return if error.use_stderr() {
                USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match cli.verb.run() {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "signpost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Verb {
    fn run(self) -> anyhow::Result<ExitCode> {
        let text = match self {
            Self::Cleanup(CleanupArgs { instance }) => cleanup::run(&instance)?,
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "signpost", &mut script);
                String::from_utf8(script)?
            }
            Self::Version => concat!("signpost ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes to standard output at once.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The reader went away, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_version_is_printed_by_verb_and_by_flag() {
        assert!(matches!(
            parse("signpost version").unwrap().verb,
            Verb::Version
        ));
        let flag = parse("signpost --version").unwrap_err();
        assert!(!flag.use_stderr());
    }
}
