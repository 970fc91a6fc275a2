//! How other servers are asked: CoreDNS's plugin `forward`.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{Bounded, Cache, Period, is_default};
use crate::zone::Name;

/// How names are asked for elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Forward {
    /// Who is asked. Without any, those of the flags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<UpstreamAddress>,
    /// Names at or below these are not asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Name>,
    /// In which order they are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// After so many failures in a row an upstream is asked last; 0 for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fails: Option<Bounded<0, 1000>>,
    /// How it is found out that an upstream is back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Questions that are under way at a time; more are refused. 0 for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<Bounded<0, 1_000_000>>,
    /// Questions go over TCP.
    #[serde(skip_serializing_if = "is_default")]
    pub force_tcp: bool,
    /// Questions go over UDP, also those that came over TCP. This is what signpost does anyway.
    #[serde(skip_serializing_if = "is_default")]
    pub prefer_udp: bool,
    /// For how long a connection over TCP or TLS is kept when nobody uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire: Option<Period>,
    /// How long an answer may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_timeout: Option<Period>,
    /// What is needed for upstreams over TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: Tls,
    /// Codes, such as `SERVFAIL`, with which the next upstream is asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Code>,
}

/// Zones that other servers have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StubDomain {
    /// The zones.
    pub domains: Vec<Name>,
    /// How they are asked for.
    pub forward: Forward,
    /// What is kept of it; without it, as for all names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
}

/// In which order upstreams are asked; the names and the default are CoreDNS's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// At random
    #[default]
    Random,
    /// One after the other
    RoundRobin,
    /// The first one, as long as it answers
    Sequential,
}

/// How it is found out that an upstream is back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HealthCheck {
    /// How often it is asked.
    pub interval: Period,
    /// For which name's name servers.
    pub domain: Name,
    /// The question does not ask for recursion.
    #[serde(skip_serializing_if = "is_default")]
    pub no_recursion: bool,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            interval: Period::from_millis(500),
            domain: Name::default(),
            no_recursion: false,
        }
    }
}

/// What is needed for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tls {
    /// The name in the upstreams' certificates; without it, their addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// File with the certificates of who may sign theirs; without it, those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// A response code by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Code {
    /// 1
    FormErr,
    /// 2
    ServFail,
    /// 3
    NxDomain,
    /// 4
    NotImp,
    /// 5
    Refused,
}

impl Code {
    /// By its name in any letters.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "FORMERR" => Self::FormErr,
            "SERVFAIL" => Self::ServFail,
            "NXDOMAIN" => Self::NxDomain,
            "NOTIMP" => Self::NotImp,
            "REFUSED" => Self::Refused,
            _ => return None,
        })
    }

    /// The number of RFC 1035.
    pub const fn number(self) -> u16 {
        match self {
            Self::FormErr => 1,
            Self::ServFail => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
        }
    }
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum UpstreamAddress {
    /// Over UDP and TCP.
    Plain(SocketAddr),
    /// Over TLS, with the name in its certificate where it has its own.
    Tls(SocketAddr, Option<String>),
    /// The name servers in this file, as `resolv.conf` has them; it is read again when it changes.
    File(PathBuf),
}

/// A text that names no upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no upstream: give IP, IP:PORT, tls://IP, tls://IP%SERVERNAME, or a file like /etc/resolv.conf"
)]
pub struct UpstreamAddressError(String);

impl FromStr for UpstreamAddress {
    type Err = UpstreamAddressError;

    fn from_str(text: &str) -> Result<Self, UpstreamAddressError> {
        let wrong = || UpstreamAddressError(text.to_owned());
        if text.starts_with('/') {
            return Ok(Self::File(text.into()));
        }
        let (tls, rest) = match text.split_once("://") {
            Some(("tls", rest)) => (true, rest),
            Some(("dns", rest)) => (false, rest),
            Some(_) => return Err(wrong()),
            None => (false, text),
        };
        let (rest, name) = match rest.split_once('%') {
            Some((address, name)) if tls && !name.is_empty() => {
                // The port may be behind the name, as CoreDNS writes it.
                match name.rsplit_once(':') {
                    Some((name, port)) if port.parse::<u16>().is_ok() => {
                        (format!("{address}:{port}"), Some(name.to_owned()))
                    }
                    _ => (address.to_owned(), Some(name.to_owned())),
                }
            }
            Some(_) => return Err(wrong()),
            None => (rest.to_owned(), None),
        };
        let port = if tls { 853 } else { 53 };
        let bare = rest.trim_start_matches('[').trim_end_matches(']');
        let address = rest.parse().ok();
        let address = address.or_else(|| Some(SocketAddr::new(bare.parse().ok()?, port)));
        let address = address.ok_or_else(wrong)?;
        Ok(if tls {
            Self::Tls(address, name)
        } else {
            Self::Plain(address)
        })
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(address) if address.port() == 53 => write!(f, "{}", address.ip()),
            Self::Plain(address) => write!(f, "{address}"),
            Self::Tls(address, None) => write!(f, "tls://{address}"),
            Self::Tls(address, Some(name)) => {
                write!(f, "tls://{}%{name}:{}", bracketed(address), address.port())
            }
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl TryFrom<String> for UpstreamAddress {
    type Error = UpstreamAddressError;

    fn try_from(text: String) -> Result<Self, UpstreamAddressError> {
        text.parse()
    }
}

impl From<UpstreamAddress> for String {
    fn from(address: UpstreamAddress) -> Self {
        address.to_string()
    }
}

fn bracketed(address: &SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}
