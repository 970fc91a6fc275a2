//! Settings of the kernel that a proxy of Services sets or relies on, as kube-proxy does at its start.
//!
//! What the kernel has not, or does not let us change, stays as it is: a network namespace that is not the first one
//! has no say in the size of the connection-tracking table.

use std::{fs, io, ops::RangeInclusive, path::Path};

use clap::Args;
use signpost_common::FIRST_PORT;

use crate::model::{ObjectName, Problem};

/// Source ports that masqueraded and clashing connections get: nobody else may be given them.
pub const OUR_PORTS: RangeInclusive<u16> = FIRST_PORT..=u16::MAX;

const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";
const LOCAL_RANGE: &str = "net/ipv4/ip_local_port_range";
const FORWARD: &str = "net/ipv4/ip_forward";

/// Flags for connection tracking, with kube-proxy's names and defaults. 0 leaves a setting as it is.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ConntrackConfig {
    /// Most tracked connections, for each core of the machine; 0 leaves it as it is
    #[arg(
        long,
        env = "SIGNPOST_CONNTRACK_MAX_PER_CORE",
        value_name = "COUNT",
        default_value_t = 32_768
    )]
    pub conntrack_max_per_core: u32,

    /// Most tracked connections of a machine with few cores
    #[arg(
        long,
        env = "SIGNPOST_CONNTRACK_MIN",
        value_name = "COUNT",
        default_value_t = 131_072
    )]
    pub conntrack_min: u32,

    /// After how many seconds an idle TCP connection is no longer tracked; 0 leaves it as it is
    #[arg(
        long,
        env = "SIGNPOST_CONNTRACK_TCP_TIMEOUT_ESTABLISHED",
        value_name = "SECONDS",
        default_value_t = 86_400
    )]
    pub conntrack_tcp_timeout_established: u32,

    /// After how many seconds a TCP connection that one side has closed is no longer tracked; 0 leaves it as it is
    #[arg(
        long,
        env = "SIGNPOST_CONNTRACK_TCP_TIMEOUT_CLOSE_WAIT",
        value_name = "SECONDS",
        default_value_t = 3_600
    )]
    pub conntrack_tcp_timeout_close_wait: u32,

    /// After how many seconds a UDP datagram without an answer is no longer tracked; 0 leaves it as it is
    #[arg(
        long,
        env = "SIGNPOST_CONNTRACK_UDP_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 0
    )]
    pub conntrack_udp_timeout: u32,

    /// After how many seconds an idle UDP conversation is no longer tracked; 0 leaves it as it is
    #[arg(
        long,
        env = "SIGNPOST_CONNTRACK_UDP_TIMEOUT_STREAM",
        value_name = "SECONDS",
        default_value_t = 0
    )]
    pub conntrack_udp_timeout_stream: u32,

    /// Do not take TCP segments outside of the window for invalid
    #[arg(long, env = "SIGNPOST_CONNTRACK_TCP_BE_LIBERAL")]
    pub conntrack_tcp_be_liberal: bool,
}

impl ConntrackConfig {
    /// Names and values of what is to be set, on a machine with so many cores.
    fn settings(&self, cores: u32) -> Vec<(&'static str, u32)> {
        let max = match self.conntrack_max_per_core {
            0 => 0,
            per_core => per_core.saturating_mul(cores).max(self.conntrack_min),
        };
        [
            ("nf_conntrack_max", max),
            (
                "nf_conntrack_tcp_timeout_established",
                self.conntrack_tcp_timeout_established,
            ),
            (
                "nf_conntrack_tcp_timeout_close_wait",
                self.conntrack_tcp_timeout_close_wait,
            ),
            ("nf_conntrack_udp_timeout", self.conntrack_udp_timeout),
            (
                "nf_conntrack_udp_timeout_stream",
                self.conntrack_udp_timeout_stream,
            ),
            (
                "nf_conntrack_tcp_be_liberal",
                self.conntrack_tcp_be_liberal.into(),
            ),
        ]
        .into_iter()
        .filter(|(_, value)| *value != 0)
        .collect()
    }
}

/// Sets what a proxy sets, below a folder such as `/proc/sys`. Returns what an operator has to look at.
pub fn apply(root: &Path, conntrack: &ConntrackConfig, node: &str) -> Vec<Problem> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    for (name, value) in conntrack.settings(cores) {
        set(root, &format!("net/netfilter/{name}"), &value.to_string());
    }
    let mut problems = Vec::new();
    let mut look_at = |name: &str, reason: String| {
        problems.push(Problem {
            kind: "Sysctl".to_owned(),
            object: ObjectName::new("", node),
            field: name.replace('/', "."),
            reason,
        });
    };
    if let Ok(reserved) = get(root, RESERVED)
        && let Some(with_ours) = with_our_ports(&reserved)
        && !set(root, RESERVED, &with_ours)
    {
        let reason = format!(
            "cannot be changed; add {}-{}, which masqueraded connections have as source ports",
            OUR_PORTS.start(),
            OUR_PORTS.end()
        );
        look_at(RESERVED, reason);
    }
    if let Some(last) = get(root, LOCAL_RANGE).ok().and_then(|range| last(&range))
        && last >= *OUR_PORTS.start()
    {
        let reason = format!(
            "ends at {last} and overlaps with {}-{}, the source ports of masqueraded connections; end it at {}",
            OUR_PORTS.start(),
            OUR_PORTS.end(),
            OUR_PORTS.start() - 1
        );
        look_at(LOCAL_RANGE, reason);
    }
    if get(root, FORWARD).is_ok_and(|value| value == "0") {
        let reason = "is 0: this node forwards no packets between pods; set it to 1";
        look_at(FORWARD, reason.to_owned());
    }
    problems
}

