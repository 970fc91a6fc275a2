//! `signpost dns list`: what is in the maps of names and answers.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::Serialize;
use signpost_common::{
    dns::{AnswerHead, LargeAnswer, NameValue, SmallAnswer, qtype},
    name::{NameKey, TEXT_PART},
};

use super::output::{Row, or_dash};

/// A name that the kernel knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NameRow {
    /// The name, without a final dot.
    pub name: String,
    /// What it is: `namespace`, `service`, or `name` for any other.
    pub what: &'static str,
    /// The kernel's answer to A.
    pub a: Vec<IpAddr>,
    /// The kernel's answer to AAAA.
    pub aaaa: Vec<IpAddr>,
    /// Other types that the kernel answers.
    pub also: Vec<&'static str>,
    /// Seconds for which the answers may be kept; `null` without an answer.
    pub ttl: Option<u32>,
    /// Types that exist and that are answered by the DNS pods.
    pub user: Vec<&'static str>,
    /// The kernel says NODATA (or NXDOMAIN, see `absent`) to every other type; else the DNS pods are asked.
    pub complete: bool,
    /// The kernel says that the name does not exist to who asks for another type.
    pub absent: bool,
}

impl Row for NameRow {
    const HEADINGS: &'static [&'static str] = &[
        "NAME", "WHAT", "A", "AAAA", "ALSO", "TTL", "DNS PODS", "OTHERS",
    ];

    fn cells(&self) -> Vec<String> {
        let list = |addresses: &[IpAddr]| {
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            or_dash(&texts.join(","))
        };
        vec![
            self.name.clone(),
            self.what.to_owned(),
            list(&self.a),
            list(&self.aaaa),
            or_dash(&self.also.join(",")),
            self.ttl.map_or_else(|| "-".to_owned(), |t| t.to_string()),
            or_dash(&self.user.join(",")),
            match (self.complete, self.absent) {
                (false, _) => "DNS pods",
                (true, false) => "NODATA",
                (true, true) => "NXDOMAIN",
            }
            .to_owned(),
        ]
    }
}

/// Joins the maps, ordered by name from the root down, so that what belongs together is together.
pub fn name_rows(
    names: impl IntoIterator<Item = (NameKey, NameValue)>,
    texts: impl IntoIterator<Item = (NameKey, [u8; TEXT_PART])>,
    small: impl IntoIterator<Item = (NameKey, SmallAnswer)>,
    large: impl IntoIterator<Item = (NameKey, LargeAnswer)>,
) -> Vec<NameRow> {
    let texts: BTreeMap<NameKey, [u8; TEXT_PART]> = texts.into_iter().collect();
    let small = small
        .into_iter()
        .map(|(key, answer)| (key, records(&answer.head, &answer.records)));
    let large = large
        .into_iter()
        .map(|(key, answer)| (key, records(&answer.head, &answer.records)));
    let answers: BTreeMap<NameKey, Summary> = small.chain(large).collect();
    let mut rows: Vec<NameRow> = names
        .into_iter()
        .map(|(key, value)| {
            let answer = |qtype| answers.get(&key.with_type(qtype));
            let addresses = |qtype| answer(qtype).map_or_else(Vec::new, |a| a.addresses.clone());
            let flag = |flag| value.flags & flag != 0;
            NameRow {
                name: whole(&texts, key)
                    .map_or_else(|| "(unknown)".to_owned(), |wire| dotted(&wire)),
                what: if flag(NameValue::NAMESPACE) {
                    "namespace"
                } else if flag(NameValue::SERVICE) {
                    "service"
                } else {
                    "name"
                },
                a: addresses(qtype::A),
                aaaa: addresses(qtype::AAAA),
                also: TYPES
                    .iter()
                    .filter(|t| answer(t.0).is_some_and(|a| !a.only_addresses()))
                    .map(|t| t.1)
                    .chain(flag(NameValue::APEX).then_some("SOA"))
                    .collect(),
                ttl: TYPES.iter().filter_map(|t| answer(t.0)).find_map(|a| a.ttl),
                user: TYPES
                    .iter()
                    .filter(|t| value.user & NameValue::type_bit(t.0) != 0)
                    .map(|t| t.1)
                    .collect(),
                complete: flag(NameValue::COMPLETE),
                absent: flag(NameValue::ABSENT),
            }
        })
        .collect();
    rows.sort_by_cached_key(|row| {
        let labels: Vec<String> = row.name.rsplit('.').map(str::to_owned).collect();
        labels
    });
    rows
}

/// Types that have a bit of their own in the maps, and the one that stands for all others.
pub const TYPES: &[(u16, &str)] = &[
    (qtype::A, "A"),
    (qtype::AAAA, "AAAA"),
    (qtype::SRV, "SRV"),
    (qtype::PTR, "PTR"),
    (qtype::CNAME, "CNAME"),
    (qtype::TXT, "TXT"),
    (qtype::SOA, "SOA"),
    (2, "NS"),
    (u16::MAX, "others"),
];

