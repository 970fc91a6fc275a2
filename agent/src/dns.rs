//! `signpost dns`: the user-space DNS server, for what the kernel does not answer. Unprivileged, in the pod network.
//!
//! Names of the cluster come from [`crate::zone`], all others from upstreams. It learns the zone from the node's
//! agent, or by itself where there is no agent.

mod alive;
mod answer;
mod cache;
mod clock;
mod forward;
mod handler;
mod handover;
pub(crate) mod labels;
mod logged;
mod metrics;
mod probes;
mod reply;
mod routes;
mod server;
mod settings;
mod state;
mod tcp;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args as ClapArgs, ValueEnum};
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{
        LogConfig,
        dns::{Policy, UpstreamAddress},
    },
    zone::Name,
};

pub(crate) use labels::code as code_name;
pub use server::{Listening, Server};

/// Flags of `signpost dns`.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Where the zone is learned from: `agent` (the node's agent, by its socket in the run folder), `agent:SOCKET`,
    /// `kube` (API server) or `files:DIR` (a folder of manifests)
    #[arg(
        long,
        env = "SIGNPOST_SOURCE",
        value_name = "SOURCE",
        default_value = "agent"
    )]
    pub source: Source,

    /// Folder with the agent's socket
    #[arg(
        long,
        env = "SIGNPOST_RUN_FOLDER",
        value_name = "DIR",
        default_value = "/run/signpost"
    )]
    pub run_folder: PathBuf,

    /// Address and port for DNS over UDP and TCP. `[::]:53` serves both families; where there is no IPv6 it falls back
    /// to `0.0.0.0:53`
    #[arg(
        long,
        env = "SIGNPOST_LISTEN",
        value_name = "IP:PORT",
        value_delimiter = ',',
        default_value = "[::]:53"
    )]
    pub listen: Vec<SocketAddr>,

    /// File with the configuration of DNS (docs/dns.md); what it says counts before a flag. It is read again when it
    /// changes
    #[arg(long, env = "SIGNPOST_DNS_CONFIG", value_name = "FILE")]
    pub dns_config: Option<PathBuf>,

    /// Name server for names outside of the cluster: IP, IP:PORT, tls://IP%NAME or a file [default: --resolv-conf]
    #[arg(
        long,
        env = "SIGNPOST_UPSTREAM",
        value_name = "UPSTREAM",
        value_delimiter = ','
    )]
    pub upstream: Vec<UpstreamAddress>,

    /// File that names the upstreams where --upstream does not; it is read again when it changes
    #[arg(
        long,
        env = "SIGNPOST_RESOLV_CONF",
        value_name = "FILE",
        default_value = "/etc/resolv.conf"
    )]
    pub resolv_conf: PathBuf,

    /// In which order upstreams are asked; one that is silent is asked last until it answers again
    #[arg(
        long,
        env = "SIGNPOST_UPSTREAM_POLICY",
        value_name = "POLICY",
        default_value = "random"
    )]
    pub upstream_policy: Policy,

    /// How upstreams are asked
    #[arg(
        long,
        env = "SIGNPOST_UPSTREAM_TRANSPORT",
        value_name = "TRANSPORT",
        default_value = "udp"
    )]
    pub upstream_transport: Transport,

    /// The cluster's domain; an agent's word counts more
    #[arg(
        long,
        env = "SIGNPOST_CLUSTER_DOMAIN",
        value_name = "NAME",
        default_value = "cluster.local"
    )]
    pub cluster_domain: String,

    /// TTL of the cluster's records in seconds; an agent's word counts more
    #[arg(
        long,
        env = "SIGNPOST_TTL",
        value_name = "SECONDS",
        default_value_t = 30
    )]
    pub ttl: u32,

    /// Address of the cluster's DNS, one for each family [default: the agent's, or the ClusterIPs of Service
    /// kube-system/kube-dns]
    #[arg(
        long,
        env = "SIGNPOST_DNS_ADDRESS",
        value_name = "IP",
        value_delimiter = ','
    )]
    pub dns_address: Vec<IpAddr>,

    /// The largest UDP answer in bytes; what is longer is fetched over TCP
    #[arg(long, env = "SIGNPOST_MAX_PAYLOAD", value_name = "BYTES", default_value_t = 1232, value_parser = clap::value_parser!(u16).range(512..))]
    pub max_payload: u16,

    /// For how many seconds answers of upstreams are kept at most; 0 keeps none
    #[arg(
        long,
        env = "SIGNPOST_CACHE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 30
    )]
    pub cache_seconds: u64,

    /// For how many seconds after that they are still given where no upstream answers (RFC 8767); 0 for never
    #[arg(
        long,
        env = "SIGNPOST_STALE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 3600
    )]
    pub stale_seconds: u64,

    /// For how many seconds after its start the server lets questions wait for the whole zone (CoreDNS's
    /// `startup_timeout`)
    #[arg(
        long,
        env = "SIGNPOST_STARTUP_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 5
    )]
    pub startup_timeout: u64,

    /// For how many seconds questions are still answered after the process was told to end
    #[arg(
        long,
        env = "SIGNPOST_LAMEDUCK",
        value_name = "SECONDS",
        default_value_t = 5
    )]
    pub lameduck: u64,

    /// Where /health and /ready are served
    #[arg(
        long,
        env = "SIGNPOST_HEALTH_ADDRESS",
        value_name = "IP:PORT",
        value_delimiter = ',',
        default_value = "[::]:8080,[::]:8181"
    )]
    pub health_address: Vec<SocketAddr>,

    /// Where /metrics is served
    #[arg(
        long,
        env = "SIGNPOST_METRICS_ADDRESS",
        value_name = "IP:PORT",
        default_value = "[::]:9153"
    )]
    pub metrics_address: SocketAddr,

    /// Credentials for the API server, with `--source kube` [default: $KUBECONFIG, ~/.kube/config, then the pod's
    /// service account]
    #[arg(long, env = "SIGNPOST_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// URL of the API server, instead of the one in the credentials
    #[arg(long, env = "SIGNPOST_API_SERVER", value_name = "URL")]
    pub api_server: Option<String>,

    /// Folder for the ClusterIPs that a files source gave out; the same as the agent's, so that both give the same
    #[arg(
        long,
        env = "SIGNPOST_STATE_FOLDER",
        value_name = "DIR",
        default_value = "/var/lib/signpost"
    )]
    pub state_folder: PathBuf,

    /// Range that a files source takes ClusterIPs from, one for each family
    #[arg(
        long,
        env = "SIGNPOST_SERVICE_RANGE",
        value_name = "CIDR",
        value_delimiter = ',',
        default_value = "10.96.0.0/12"
    )]
    pub service_range: Vec<IpNet>,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogConfig,
}

