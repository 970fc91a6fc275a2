//! `signpost dns query`: runs the kernel's own logic over the pinned maps.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::Args;
use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name, Record, RecordType},
};
use serde::Serialize;
use signpost_common::Cause;
use signpost_ebpf::{
    dns,
    headers::{Headers, protocol},
    host::{Frame, Memory},
    packet::ETHERNET,
};

use super::{
    ReadArgs,
    output::{Format, json},
    read,
};

/// Length of an IPv4 header without options.
const IPV4: usize = 20;
/// Length of a UDP header.
const UDP: usize = 8;
/// Size of answer that the question allows: what resolvers allow (DNS flag day 2020).
const LIMIT: u16 = 1232;

/// Flags of `signpost dns query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    #[command(flatten)]
    read: ReadArgs,
    /// The whole name, such as `ent.prod.svc.cluster.local`; no search list is applied
    name: String,
    /// Type of record, such as `A`, `AAAA`, `SRV` or `TYPE65`
    #[arg(default_value = "A", value_name = "TYPE", ignore_case = true)]
    kind: String,
}

/// What the kernel does with a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The name that was asked for.
    pub name: String,
    /// The type that was asked for.
    pub kind: String,
    /// `kernel`, or `dns pods` where the question goes on to user space.
    pub answered_by: &'static str,
    /// Why, as in the label of metric `signpost_packets_total`.
    pub cause: &'static str,
    /// What that means.
    pub help: &'static str,
    /// Response code, such as `NOERROR`; `null` where the kernel does not answer.
    pub status: Option<String>,
    /// The answer section.
    pub answers: Vec<AnswerRecord>,
}

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnswerRecord {
    /// Its owner.
    pub name: String,
    /// Seconds for which it may be kept.
    pub ttl: u32,
    /// Its type.
    pub kind: String,
    /// Its data in the form of zone files.
    pub data: String,
}

/// Asks a question.
///
/// # Errors
/// Where name or type are malformed, or the maps cannot be read.
pub fn run(args: &QueryArgs) -> anyhow::Result<String> {
    let name =
        Name::from_utf8(&args.name).with_context(|| format!("{} is not a DNS name", args.name))?;
    let kind = record_type(&args.kind)?;
    let answer = ask(&read::tables(&args.read)?, &name, kind)?;
    match args.read.output.output {
        Format::Json => json(&answer),
        Format::Table => Ok(answer.text()),
    }
}

impl Answer {
    fn new(
        name: &Name,
        kind: RecordType,
        outcome: Result<(Cause, &[u8]), Cause>,
    ) -> anyhow::Result<Self> {
        let (answered_by, cause, message) = match outcome {
            Ok((cause, message)) => (
                "kernel",
                cause,
                Some(Message::from_vec(message).context("the kernel's answer is malformed")?),
            ),
            Err(cause) => ("dns pods", cause, None),
        };
        let record = |record: &Record| AnswerRecord {
            name: record.name.to_string(),
            ttl: record.ttl,
            kind: record.record_type().to_string(),
            data: record.data.to_string(),
        };
        Ok(Self {
            name: name.to_string(),
            kind: kind.to_string(),
            answered_by,
            cause: cause.label(),
            help: cause.help(),
            status: message
                .as_ref()
                .map(|m| format!("{:?}", m.metadata.response_code).to_uppercase()),
            answers: message
                .iter()
                .flat_map(|m| &m.answers)
                .map(record)
                .collect(),
        })
    }

    /// The data of each record as `dig +short` prints it, then where the answer comes from.
    fn text(&self) -> String {
        let mut text = String::new();
        for record in &self.answers {
            let _ = writeln!(text, "{}", record.data);
        }
        let _ = match &self.status {
            Some(status) => writeln!(text, "; {status}, answered by the kernel ({})", self.cause),
            None => writeln!(
                text,
                "; goes on to the DNS pods ({}): {}",
                self.cause, self.help
            ),
        };
        text
    }
}

/// A type by its name, or by its number as `TYPE65` (RFC 3597 §5).
fn record_type(text: &str) -> anyhow::Result<RecordType> {
    let text = text.to_uppercase();
    let number = text
        .strip_prefix("TYPE")
        .and_then(|n| n.parse::<u16>().ok());
    match number {
        Some(number) => Ok(number.into()),
        None => text.parse().map_err(|_| {
            anyhow::anyhow!("{text} is not a type of record; try A, or TYPE and its number")
        }),
    }
}

/// The message of a question, with EDNS: an asker that has none gets long answers from the DNS pods.
fn question(name: &Name, kind: RecordType) -> anyhow::Result<Vec<u8>> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(LIMIT);
    message.set_edns(edns);
    Ok(message.to_vec()?)
}

