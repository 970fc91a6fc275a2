//! Records of whole answers in wire form, as they lie behind the question.
//!
//! Names point (RFC 1035 §4.1.4) into the question and into records before them. Those of SRV are written in full,
//! because RFC 2782 wants it and resolvers rely on it. What is pointed at in the question has the asker's letter case, so
//! these answers are for questions in small letters.

use std::net::IpAddr;

use signpost_common::dns::qtype;

use crate::zone::{NS, Name, Record, RecordData, Records};

/// Class IN (RFC 1035 §3.2.4).
const IN: u16 = 1;
/// Where the question's name begins: behind the header (RFC 1035 §4.1.1).
const QUESTION: usize = 12;
/// The most that a pointer can say.
const FURTHEST: usize = 0x3fff;

/// Records in wire form.
#[derive(Debug)]
pub(super) struct Written {
    /// Those of the answer section, then those of the additional one.
    pub(super) bytes: Vec<u8>,
    /// Whether there is any name in them but the question's.
    pub(super) names: bool,
}

/// Writes the records of the answer to a question for `name`. `None` where one of them has no fixed form.
pub(super) fn write(name: &Name, records: &Records) -> Option<Written> {
    let mut writer = Writer::new(name);
    for record in records.answers.iter().chain(&records.additional) {
        writer.record(name, record)?;
    }
    Some(Written {
        bytes: writer.bytes,
        names: writer.names,
    })
}

/// Writes records behind a question.
pub(in super::super) struct Writer {
    /// What was written.
    pub(in super::super) bytes: Vec<u8>,
    /// Where `bytes` begins in the message.
    start: usize,
    /// Names and where they are in the message.
    places: Vec<(Vec<u8>, usize)>,
    names: bool,
}

impl Writer {
    fn new(question: &Name) -> Self {
        let mut it = Self::empty(question);
        it.remember(question.wire(), question.wire().len(), QUESTION);
        it
    }

    /// Points at the question's whole name only, so that no other name gets the asker's letters.
    pub(in super::super) fn apart(question: &Name) -> Self {
        let mut it = Self::empty(question);
        if !question.wire().is_empty() {
            it.places.push((question.wire().to_vec(), QUESTION));
        }
        it
    }

    fn empty(question: &Name) -> Self {
        Self {
            bytes: Vec::new(),
            // Behind the name's final zero, type and class.
            start: QUESTION + question.wire().len() + 1 + 4,
            places: Vec::new(),
            names: false,
        }
    }

    fn record(&mut self, question: &Name, record: &Record) -> Option<()> {
        self.name(record.owner.as_ref().unwrap_or(question).wire(), true);
        self.names |= record.owner.is_some();
        let kind = match &record.data {
            RecordData::Address(IpAddr::V4(_)) => qtype::A,
            RecordData::Address(IpAddr::V6(_)) => qtype::AAAA,
            RecordData::Cname(_) => qtype::CNAME,
            RecordData::Srv { .. } => qtype::SRV,
            RecordData::Ptr(_) => qtype::PTR,
            RecordData::Txt(_) => qtype::TXT,
            RecordData::Ns(_) => NS,
            RecordData::Soa => return None,
        };
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(IN.to_be_bytes());
        self.bytes.extend(record.ttl.to_be_bytes());
        let length_at = self.bytes.len();
        self.bytes.extend([0, 0]);
        match &record.data {
            RecordData::Address(IpAddr::V4(address)) => self.bytes.extend(address.octets()),
            RecordData::Address(IpAddr::V6(address)) => self.bytes.extend(address.octets()),
            RecordData::Cname(name) | RecordData::Ptr(name) | RecordData::Ns(name) => {
                self.names = true;
                self.name(name.wire(), true);
            }
            RecordData::Srv {
                priority,
                weight,
                port,
                target,
            } => {
                self.names = true;
                for number in [priority, weight, port] {
                    self.bytes.extend(number.to_be_bytes());
                }
                self.name(target.wire(), false);
            }
            RecordData::Txt(text) => {
                self.bytes.push(u8::try_from(text.len()).ok()?);
                self.bytes.extend(text.as_bytes());
            }
            RecordData::Soa => return None,
        }
        let length = u16::try_from(self.bytes.len() - length_at - 2).ok()?;
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        Some(())
    }

