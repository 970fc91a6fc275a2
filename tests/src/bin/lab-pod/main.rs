//! The program behind the pods of the laboratory: servers that say who they are, and clients that count failures.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Parser, Subcommand};

mod load;
mod probe;
mod report;
mod serve;
mod sockets;

/// The program behind the pods of the laboratory.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Answer on TCP and UDP with the pod's name
    Serve {
        /// What to answer with
        #[arg(long)]
        name: String,
        /// Ports to listen on, with both protocols
        #[arg(long, value_delimiter = ',')]
        ports: Vec<u16>,
        /// Addresses to listen on, so that answers to datagrams leave from the one that was asked
        #[arg(long, value_delimiter = ',', default_value = "::")]
        addresses: Vec<IpAddr>,
    },
    /// Answer on TCP and UDP, at every address, with the pod's name and the client's address
    Report {
        /// What to answer with
        #[arg(long)]
        name: String,
        /// Ports to listen on, with both protocols
        #[arg(long, value_delimiter = ',')]
        ports: Vec<u16>,
    },
    /// Put questions of standard input, an array of them a line, to servers that report; print what came of them
    Probe,
    /// Print the addresses of a name, as getaddrinfo gives them, one a line
    Resolve {
        /// The name
        name: String,
    },
    /// Resolve a name, connect to what it leads to and print what the server answers
    Get {
        /// Where it listens, as NAME:PORT
        target: String,
        /// How often
        #[arg(long, default_value_t = 1)]
        times: usize,
    },
    /// Resolve a name and connect to what it leads to, over and over, until standard input ends; print the counts
    Load {
        /// Where to connect, as NAME:PORT
        target: String,
        /// An address to which datagrams are sent from one socket as well
        #[arg(long)]
        udp: Option<SocketAddr>,
        /// How many connect at the same time
        #[arg(long, default_value_t = 1)]
        clients: usize,
        /// Milliseconds that an attempt may take; a SYN that is lost is sent again after a second
        #[arg(long, default_value_t = 900)]
        patience: u64,
        /// Milliseconds between two attempts of a client
        #[arg(long, default_value_t = 0)]
        pause: u64,
    },
    /// Make sockets for who asks at a Unix socket
    Sockets {
        /// Where it is made
        path: PathBuf,
    },
    /// Do nothing
    Pause,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().role {
        Role::Serve {
            name,
            ports,
            addresses,
        } => serve::run(&name, &addresses, &ports),
        Role::Report { name, ports } => report::run(&name, &ports),
        Role::Probe => probe::run(),
        Role::Resolve { name } => load::resolve(&name),
        Role::Get { target, times } => load::get(&target, times),
        Role::Load {
            target,
            udp,
            clients,
            patience,
            pause,
        } => {
            let [patience, pause] = [patience, pause].map(Duration::from_millis);
            load::run(&target, udp, clients, patience, pause)
        }
        Role::Sockets { path } => sockets::run(&path),
        Role::Pause => loop {
            std::thread::park();
        },
    }
}
