//! DNS messages: questions byte by byte, and answers as hickory and domain read them.

use std::net::IpAddr;

use domain::{
    base::{Message as DomainMessage, Rtype, iana::OptRcode},
    rdata::AllRecordData,
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::RData,
};
use signpost_common::dns::qtype;

use crate::world::{SOA, TTL, wire};

/// A question. Whatever it says is written, sense or not.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) id: u16,
    /// Flags, opcode and rcode.
    pub(crate) flags: u16,
    /// Questions, answers, authorities; the additionals are counted by `edns`.
    pub(crate) counts: [u16; 3],
    /// In wire form.
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) edns: Option<Edns>,
    /// What follows.
    pub(crate) rest: Vec<u8>,
}

/// An OPT record.
#[derive(Clone, Debug)]
pub(crate) struct Edns {
    pub(crate) size: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
    /// In wire form.
    pub(crate) options: Vec<u8>,
}

/// Recursion desired, checking disabled, authentic data.
pub(crate) const RD: u16 = 0x0100;
pub(crate) const CD: u16 = 0x0010;
pub(crate) const AD: u16 = 0x0020;

impl Question {
    /// As a stub resolver asks.
    pub(crate) fn new(name: &str, kind: u16) -> Self {
        Self {
            id: 0xbeef,
            flags: RD,
            counts: [1, 0, 0],
            name: wire(name),
            kind,
            class: 1,
            edns: None,
            rest: Vec::new(),
        }
    }

    /// With an OPT record of this size.
    pub(crate) fn edns(mut self, size: u16) -> Self {
        self.edns = Some(Edns {
            size,
            version: 0,
            dnssec_ok: false,
            options: Vec::new(),
        });
        self
    }

    /// With an OPT record that has these options and the DO bit.
    pub(crate) fn options(mut self, options: &[u8]) -> Self {
        self.edns = Some(Edns {
            size: 1400,
            version: 0,
            dnssec_ok: true,
            options: options.to_vec(),
        });
        self
    }

    /// With these flags instead.
    pub(crate) fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// The message.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let [questions, answers, authorities] = self.counts;
        let mut bytes = Vec::new();
        for half in [
            self.id,
            self.flags,
            questions,
            answers,
            authorities,
            u16::from(self.edns.is_some()),
        ] {
            bytes.extend(half.to_be_bytes());
        }
        bytes.extend(&self.name);
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(self.class.to_be_bytes());
        if let Some(edns) = &self.edns {
            bytes.push(0);
            bytes.extend(qtype::OPT.to_be_bytes());
            bytes.extend(edns.size.to_be_bytes());
            bytes.extend([0, edns.version, u8::from(edns.dnssec_ok) << 7, 0]);
            bytes.extend((edns.options.len() as u16).to_be_bytes());
            bytes.extend(&edns.options);
        }
        bytes.extend(&self.rest);
        bytes
    }

    /// The name with dots, in the asker's letter case.
    pub(crate) fn text(&self) -> String {
        self.plain_text().expect("a plain name")
    }

    /// The same, where all labels are letters, digits and hyphens.
    pub(crate) fn plain_text(&self) -> Option<String> {
        let mut text = String::new();
        let mut rest = &self.name[..];
        while let [length @ 1..=63, tail @ ..] = rest {
            let (label, after) = tail.split_at(usize::from(*length));
            if !label
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b))
            {
                return None;
            }
            text.push_str(str::from_utf8(label).ok()?);
            text.push('.');
            rest = after;
        }
        Some(text)
    }
}

/// What an answer must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// These addresses, in this order or rotated.
    Addresses(Vec<IpAddr>),
    NoData,
    NxDomain,
}

/// Reads an answer by both libraries and compares every field. Returns the addresses in their order.
#[track_caller]
pub(crate) fn check(question: &Question, answer: &[u8], says: &Says) -> Vec<IpAddr> {
    let asked = 12 + question.name.len() + 4;
    assert_eq!(
        answer[12..asked],
        question.bytes()[12..asked],
        "the question is repeated byte by byte"
    );
    let addresses = by_hickory(question, answer, says);
    assert_eq!(by_domain(question, answer, says), addresses);
    if let Says::Addresses(wanted) = says {
        let start = wanted.iter().position(|a| *a == addresses[0]);
        let mut rotated = wanted.clone();
        rotated.rotate_left(start.expect("one of the addresses"));
        assert_eq!(addresses, rotated);
    }
    addresses
}

/// The zone part of the question, as it was written, and the names of the SOA record.
fn soa_names(question: &Question) -> [String; 3] {
    let text = question.text();
    let zone: Vec<&str> = text.rsplitn(4, '.').take(3).collect();
    let zone = format!("{}.{}.", zone[2], zone[1]);
    [
        zone.clone(),
        format!("ns.dns.{zone}"),
        format!("hostmaster.{zone}"),
    ]
}