    /// A name, by a pointer as far as there is something to point at and `point` allows it.
    pub(in super::super) fn name(&mut self, wire: &[u8], point: bool) {
        let at = self.start + self.bytes.len();
        let mut rest = wire;
        while let Some(&length) = rest.first() {
            if point && let Some((_, place)) = self.places.iter().find(|(name, _)| name == rest) {
                let pointer = 0xc000 | *place as u16;
                self.bytes.extend(pointer.to_be_bytes());
                self.remember(wire, wire.len() - rest.len(), at);
                return;
            }
            let (label, after) = rest.split_at(usize::from(length) + 1);
            self.bytes.extend(label);
            rest = after;
        }
        self.bytes.push(0);
        self.remember(wire, wire.len(), at);
    }

    /// Notes where a name is that was written at `at`, and the names that it ends with, as far as its first `length`
    /// bytes go.
    fn remember(&mut self, wire: &[u8], length: usize, at: usize) {
        let mut label = 0;
        while label < length && at + label <= FURTHEST {
            let name = &wire[label..];
            if self.places.iter().all(|(known, _)| known != name) {
                self.places.push((name.to_vec(), at + label));
            }
            label += usize::from(wire[label]) + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn record(owner: Option<&str>, data: RecordData) -> Record {
        Record {
            owner: owner.map(name),
            ttl: 30,
            data,
        }
    }

    /// What hickory reads of an answer, and how many bytes the records have.
    fn read(question: &str, kind: u16, records: &Records) -> (Vec<String>, usize) {
        let written = write(&name(question), records).unwrap();
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let asked = hickory_proto::rr::Name::from_ascii(format!("{question}.")).unwrap();
        message.add_query(Query::query(asked, kind.into()));
        let mut bytes = message.to_vec().unwrap();
        bytes[7] = records.answers.len() as u8;
        bytes[11] = records.additional.len() as u8;
        bytes.extend(&written.bytes);
        let message = Message::from_vec(&bytes).unwrap();
        let all = message.answers.iter().chain(&message.additionals);
        (all.map(ToString::to_string).collect(), written.bytes.len())
    }

    #[test]
    fn servers_are_written_in_full_and_their_addresses_point_at_them() {
        let target = "ent.dev.svc.cluster.local";
        let server = RecordData::Srv {
            priority: 0,
            weight: 100,
            port: 80,
            target: name(target),
        };
        let records = Records {
            answers: vec![record(None, server)],
            additional: vec![record(
                Some(target),
                RecordData::Address([10, 96, 0, 7].into()),
            )],
        };
        let (read, length) = read("_http._tcp.ent.dev.svc.cluster.local", qtype::SRV, &records);
        assert_eq!(
            read,
            [
                "_http._tcp.ent.dev.svc.cluster.local. 30 IN SRV 0 100 80 ent.dev.svc.cluster.local.",
                "ent.dev.svc.cluster.local. 30 IN A 10.96.0.7",
            ]
        );
        assert_eq!(length, 12 + 6 + target.len() + 2 + 12 + 4);
    }

    #[test]
    fn a_chain_points_at_itself() {
        let question = "a.dev.svc.cluster.local";
        let alias = |to: &str| RecordData::Cname(name(to));
        let records = Records {
            answers: vec![
                record(None, alias("b.prod.svc.cluster.local")),
                record(
                    Some("b.prod.svc.cluster.local"),
                    alias("c.prod.svc.cluster.local"),
                ),
                record(
                    Some("c.prod.svc.cluster.local"),
                    RecordData::Address([0; 16].into()),
                ),
            ],
            additional: Vec::new(),
        };
        let (read, length) = read(question, qtype::AAAA, &records);
        assert_eq!(
            read,
            [
                "a.dev.svc.cluster.local. 30 IN CNAME b.prod.svc.cluster.local.",
                "b.prod.svc.cluster.local. 30 IN CNAME c.prod.svc.cluster.local.",
                "c.prod.svc.cluster.local. 30 IN AAAA ::",
            ]
        );
        // Two labels and a pointer; one label and a pointer.
        assert_eq!(length, 3 * 12 + (2 + 5 + 2) + (2 + 2) + 16);
    }

    #[test]
    fn what_has_no_other_name_says_so() {
        let of = |data| {
            let records = Records {
                answers: vec![record(None, data)],
                additional: Vec::new(),
            };
            write(&name("dns-version.cluster.local"), &records).map(|written| written.names)
        };
        assert_eq!(of(RecordData::Txt("1.1.0".to_owned())), Some(false));
        assert_eq!(of(RecordData::Ptr(name("a.b"))), Some(true));
        assert_eq!(of(RecordData::Soa), None);
    }
}
