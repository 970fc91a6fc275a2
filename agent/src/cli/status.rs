//! `signpost status`: is all well on this node, and what to do where it is not.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use serde::Serialize;

use super::output::{or_dash, table};
use crate::agent::report::Report;

/// A map this full needs attention, in percent.
const NEARLY_FULL: u64 = 90;

/// What `signpost status -o json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Folder of the instance's pins.
    pub instance: PathBuf,
    /// An agent of this instance runs.
    pub agent_alive: bool,
    /// What the agent last said of itself; `null` where none ever did.
    pub agent: Option<Report>,
    /// Seconds since the agent was last in sync with its source; `null` for never.
    pub in_sync_age: Option<f64>,
    /// For how many seconds after that the kernel gives negative DNS answers.
    pub negative_grace: u32,
    /// Seconds since this node's `signpost dns` last said that it is there; `null` for never.
    pub dns_alive_age: Option<f64>,
    /// Service ports.
    pub services: u64,
    /// Endpoints of service ports.
    pub backends: u64,
    /// Names.
    pub names: u64,
    /// Flows that are remembered, those that ended a moment ago included.
    pub flows: u64,
    /// How full the maps are.
    pub maps: Vec<MapStatus>,
    /// Interfaces that the programs are pinned to.
    pub interfaces: Vec<String>,
    /// What needs attention; the exit status is 1 where there is any.
    pub attention: Vec<Attention>,
}

/// How full a map is.
#[derive(Clone, Debug, Serialize)]
pub struct MapStatus {
    /// Name of the map.
    pub map: String,
    /// Elements in it.
    pub entries: u64,
    /// Most elements that it can have.
    pub capacity: u64,
    /// Percent of the capacity that is taken.
    pub pressure: u64,
    /// Bytes of kernel memory.
    pub memory: u64,
}

/// Something that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attention {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub todo: String,
}

impl MapStatus {
    /// From what the kernel says.
    pub fn new(map: String, entries: u64, capacity: u64, memory: u64) -> Self {
        Self {
            map,
            entries,
            capacity,
            pressure: (entries * 100).checked_div(capacity).unwrap_or(0),
            memory,
        }
    }
}

impl Status {
    /// Finds what needs attention. Call it once all else is filled in.
    pub fn judge(&mut self) {
        let mut found = Vec::new();
        let mut add = |what: String, todo: &str| {
            let todo = todo.to_owned();
            found.push(Attention { what, todo });
        };
        if !self.agent_alive {
            add(
                "the agent is not running".to_owned(),
                "start it; until then the kernel goes on with what it has and learns nothing new",
            );
        } else if let Some(report) = &self.agent {
            for pending in &report.pending {
                add(
                    format!("the agent waits: {pending}"),
                    "see its log if this stays",
                );
            }
        }
        match self.in_sync_age {
            None => add(
                "the agent was never in sync with its source".to_owned(),
                "see its log; until then every name that does not exist is asked of the DNS pods",
            ),
            Some(age) if age > f64::from(self.negative_grace) => add(
                format!(
                    "the agent is not in sync with its source, for {} now",
                    seconds(age)
                ),
                "see its log; until then every name that does not exist is asked of the DNS pods",
            ),
            Some(_) => {}
        }
        if self.dns_alive_age.is_some_and(|age| age > 1.0) {
            add(
                "this node's DNS pod does not report".to_owned(),
                "see the log of `signpost dns`; until then the other DNS pods are asked",
            );
        }
        if let Some(report) = &self.agent {
            if report.dns.is_empty() && report.pending.is_empty() {
                add(
                    "the cluster's DNS address is not known".to_owned(),
                    "create Service kube-system/kube-dns with a ClusterIP, or give --dns-address",
                );
            }
            if let Some(trouble) = report.other_proxy.as_ref().and_then(|o| o.trouble.as_ref()) {
                add(
                    format!(
                        "whether another proxy's connections are alive is not known: {trouble}"
                    ),
                    "until it is, forgotten connections are not taken up again",
                );
            }
            for problem in &report.problems {
                add(problem.to_string(), "mend the object");
            }
            for (object, reason) in &report.refusals {
                add(
                    format!("{object} is not served by the kernel: {reason}"),
                    "it is tried again every few seconds",
                );
            }
        }
        for map in self.maps.iter().filter(|m| m.pressure >= NEARLY_FULL) {
            let todo = if map.map == signpost_common::layout::map::FLOWS {
                "the flows that were used least are forgotten first; fewer connections help"
            } else {
                "what does not fit will be refused and said here"
            };
            add(format!("map {} is {} % full", map.map, map.pressure), todo);
        }
        self.attention = found;
    }

