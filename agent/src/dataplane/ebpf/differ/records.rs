//! DNS records as the programs copy them into answers.

use std::net::{Ipv4Addr, Ipv6Addr};

use signpost_common::{
    dns::{AnswerHead, LARGE_RECORDS, LargeAnswer, SMALL_RECORDS, SmallAnswer, qtype},
    name::NameKey,
};

use super::wire;
use crate::zone::{Name, Records};

/// Class IN (RFC 1035 §3.2.4).
const IN: u16 = 1;
/// A pointer to the question's name, which is right behind the header (RFC 1035 §4.1.4).
const QUESTION: [u8; 2] = [0xc0, 0x0c];

/// The answer to one name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordSet {
    /// The type.
    pub(super) qtype: u16,
    bytes: Vec<u8>,
    count: usize,
    additional: usize,
    /// They are all of one length and of one section, and any of them may come first.
    rotated: bool,
    flags: u8,
}

impl RecordSet {
    /// A records.
    pub(super) fn a(addresses: &[Ipv4Addr], ttl: u32) -> Self {
        Self::new(qtype::A, ttl, addresses.iter().map(Ipv4Addr::octets))
    }

    /// AAAA records.
    pub(super) fn aaaa(addresses: &[Ipv6Addr], ttl: u32) -> Self {
        Self::new(qtype::AAAA, ttl, addresses.iter().map(Ipv6Addr::octets))
    }

    /// An answer that is always the same. `None` where it has no fixed form.
    pub(super) fn fixed(name: &Name, qtype: u16, records: &Records) -> Option<Self> {
        let written = wire::write(name, records)?;
        Some(Self {
            qtype,
            bytes: written.bytes,
            count: records.answers.len(),
            additional: records.additional.len(),
            rotated: false,
            flags: if written.names {
                AnswerHead::SMALL_LETTERS
            } else {
                0
            },
        })
    }

