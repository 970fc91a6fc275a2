//! What is compared of an answer.
//!
//! Everything: flags and code, the question byte for byte, and each section's records with owner, TTL and data. But
//!
//! - aliases have to be in the order of their chain and before all addresses; other records in any order, because both
//!   servers shuffle addresses;
//! - the TTLs of names outside of the zone, reverse names and what is given together with these count down in caches:
//!   they are 1 to 30;
//! - letters of names outside of the zone, in owners and data, may be those of whoever asked the cache before;
//! - CD of forwarded answers: CoreDNS says what its upstream said, and later what its cache makes of it;
//! - of answers that are cut on both sides only the cut is compared: how much fits depends on the compression, and the
//!   client asks again over TCP;
//! - the SOA's serial is the time of a change that each server noticed at a time of its own.

use std::fmt;

use anyhow::{Context as _, Result};
use domain::base::Message as Domain;
use hickory_proto::{
    op::Message,
    rr::{RData, Record},
};

/// An answer, brought into a form in which equal answers are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) truncated: bool,
    /// The other flags.
    pub(crate) flags: u16,
    /// The question section.
    pub(crate) question: Vec<u8>,
    pub(crate) answers: Vec<String>,
    pub(crate) authorities: Vec<String>,
    pub(crate) additionals: Vec<String>,
    /// Size, DO, options and version of the OPT record.
    pub(crate) opt: Option<(u16, bool, usize, u8)>,
}

/// Authoritative answer.
pub(crate) const AA: u16 = 0x0400;

impl Answer {
    /// Reads an answer. `question` is the length of the question section that was asked.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(crate) fn read(bytes: &[u8], question: usize) -> Result<Self> {
        let message = Message::from_vec(bytes).with_context(|| format!("{bytes:02x?}"))?;
        let domain = Domain::from_octets(bytes).context("too short")?;
        let opt = domain.opt().map(|opt| {
            let options = opt.opt().len();
            (
                opt.udp_payload_size(),
                opt.dnssec_ok(),
                options,
                opt.version(),
            )
        });
        let flags = u16::from_be_bytes([bytes[2], bytes[3]]);
        let mut records = message.answers.iter().chain(&message.authorities);
        let outside = records.any(|record| !is_inside(record));
        let section = |records: &[Record]| {
            let mut aliases = Vec::new();
            let mut others = Vec::new();
            for record in records {
                match record.data {
                    RData::CNAME(_) if others.is_empty() => aliases.push(text(record, outside)),
                    RData::CNAME(_) => others.push(format!("late {}", text(record, outside))),
                    _ => others.push(text(record, outside)),
                }
            }
            others.sort();
            aliases.extend(others);
            aliases
        };
        let asked = message.queries.len();
        Ok(Self {
            code: u16::from(message.metadata.response_code),
            truncated: flags & 0x0200 != 0,
            flags: flags & if flags & AA == 0 { 0xfde0 } else { 0xfdf0 },
            question: if asked == 1 {
                bytes.get(12..12 + question).unwrap_or_default().to_vec()
            } else {
                Vec::new()
            },
            answers: section(&message.answers),
            authorities: section(&message.authorities),
            additionals: section(&message.additionals),
            opt,
        })
    }

    /// The same with another code.
    pub(crate) fn with_code(&self, code: u16) -> Self {
        Self {
            code,
            ..self.clone()
        }
    }

    /// Whether all its records are among those of another one.
    pub(crate) fn is_part_of(&self, other: &Self) -> bool {
        let mut additionals = self.additionals.iter();
        self.answers_are_part_of(other)
            && additionals.all(|record| other.additionals.contains(record))
    }

    /// Whether the records of its answer section are among those of another one.
    pub(crate) fn answers_are_part_of(&self, other: &Self) -> bool {
        let mut answers = self.answers.iter();
        answers.all(|record| other.answers.contains(record))
    }

    /// What is the same of two answers that are cut.
    pub(crate) fn without_records(&self) -> Self {
        Self {
            answers: Vec::new(),
            additionals: Vec::new(),
            ..self.clone()
        }
    }

    /// The names of the fields that differ.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("code", self.code != other.code),
            ("truncated", self.truncated != other.truncated),
            ("flags", self.flags != other.flags),
            ("question", self.question != other.question),
            ("answers", self.answers != other.answers),
            ("authorities", self.authorities != other.authorities),
            ("additionals", self.additionals != other.additionals),
            ("opt", self.opt != other.opt),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            truncated,
            flags,
            question,
            answers,
            authorities,
            additionals,
            opt,
        } = self;
        let cut = if *truncated { " TC" } else { "" };
        write!(
            f,
            "code {code} flags {flags:04x}{cut} question of {} answers {answers:?} authorities {authorities:?} \
             additionals {additionals:?} opt {opt:?}",
            question.len()
        )
    }
}

fn is_inside(record: &Record) -> bool {
    record
        .name
        .to_string()
        .to_lowercase()
        .ends_with("cluster.local.")
}

fn text(record: &Record, cached: bool) -> String {
    let mut data = record.data.clone();
    if let RData::SOA(soa) = &mut data {
        soa.serial = 0;
    }
    let ttl = if cached && (1..=30).contains(&record.ttl) {
        "cached".to_owned()
    } else {
        record.ttl.to_string()
    };
    let class = u16::from(record.dns_class);
    let text = format!(
        "{} {ttl} {class} {} {data}",
        record.name,
        record.record_type()
    );
    if cached { text.to_lowercase() } else { text }
}