    /// For people.
    pub fn text(&self) -> String {
        let unknown = Report::default();
        let report = self.agent.as_ref().unwrap_or(&unknown);
        let agent = if self.agent_alive {
            format!("running, pid {}, version {}", report.pid, report.version)
        } else {
            "not running".to_owned()
        };
        let mode = match &*report.netfilter {
            "" => or_dash(&report.mode),
            netfilter => format!("{}, with {netfilter}", report.mode),
        };
        let dns: Vec<String> = report.dns.iter().map(ToString::to_string).collect();
        let lines = [
            ("instance", self.instance.display().to_string()),
            ("node", or_dash(&report.node)),
            ("mode", mode),
            ("agent", agent),
            ("source", or_dash(&report.source)),
            ("cluster domain", or_dash(&report.domain)),
            ("DNS addresses", or_dash(&dns.join(", "))),
            ("in sync", age(self.in_sync_age)),
            ("DNS pod alive", age(self.dns_alive_age)),
            ("service ports", self.services.to_string()),
            ("backends", self.backends.to_string()),
            ("names", self.names.to_string()),
            ("flows", self.flows.to_string()),
            ("interfaces", or_dash(&self.interfaces.join(", "))),
            ("host processes", or_dash(&report.host_processes)),
            ("pods by sockets", or_dash(&report.pod_sockets)),
            (
                "other proxy",
                or_dash(
                    &report
                        .other_proxy
                        .as_ref()
                        .map_or_else(String::new, ToString::to_string),
                ),
            ),
        ];
        let mut text = String::new();
        for (what, value) in lines {
            let _ = writeln!(text, "{what:<16}{value}");
        }
        text.push('\n');
        text += &table(
            &["MAP", "ENTRIES", "CAPACITY", "FULL", "MEMORY"],
            self.maps.iter().map(|m| {
                vec![
                    m.map.clone(),
                    m.entries.to_string(),
                    m.capacity.to_string(),
                    format!("{} %", m.pressure),
                    format!("{} KiB", m.memory.div_ceil(1024)),
                ]
            }),
        );
        text.push('\n');
        if self.attention.is_empty() {
            text.push_str("all is well\n");
        }
        for Attention { what, todo } in &self.attention {
            let _ = writeln!(text, "! {what}\n  → {todo}");
        }
        text
    }
}

fn age(age: Option<f64>) -> String {
    age.map_or_else(|| "never".to_owned(), |age| format!("{} ago", seconds(age)))
}

