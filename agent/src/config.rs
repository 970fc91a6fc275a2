//! The agent's configuration. Every flag is also an environment variable, and every piece of state is per instance:
//! several agents run on one machine when each has folders of its own.

pub mod dns;
mod ipvs;

use std::{
    fmt,
    io::IsTerminal as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::{
    agent::socket_pods::PodSockets, plan::node_ports::NodePortAddress, probe::Wish,
    sysctl::ConntrackConfig,
};

const HOST_NAME: &str = "/proc/sys/kernel/hostname";

pub use ipvs::IpvsArgs;

/// Where an instance keeps what outlives its process. All commands that read need these and nothing else.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Folder in a mounted bpffs that this instance pins its maps and links under
    #[arg(
        long,
        env = "SIGNPOST_BPFFS_ROOT",
        value_name = "DIR",
        default_value = "/sys/fs/bpf/signpost"
    )]
    pub bpffs_root: PathBuf,

    /// Folder for what the agent remembers: its last report, the addresses that a files source gave out
    #[arg(
        long,
        env = "SIGNPOST_STATE_FOLDER",
        value_name = "DIR",
        default_value = "/var/lib/signpost"
    )]
    pub state_folder: PathBuf,
}

/// Flags of `signpost agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentConfig {
    /// Where this instance keeps its state.
    #[command(flatten)]
    pub instance: Instance,

    /// Folder for the socket that `signpost dns` learns the zone from
    #[arg(
        long,
        env = "SIGNPOST_RUN_FOLDER",
        value_name = "DIR",
        default_value = "/run/signpost"
    )]
    pub run_folder: PathBuf,

    /// Name of this node, as its Node object has it [default: the host name in lower case]
    #[arg(long, env = "SIGNPOST_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// The cluster's domain
    #[arg(
        long,
        env = "SIGNPOST_CLUSTER_DOMAIN",
        value_name = "NAME",
        default_value = "cluster.local"
    )]
    pub cluster_domain: String,

    /// Address of the cluster's DNS, one for each family, at most four in all [default: the ClusterIPs of Service
    /// kube-system/kube-dns]
    #[arg(
        long,
        env = "SIGNPOST_DNS_ADDRESS",
        value_name = "IP",
        value_delimiter = ','
    )]
    pub dns_address: Vec<IpAddr>,

    /// File with the configuration of DNS (docs/dns.md), the same that `signpost dns` has. It is read again when it
    /// changes
    #[arg(long, env = "SIGNPOST_DNS_CONFIG", value_name = "FILE")]
    pub dns_config: Option<PathBuf>,

    /// Where Services and their endpoints are learned from: `kube` (API server) or `files:DIR` (a folder of manifests)
    #[arg(
        long,
        env = "SIGNPOST_SOURCE",
        value_name = "SOURCE",
        default_value = "kube"
    )]
    pub source: Source,

    /// Credentials for the API server [default: $KUBECONFIG, ~/.kube/config, then the pod's service account]
    #[arg(long, env = "SIGNPOST_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// URL of the API server, instead of the one in the credentials. An agent cannot reach it through the Service
    /// address that it is itself to provide
    #[arg(long, env = "SIGNPOST_API_SERVER", value_name = "URL")]
    pub api_server: Option<String>,

    /// Range that a files source takes ClusterIPs from, one for each family
    #[arg(
        long,
        env = "SIGNPOST_SERVICE_RANGE",
        value_name = "CIDR",
        value_delimiter = ',',
        default_value = "10.96.0.0/12"
    )]
    pub service_range: Vec<IpNet>,

    /// At which of this node's addresses NodePorts are served: networks, or `primary` (one address a family, those of
    /// the Node object), `localhost`, `all` (without the loopback)
    #[arg(
        long,
        env = "SIGNPOST_NODEPORT_ADDRESSES",
        value_name = "CIDR|KEYWORD",
        value_delimiter = ',',
        default_value = "primary"
    )]
    pub nodeport_addresses: Vec<NodePortAddress>,

    /// How Services are carried: by BPF programs (`ebpf`), by the kernel's virtual server (`ipvs`), or by the first of these
    /// that the kernel allows (`auto`)
    #[arg(
        long,
        env = "SIGNPOST_MODE",
        value_name = "MODE",
        default_value = "auto"
    )]
    pub mode: Wish,

    /// What counts in IPVS mode.
    #[command(flatten)]
    pub ipvs: IpvsArgs,

    /// Whether the addresses in spec.externalIPs of Services are served. Whoever may write a Service can draw any
    /// address to it by them (CVE-2020-8554)
    #[arg(
        long,
        env = "SIGNPOST_EXTERNAL_IPS",
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub external_ips: bool,

    /// Networks that pods have their addresses from: what comes to a ClusterIP from elsewhere is masqueraded, for its
    /// answers may not find their way back otherwise
    #[arg(
        long,
        env = "SIGNPOST_CLUSTER_CIDR",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub cluster_cidr: Vec<IpNet>,

    /// Masquerade everything that goes to a ClusterIP
    #[arg(long, env = "SIGNPOST_MASQUERADE_ALL")]
    pub masquerade_all: bool,

    /// Send what comes from outside and goes to a backend on another node on past this node's IP stack: faster, and
    /// nothing that its netfilter, its IPsec or its filter of sources says counts for these packets
    #[arg(long, env = "SIGNPOST_FAST_PATH")]
    pub fast_path: bool,

    /// Count the connections, packets and bytes of each Service
    #[arg(long, env = "SIGNPOST_COUNT_SERVICES")]
    pub count_services: bool,

    /// Names of the pods' host-side interfaces; `*` stands for any letters
    #[arg(
        long,
        env = "SIGNPOST_POD_INTERFACES",
        value_name = "PATTERN",
        value_delimiter = ',',
        default_value = "veth*,cali*,lxc*,eni*,azv*,gke*"
    )]
    pub pod_interfaces: Vec<String>,

    /// Names of the uplinks and tunnels, for clients and backends on other machines; `*` stands for any letters
    /// [default: tunnels, and interfaces that carry a global address and are not the pods' bridge; devices, bonds and
    /// VLANs without an address too, unless they are ports of a bond or a bridge that is found itself]
    #[arg(
        long,
        env = "SIGNPOST_WIRE_INTERFACES",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub wire_interfaces: Vec<String>,

    /// Which pods are served at their sockets instead of their interfaces: those that no interface with programs leads to
    /// (macvlan, SR-IOV, a program of somebody else in the way), for TCP all others too, or none. It takes CAP_SYS_ADMIN
    #[arg(
        long,
        env = "SIGNPOST_POD_SOCKETS",
        value_name = "WHICH",
        default_value = "missing"
    )]
    pub pod_sockets: PodSockets,

    /// Folders in which container runtimes keep the pods' network namespaces
    #[arg(
        long,
        env = "SIGNPOST_NETNS_FOLDERS",
        value_name = "DIR",
        value_delimiter = ',',
        default_value = "/run/netns,/run/docker/netns"
    )]
    pub netns_folders: Vec<PathBuf>,

    /// Root of the cgroup2 hierarchy of this node [default: found in /proc/self/mountinfo]
    #[arg(long, env = "SIGNPOST_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,

    /// Who answers DNS questions: the kernel, before any NetworkPolicy sees them, also for names outside of the cluster that
    /// the DNS pod of this node has in its cache; the kernel for names of the cluster alone; or the DNS pods alone
    #[arg(
        long,
        env = "SIGNPOST_DNS_ANSWERS",
        value_name = "WHO",
        default_value = "kernel"
    )]
    pub dns_answers: DnsAnswers,

    /// The user, beside root, as which the DNS pod of this node runs: answers of its cache are taken from nobody else
    #[arg(
        long,
        env = "SIGNPOST_DNS_USER",
        value_name = "UID",
        default_value_t = 65532
    )]
    pub dns_user: u32,

    /// For how many seconds negative DNS answers are given after the agent was last in sync with its source
    #[arg(
        long,
        env = "SIGNPOST_NEGATIVE_GRACE",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    pub negative_grace: u32,

    /// Where /livez, /healthz and /readyz are served
    #[arg(
        long,
        env = "SIGNPOST_HEALTH_ADDRESS",
        value_name = "IP:PORT",
        default_value = "0.0.0.0:10256"
    )]
    pub health_address: SocketAddr,

    /// Where /metrics is served
    #[arg(
        long,
        env = "SIGNPOST_METRICS_ADDRESS",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:10249"
    )]
    pub metrics_address: SocketAddr,

    /// Where the kernel's settings are changed; a container without privileges sees them read-only at the usual place
    #[arg(
        long,
        env = "SIGNPOST_PROC_SYS",
        value_name = "DIR",
        default_value = "/proc/sys"
    )]
    pub proc_sys: PathBuf,

    /// What is set of connection tracking.
    #[command(flatten)]
    pub conntrack: ConntrackConfig,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogConfig,
}

