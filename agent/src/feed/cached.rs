//! What is said to the agent: by a DNS server what its cache has, for the kernel to give.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::logged::Logged;
use crate::zone::{Name, ZoneConfig};

/// A line from a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// A number for all that decides what it answers. With another one, nothing that it has handed over counts any more.
    Session(u64),
    /// An answer that holds for everybody who asks.
    Cached(Cached),
    /// A question that the server has answered, while [`super::Hello::watched`] says that somebody wants to know.
    Logged(Logged),
    /// [`crate::zone::Options::digest`] of the server, where [`super::Hello::options`] has the agent's.
    Options(u64),
    /// The client watches: it wants to be told of every [`Said::Logged`].
    Watch,
}

/// An answer to a question outside of the cluster, asked without DNSSEC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cached {
    /// What was asked.
    pub question: Question,
    /// When it runs out, in nanoseconds of `CLOCK_MONOTONIC`.
    pub until: u64,
    /// From when on it matters how often it is given, likewise.
    pub due: u64,
    /// Flags of the answer's header (RFC 1035 §4.1.1, RFC 4035 §3.2.3): AA,
    pub authoritative: bool,
    /// RA,
    pub recursion_available: bool,
    /// and AD.
    pub authentic_data: bool,
    /// Where the name's CNAME leads, where that one leads, and so on.
    pub chain: Vec<Name>,
    /// What is at the end.
    pub end: End,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Question {
    /// The name.
    pub name: Name,
    /// The type (RFC 1035 §3.2.2).
    pub qtype: u16,
}

/// What is at the end of a chain of aliases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// These, in this order. There are none where the alias itself was asked for.
    Addresses(Vec<IpAddr>),
    /// No such record (RFC 2308 §2.2).
    NoData(Soa),
    /// No such name (RFC 2308 §2.1).
    NxDomain(Soa),
}

/// A SOA record (RFC 1035 §3.3.13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Soa {
    /// The zone.
    pub owner: Name,
    /// Its first name server.
    pub mname: Name,
    /// The mailbox of who is responsible.
    pub rname: Name,
    /// Serial, refresh, retry, expire, minimum.
    pub numbers: [u32; 5],
}

/// How often an answer was given by the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The question.
    pub question: Question,
    /// How often.
    pub hits: u64,
}

/// Where answers are kept for the kernel.
pub trait Keeper: Send + std::fmt::Debug {
    /// Forgets every answer at once.
    ///
    /// # Errors
    /// Where the kernel cannot be told.
    fn flush(&mut self) -> anyhow::Result<()>;

    /// Keeps an answer, after a look at whether it may be given.
    ///
    /// # Errors
    /// Why it is not kept.
    fn keep(&mut self, cached: &Cached) -> anyhow::Result<()>;

    /// The answers that run out soon and that were given since they were kept. Each is told once.
    fn asked(&mut self) -> Vec<Asked>;

    /// Takes over another configuration of the zone, and forgets every answer.
    ///
    /// # Errors
    /// Where the kernel cannot be told.
    fn configure(&mut self, zone: &ZoneConfig) -> anyhow::Result<()>;
}