/// Where the zone is learned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The node's agent; its socket, where it is not in the run folder.
    Agent(Option<PathBuf>),
    /// The API server.
    Kube,
    /// A folder of manifests.
    Files(PathBuf),
}

/// How upstreams are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// UDP, and TCP where an answer is cut
    #[default]
    Udp,
    /// TCP alone (CoreDNS's `force_tcp`)
    Tcp,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "agent" => Ok(Self::Agent(None)),
            None if text == "kube" => Ok(Self::Kube),
            Some(("agent", socket)) if !socket.is_empty() => Ok(Self::Agent(Some(socket.into()))),
            Some(("files", folder)) if !folder.is_empty() => Ok(Self::Files(folder.into())),
            _ => Err("give `agent`, `agent:SOCKET`, `kube`, or `files:DIR`".to_owned()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(None) => f.write_str("agent"),
            Self::Agent(Some(socket)) => write!(f, "agent:{}", socket.display()),
            Self::Kube => f.write_str("kube"),
            Self::Files(folder) => write!(f, "files:{}", folder.display()),
        }
    }
}

/// Runs the DNS server until it is told to end (SIGTERM, SIGINT): then it tells the kernel so at once, and answers for
/// a while longer.
///
/// # Errors
/// Where it cannot listen, or a part of it ends.
pub fn run(mut args: Args) -> anyhow::Result<()> {
    // The library logs every question at level info; a filter that names it still counts.
    args.log.log_level = format!("hickory_server=warn,{}", args.log.log_level);
    args.log.start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let told = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("told to end");
            told.cancel();
        });
        Server::bind(args).await?.serve(stop).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

impl Args {
    fn domain(&self) -> anyhow::Result<Name> {
        let domain = &self.cluster_domain;
        Name::from_text(domain).with_context(|| format!("--cluster-domain {domain} is not a name"))
    }
}