fn seconds(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds.max(0.0) as u64);
    match whole.as_secs() {
        0..120 => format!("{seconds:.1} s"),
        120..7200 => format!("{} min", whole.as_secs() / 60),
        more => format!("{} h", more / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::agent::other_proxy::OtherProxy;
    use crate::model::{ObjectName, Problem};

    fn healthy() -> Status {
        Status {
            instance: "/sys/fs/bpf/signpost".into(),
            agent_alive: true,
            agent: Some(Report {
                version: "0.1.0".to_owned(),
                pid: 42,
                node: "worker-1".to_owned(),
                mode: "ebpf".to_owned(),
                source: "kube".to_owned(),
                domain: "cluster.local".to_owned(),
                dns: vec![Ipv4Addr::new(10, 96, 0, 10).into()],
                host_processes: "served below cgroup /sys/fs/cgroup".to_owned(),
                pod_sockets: "none needed".to_owned(),
                other_proxy: Some(OtherProxy::default()),
                ..Report::default()
            }),
            in_sync_age: Some(0.4),
            negative_grace: 300,
            dns_alive_age: Some(0.1),
            services: 5,
            backends: 9,
            names: 14,
            flows: 2,
            maps: vec![MapStatus::new("flows".to_owned(), 2, 100, 2000)],
            interfaces: vec!["veth1".to_owned()],
            attention: Vec::new(),
        }
    }

    #[test]
    fn a_healthy_node_needs_no_attention() {
        let mut status = healthy();
        status.judge();
        assert_eq!(
            status.text(),
            "\
instance        /sys/fs/bpf/signpost
node            worker-1
mode            ebpf
agent           running, pid 42, version 0.1.0
source          kube
cluster domain  cluster.local
DNS addresses   10.96.0.10
in sync         0.4 s ago
DNS pod alive   0.1 s ago
service ports   5
backends        9
names           14
flows           2
interfaces      veth1
host processes  served below cgroup /sys/fs/cgroup
pods by sockets none needed
other proxy     none

MAP     ENTRIES   CAPACITY   FULL   MEMORY
flows   2         100        2 %    2 KiB

all is well
"
        );
    }

    #[test]
    fn a_node_in_ipvs_mode_says_what_filters() {
        let mut status = healthy();
        if let Some(report) = &mut status.agent {
            report.mode = "ipvs".to_owned();
            report.netfilter = "iptables and ipset".to_owned();
        }
        let text = status.text();
        assert!(
            text.contains("mode            ipvs, with iptables and ipset\n"),
            "{text}"
        );
    }

    #[test]
    fn a_node_without_a_dns_pod_is_well() {
        let mut status = healthy();
        status.dns_alive_age = None;
        status.judge();
        assert_eq!(status.attention, []);
    }

    #[test]
    fn each_thing_that_is_wrong_is_one_line_with_what_to_do() {
        let mut status = healthy();
        status.agent_alive = false;
        status.in_sync_age = Some(900.0);
        status.dns_alive_age = Some(3.0);
        status
            .maps
            .push(MapStatus::new("slots".to_owned(), 95, 100, 0));
        if let Some(report) = &mut status.agent {
            report.problems.push(Problem {
                kind: "Service".to_owned(),
                object: ObjectName::new("dev", "ent"),
                field: "spec.ports[0].port".to_owned(),
                reason: "0 is not a port".to_owned(),
            });
            report
                .refusals
                .insert("dev/ent".to_owned(), "map frontends is full".to_owned());
        }
        status.judge();
        let text = status.text();
        for line in [
            "agent           not running",
            "! the agent is not running",
            "! the agent is not in sync with its source, for 15 min now",
            "! this node's DNS pod does not report",
            "! Service dev/ent: spec.ports[0].port: 0 is not a port",
            "! dev/ent is not served by the kernel: map frontends is full",
            "! map slots is 95 % full",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert_eq!(status.attention.len(), 6);
        assert!(status.attention.iter().all(|a| !a.todo.is_empty()));
    }

    #[test]
    fn json_has_the_fields_that_programs_rely_on() {
        let mut status = healthy();
        status.in_sync_age = None;
        status.judge();
        let value = serde_json::to_value(&status).unwrap();
        assert_eq!(value["agent_alive"], true);
        assert_eq!(value["agent"]["node"], "worker-1");
        assert_eq!(value["in_sync_age"], serde_json::Value::Null);
        assert_eq!(value["maps"][0]["pressure"], 2);
        assert_eq!(value["attention"].as_array().unwrap().len(), 1);
    }
}