/// Flags for the log.
#[derive(Args, Clone, Debug)]
pub struct LogConfig {
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or a list such as `info,signpost=debug`
    #[arg(
        long,
        env = "SIGNPOST_LOG_LEVEL",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log_level: String,

    /// How lines are written
    #[arg(
        long,
        env = "SIGNPOST_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Who answers DNS questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DnsAnswers {
    /// The kernel, at the pod's interface: what it knows of the cluster, and what the DNS pod's cache has of other names.
    Kernel,
    /// The kernel for names of the cluster, the DNS pods for others.
    Cluster,
    /// The DNS pods.
    Pods,
}

impl fmt::Display for DnsAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Cluster => "cluster",
            Self::Pods => "pods",
        })
    }
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The API server.
    Kube,
    /// A folder of manifests.
    Files(PathBuf),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "kube" => Ok(Self::Kube),
            Some(("files", folder)) if !folder.is_empty() => Ok(Self::Files(folder.into())),
            _ => Err("give `kube`, or `files:DIR` with a folder of manifests".to_owned()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kube => f.write_str("kube"),
            Self::Files(folder) => write!(f, "files:{}", folder.display()),
        }
    }
}

impl AgentConfig {
    /// The node's name: the flag, else the host name in lower case, as the kubelet names its node.
    ///
    /// # Errors
    /// Where the host name cannot be read.
    pub fn node_name(&self) -> anyhow::Result<String> {
        match &self.node_name {
            Some(name) => Ok(name.clone()),
            None => {
                let name = std::fs::read_to_string(HOST_NAME)
                    .with_context(|| format!("give --node-name: {HOST_NAME} cannot be read"))?;
                Ok(name.trim().to_lowercase())
            }
        }
    }