    fn new<const N: usize>(qtype: u16, ttl: u32, data: impl Iterator<Item = [u8; N]>) -> Self {
        let mut set = Self {
            qtype,
            bytes: Vec::new(),
            count: 0,
            additional: 0,
            rotated: false,
            flags: 0,
        };
        for data in data {
            set.bytes.extend(QUESTION);
            set.bytes.extend(qtype.to_be_bytes());
            set.bytes.extend(IN.to_be_bytes());
            set.bytes.extend(ttl.to_be_bytes());
            set.bytes.extend((N as u16).to_be_bytes());
            set.bytes.extend(data);
            set.count += 1;
        }
        set.rotated = set.count > 1;
        set
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// As a value of `answers_small`, where they fit. `key` is the name's, without type.
    pub(super) fn small(&self, key: NameKey) -> Option<(NameKey, SmallAnswer)> {
        let records = self.copies::<SMALL_RECORDS>()?;
        let key = key.with_type(self.qtype);
        Some((
            key,
            SmallAnswer {
                head: self.head(key),
                records,
            },
        ))
    }

    /// As a value of `answers_large`, where they fit.
    pub(super) fn large(&self, key: NameKey) -> Option<(NameKey, LargeAnswer)> {
        let records = self.copies::<LARGE_RECORDS>()?;
        let key = key.with_type(self.qtype);
        Some((
            key,
            LargeAnswer {
                head: self.head(key),
                records,
            },
        ))
    }

    /// The records, those that are rotated twice in a row, so that any rotation of them is one piece; then zeros.
    fn copies<const N: usize>(&self) -> Option<[u8; N]> {
        let mut records = [0; N];
        let length = self.bytes.len();
        records.get_mut(..length)?.copy_from_slice(&self.bytes);
        if self.rotated {
            records
                .get_mut(length..2 * length)?
                .copy_from_slice(&self.bytes);
        }
        Some(records)
    }

    fn head(&self, key: NameKey) -> AnswerHead {
        let stride = if self.rotated {
            self.bytes.len() / self.count
        } else {
            0
        };
        AnswerHead {
            check: key.check(),
            count: self.count as u16,
            length: self.bytes.len() as u16,
            stride: stride as u8,
            flags: self.flags,
            additional: self.additional as u16,
            sum: sum(&self.bytes),
        }
    }
}

/// The sum of 16-bit words as they lie in memory; the last one is filled up with zero.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|word| {
            let second = word.get(1).copied().unwrap_or_default();
            u32::from(u16::from_ne_bytes([word[0], second]))
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::Message,
        rr::{Name, RData},
    };

    use super::*;

    const KEY: NameKey = NameKey {
        first: 7,
        second: 8,
        length: 4,
        labels: 1,
        qtype: 0,
        pad: 0,
    };

    fn addresses(count: u8) -> Vec<Ipv4Addr> {
        (1..=count)
            .map(|last| Ipv4Addr::new(10, 0, 0, last))
            .collect()
    }

    /// A response whose answer section is these records, as a resolver reads it.
    fn parse(records: &[u8], count: u16) -> Vec<(Name, u32, RData)> {
        let mut message = vec![0, 1, 0x84, 0, 0, 1];
        message.extend(count.to_be_bytes());
        message.extend([0, 0, 0, 0, 3, b'e', b'n', b't', 0, 0, 1, 0, 1]);
        message.extend(records);
        let message = Message::from_vec(&message).unwrap();
        message
            .answers
            .iter()
            .map(|r| (r.name.clone(), r.ttl, r.data.clone()))
            .collect()
    }

    #[test]
    fn records_belong_to_the_name_that_was_asked_for() {
        let (key, answer) = RecordSet::a(&addresses(3), 30).small(KEY).unwrap();
        assert_eq!((key.qtype, answer.head.check), (1, key.check()));
        let parsed = parse(
            &answer.records[..answer.head.length.into()],
            answer.head.count,
        );
        assert_eq!(parsed.len(), 3);
        for ((name, ttl, data), address) in parsed.into_iter().zip(addresses(3)) {
            assert_eq!((name, ttl), (Name::from_ascii("ent.").unwrap(), 30));
            assert_eq!(data.ip_addr(), Some(address.into()));
        }
    }

    #[test]
    fn any_rotation_of_a_set_is_one_piece() {
        let (_, answer) = RecordSet::a(&addresses(4), 5).small(KEY).unwrap();
        let (length, stride) = (
            usize::from(answer.head.length),
            usize::from(answer.head.stride),
        );
        for start in 0..4 {
            let piece = &answer.records[start * stride..start * stride + length];
            let mut last: Vec<u8> = parse(piece, 4)
                .iter()
                .map(|(_, _, d)| match d.ip_addr() {
                    Some(std::net::IpAddr::V4(v4)) => v4.octets()[3],
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(usize::from(last[0]), start + 1);
            last.sort_unstable();
            assert_eq!(last, [1, 2, 3, 4]);
        }
    }

    #[test]
    fn a_single_record_is_stored_once_and_not_rotated() {
        let (_, answer) = RecordSet::aaaa(&["fd00::1".parse().unwrap()], 30)
            .small(KEY)
            .unwrap();
        assert_eq!(
            (answer.head.count, answer.head.length, answer.head.stride),
            (1, 28, 0)
        );
        assert!(answer.records[28..].iter().all(|byte| *byte == 0));
        assert_eq!(
            parse(&answer.records[..28], 1)[0].2.ip_addr(),
            "fd00::1".parse().ok()
        );
    }

    #[test]
    fn sets_go_where_they_fit() {
        let sizes = |set: RecordSet| (set.small(KEY).is_some(), set.large(KEY).is_some());
        assert_eq!(sizes(RecordSet::a(&addresses(4), 30)), (true, true));
        assert_eq!(sizes(RecordSet::a(&addresses(5), 30)), (false, true));
        assert_eq!(sizes(RecordSet::a(&addresses(39), 30)), (false, true));
        assert_eq!(sizes(RecordSet::a(&addresses(40), 30)), (false, false));
        let v6 = |count| RecordSet::aaaa(&vec![Ipv6Addr::LOCALHOST; count], 30);
        assert_eq!(sizes(v6(2)), (true, true));
        assert_eq!(sizes(v6(3)), (false, true));
        assert_eq!(sizes(v6(22)), (false, true));
        assert_eq!(sizes(v6(23)), (false, false));
    }

    #[test]
    fn the_sum_is_that_of_the_internet_checksum() {
        // RFC 1071 §3: the words of the example add up to 2ddf0 (in network byte order), which folds to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        let sum = sum(&bytes);
        let folded = (sum & 0xffff) + (sum >> 16);
        assert_eq!((folded as u16).to_ne_bytes(), [0xdd, 0xf2]);
    }
}
