//! DNS in the kernel: a question to a cluster DNS address is turned into its answer and sent back.
//!
//! Only what is proven is answered; every other question goes on to the DNS pods as it is.

pub mod answer;
pub mod front;
pub mod log;
pub mod negative;
pub mod outside;
pub mod pod;
pub mod question;

use bytemuck::{AnyBitPattern, NoUninit};
use signpost_common::{
    Cause, Port,
    dns::{Config, NameValue, qtype},
    log::LogHead,
    name::{MAX_LABELS, NameKey},
    tally::Tally,
};

use crate::{headers::Headers, packet::Packet, tables::Tables};
use question::Question;

/// The port of DNS.
pub const PORT: Port = Port::new(53);

/// A UDP header, fields as they lie in memory (network byte order).
#[repr(C)]
#[derive(Clone, Copy, Debug, NoUninit, AnyBitPattern)]
pub struct UdpHeader {
    /// Source port.
    pub source: Port,
    /// Destination port.
    pub destination: Port,
    /// Length of header and payload.
    pub length: u16,
    /// Checksum.
    pub checksum: u16,
}

impl UdpHeader {
    /// All zero.
    pub const ZERO: Self = Self {
        source: Port::new(0),
        destination: Port::new(0),
        length: 0,
        checksum: 0,
    };
}

/// Bytes of a question that are looked at: the longest name, type and class, and an OPT record with its options. A
/// power of two, so that a masked offset is always inside.
pub const WINDOW: usize = 512;

/// Room for what is kept of each label. A power of two, so that a masked number is always inside.
pub const LABELS: usize = 64;
const _: () = assert!(MAX_LABELS < LABELS);

/// Working memory for one question. It is a map's element and not on the stack, which is 512 bytes for a program with
/// all that it calls.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// What is told of the question, right before it.
    pub log: LogHead,
    /// What follows the DNS header; eight bytes more, so that a word at any masked offset can be read.
    pub bytes: [u8; WINDOW + 8],
    /// Where each label begins in `bytes`.
    pub starts: [u16; LABELS],
    /// The keys of the suffixes of the name, by their number of labels.
    pub suffixes: [NameKey; LABELS],
    /// Not zero where the name has capital letters.
    pub capitals: u64,
    /// What a loop over labels has still to do: labels.
    pub label: u32,
    /// What a loop over labels has still to do, or has done: bytes.
    pub left: u32,
    /// The SOA record of a negative answer.
    pub soa: [u8; 56],
    /// The packet's headers.
    pub headers: Headers,
    /// The packet's UDP header.
    pub udp: UdpHeader,
    /// The question.
    pub question: Question,
    /// The answer's records.
    pub records: answer::Records,
    /// What is before the question in the answer.
    pub front: front::Front,
    /// What was read of the spelling of an address.
    pub spelling: pod::Spelling,
    /// A copy of an answer to a question outside of the cluster.
    pub outside: outside::Copied,
}

impl Scratch {
    /// All zero.
    pub const ZERO: Self = Self {
        log: LogHead::ZERO,
        bytes: [0; WINDOW + 8],
        starts: [0; LABELS],
        suffixes: [NameKey::ZERO; LABELS],
        capitals: 0,
        label: 0,
        left: 0,
        soa: [0; 56],
        headers: Headers::EMPTY,
        udp: UdpHeader::ZERO,
        question: Question::ZERO,
        records: answer::Records::ZERO,
        front: front::Front::ZERO,
        spelling: pod::Spelling::ZERO,
        outside: outside::Copied::ZERO,
    };
}

/// Answers a question: the packet is then the answer, addressed to the asker.
///
/// # Errors
/// Why the question is left to the DNS pods, with the packet untouched; [`Cause::HelperFailed`] where it is not.
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &Headers,
) -> Result<Cause, Cause> {
    let begun = log::begin(tables);
    let udp: UdpHeader = packet.load(headers.transport)?;
    let scratch = tables.scratch().ok_or(Cause::NotConfigured)?;
    scratch.headers = *headers;
    scratch.udp = udp;
    let cause = packet.resolve(tables, scratch)?;
    answer::finish(packet, scratch)?;
    tables.count_answer(Tally::new(
        cause,
        scratch.records.flags,
        scratch.records.authorities,
        scratch.question.qtype,
        scratch.headers.v4,
    ));
    if begun != log::UNWATCHED {
        log::tell(packet, tables, scratch, begun, cause);
    }
    Ok(cause)
}

/// Finds what the answer is, and writes its records. What is around them comes later, so that the stack is used by one
/// after the other.
///
/// # Errors
/// As [`answer()`].
#[inline(always)]
pub fn resolve<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
) -> Result<Cause, Cause> {
    let config = tables.config().ok_or(Cause::NotConfigured)?;
    if config.flags & Config::DNS == 0 {
        return Err(Cause::DnsUser);
    }
    question::read(packet, scratch)?;
    let name = tables.hash(scratch)?;
    let qtype = scratch.question.qtype;
    let zone = scratch.suffixes[config.zone.labels as usize & (LABELS - 1)];
    let outside = name.labels < config.zone.labels || zone != config.zone;
    if outside && qtype != qtype::PTR {
        return outside::answer(packet, tables, scratch);
    }
    if !outside && negative::is_orphan(tables, config, scratch, name.labels) {
        // What is left to prove is that a Service would be at that place.
        return deny(packet, tables, config, scratch, config.zone.labels + 3);
    }
    if tables.write_answer(&name.with_type(qtype), false, packet, scratch)? {
        return Ok(Cause::DnsAnswered);
    }
    let Some(value) = tables.name(&name) else {
        if outside {
            return Err(Cause::DnsOutside);
        }
        return match deny(packet, tables, config, scratch, name.labels) {
            Err(Cause::DnsUnproven) => pod::answer(packet, tables, config, scratch, name.labels),
            done => done,
        };
    };
    let bit = NameValue::type_bit(qtype);
    if value.large & bit != 0
        && tables.write_answer(&name.with_type(qtype), true, packet, scratch)?
    {
        return Ok(Cause::DnsAnswered);
    }
    if (value.user | value.large) & bit != 0 || value.flags & NameValue::COMPLETE == 0 {
        return Err(Cause::DnsUser);
    }
    if value.flags & NameValue::ABSENT != 0 {
        negative::write(packet, tables, config, scratch, answer::NXDOMAIN)?;
        return Ok(Cause::DnsNxdomain);
    }
    negative::write(packet, tables, config, scratch, answer::NOERROR)?;
    if value.flags & NameValue::APEX != 0 && qtype == qtype::SOA {
        (scratch.records.answers, scratch.records.authorities) = (1, 0);
        return Ok(Cause::DnsAnswered);
    }
    Ok(Cause::DnsNodata)
}

/// Answers that a name does not exist, where that is proven.
#[inline(always)]
fn deny<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: &Config,
    scratch: &mut Scratch,
    labels: u16,
) -> Result<Cause, Cause> {
    negative::prove(tables, config, scratch, labels)?;
    negative::write(packet, tables, config, scratch, answer::NXDOMAIN)?;
    Ok(Cause::DnsNxdomain)
}