fn get(root: &Path, name: &str) -> io::Result<String> {
    fs::read_to_string(root.join(name)).map(|text| text.trim().to_owned())
}

/// Says whether the setting is as wanted now.
pub(crate) fn set(root: &Path, name: &str, value: &str) -> bool {
    match get(root, name) {
        Ok(now) if now == value => return true,
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(name, %error, "the kernel has no such setting");
            return false;
        }
    }
    match fs::write(root.join(name), value) {
        Ok(()) => {
            tracing::info!(name, value, "set");
            true
        }
        Err(error) => {
            tracing::info!(name, value, %error, "cannot be set, and stays as it is");
            false
        }
    }
}

/// The list with our ports in it; `None` where they are.
fn with_our_ports(list: &str) -> Option<String> {
    let has_ours = list
        .split(',')
        .filter_map(range)
        .any(|range| range.start() <= OUR_PORTS.start() && range.end() >= OUR_PORTS.end());
    if has_ours {
        return None;
    }
    let ours = format!("{}-{}", OUR_PORTS.start(), OUR_PORTS.end());
    Some(if list.is_empty() {
        ours
    } else {
        format!("{list},{ours}")
    })
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let text = text.trim();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

fn last(range: &str) -> Option<u16> {
    range.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rstest::rstest;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        config: ConntrackConfig,
    }

    fn config(flags: &[&str]) -> ConntrackConfig {
        let line = std::iter::once(&"agent").chain(flags);
        Line::try_parse_from(line).unwrap().config
    }

    /// A folder like `/proc/sys` with these settings.
    fn kernel(settings: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, value) in settings {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        root
    }

    #[test]
    fn connection_tracking_is_set_as_kube_proxy_sets_it() {
        const ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";
        const CLOSE_WAIT: &str = "net/netfilter/nf_conntrack_tcp_timeout_close_wait";
        const UDP: &str = "net/netfilter/nf_conntrack_udp_timeout";
        let root = kernel(&[(ESTABLISHED, "432000"), (CLOSE_WAIT, "60"), (UDP, "30")]);
        assert_eq!(apply(root.path(), &config(&[]), "one"), []);
        assert_eq!(get(root.path(), ESTABLISHED).unwrap(), "86400");
        assert_eq!(get(root.path(), CLOSE_WAIT).unwrap(), "3600");
        assert_eq!(get(root.path(), UDP).unwrap(), "30", "nobody asked");
        let max = root.path().join("net/netfilter/nf_conntrack_max");
        assert!(!max.exists(), "this kernel has none");
        apply(root.path(), &config(&["--conntrack-udp-timeout=90"]), "one");
        assert_eq!(get(root.path(), UDP).unwrap(), "90");
    }

    #[rstest]
    #[case::few_cores(&[], 2, Some(131_072))]
    #[case::many_cores(&[], 8, Some(262_144))]
    #[case::left(&["--conntrack-max-per-core=0"], 8, None)]
    #[case::no_least(&["--conntrack-min=0"], 1, Some(32_768))]
    fn the_size_of_the_table_follows_the_cores(
        #[case] flags: &[&str],
        #[case] cores: u32,
        #[case] expected: Option<u32>,
    ) {
        let settings = config(flags).settings(cores);
        let max = settings
            .iter()
            .find(|(name, _)| *name == "nf_conntrack_max");
        assert_eq!(max.map(|(_, value)| *value), expected);
    }

    #[rstest]
    #[case("", Some("61000-65535"))]
    #[case("8080,9000-9010", Some("8080,9000-9010,61000-65535"))]
    #[case("8080,61000-65535", None)]
    #[case("60000-65535", None)]
    #[case("61000-65000", Some("61000-65000,61000-65535"))]
    fn our_ports_are_added_to_the_reserved_ones(#[case] before: &str, #[case] after: Option<&str>) {
        assert_eq!(with_our_ports(before).as_deref(), after);
    }

    #[test]
    fn what_an_operator_has_to_look_at_is_named() {
        let settings = [
            (RESERVED, ""),
            (LOCAL_RANGE, "32768\t65000"),
            (FORWARD, "0"),
        ];
        let root = kernel(&settings);
        let problems = apply(root.path(), &config(&[]), "one");
        let fields: Vec<_> = problems.iter().map(|p| &*p.field).collect();
        assert_eq!(
            fields,
            ["net.ipv4.ip_local_port_range", "net.ipv4.ip_forward"]
        );
        assert_eq!(get(root.path(), RESERVED).unwrap(), "61000-65535");

        let well = kernel(&[(LOCAL_RANGE, "32768\t60999"), (FORWARD, "1")]);
        assert_eq!(apply(well.path(), &config(&[]), "one"), []);
    }
}