/// A name in wire form as text without the final dot; bytes that are not printable as `\DDD` (RFC 1035 §5.1).
pub fn dotted(wire: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = wire;
    while let Some((&length, tail)) = rest.split_first() {
        let Some(label) = tail.get(..length.into()).filter(|l| !l.is_empty()) else {
            break;
        };
        if !text.is_empty() {
            text.push('.');
        }
        for &byte in label {
            match byte {
                b'.' | b'\\' => text.extend(['\\', byte.into()]),
                b'!'..=b'~' => text.push(byte.into()),
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
        rest = &tail[length.into()..];
    }
    text
}

/// The name with a key, put together of its parts.
fn whole(texts: &BTreeMap<NameKey, [u8; TEXT_PART]>, key: NameKey) -> Option<Vec<u8>> {
    let parts = (0..).map_while(|number| texts.get(&key.with_type(number)));
    let name = parts.flatten().copied().collect::<Vec<u8>>();
    (!name.is_empty()).then_some(name)
}

/// What is told of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Addresses in its answer section.
    pub addresses: Vec<IpAddr>,
    /// Whether there are other records.
    pub others: bool,
    /// TTL of the first record.
    pub ttl: Option<u32>,
}

impl Summary {
    const fn only_addresses(&self) -> bool {
        !self.others
    }
}

/// Looks through the records of an answer. Each has a pointer as its owner.
pub fn records(head: &AnswerHead, bytes: &[u8]) -> Summary {
    /// Owner, type, class, TTL and length of the data (RFC 1035 §3.2.1).
    const FIXED: usize = 12;
    let mut found = Summary::default();
    let mut rest = &bytes[..bytes.len().min(head.length.into())];
    for _ in 0..head.count {
        let Some((fixed, tail)) = rest.split_at_checked(FIXED) else {
            break;
        };
        let length = usize::from(u16::from_be_bytes([fixed[10], fixed[11]]));
        let Some((data, tail)) = tail.split_at_checked(length) else {
            break;
        };
        let kind = u16::from_be_bytes([fixed[2], fixed[3]]);
        let ttl = u32::from_be_bytes([fixed[6], fixed[7], fixed[8], fixed[9]]);
        found.ttl.get_or_insert(ttl);
        match (kind, <[u8; 4]>::try_from(data), <[u8; 16]>::try_from(data)) {
            (qtype::A, Ok(v4), _) => found.addresses.push(Ipv4Addr::from(v4).into()),
            (qtype::AAAA, _, Ok(v6)) => found.addresses.push(Ipv6Addr::from(v6).into()),
            _ => found.others = true,
        }
        rest = tail;
    }
    found
}

#[cfg(test)]
mod tests {
    use signpost_common::dns::SMALL_RECORDS;

    use super::*;
    use crate::cli::output::{Format, rows};

    fn text(name: &str) -> [u8; TEXT_PART] {
        let mut wire = [0; TEXT_PART];
        let mut at = 0;
        for label in name.split('.') {
            wire[at] = label.len() as u8;
            wire[at + 1..=at + label.len()].copy_from_slice(label.as_bytes());
            at += label.len() + 1;
        }
        wire
    }

    fn key(number: u64) -> NameKey {
        NameKey {
            first: number,
            ..NameKey::default()
        }
    }

    fn answer(addresses: &[[u8; 4]]) -> SmallAnswer {
        let mut records = [0; SMALL_RECORDS];
        let mut at = 0;
        for address in addresses {
            let record = [0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4];
            records[at..at + 12].copy_from_slice(&record);
            records[at + 12..at + 16].copy_from_slice(address);
            at += 16;
        }
        let head = AnswerHead {
            count: addresses.len() as u16,
            length: at as u16,
            stride: 16,
            ..AnswerHead::default()
        };
        SmallAnswer { head, records }
    }

    fn example() -> Vec<NameRow> {
        let names = [
            (1, NameValue::SERVICE | NameValue::COMPLETE, 4),
            (2, NameValue::NAMESPACE, 0),
            (3, NameValue::COMPLETE, 0),
        ];
        name_rows(
            names.map(|(n, flags, user)| {
                let value = NameValue {
                    flags,
                    user,
                    ..NameValue::default()
                };
                (key(n), value)
            }),
            [
                (key(1), text("ent.prod.svc.cluster.local")),
                (key(2), text("prod.svc.cluster.local")),
                (key(3), text("svc.cluster.local")),
            ],
            [(
                key(1).with_type(qtype::A),
                answer(&[[10, 96, 0, 7], [10, 96, 0, 8]]),
            )],
            [],
        )
    }

    #[test]
    fn names_are_listed_from_the_root_down_with_their_answers() {
        assert_eq!(
            rows(Format::Table, &example()).unwrap(),
            "\
NAME                         WHAT        A                     AAAA   ALSO   TTL   DNS PODS   OTHERS
svc.cluster.local            name        -                     -      -      -     -          NODATA
prod.svc.cluster.local       namespace   -                     -      -      -     -          DNS pods
ent.prod.svc.cluster.local   service     10.96.0.7,10.96.0.8   -      -      30    SRV        NODATA
"
        );
    }

    #[test]
    fn a_long_name_is_put_together() {
        let name = [
            [&[62][..], &[b'a'; 62][..]].concat(),
            b"\x01b\x05local".to_vec(),
        ]
        .concat();
        let texts = signpost_common::name::text_parts(&name);
        let texts: BTreeMap<_, _> = texts.map(|(n, part)| (key(1).with_type(n), part)).collect();
        assert_eq!(texts.len(), 2);
        let whole = whole(&texts, key(1)).unwrap();
        assert_eq!(dotted(&whole), format!("{}.b.local", "a".repeat(62)));
        assert_eq!(super::whole(&texts, key(2)), None);
    }

    #[test]
    fn json_has_every_field() {
        assert_eq!(
            serde_json::to_value(&example()[2]).unwrap(),
            serde_json::json!({
                "name": "ent.prod.svc.cluster.local", "what": "service",
                "a": ["10.96.0.7", "10.96.0.8"], "aaaa": [], "ttl": 30,
                "also": [], "user": ["SRV"], "complete": true, "absent": false,
            })
        );
    }

    #[test]
    fn what_a_terminal_must_not_see_is_escaped() {
        assert_eq!(dotted(b"\x03a.\x1b\x05local\x00"), "a\\.\\027.local");
        assert_eq!(dotted(b"\x09short"), "");
    }
}
