//! The mode that a node gets, from what its kernel can do and what was asked for.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::Probes;

/// How Services are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// BPF programs at interfaces and sockets.
    Ebpf,
    /// The kernel's virtual server.
    Ipvs,
}

impl Mode {
    /// As flags, JSON and metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Ipvs => "ipvs",
        }
    }
}

/// What the operator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Wish {
    /// The best mode that the kernel allows.
    #[default]
    Auto,
    /// BPF programs, or nothing.
    Ebpf,
    /// The kernel's virtual server, or nothing.
    Ipvs,
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::Ipvs => "ipvs",
        })
    }
}

/// What filters and masquerades in IPVS mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Netfilter {
    /// Tables of nftables.
    Nftables,
    /// Chains of iptables, with sets of ipset.
    Iptables,
}

impl Netfilter {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables and ipset",
        }
    }
}

/// What the operator asks for to filter and masquerade in IPVS mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NetfilterWish {
    /// nftables, and iptables with ipset only where the kernel has none.
    #[default]
    Auto,
    /// nftables, or nothing.
    Nftables,
    /// iptables with ipset, or nothing.
    Iptables,
}

impl fmt::Display for NetfilterWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

/// The mode of a node, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The mode; none where nothing is possible that was asked for.
    pub mode: Option<Mode>,
    /// What filters and masquerades; none in eBPF mode, which needs nothing for it.
    #[serde(default)]
    pub netfilter: Option<Netfilter>,
    /// Why, for people.
    pub reason: String,
}

/// Chooses the mode: eBPF wherever it is possible, as it serves more and faster.
pub fn choose(probes: &Probes, wish: Wish) -> Choice {
    let ebpf = probes.obstacles(Mode::Ebpf);
    let ipvs = probes.obstacles(Mode::Ipvs);
    let (mode, reason) = match wish {
        Wish::Ebpf if ebpf.is_empty() => (Some(Mode::Ebpf), "asked for".to_owned()),
        Wish::Ebpf => (
            None,
            format!("mode eBPF was asked for: {}", ebpf.join("; ")),
        ),
        Wish::Ipvs if ipvs.is_empty() => (Some(Mode::Ipvs), "asked for".to_owned()),
        Wish::Ipvs => (
            None,
            format!("mode IPVS was asked for: {}", ipvs.join("; ")),
        ),
        Wish::Auto if ebpf.is_empty() => {
            (Some(Mode::Ebpf), "the kernel has what it needs".to_owned())
        }
        Wish::Auto if ipvs.is_empty() => (
            Some(Mode::Ipvs),
            format!("mode eBPF is not possible: {}", ebpf.join("; ")),
        ),
        Wish::Auto => (
            None,
            format!(
                "no mode is possible: {}; {}",
                ebpf.join("; "),
                ipvs.join("; ")
            ),
        ),
    };
    Choice {
        mode,
        netfilter: probes.netfilter().filter(|_| mode == Some(Mode::Ipvs)),
        reason,
    }
}