    /// How long negative answers outlive the last sync.
    pub const fn negative_grace(&self) -> Duration {
        Duration::from_secs(self.negative_grace as u64)
    }

    /// The settings in effect, for `/configz`.
    pub fn settings(&self) -> serde_json::Value {
        let node_ports: Vec<String> = self
            .nodeport_addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        serde_json::json!({"signpost.config": {
            "nodeName": self.node_name,
            "clusterDomain": self.cluster_domain,
            "mode": self.mode.to_string(),
            "ipvsScheduler": self.ipvs.scheduler(),
            "ipvsStrictARP": self.ipvs.ipvs_strict_arp,
            "netfilter": self.ipvs.netfilter.to_string(),
            "iptablesMasqueradeBit": self.ipvs.iptables_masquerade_bit,
            "dnsAddress": self.dns_address,
            "dnsConfig": self.dns_config,
            "source": self.source.to_string(),
            "apiServer": self.api_server,
            "serviceRange": self.service_range,
            "nodePortAddresses": node_ports,
            "externalIPs": self.external_ips,
            "clusterCIDR": self.cluster_cidr,
            "masqueradeAll": self.masquerade_all,
            "fastPath": self.fast_path,
            "countServices": self.count_services,
            "podInterfaces": self.pod_interfaces,
            "wireInterfaces": self.wire_interfaces,
            "podSockets": self.pod_sockets.to_string(),
            "netnsFolders": self.netns_folders,
            "dnsAnswers": self.dns_answers.to_string(),
            "dnsUser": self.dns_user,
            "negativeGrace": self.negative_grace,
            "healthAddress": self.health_address,
            "metricsAddress": self.metrics_address,
            "bpffsRoot": self.instance.bpffs_root,
            "stateFolder": self.instance.state_folder,
            "runFolder": self.run_folder,
        }})
    }

