//! The cluster of the laboratory, for people: `cargo xtask cluster`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod serve;
mod state;

/// A real Kubernetes control plane on this machine, with network namespaces as nodes and signpost in it.
#[derive(Parser)]
#[command(name = "cluster")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Raise the cluster and print the path of its kubeconfig
    Up {
        /// How many nodes; every second one joins its pods with a bridge
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
        nodes: u8,
        /// Do not put signpost into it
        #[arg(long)]
        bare: bool,
    },
    /// Take the cluster down
    Down,
    /// Run a program inside of a Pod, a shell where none is given
    Enter {
        /// The Pod's namespace
        namespace: String,
        /// The Pod
        pod: String,
        /// The program with its arguments
        #[arg(trailing_var_arg = true)]
        program: Vec<String>,
    },
    /// Be the cluster, until a signal ends it
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        nodes: u8,
        #[arg(long)]
        bare: bool,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Up { nodes, bare } => serve::start(nodes, bare),
        Verb::Down => serve::stop(),
        Verb::Enter {
            namespace,
            pod,
            program,
        } => serve::enter(&namespace, &pod, &program),
        Verb::Serve { nodes, bare } => serve::run(nodes, bare),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
