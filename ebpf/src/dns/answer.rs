//! Turns a question into its answer, in place.
//!
//! The question stays where it is, so that the asker's letter case is kept (0x20). The records and a fresh OPT record
//! take the place of what is behind it.

use signpost_common::{
    Cause,
    dns::{AnswerHead, qtype},
};

use super::{
    Scratch, UdpHeader, WINDOW,
    front::Head,
    question::{DNS, DnsHeader, MAX_TAIL, OPT, UDP},
};
use crate::{
    packet::{Packet, Part},
    sum::Sum,
    tables::Tables,
};

/// No error (RFC 1035 §4.1.1).
pub const NOERROR: u16 = 0;
/// The name does not exist.
pub const NXDOMAIN: u16 = 3;

/// Response and authoritative answer.
pub const ANSWER_FLAGS: u16 = 0x8400;
/// Recursion desired and checking disabled are copied, as CoreDNS does.
const COPIED_FLAGS: u16 = 0x0110;

/// The records of an answer, apart from their bytes.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    /// Bytes of all records.
    pub length: u16,
    /// How many there are of the answer section.
    pub answers: u16,
    /// How many of the authority section follow them.
    pub authorities: u16,
    /// How many of the additional section follow them.
    pub additional: u16,
    /// Flags of the header, the response code among them, but for those that are copied from the question.
    pub flags: u16,
    /// Their sum.
    pub sum: Sum,
}

impl Records {
    /// None.
    pub const ZERO: Self = Self {
        length: 0,
        answers: 0,
        authorities: 0,
        additional: 0,
        flags: 0,
        sum: Sum::from_raw(0),
    };
}

/// Writes an answer's records out of a map's value: `head`, and `bytes` behind it. [`finish`] has to follow. A set that may be rotated begins at a random
/// record.
///
/// # Errors
/// [`Cause::DnsTooLarge`] and [`Cause::DnsUser`] (letter case) with the packet untouched, [`Cause::HelperFailed`].
#[inline(always)]
pub fn write<P: Packet, T: Tables, const N: usize>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
    head: &AnswerHead,
    bytes: &[u8; N],
) -> Result<(), Cause> {
    if head.flags & AnswerHead::SMALL_LETTERS != 0 && scratch.capitals != 0 {
        return Err(Cause::DnsUser);
    }
    let mut start = 0;
    if head.stride != 0 {
        start = ((tables.random() as u64 * head.count as u64) >> 32) as u32 * head.stride as u32;
    }
    let records = Records {
        length: head.length,
        answers: head.count,
        authorities: 0,
        additional: head.additional,
        flags: ANSWER_FLAGS | NOERROR,
        sum: Sum::from_raw(head.sum),
    };
    let at = make_room(packet, scratch, &records)?;
    scratch.records = records;
    packet.store_part(at, bytes, start, head.length as u32)
}

/// Gives the packet the answer's length. Returns where the records begin.
///
/// # Errors
/// As [`write()`].
#[inline(always)]
pub fn make_room<P: Packet>(
    packet: &mut P,
    scratch: &Scratch,
    records: &Records,
) -> Result<u32, Cause> {
    let message = message_length(scratch, records);
    if message > scratch.question.limit {
        return Err(Cause::DnsTooLarge);
    }
    let dns = scratch.headers.transport + UDP;
    packet.set_length(dns + message)?;
    Ok(dns + DNS + scratch.question.length)
}

/// Writes what is around the records: OPT, headers, checksums, addresses exchanged.
///
/// # Errors
/// [`Cause::HelperFailed`].
#[inline(never)]
pub fn finish<P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Result<(), Cause> {
    let message = message_length(scratch, &scratch.records);
    let records = scratch.records;
    let mut behind = records.sum;
    let old_tail = if scratch.question.edns() {
        tail_sum(scratch)
    } else {
        Sum::default()
    };
    let Scratch {
        question,
        headers,
        udp,
        front,
        ..
    } = scratch;

    // 1. The OPT record.
    if question.edns() {
        let opt = opt(question.offered, question.dnssec_ok);
        packet.store_part(
            headers.transport + UDP + DNS + question.length + records.length as u32,
            &opt,
            0,
            OPT,
        )?;
        let mut own = words(&opt);
        if records.length & 1 != 0 {
            own = own.shifted();
        }
        behind = behind.add(own).add(old_tail.negated());
    }
    if question.length & 1 != 0 {
        behind = behind.shifted(); // at an odd offset bytes count the other way round
    }

    // 2. The headers, ports and addresses exchanged.
    let old = question.header;
    let (answers, authorities) = (records.answers.to_be(), records.authorities.to_be());
    let flags = (old.flags & COPIED_FLAGS.to_be()) | records.flags.to_be();
    // The count of additional records is 0 or 1 in the question: nothing is carried.
    let additional = records.additional.to_be();
    let segment = behind
        .remove16(old.flags)
        .add16(flags)
        .add16(answers)
        .add16(authorities)
        .add16(additional);
    let length = ((UDP + message) as u16).to_be();
    let longer = Sum::default().remove16(udp.length).add16(length);
    let checksum = headers.transport + 6;
    let head = Head {
        udp: UdpHeader {
            source: udp.destination,
            destination: udp.source,
            length,
            checksum: udp.checksum,
        },
        dns: DnsHeader {
            flags,
            answers,
            authorities,
            additionals: old.additionals + additional,
            ..old
        },
    };
    front.store(packet, headers, head)?;

    // 3. The UDP checksum.
    packet.update_checksum(checksum, segment.add(longer), Part::Segment, true)?;
    packet.update_checksum(checksum, longer, Part::PseudoHeader, true)
}

#[inline(always)]
fn message_length(scratch: &Scratch, records: &Records) -> u32 {
    let opt = if scratch.question.edns() { OPT } else { 0 };
    DNS + scratch.question.length + records.length as u32 + opt
}

/// An OPT record with the asker's size and DO bit, and no options, as CoreDNS answers; one byte of padding.
#[inline(always)]
fn opt(offered: u16, dnssec_ok: u16) -> [u8; 12] {
    let [size_high, size_low] = offered.to_ne_bytes();
    let [flags, _] = dnssec_ok.to_ne_bytes();
    let [kind_high, kind_low] = qtype::OPT.to_be_bytes();
    [
        0, kind_high, kind_low, size_high, size_low, 0, 0, flags, 0, 0, 0, 0,
    ]
}

/// The sum of what was behind the question, as if it began at an even offset.
#[inline(always)]
fn tail_sum(scratch: &mut Scratch) -> Sum {
    let end = (scratch.question.length + scratch.question.tail) as usize;
    scratch.bytes[end & (WINDOW - 1)] = 0; // the other half of the last word
    let mut sum = Sum::default();
    let mut at = 0;
    while at < MAX_TAIL && at < scratch.question.tail {
        let from = (scratch.question.length + at) as usize;
        let (low, high) = (
            scratch.bytes[from & (WINDOW - 1)],
            scratch.bytes[(from + 1) & (WINDOW - 1)],
        );
        sum = sum.add16(u16::from_ne_bytes([low, high]));
        at += 2;
    }
    sum
}

#[inline(always)]
fn words<const N: usize>(bytes: &[u8; N]) -> Sum {
    let mut sum = Sum::default();
    let mut at = 0;
    while at + 1 < N {
        sum = sum.add16(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    sum
}
