//! Reads a DNS question (RFC 1035 §4.1) and hashes its name.

use bytemuck::{AnyBitPattern, NoUninit};
use signpost_common::{
    Cause,
    dns::qtype,
    name::{HashKeys, Hasher, MAX_LABEL, MAX_LABELS, MAX_NAME, MAX_WORDS, NameKey, keep, lower},
};

use super::{LABELS, Scratch, WINDOW};
use crate::{
    packet::Packet,
    tables::{forget, recall},
};

/// Length of a UDP header.
pub const UDP: u32 = 8;
/// Length of a DNS header.
pub const DNS: u32 = 12;
/// Length of an OPT record without options (RFC 6891 §6.1.2).
pub const OPT: u32 = 11;

/// A DNS header, fields as they lie in memory (network byte order).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct DnsHeader {
    /// Identification.
    pub id: u16,
    /// Flags, opcode and rcode.
    pub flags: u16,
    /// Number of questions.
    pub questions: u16,
    /// Number of answers.
    pub answers: u16,
    /// Number of authority records.
    pub authorities: u16,
    /// Number of additional records.
    pub additionals: u16,
}

impl DnsHeader {
    /// All zero.
    pub const ZERO: Self = Self {
        id: 0,
        flags: 0,
        questions: 0,
        answers: 0,
        authorities: 0,
        additionals: 0,
    };
}

/// What matters of a plain question.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The header.
    pub header: DnsHeader,
    /// Type asked for, in host byte order.
    pub qtype: u16,
    /// Labels of the name.
    pub labels: u16,
    /// Bytes of name (with its final zero), type and class.
    pub length: u32,
    /// Bytes behind the question: an OPT record, or nothing.
    pub tail: u32,
    /// Size of answer that the asker can take: 512 without EDNS.
    pub limit: u32,
    /// The OPT record's size field as it lies in memory (network byte order).
    pub offered: u16,
    /// The OPT record's DO bit as it lies in memory.
    pub dnssec_ok: u16,
}

/// Flags that a question may have: recursion desired, authentic data, checking disabled.
const QUESTION_FLAGS: u16 = 0x0130;
/// Class IN.
const IN: u16 = 1;
/// The least that every asker can take, and the most we give (RFC 9715 §3.1: no fragments).
const LIMITS: [u16; 2] = [512, 1232];
/// The longest OPT record, options included, that is answered in the kernel: room for a full cookie (RFC 7873: 44
/// bytes) and a little more.
pub const MAX_TAIL: u32 = 64;
/// How many EDNS options are looked at.
const MAX_OPTIONS: u32 = 4;

impl Question {
    /// All zero.
    pub const ZERO: Self = Self {
        header: DnsHeader::ZERO,
        qtype: 0,
        labels: 0,
        length: 0,
        tail: 0,
        limit: 0,
        offered: 0,
        dnssec_ok: 0,
    };

    /// Whether the question has an OPT record, so that the answer has one too.
    #[inline(always)]
    pub const fn edns(&self) -> bool {
        self.tail != 0
    }
}

/// Reads a plain question into the scratch area: one question of class IN, opcode QUERY, at most an OPT record of
/// version 0 behind it, and nothing else.
///
/// # Errors
/// [`Cause::DnsUnusual`] for anything else, [`Cause::DnsUser`] for zone transfers and ANY, and those of reading.
#[inline(always)]
pub fn read(packet: &impl Packet, scratch: &mut Scratch) -> Result<(), Cause> {
    let headers = scratch.headers;
    let length = u16::from_be(scratch.udp.length) as u32;
    if length != headers.transport_length || headers.transport + length != packet.length() {
        return Err(Cause::DnsUnusual);
    }
    let window = length.wrapping_sub(UDP + DNS);
    if window == 0 || window > WINDOW as u32 {
        return Err(Cause::DnsUnusual);
    }
    let header: DnsHeader = packet.load(headers.transport + UDP)?;
    let plain = header.flags & !QUESTION_FLAGS.to_be() == 0
        && header.questions == 1_u16.to_be()
        && header.answers == 0
        && header.authorities == 0
        && (header.additionals == 0 || header.additionals == 1_u16.to_be());
    if !plain {
        return Err(Cause::DnsUnusual);
    }
    packet.load_into(headers.transport + UDP + DNS, &mut scratch.bytes, window)?;
    find_labels(scratch)?;
    let labels = recall(&scratch.label) as u16;
    let name = recall(&scratch.left);
    let end = name + 1 + 4;
    if end > window || half(scratch, name + 3) != IN {
        return Err(Cause::DnsUnusual);
    }
    let kind = half(scratch, name + 1);
    if (249..=255).contains(&kind) || kind == qtype::OPT || kind == 0 {
        return Err(Cause::DnsUser); // transfers, ANY and other questions about more than a type
    }
    scratch.question = Question {
        header,
        qtype: kind,
        labels,
        length: end,
        tail: window - end,
        limit: LIMITS[0] as u32,
        offered: 0,
        dnssec_ok: 0,
    };
    if header.additionals != 0 {
        read_opt(scratch)
    } else if window != end {
        Err(Cause::DnsUnusual)
    } else {
        Ok(())
    }
}

