//! Names outside of the cluster: what the DNS server's cache has of them, as long as it holds.
//!
//! The DNS server hands over what upstreams said, the agent checks it and writes it down. A copy is made of an answer
//! before anything is done with it: the TTLs are filled in there.

use bytemuck::{cast_mut, cast_ref};
use signpost_common::{
    Cause,
    dns::{OUTSIDE_COUNT, OUTSIDE_RECORDS, OutsideHead},
};

use super::{
    LABELS, Scratch,
    answer::{self, Records},
};
use crate::{
    packet::Packet,
    sum::Sum,
    tables::{Tables, forget, recall},
};

/// Checking disabled: an upstream would have been asked in another way (RFC 4035 §3.2.2).
const CHECKING_DISABLED: u16 = 0x0010;
/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// Bytes that a masked offset can reach: a power of two.
const REACH: usize = 512;
/// Room for records, so that four bytes at any masked offset are inside.
const ROOM: usize = REACH + 8;
const _: () = assert!(OUTSIDE_RECORDS <= REACH && OUTSIDE_COUNT.is_power_of_two());
/// Bytes from a record's TTL to its data.
const TTL_TO_DATA: usize = 6;
/// Bytes of an A record whose owner is a pointer.
const V4_RECORD: usize = 16;

/// A copy of an answer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    /// What is in it.
    pub head: OutsideHead,
    /// The records. What is behind [`OutsideHead::length`], filled up to eight bytes, is left over from other answers.
    pub words: [u64; ROOM / 8],
    /// What a loop has still to do.
    left: u32,
}

impl Copied {
    /// All zero.
    pub const ZERO: Self = Self {
        head: OutsideHead {
            check: 0,
            epoch: 0,
            until: 0,
            hits: 0,
            length: 0,
            flags: 0,
            answers: 0,
            authorities: 0,
            sum: 0,
            addresses: 0,
            pad: 0,
            ttl_at: [0; OUTSIDE_COUNT],
        },
        words: [0; ROOM / 8],
        left: 0,
    };

    /// The records.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8; ROOM] {
        cast_ref(&self.words)
    }

    /// The records.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8; ROOM] {
        cast_mut(&mut self.words)
    }
}

/// Answers a question outside of the cluster, where its answer is known and holds. [`answer::finish`] has to follow.
///
/// # Errors
/// [`Cause::DnsOutside`] and [`Cause::DnsTooLarge`] with the packet untouched, [`Cause::HelperFailed`].
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &mut Scratch,
) -> Result<Cause, Cause> {
    let question = &scratch.question;
    if question.dnssec_ok != 0 || question.header.flags & CHECKING_DISABLED.to_be() != 0 {
        return Err(Cause::DnsOutside); // the cache keeps other answers for these
    }
    tables.find_outside(scratch)?;
    let records = scratch.records;
    let at = answer::make_room(packet, scratch, &records)?;
    packet.store_part(at, scratch.outside.bytes(), 0, records.length as u32)?;
    Ok(Cause::DnsCached)
}

/// Copies the answer to the question in the scratch area, with what is left of its TTL, and says in `records` what it is.
///
/// # Errors
/// [`Cause::DnsOutside`] where there is none, or none that still holds.
#[inline(always)]
pub fn find<T: Tables>(tables: &T, scratch: &mut Scratch) -> Result<(), Cause> {
    let labels = scratch.question.labels as usize & (LABELS - 1);
    let key = scratch.suffixes[labels].with_type(scratch.question.qtype);
    if !tables.copy_outside(&key, &mut scratch.outside) {
        return Err(Cause::DnsOutside);
    }
    let head = &scratch.outside.head;
    let (now, until, epoch) = (tables.clock(), head.until, head.epoch);
    if head.check != key.check() || epoch == 0 || epoch != tables.outside_epoch() || now >= until {
        return Err(Cause::DnsOutside);
    }
    let (length, sum) = (head.length, head.sum);
    let copied = sum_of(&mut scratch.outside, length);
    if copied.fold() != sum as u16 {
        return Err(Cause::DnsOutside);
    }
    // Rounded down, as the server does.
    let ttl = ((until - now) / SECOND) as u32;
    let ttls = fill_in(&mut scratch.outside, ttl.to_be());
    if scratch.outside.head.addresses > 1 {
        rotate(&mut scratch.outside, tables.random());
    }
    let head = &scratch.outside.head;
    scratch.records = Records {
        length,
        answers: head.answers,
        authorities: head.authorities,
        additional: 0,
        flags: head.flags,
        sum: copied.add(ttls),
    };
    Ok(())
}

/// The sum of the records.
#[inline(always)]
fn sum_of(copied: &mut Copied, length: u16) -> Sum {
    // Through memory, so that the verifier takes all ends of the loop for one.
    forget(&mut copied.left, length as u32);
    let mut sum = Sum::default();
    for n in 0..OUTSIDE_RECORDS / 8 {
        if n * 8 >= recall(&copied.left) as usize {
            break;
        }
        let word = copied.words[n];
        sum = sum.add32(word as u32).add32((word >> 32) as u32);
    }
    sum
}

/// Writes the TTL (in network byte order) of each record. Returns their sum.
#[inline(always)]
fn fill_in(copied: &mut Copied, ttl: u32) -> Sum {
    let even = Sum::default().add32(ttl).fold();
    let odd = even.swap_bytes();
    let records = copied.head.answers.wrapping_add(copied.head.authorities) as usize;
    let mut sum = Sum::default();
    for n in 0..OUTSIDE_COUNT {
        if n >= records {
            break;
        }
        let at = copied.head.ttl_at[n];
        put(copied.bytes_mut(), at as usize & (REACH - 1), ttl);
        sum = sum.add16(if at & 1 == 0 { even } else { odd });
    }
    sum
}

/// Exchanges the first address with any of them. Their records are of one length, which is even, so that the sum stays.
#[inline(always)]
fn rotate(copied: &mut Copied, random: u32) {
    let OutsideHead {
        answers, addresses, ..
    } = copied.head;
    let chosen = ((random as u64 * addresses as u64) >> 32) as usize;
    let first = answers.wrapping_sub(addresses) as usize;
    let place =
        |record: usize| copied.head.ttl_at[record & (OUTSIDE_COUNT - 1)] as usize + TTL_TO_DATA;
    let (one, other) = (place(first), place(first + chosen));
    let words = if place(first + 1).wrapping_sub(one) == V4_RECORD {
        1
    } else {
        4
    };
    for word in 0..4 {
        if word >= words {
            break;
        }
        let (one, other) = (
            (one + word * 4) & (REACH - 1),
            (other + word * 4) & (REACH - 1),
        );
        let (a, b) = (get(copied.bytes(), one), get(copied.bytes(), other));
        put(copied.bytes_mut(), one, b);
        put(copied.bytes_mut(), other, a);
    }
}

#[inline(always)]
fn get(bytes: &[u8; ROOM], at: usize) -> u32 {
    #[cfg(not(target_arch = "bpf"))]
    {
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }
    #[cfg(target_arch = "bpf")]
    {
        crate::kernel::load_word(bytes, at) as u32
    }
}

#[inline(always)]
fn put(bytes: &mut [u8; ROOM], at: usize, word: u32) {
    #[cfg(not(target_arch = "bpf"))]
    bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    #[cfg(target_arch = "bpf")]
    crate::kernel::store_word(bytes, at, word);
}