    /// Writes every setting in effect into the log.
    pub fn log(&self, node_name: &str) {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            node_name,
            cluster_domain = self.cluster_domain,
            mode = %self.mode,
            ipvs = ?self.ipvs,
            dns_address = ?self.dns_address,
            dns_config = ?self.dns_config,
            source = %self.source,
            kubeconfig = ?self.kubeconfig,
            api_server = self.api_server,
            service_range = ?self.service_range,
            nodeport_addresses = ?self.nodeport_addresses,
            external_ips = self.external_ips,
            cluster_cidr = ?self.cluster_cidr,
            masquerade_all = self.masquerade_all,
            fast_path = self.fast_path,
            count_services = self.count_services,
            pod_interfaces = ?self.pod_interfaces,
            wire_interfaces = ?self.wire_interfaces,
            pod_sockets = %self.pod_sockets,
            netns_folders = ?self.netns_folders,
            bpffs_root = ?self.instance.bpffs_root,
            state_folder = ?self.instance.state_folder,
            run_folder = ?self.run_folder,
            cgroup_root = ?self.cgroup_root,
            dns_answers = %self.dns_answers,
            negative_grace = self.negative_grace,
            health_address = %self.health_address,
            metrics_address = %self.metrics_address,
            proc_sys = ?self.proc_sys,
            conntrack = ?self.conntrack,
            log_level = self.log.log_level,
            "the agent starts with this configuration"
        );
    }
}

impl LogConfig {
    /// Sends the process's log to its standard error.
    ///
    /// # Errors
    /// Where the filter cannot be understood.
    pub fn start(&self) -> anyhow::Result<()> {
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log_level)
            .map_err(|e| anyhow::anyhow!("--log-level {}: {e}", self.log_level))?;
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        let started = match self.log_format {
            LogFormat::Text => subscriber.try_init(),
            LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
        };
        started.map_err(|e| anyhow::anyhow!("the log cannot be started: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        config: AgentConfig,
    }

    fn parse(flags: &[&str]) -> Result<AgentConfig, clap::Error> {
        Line::try_parse_from(std::iter::once(&"agent").chain(flags)).map(|l| l.config)
    }

    #[test]
    fn without_flags_the_defaults_are_those_of_a_kubeadm_cluster() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.source, Source::Kube);
        assert_eq!(config.cluster_domain, "cluster.local");
        assert_eq!(config.service_range, ["10.96.0.0/12".parse().unwrap()]);
        assert_eq!(config.negative_grace(), Duration::from_secs(300));
        assert!(config.dns_address.is_empty());
    }

    #[test]
    fn a_source_is_kube_or_a_folder() {
        let config = parse(&["--source", "files:/etc/signpost"]).unwrap();
        assert_eq!(config.source, Source::Files("/etc/signpost".into()));
        assert_eq!(config.source.to_string(), "files:/etc/signpost");
        for wrong in ["files:", "files", "etcd:/x", ""] {
            assert!(parse(&["--source", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_are_given_with_commas() {
        let config = parse(&[
            "--dns-address=10.96.0.10,fd00::a",
            "--service-range=10.96.0.0/16,fd00::/112",
        ])
        .unwrap();
        assert_eq!(config.dns_address.len(), 2);
        assert_eq!(config.service_range.len(), 2);
    }

    #[test]
    fn node_ports_are_served_at_the_primary_addresses_unless_others_are_named() {
        let at = |config: AgentConfig| -> Vec<String> {
            let entries = config.nodeport_addresses.iter();
            entries.map(ToString::to_string).collect()
        };
        assert_eq!(at(parse(&[]).unwrap()), ["primary"]);
        let named = parse(&["--nodeport-addresses=localhost,192.0.2.0/24"]).unwrap();
        assert_eq!(at(named), ["localhost", "192.0.2.0/24"]);
        assert!(parse(&["--nodeport-addresses=eth0"]).is_err());
    }

    #[test]
    fn external_ips_can_be_refused() {
        assert!(parse(&[]).unwrap().external_ips);
        assert!(!parse(&["--external-ips=false"]).unwrap().external_ips);
    }

    #[test]
    fn every_flag_is_an_environment_variable_of_the_same_name() {
        use clap::CommandFactory;
        for arg in Line::command().get_arguments() {
            let Some(flag) = arg.get_long().filter(|l| *l != "help") else {
                continue;
            };
            let variable = format!("SIGNPOST_{}", flag.replace('-', "_").to_uppercase());
            assert_eq!(
                arg.get_env(),
                Some(std::ffi::OsStr::new(&variable)),
                "{flag}"
            );
        }
    }
}
