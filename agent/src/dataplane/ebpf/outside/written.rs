//! An answer as the programs give it.

use std::net::IpAddr;

use signpost_common::{
    dns::{Epoch, OUTSIDE_COUNT, OUTSIDE_RECORDS, OutsideAnswer, OutsideHead, qtype},
    name::NameKey,
};

use super::super::differ::wire::Writer;
use crate::{
    feed::cached::{Cached, End, Soa},
    zone::Name,
};

/// Class IN (RFC 1035 §3.2.4).
const IN: u16 = 1;
/// Flags of a header (RFC 1035 §4.1.1, RFC 4035 §3.2.3).
const RESPONSE: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
const RECURSION_AVAILABLE: u16 = 0x0080;
const AUTHENTIC_DATA: u16 = 0x0020;
const NXDOMAIN: u16 = 3;

/// `None` where it does not fit.
pub(super) fn answer(cached: &Cached, key: NameKey, epoch: Epoch) -> Option<OutsideAnswer> {
    let mut records = Records {
        writer: Writer::apart(&cached.question.name),
        ttl_at: Vec::new(),
    };
    let mut owner = &cached.question.name;
    for target in &cached.chain {
        records.write(owner, qtype::CNAME, |writer| {
            writer.name(target.wire(), true);
        })?;
        owner = target;
    }
    let (addresses, soa, nxdomain): (&[IpAddr], _, _) = match &cached.end {
        End::Addresses(addresses) => (addresses, None, false),
        End::NoData(soa) => (&[], Some(soa), false),
        End::NxDomain(soa) => (&[], Some(soa), true),
    };
    for address in addresses {
        match address {
            IpAddr::V4(v4) => records.write(owner, qtype::A, |writer| {
                writer.bytes.extend(v4.octets());
            }),
            IpAddr::V6(v6) => records.write(owner, qtype::AAAA, |writer| {
                writer.bytes.extend(v6.octets());
            }),
        }?;
    }
    let answers = records.ttl_at.len();
    if let Some(soa) = soa {
        records.soa(soa)?;
    }
    let flags = [
        (true, RESPONSE),
        (cached.authoritative, AUTHORITATIVE),
        (cached.recursion_available, RECURSION_AVAILABLE),
        (cached.authentic_data, AUTHENTIC_DATA),
        (nxdomain, NXDOMAIN),
    ];
    let Records { writer, ttl_at } = records;
    let count = ttl_at.len();
    let mut value = OutsideAnswer {
        head: OutsideHead {
            check: key.check(),
            epoch,
            until: cached.until,
            hits: 0,
            length: writer.bytes.len() as u16,
            flags: flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, bit)| bit)
                .sum(),
            answers: answers as u16,
            authorities: (count - answers) as u16,
            sum: u32::from(sum(&writer.bytes)),
            addresses: addresses.len() as u16,
            pad: 0,
            ttl_at: [0; OUTSIDE_COUNT],
        },
        records: [0; OUTSIDE_RECORDS],
    };
    value.head.ttl_at.get_mut(..count)?.copy_from_slice(&ttl_at);
    let records = value.records.get_mut(..writer.bytes.len())?;
    records.copy_from_slice(&writer.bytes);
    Some(value)
}

struct Records {
    writer: Writer,
    ttl_at: Vec<u16>,
}

impl Records {
    /// A record without its TTL. `None` where there is no room for it.
    fn write(&mut self, owner: &Name, kind: u16, data: impl FnOnce(&mut Writer)) -> Option<()> {
        let writer = &mut self.writer;
        writer.name(owner.wire(), true);
        writer.bytes.extend(kind.to_be_bytes());
        writer.bytes.extend(IN.to_be_bytes());
        self.ttl_at.push(writer.bytes.len() as u16);
        writer.bytes.extend([0; 4]);
        let length_at = writer.bytes.len();
        writer.bytes.extend([0; 2]);
        data(writer);
        let length = (writer.bytes.len() - length_at - 2) as u16;
        writer.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        (writer.bytes.len() <= OUTSIDE_RECORDS).then_some(())
    }

    fn soa(&mut self, soa: &Soa) -> Option<()> {
        self.write(&soa.owner, qtype::SOA, |writer| {
            for name in [&soa.mname, &soa.rname] {
                writer.name(name.wire(), true);
            }
            for number in soa.numbers {
                writer.bytes.extend(number.to_be_bytes());
            }
        })
    }
}

/// The sum of 16-bit words as they lie in memory, folded; the last one is filled up with zero.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| {
        let second = word.get(1).copied().unwrap_or_default();
        u32::from(u16::from_ne_bytes([word[0], second]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