#[track_caller]
fn by_hickory(question: &Question, answer: &[u8], says: &Says) -> Vec<IpAddr> {
    let message = Message::from_vec(answer).expect("hickory reads the answer");
    let head = &message.metadata;
    assert_eq!(head.id, question.id);
    assert_eq!(head.message_type, MessageType::Response);
    assert_eq!(head.op_code, OpCode::Query);
    assert!(head.authoritative && !head.truncation);
    assert!(!head.recursion_available && !head.authentic_data);
    assert_eq!(head.recursion_desired, question.flags & RD != 0);
    assert_eq!(head.checking_disabled, question.flags & CD != 0);
    let code = match says {
        Says::NxDomain => ResponseCode::NXDomain,
        _ => ResponseCode::NoError,
    };
    assert_eq!(head.response_code, code);
    assert_eq!(message.queries.len(), 1);
    assert!(message.additionals.is_empty());
    match (&question.edns, &message.edns) {
        (None, None) => {}
        (Some(asked), Some(answered)) => {
            // hickory reads less than 512 as 512 (RFC 6891 §6.2.3).
            assert_eq!(answered.max_payload(), asked.size.max(512));
            assert_eq!(answered.flags().dnssec_ok, asked.dnssec_ok);
            assert_eq!((answered.version(), answered.flags().z), (0, 0));
            assert!(answered.options().as_ref().is_empty());
        }
        (asked, answered) => panic!("EDNS asked {asked:?}, answered {answered:?}"),
    }
    if *says == Says::NoData || *says == Says::NxDomain {
        let [zone, server, mailbox] = soa_names(question);
        assert!(message.answers.is_empty());
        let [record] = &message.authorities[..] else {
            panic!("one SOA record: {message}");
        };
        let RData::SOA(soa) = &record.data else {
            panic!("{record}");
        };
        assert_eq!(record.name.to_ascii(), zone);
        assert_eq!(record.ttl, TTL);
        assert_eq!(
            (soa.mname.to_ascii(), soa.rname.to_ascii()),
            (server, mailbox)
        );
        let numbers = [
            soa.serial,
            soa.refresh as u32,
            soa.retry as u32,
            soa.expire as u32,
            soa.minimum,
        ];
        assert_eq!(numbers, SOA);
    } else {
        assert!(message.authorities.is_empty());
    }
    let address = |record: &hickory_proto::rr::Record| {
        assert_eq!(record.name.to_ascii(), question.text());
        assert_eq!(record.ttl, TTL);
        match &record.data {
            RData::A(a) => IpAddr::V4(a.0),
            RData::AAAA(a) => IpAddr::V6(a.0),
            other => panic!("{other}"),
        }
    };
    message.answers.iter().map(address).collect()
}

#[track_caller]
fn by_domain(question: &Question, answer: &[u8], says: &Says) -> Vec<IpAddr> {
    let message = DomainMessage::from_slice(answer).expect("domain reads the header");
    let header = message.header();
    assert_eq!(header.id(), question.id);
    assert!(header.qr() && header.aa() && !header.tc() && !header.ra() && !header.ad());
    assert!(!header.z());
    assert_eq!(header.rd(), question.flags & RD != 0);
    assert_eq!(header.cd(), question.flags & CD != 0);
    let code = match says {
        Says::NxDomain => OptRcode::NXDOMAIN,
        _ => OptRcode::NOERROR,
    };
    assert_eq!(message.opt_rcode(), code);
    let asked = message.sole_question().expect("one question");
    assert_eq!(asked.qtype(), Rtype::from_int(question.kind));
    let negative = !matches!(says, Says::Addresses(_));
    let counts = message.header_counts();
    assert_eq!(counts.nscount(), u16::from(negative));
    assert_eq!(counts.arcount(), u16::from(question.edns.is_some()));
    let mut addresses = Vec::new();
    for record in message.answer().expect("an answer section") {
        let record = record.expect("a record");
        let record = record
            .into_record::<AllRecordData<_, _>>()
            .expect("data")
            .expect("a known type");
        assert_eq!(format!("{}.", record.owner()), question.text());
        assert_eq!(record.ttl().as_secs(), TTL);
        addresses.push(match record.data() {
            AllRecordData::A(a) => IpAddr::V4(a.addr()),
            AllRecordData::Aaaa(a) => IpAddr::V6(a.addr()),
            other => panic!("{other}"),
        });
    }
    assert_eq!(addresses.len(), usize::from(counts.ancount()));
    for record in message.authority().expect("an authority section") {
        let record = record.expect("a record");
        let record = record
            .into_record::<AllRecordData<_, _>>()
            .expect("data")
            .expect("a known type");
        let AllRecordData::Soa(soa) = record.data() else {
            panic!("{record}");
        };
        let names = [
            format!("{}.", record.owner()),
            format!("{}.", soa.mname()),
            format!("{}.", soa.rname()),
        ];
        assert_eq!(names, soa_names(question));
        assert_eq!(soa.serial().into_int(), SOA[0]);
        assert_eq!(soa.minimum().as_secs(), TTL);
    }
    if let Some(edns) = &question.edns {
        let opt = message.opt().expect("an OPT record");
        assert_eq!(opt.udp_payload_size(), edns.size);
        assert_eq!((opt.version(), opt.dnssec_ok()), (0, edns.dnssec_ok));
        assert!(opt.opt().is_empty());
    }
    // Nothing lies behind the last record.
    let additional = message.additional().expect("an additional section");
    let mut parser = additional;
    for record in parser.by_ref() {
        record.expect("a record");
    }
    assert_eq!(parser.pos(), answer.len());
    addresses
}