/// A frame as a pod sends it. The addresses do not matter to the answer.
fn frame(message: &[u8]) -> Frame {
    const PORTS: [u8; 4] = [0xc0, 0, 0, 53];
    let udp = (UDP + message.len()) as u16;
    let mut bytes = vec![0; 12];
    bytes.extend(0x0800_u16.to_be_bytes());
    bytes.extend([0x45, 0]);
    bytes.extend((IPV4 as u16 + udp).to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, protocol::UDP, 0, 0]);
    bytes.extend([192, 0, 2, 1]);
    bytes.extend([192, 0, 2, 53]);
    bytes.extend(PORTS);
    bytes.extend(udp.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(message);
    Frame(bytes)
}

/// What the kernel makes of a question.
fn ask(tables: &Memory, name: &Name, kind: RecordType) -> anyhow::Result<Answer> {
    let mut frame = frame(&question(name, kind)?);
    let mut headers = Headers::EMPTY;
    anyhow::ensure!(
        headers.read(&frame) == Ok(true),
        "the question does not fit into a packet"
    );
    let outcome = match dns::answer(&mut frame, tables, &headers) {
        Ok(cause) => Ok((cause, &frame.0[ETHERNET as usize + IPV4 + UDP..])),
        Err(cause) => Err(cause),
    };
    Answer::new(name, kind, outcome)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use signpost_common::{
        dns::{Config, SmallAnswer, qtype},
        name::{HashKeys, hash},
    };

    use super::*;

    fn ask_of(tables: &Memory, name: &str) -> Answer {
        ask(tables, &Name::from_utf8(name).unwrap(), RecordType::A).unwrap()
    }

    fn wire(name: &str) -> Vec<u8> {
        let labels = name.split('.');
        labels
            .flat_map(|l| std::iter::once(l.len() as u8).chain(l.bytes()))
            .collect()
    }

    /// `cluster.local` with one name in it.
    fn tables() -> Memory {
        let keys = HashKeys {
            words: std::array::from_fn(|n| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n as u64 + 1)),
        };
        let key = |name: &str| hash(&wire(name), &keys).unwrap();
        let ent = key("ent.prod.svc.cluster.local");
        let mut answer = SmallAnswer::zeroed();
        answer.head.count = 1;
        answer.head.length = 16;
        answer.head.check = ent.with_type(qtype::A).check();
        answer.records[..16]
            .copy_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 96, 0, 7]);
        let mut tables = Memory::default();
        tables.config = Some(Config {
            flags: Config::DNS,
            negative_grace: 300,
            zone: key("cluster.local"),
            services: key("svc.cluster.local"),
            soa: [0; 56],
            hash: keys,
            host: [0; 2],
            service_ranges: Default::default(),
            dns: Default::default(),
            external_ports: Config::NO_PORTS,
            pad: 0,
        });
        tables.answers_small.insert(ent.with_type(qtype::A), answer);
        tables
    }

    #[test]
    fn a_name_in_the_kernel_is_answered_as_dig_prints_it() {
        let answer = ask_of(&tables(), "ent.prod.svc.cluster.local.");
        assert_eq!(
            answer.text(),
            "10.96.0.7\n; NOERROR, answered by the kernel (dns_answered)\n"
        );
        assert_eq!(
            serde_json::to_value(&answer).unwrap(),
            serde_json::json!({
                "name": "ent.prod.svc.cluster.local.", "kind": "A", "answered_by": "kernel",
                "cause": "dns_answered", "help": Cause::DnsAnswered.help(), "status": "NOERROR",
                "answers": [{
                    "name": "ent.prod.svc.cluster.local.", "ttl": 30, "kind": "A", "data": "10.96.0.7",
                }],
            })
        );
    }

    #[test]
    fn a_name_outside_the_zone_goes_on_and_it_is_said_why() {
        let answer = ask_of(&tables(), "example.org");
        assert_eq!(answer.answered_by, "dns pods");
        assert_eq!(answer.cause, "dns_outside");
        assert!(
            answer
                .text()
                .starts_with("; goes on to the DNS pods (dns_outside): A DNS question")
        );
    }

    #[test]
    fn a_negative_answer_that_is_too_old_is_not_given() {
        let mut tables = tables();
        tables.now = 400_000_000_000;
        tables.in_sync_at = 1;
        let answer = ask_of(&tables, "nobody.cluster.local");
        assert_eq!(answer.cause, "dns_not_in_sync");
        assert_eq!(answer.status, None);
    }

    #[test]
    fn types_are_named_or_numbered() {
        assert_eq!(record_type("aaaa").unwrap(), RecordType::AAAA);
        assert_eq!(record_type("TYPE28").unwrap(), RecordType::AAAA);
        assert!(record_type("TYPE").is_err());
        assert!(record_type("ADDRESS").is_err());
    }
}
