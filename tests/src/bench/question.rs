//! DNS questions, as a pod's resolver sends them.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::ensure;
use etherparse::PacketBuilder;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};

/// A question without EDNS, which is what glibc and musl send unless told otherwise.
///
/// # Errors
/// Where it is not a name.
pub fn question(name: &str, kind: RecordType) -> anyhow::Result<Vec<u8>> {
    let mut message = Message::new(0x5150, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name)?, kind));
    Ok(message.to_vec()?)
}

/// What a resolver asks for a name with fewer dots than `ndots:5`, until it asks for the name itself: both types under
/// each suffix of the search list.
///
/// # Errors
/// Where it is not a name.
pub fn search(name: &str, namespace: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut questions = Vec::new();
    for suffix in [
        &format!("{namespace}.svc.cluster.local."),
        "svc.cluster.local.",
        "cluster.local.",
    ] {
        for kind in [RecordType::A, RecordType::AAAA] {
            questions.push(question(&format!("{name}.{suffix}"), kind)?);
        }
    }
    Ok(questions)
}

/// Fails where an answer is not what is expected: a benchmark of wrong answers would be worth nothing.
///
/// # Errors
/// Says what came instead.
pub fn check(answer: &[u8], code: ResponseCode, records: usize) -> anyhow::Result<()> {
    let message = Message::from_vec(answer)?;
    ensure!(
        message.metadata.response_code == code && message.answers.len() == records,
        "expected {code} with {records} records, got {message}"
    );
    Ok(())
}

/// An Ethernet frame with a datagram.
///
/// # Errors
/// Where it is too long.
pub fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let builder = ip(*from.ip(), *to.ip()).udp(from.port(), to.port());
    let mut frame = Vec::new();
    builder.write(&mut frame, payload)?;
    Ok(frame)
}

/// An Ethernet frame with a TCP segment: a SYN, or an ACK with data.
///
/// # Errors
/// Where it is too long.
pub fn segment(
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: Option<&[u8]>,
) -> anyhow::Result<Vec<u8>> {
    let builder = ip(*from.ip(), *to.ip()).tcp(from.port(), to.port(), 1000, 64_000);
    let builder = match payload {
        Some(_) => builder.ack(2000),
        None => builder.syn(),
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, payload.unwrap_or_default())?;
    Ok(frame)
}

fn ip(from: Ipv4Addr, to: Ipv4Addr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(
        from.octets(),
        to.octets(),
        64,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_name_is_looked_for_six_times_before_itself() {
        let questions = search("www.example.com", "dev").unwrap();
        let names: Vec<_> = questions
            .iter()
            .map(|bytes| {
                let message = Message::from_vec(bytes).unwrap();
                let query = &message.queries[0];
                (query.name().to_ascii(), query.query_type())
            })
            .collect();
        assert_eq!(names.len(), 6);
        assert_eq!(
            names[0],
            (
                "www.example.com.dev.svc.cluster.local.".to_owned(),
                RecordType::A
            )
        );
        assert_eq!(
            names[5],
            (
                "www.example.com.cluster.local.".to_owned(),
                RecordType::AAAA
            )
        );
    }
}
