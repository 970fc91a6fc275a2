//! Answers that somebody watches: what `signpost monitor dns` shows, wherever it comes from.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::zone::Name;

/// A question that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// When it came, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
    /// How many nanoseconds later it was answered.
    pub took: u64,
    /// Who asked.
    pub client: IpAddr,
    /// From which port.
    pub port: u16,
    /// Over TCP.
    pub tcp: bool,
    /// The name that was asked for.
    pub name: Name,
    /// The type (RFC 1035 §3.2.2).
    pub qtype: u16,
    /// The response code (RFC 1035 §4.1.1, RFC 6891 §6.1.3).
    pub code: u16,
    /// Records in the answer section.
    pub records: u16,
    /// Where the answer comes from.
    pub by: By,
    /// How many answers before this one were not told, because nobody took them.
    pub lost: u64,
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The programs, out of the cluster's zone.
    Kernel,
    /// The programs, out of what the server's cache has handed over.
    KernelCache,
    /// `signpost dns`, out of the cluster's zone or the operator's own names.
    Zone,
    /// `signpost dns`, out of its cache.
    Cache,
    /// Likewise, after its time, because no upstream answers (RFC 8767).
    Stale,
    /// An upstream.
    Upstream,
    /// `signpost dns` for itself: refused, malformed, too many, nobody to ask.
    #[default]
    Server,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel",
            Self::KernelCache => "kernel-cache",
            Self::Zone => "zone",
            Self::Cache => "cache",
            Self::Stale => "stale",
            Self::Upstream => "upstream",
            Self::Server => "server",
        })
    }
}
