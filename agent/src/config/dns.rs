//! The file that configures DNS: what there is beside the cluster's objects, and how names outside are asked for.
//!
//! The agent and `signpost dns` read the same file. It is checked strictly: a key that is not known is refused with its
//! place, a value with its key and the reason. `docs/dns.md` has every option.

mod check;
pub mod file;
mod forward;
mod rewrite;
#[cfg(test)]
mod tests;
mod values;
mod zone;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::zone::{Name, Selector};

pub use self::{
    forward::{
        Code, Forward, HealthCheck, Policy, StubDomain, Tls, UpstreamAddress, UpstreamAddressError,
    },
    rewrite::{AnswerRewrite, Auto, MatchKind, RewriteRule},
    values::{Bounded, Period, ReverseZone},
};

/// The whole file. What is not said has CoreDNS's default in kubeadm's Corefile, or that of a flag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DnsConfig {
    /// The cluster's zone.
    #[serde(skip_serializing_if = "is_default")]
    pub cluster: Cluster,
    /// Names with addresses, before the zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Hosts>,
    /// Names that stand for others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewrite: Vec<RewriteRule>,
    /// How names outside of the cluster are asked for.
    #[serde(skip_serializing_if = "is_default")]
    pub forward: Forward,
    /// Zones that other servers have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stub_domains: Vec<StubDomain>,
    /// Answers of upstreams that are kept.
    #[serde(skip_serializing_if = "is_default")]
    pub cache: Cache,
    /// Which questions are logged.
    #[serde(skip_serializing_if = "is_default")]
    pub log: Log,
    /// Failures are logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<bool>,
    /// Upstreams that are this server itself are found at start.
    #[serde(rename = "loop", skip_serializing_if = "Option::is_none")]
    pub loop_detection: Option<bool>,
    /// Most of something.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
    /// For how long questions are answered after the process was told to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lameduck: Option<Period>,
}

/// The cluster's zone: CoreDNS's plugin `kubernetes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cluster {
    /// The cluster domain. Changed only by a new start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Name>,
    /// Further names of the same zone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_domains: Vec<Name>,
    /// Zones (or networks) in which addresses lead back to names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse_zones: Option<Vec<ReverseZone>>,
    /// TTL of all records, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Bounded<0, 3600>>,
    /// Names of Pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<Pods>,
    /// The only namespaces that have names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Only namespaces with such labels have names.
    #[serde(skip_serializing_if = "is_default")]
    pub namespace_labels: Selector,
    /// Only Services, their EndpointSlices, and Pods with such labels have names.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: Selector,
    /// Endpoints without a host name are named like their Pods.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoint_pod_names: bool,
    /// Services without ready endpoints do not exist.
    #[serde(skip_serializing_if = "is_default")]
    pub ignore_empty_services: bool,
    /// For so long after the start questions wait for the whole zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup_timeout: Option<Period>,
    /// Where names that the zone does not have are asked for upstream; `.` for everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallthrough: Option<Vec<Name>>,
}

/// Names of Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Pods {
    /// There are none.
    Disabled,
    /// Every address has one.
    Insecure,
    /// The addresses of Pods have one, in the Pod's namespace.
    Verified,
}

/// Names with addresses: CoreDNS's plugin `hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hosts {
    /// Addresses, and their names.
    pub entries: Vec<HostEntry>,
    /// The zones that the names are in; others do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zones: Option<Vec<Name>>,
    /// TTL of the records, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Bounded<1, 65_535>>,
    /// The addresses do not lead back to their names.
    #[serde(skip_serializing_if = "is_default")]
    pub no_reverse: bool,
    /// Where names that are not here are asked for elsewhere; `.` for everywhere. Without it they fail.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallthrough: Vec<Name>,
}

/// An address and its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostEntry {
    /// The address.
    pub address: std::net::IpAddr,
    /// Its names.
    pub names: Vec<Name>,
}

/// What is kept: CoreDNS's plugin `cache`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cache {
    /// Answers with records.
    #[serde(skip_serializing_if = "is_default")]
    pub success: Kept,
    /// Answers that say that there is nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub denial: Kept,
    /// Failures, for at most five minutes (RFC 2308).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_ttl: Option<Bounded<0, 300>>,
    /// What is asked for often is fetched again before it runs out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<Prefetch>,
    /// For how long answers are given after their time where no upstream answers; `0s` for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serve_stale: Option<Period>,
}

/// How answers of a kind are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Kept {
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Bounded<1, 10_000_000>>,
    /// For how many seconds at most; 0 keeps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Bounded<0, 86_400>>,
    /// For how many seconds at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ttl: Option<Bounded<0, 86_400>>,
    /// Zones whose answers are not kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Name>,
}

/// When an answer is fetched again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prefetch {
    /// It was given so often; 0 for never.
    pub hits: Bounded<0, 1_000_000>,
    /// It was not longer than this between two times.
    #[serde(default = "one_minute")]
    pub within: Period,
    /// Less than so many percent of its time are left.
    #[serde(default = "ten")]
    pub percentage: Bounded<10, 90>,
}

/// Which questions are logged: CoreDNS's plugin `log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// By what is said to them. None is logged without it.
    pub classes: Vec<Class>,
    /// The zones that they are in; all without it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<Name>,
}

/// Answers of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// Every answer.
    All,
    /// Records.
    Success,
    /// No such name, or no such type.
    Denial,
    /// Everything else.
    Error,
}

/// Most of something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Answers over UDP to one client in a second; what is beyond is left unanswered. Without it, any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses_per_second: Option<Bounded<1, 10_000_000>>,
    /// TCP connections at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_connections: Option<Bounded<1, 1_000_000>>,
    /// TCP connections of one client at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_connections_per_client: Option<Bounded<1, 1_000_000>>,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsConfigError {
    /// It cannot be read.
    #[error("{file}: {reason}", file = .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is not written as it should be.
    #[error("{file}:{line}:{column}: {key}: {reason}", file = .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
        /// The way to the key, such as `forward.policy`.
        key: String,
        /// What is wrong, with the value.
        reason: String,
    },
    /// Parts of it do not go together.
    #[error("{file}: {key}: {reason}", file = .file.display())]
    Contradiction {
        /// The file.
        file: PathBuf,
        /// The way to the key.
        key: String,
        /// What is wrong, with the value.
        reason: String,
    },
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const fn one_minute() -> Period {
    Period::from_secs(60)
}

const fn ten() -> Bounded<10, 90> {
    Bounded::least()
}
