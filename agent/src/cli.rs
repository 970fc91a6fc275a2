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
pub mod doctor;
pub mod drain;
pub mod import_corefile;
pub mod monitor;
pub mod names;
pub mod output;
pub mod query;
pub mod read;
pub mod service;
pub mod status;

use crate::{
    agent,
    config::{AgentConfig, Instance},
    dns,
};
use output::OutputArgs;

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
    /// Run the node's agent: watch the source, fill the maps, attach the programs
    Agent(Box<AgentConfig>),
    /// Run the DNS server of the pods; with a command, read the names in the kernel
    Dns(Box<DnsCommand>),
    /// Say whether all is well on this node, and what to do where it is not
    Status(ReadArgs),
    /// Say what this node's kernel can do, what follows for signpost, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// The Services in the kernel
    #[command(subcommand)]
    Service(ListVerb),
    /// The endpoints of Services in the kernel
    #[command(subcommand)]
    Backend(ListVerb),
    /// What the programs did with packets, by cause
    Counters(CountersArgs),
    /// Watch what happens on this node
    #[command(subcommand)]
    Monitor(monitor::MonitorVerb),
    /// Leave this node to another proxy: known connections go on, new ones are left to it
    Drain(drain::DrainArgs),
    /// Remove what this instance has pinned: programs, maps, flows; or what kube-proxy has left
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
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct DnsCommand {
    #[command(flatten)]
    server: dns::Args,
    #[command(subcommand)]
    verb: Option<DnsVerb>,
}

#[derive(Debug, Subcommand)]
enum DnsVerb {
    /// List the names in the kernel
    List(ReadArgs),
    /// Ask what the kernel answers to a question
    Query(query::QueryArgs),
    /// Write CoreDNS's configuration as a file for --dns-config; what cannot be converted is named, and the exit status 1
    ImportCorefile(import_corefile::ImportArgs),
}

#[derive(Debug, Subcommand)]
enum ListVerb {
    /// List all
    List(ReadArgs),
}

/// Flags of every command that reads.
#[derive(Debug, Args)]
struct ReadArgs {
    #[command(flatten)]
    instance: Instance,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct CountersArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// Print what changed, every second, until interrupted
    #[arg(short, long)]
    watch: bool,
}

#[derive(Debug, Args)]
struct CleanupArgs {
    #[command(flatten)]
    instance: Instance,

    /// Remove the rules that kube-proxy has left in iptables and nftables instead, and nothing of this instance
    #[arg(long)]
    kube_proxy: bool,
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
            Self::Agent(config) => {
                agent::role::run(&config)?;
                String::new()
            }
            Self::Dns(command) => match command.verb {
                None => {
                    dns::run(command.server)?;
                    String::new()
                }
                Some(DnsVerb::List(read)) => read::names(&read)?,
                Some(DnsVerb::Query(args)) => query::run(&args)?,
                Some(DnsVerb::ImportCorefile(args)) => return import_corefile::run(&args),
            },
            Self::Status(read) => return read::status(&read),
            Self::Doctor(args) => {
                let (text, code) = doctor::run(&args)?;
                print(&text)?;
                return Ok(code);
            }
            Self::Service(ListVerb::List(read)) => read::services(&read)?,
            Self::Backend(ListVerb::List(read)) => read::backends(&read)?,
            Self::Counters(CountersArgs { read, watch: false }) => read::counters(&read)?,
            Self::Counters(CountersArgs { read, watch: true }) => return read::watch(&read),
            Self::Monitor(verb) => {
                verb.run()?;
                String::new()
            }
            Self::Drain(args) => drain::run(&args)?,
            Self::Cleanup(CleanupArgs {
                kube_proxy: true, ..
            }) => cleanup::kube_proxy::run()?,
            Self::Cleanup(CleanupArgs { instance, .. }) => cleanup::run(&instance)?,
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
    fn dns_alone_is_the_server_and_with_a_verb_a_command() {
        let Verb::Dns(server) = parse("signpost dns").unwrap().verb else {
            panic!("not dns");
        };
        assert!(server.verb.is_none());
        let Verb::Dns(list) = parse("signpost dns list -o json").unwrap().verb else {
            panic!("not dns");
        };
        assert!(matches!(list.verb, Some(DnsVerb::List(_))));
        let Verb::Dns(query) = parse("signpost dns query ent.prod AAAA").unwrap().verb else {
            panic!("not dns");
        };
        assert!(matches!(query.verb, Some(DnsVerb::Query(_))));
    }

    #[test]
    fn every_command_that_reads_takes_an_instance_and_a_form() {
        for verb in [
            "status",
            "service list",
            "backend list",
            "dns list",
            "dns query a.b",
            "counters",
            "monitor dns",
        ] {
            let line = format!("signpost {verb} --bpffs-root /sys/fs/bpf/x -o json");
            assert!(parse(&line).is_ok(), "{line}");
        }
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
