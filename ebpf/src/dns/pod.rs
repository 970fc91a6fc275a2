//! Names of Pods, `a-b-c-d.<namespace>.pod.<zone>`: each is the IPv4 address that it spells, whether there is such a Pod or
//! not (CoreDNS's `pods insecure`). Those of IPv6 have many spellings; they are user space's.

use signpost_common::{
    Cause,
    dns::{Config, NameValue, qtype},
    name::NameKey,
};

use super::{
    LABELS, Scratch, WINDOW,
    answer::{self, NOERROR, Records},
    negative,
    question::DNS,
};
use crate::{
    packet::Packet,
    sum::Sum,
    tables::{Tables, forget, recall},
};

/// The shortest and the longest spelling of an address.
const SPELLING: core::ops::RangeInclusive<usize> = 7..=15;
/// Bytes of an A record whose owner is a pointer.
const RECORD: usize = 16;
/// Where the TTL of the zone's records is in its SOA record: the minimum.
const MINIMUM: usize = 50;

/// What was read of a spelling. In memory, so that the verifier takes all ways through it for one.
#[derive(Clone, Copy, Debug)]
pub struct Spelling {
    /// The bytes of the address that are finished, the first one leftmost.
    address: u32,
    /// How many these are.
    finished: u32,
    /// The number that is being read, and how many digits it has.
    number: u32,
    digits: u32,
}

impl Spelling {
    /// Nothing.
    pub const ZERO: Self = Self {
        address: 0,
        finished: 0,
        number: 0,
        digits: 0,
    };
}

/// Answers a question about a Pod's name. [`answer::finish`] has to follow.
///
/// # Errors
/// [`Cause::DnsUnproven`] where it is none of IPv4, [`Cause::DnsUser`], and those of writing.
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: &Config,
    scratch: &mut Scratch,
    labels: u16,
) -> Result<Cause, Cause> {
    let zone = config.zone.labels;
    // The Pod's name, or one or two labels left of it, which do not matter (CoreDNS).
    if !(zone + 3..=zone + 5).contains(&labels) {
        return Err(Cause::DnsUnproven);
    }
    let pods = suffix(scratch, zone + 1);
    let are_answered = |value: NameValue| value.flags & NameValue::PODS != 0;
    if !tables.name(&pods).is_some_and(are_answered) {
        return Err(Cause::DnsUnproven);
    }
    let namespace = of_services(config, &pods, suffix(scratch, zone + 2));
    let exists = |value: NameValue| value.flags & NameValue::NAMESPACE != 0;
    if !tables.name(&namespace).is_some_and(exists) {
        return Err(Cause::DnsUnproven);
    }
    tables.read_spelling(scratch, labels - zone - 3)?;
    match scratch.question.qtype {
        qtype::A => write(packet, config, scratch),
        qtype::SRV => Err(Cause::DnsUser),
        _ => {
            negative::write(packet, tables, config, scratch, NOERROR)?;
            Ok(Cause::DnsNodata)
        }
    }
}

/// Reads the address that a label spells into the scratch area.
///
/// # Errors
/// [`Cause::DnsUnproven`] where it is none, as the server reads it: four numbers up to 255, without leading zeros.
#[inline(always)]
pub fn read(scratch: &mut Scratch, label: u16) -> Result<(), Cause> {
    let start = scratch.starts[label as usize & (LABELS - 1)] as usize;
    let length = scratch.bytes[start & (WINDOW - 1)] as usize;
    if !SPELLING.contains(&length) {
        return Err(Cause::DnsUnproven);
    }
    scratch.spelling = Spelling::ZERO;
    for at in 0..=*SPELLING.end() {
        let byte = scratch.bytes[(start + 1 + at) & (WINDOW - 1)];
        let Spelling {
            address,
            finished,
            number,
            digits,
        } = &mut scratch.spelling;
        let (read, many) = (recall(number), recall(digits));
        if at == length || byte == b'-' {
            if many == 0 || read > 255 {
                return Err(Cause::DnsUnproven);
            }
            let (bytes, count) = (recall(address), recall(finished));
            forget(address, bytes << 8 | read);
            forget(finished, count + 1);
            forget(number, 0);
            forget(digits, 0);
            if at == length {
                return if count == 3 {
                    Ok(())
                } else {
                    Err(Cause::DnsUnproven)
                };
            }
        } else {
            let digit = byte.wrapping_sub(b'0') as u32;
            if digit > 9 || many == 3 || (many > 0 && read == 0) {
                return Err(Cause::DnsUnproven);
            }
            forget(number, read * 10 + digit);
            forget(digits, many + 1);
        }
    }
    Err(Cause::DnsUnproven)
}

/// The A record of the address that was read.
#[inline(always)]
fn write<P: Packet>(
    packet: &mut P,
    config: &Config,
    scratch: &mut Scratch,
) -> Result<Cause, Cause> {
    let [a, b, c, d] = recall(&scratch.spelling.address).to_be_bytes();
    let soa = &config.soa;
    let ttl = [
        soa[MINIMUM],
        soa[MINIMUM + 1],
        soa[MINIMUM + 2],
        soa[MINIMUM + 3],
    ];
    let record: [u8; RECORD] = [
        0xc0,
        DNS as u8,
        0,
        qtype::A as u8,
        0,
        1,
        ttl[0],
        ttl[1],
        ttl[2],
        ttl[3],
        0,
        4,
        a,
        b,
        c,
        d,
    ];
    let sum = bytemuck::cast::<_, [u32; RECORD / 4]>(record)
        .into_iter()
        .fold(Sum::default(), Sum::add32);
    let records = Records {
        length: RECORD as u16,
        answers: 1,
        authorities: 0,
        additional: 0,
        flags: answer::ANSWER_FLAGS | NOERROR,
        sum,
    };
    let at = answer::make_room(packet, scratch, &records)?;
    scratch.records = records;
    packet.store_part(at, &record, 0, RECORD as u32)?;
    Ok(Cause::DnsAnswered)
}

/// The key of `<namespace>.svc.<zone>` out of that of `<namespace>.pod.<zone>`. The hash is a sum over words, each with a
/// key by its place, and `svc` and `pod` are one word at the same place.
#[inline(always)]
fn of_services(config: &Config, pods: &NameKey, namespace: NameKey) -> NameKey {
    let services = &config.services;
    let exchange = |sum: u64, old: u64, new: u64| sum.wrapping_sub(old).wrapping_add(new);
    NameKey {
        first: exchange(namespace.first, pods.first, services.first),
        second: exchange(namespace.second, pods.second, services.second),
        ..namespace
    }
}

#[inline(always)]
fn suffix(scratch: &Scratch, labels: u16) -> NameKey {
    scratch.suffixes[labels as usize & (LABELS - 1)]
}