/// The key of the question's name; the keys of its suffixes are left in the scratch area.
///
/// One turn is one word. A turn has no branch but the one that leaves the loop: the verifier follows each branch of
/// each turn, and forgets early turns before it comes back to them.
///
/// # Errors
/// [`Cause::DnsUnusual`] for a name that is not hashed.
#[inline(always)]
pub fn hash(scratch: &mut Scratch, keys: &HashKeys) -> Result<NameKey, Cause> {
    let name_length = scratch.question.length.wrapping_sub(5) as u16;
    let all = scratch.question.labels as u64;
    let mut hasher = Hasher::default();
    let mut label = all;
    let mut at = 0_u64;
    let mut left = 0_u64;
    let mut capitals = 0_u64;
    for n in 0..=MAX_WORDS {
        if label | left == 0 {
            scratch.capitals = capitals;
            return Ok(hasher.key());
        }
        if n == MAX_WORDS {
            break;
        }
        // 1. Where a label is through, on to the one left of it.
        let through = all_ones_if_negative(left.wrapping_sub(1));
        label = label.wrapping_add(through);
        let start = scratch.starts[label as usize & (LABELS - 1)];
        at = select(through, start as u64, at);
        left = select(through, byte(scratch, at as u32) as u64 + 1, left);

        // 2. The word, without what is behind the label.
        let short = left.wrapping_sub(8);
        let taken = 8_u64.wrapping_add(short & all_ones_if_negative(short));
        let asked = keep(word(scratch, at as u32), taken as u32);
        let small = lower(asked);
        capitals |= asked ^ small;
        hasher.word(small, [keys.words[n], keys.words[n + 1]]);
        at += 8;
        left -= taken;

        // 3. The suffix from this label on; right once the label's last word has been added.
        let labels = all.wrapping_sub(label) as u16;
        scratch.suffixes[labels as usize & (LABELS - 1)] =
            hasher.end_label(name_length.wrapping_sub(start), labels);
    }
    Err(Cause::DnsUnusual)
}

/// All bits set for a number whose highest bit is set, none for another.
#[inline(always)]
fn all_ones_if_negative(number: u64) -> u64 {
    opaque(((number as i64) >> 63) as u64)
}

/// `yes` where the mask is all ones, `no` where it is zero.
#[inline(always)]
fn select(mask: u64, yes: u64, no: u64) -> u64 {
    no ^ ((no ^ yes) & mask)
}

/// The same number, of which the compiler knows nothing: it would make a branch of a mask.
#[inline(always)]
fn opaque(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        crate::kernel::opaque(number)
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        number
    }
}

/// Finds where each label begins. Leaves the number of labels in `label` and the bytes of the name without its final
/// zero in `left`.
#[inline(always)]
fn find_labels(scratch: &mut Scratch) -> Result<(), Cause> {
    let mut at = 0;
    for n in 0..=MAX_LABELS {
        let length = byte(scratch, at) as usize;
        if length == 0 {
            // Through memory, so that the verifier takes all ends of the loop for one.
            forget(&mut scratch.label, n as u32);
            forget(&mut scratch.left, at);
            return Ok(());
        }
        if length > MAX_LABEL {
            return Err(Cause::DnsUnusual);
        }
        scratch.starts[n & (LABELS - 1)] = at as u16;
        let next = at + length as u32 + 1;
        if next >= MAX_NAME as u32 {
            return Err(Cause::DnsUnusual);
        }
        at = next;
    }
    Err(Cause::DnsUnusual)
}

#[inline(always)]
fn read_opt(scratch: &mut Scratch) -> Result<(), Cause> {
    let Question {
        length: at, tail, ..
    } = scratch.question;
    if tail < OPT || byte(scratch, at) != 0 || half(scratch, at + 1) != qtype::OPT {
        return Err(Cause::DnsUnusual);
    }
    let size = half(scratch, at + 3);
    let rcode_version = half(scratch, at + 5);
    let flags = half(scratch, at + 7);
    let options = half(scratch, at + 9) as u32;
    if rcode_version != 0 || options != tail - OPT || tail > MAX_TAIL {
        return Err(Cause::DnsUnusual);
    }
    check_options(scratch, at + OPT, options)?;
    scratch.question.limit = size.clamp(LIMITS[0], LIMITS[1]) as u32;
    scratch.question.offered = size.to_be();
    scratch.question.dnssec_ok = (flags & 0x8000).to_be();
    Ok(())
}

/// A malformed option is user space's to complain of (FORMERR), and so is a long list of them.
#[inline(always)]
fn check_options(scratch: &Scratch, mut at: u32, mut left: u32) -> Result<(), Cause> {
    for _ in 0..MAX_OPTIONS {
        if left == 0 {
            return Ok(());
        }
        let length = half(scratch, at + 2) as u32 + 4;
        if left < length {
            return Err(Cause::DnsUnusual);
        }
        at += length;
        left -= length;
    }
    if left == 0 {
        Ok(())
    } else {
        Err(Cause::DnsUnusual)
    }
}

#[inline(always)]
fn byte(scratch: &Scratch, at: u32) -> u8 {
    scratch.bytes[at as usize & (WINDOW - 1)]
}

/// Two bytes in host byte order.
#[inline(always)]
fn half(scratch: &Scratch, at: u32) -> u16 {
    (byte(scratch, at) as u16) << 8 | byte(scratch, at + 1) as u16
}

/// Eight bytes as they lie in memory.
#[inline(always)]
fn word(scratch: &Scratch, at: u32) -> u64 {
    let at = at as usize & (WINDOW - 1);
    #[cfg(not(target_arch = "bpf"))]
    {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&scratch.bytes[at..at + 8]);
        u64::from_le_bytes(bytes)
    }
    #[cfg(target_arch = "bpf")]
    {
        crate::kernel::load_word(&scratch.bytes, at)
    }
}
