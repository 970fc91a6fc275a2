//! Judges what the kernel's DNS code says: two libraries that we did not write can read it, and it is what the zone says.

use std::fmt::Debug;

use domain::base::Message as Witness;
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record as WireRecord},
};
use signpost::zone::{Lookup, Name, Record, RecordData, Zone};

/// Reads an answer to a question, both without what is around a DNS message.
///
/// # Panics
/// Where it is not well-formed, or not an answer to that question.
pub fn read(question: &[u8], answer: &[u8]) -> Message {
    let message = Message::from_vec(answer).expect("hickory reads the answer");
    let witness = Witness::from_octets(answer).expect("domain reads the answer");
    for record in &witness {
        record.expect("domain reads each record");
    }
    let counts = witness.header_counts();
    assert_eq!(usize::from(counts.ancount()), message.answers.len());
    assert_eq!(usize::from(counts.nscount()), message.authorities.len());

    assert_eq!(answer[..2], question[..2], "the id");
    let head = &message.metadata;
    assert_eq!(head.message_type, MessageType::Response);
    assert!(
        head.authoritative && !head.truncation && !head.recursion_available,
        "{message}"
    );
    assert_eq!(message.queries.len(), 1, "not one question: {message}");
    let end = 12 + name_length(&question[12..]) + 4;
    assert_eq!(
        answer[12..end],
        question[12..end],
        "the question is as it was asked"
    );
    message
}

/// The name that a question asks for, in wire form.
pub fn asked(question: &[u8]) -> &[u8] {
    &question[12..12 + name_length(&question[12..])]
}

/// Bytes of a name in wire form without pointers.
fn name_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while bytes[at] != 0 {
        at += 1 + usize::from(bytes[at]);
    }
    at + 1
}

/// Whether an answer is what a zone says of a name and a type.
///
/// # Errors
/// What is different.
pub fn agrees(zone: &Zone, name: &Name, message: &Message, lookup: &Lookup) -> Result<(), String> {
    let code = message.metadata.response_code;
    let wanted = match lookup {
        Lookup::Answer { .. } | Lookup::NoData => ResponseCode::NoError,
        Lookup::NxDomain => ResponseCode::NXDomain,
        other => return Err(format!("answered, but the zone says {other:?}")),
    };
    same("the code", &code, &wanted)?;
    if let Lookup::Answer {
        answers,
        additional,
    } = lookup
    {
        let told = |records: &[WireRecord]| {
            let mut told: Vec<Told> = records.iter().map(|r| of_message(message, r)).collect();
            told.sort();
            told
        };
        same("answers", &told(&message.answers), &of_zone(name, answers))?;
        let (told, wanted) = (told(&message.additionals), of_zone(name, additional));
        same("additional records", &told, &wanted)?;
        let is_alias = |record: &WireRecord| matches!(record.data, RData::CNAME(_));
        let mut rest = message.answers.iter().skip_while(|r| is_alias(r));
        return same("an alias behind other records", &rest.any(is_alias), &false);
    }
    same("answers", &message.answers.len(), &0)?;
    match &message.authorities[..] {
        [record] => match &record.data {
            RData::SOA(soa) => same("the serial", &soa.serial, &zone.serial()),
            _ => Err(format!("no SOA: {record}")),
        },
        _ => Err(format!("not one SOA: {message}")),
    }
}

fn same<T: PartialEq + Debug>(what: &str, told: &T, wanted: &T) -> Result<(), String> {
    if told == wanted {
        return Ok(());
    }
    Err(format!("{what}: {told:?}, but the zone says {wanted:?}"))
}

/// A record in words: owner, unless it is the question's name; TTL, type and data, without the SOA's serial.
type Told = (Option<String>, u32, String);

fn of_zone(name: &Name, records: &[Record]) -> Vec<Told> {
    let text = |name: &Name| format!("{name}.");
    let told = |record: &Record| {
        let data = match &record.data {
            RecordData::Address(address) => address.to_string(),
            RecordData::Cname(target) => format!("CNAME {}", text(target)),
            RecordData::Srv {
                priority,
                weight,
                port,
                target,
            } => format!("SRV {priority} {weight} {port} {}", text(target)),
            RecordData::Ptr(target) => format!("PTR {}", text(target)),
            RecordData::Txt(text) => format!("TXT {text}"),
            RecordData::Ns(target) => format!("NS {}", text(target)),
            RecordData::Soa => "SOA".to_owned(),
        };
        // What is named like the question may point at it.
        let owner = record.owner.as_ref().filter(|owner| *owner != name);
        (owner.map(text), record.ttl, data)
    };
    let mut told: Vec<Told> = records.iter().map(told).collect();
    told.sort();
    told
}

fn of_message(message: &Message, record: &WireRecord) -> Told {
    let owner = (record.name != *message.queries[0].name()).then(|| record.name.to_ascii());
    let data = match &record.data {
        RData::A(address) => address.to_string(),
        RData::AAAA(address) => address.to_string(),
        RData::SOA(_) => "SOA".to_owned(),
        RData::TXT(text) => format!("TXT {text}"),
        other => format!("{} {other}", record.record_type()),
    };
    (owner, record.ttl, data)
}
