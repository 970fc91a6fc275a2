//! Entries of connection tracking that are translated, listed and deleted.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{DefaultNla, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, Nla as _};
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Status, Tuple},
};

use super::{bytes, exchange, family, open, receive};
use crate::model::Family;

/// Attributes that the packets' crate has no name for (linux/netfilter/nfnetlink_conntrack.h).
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
/// A table that changes while it is listed is listed again, so often.
const TRIES: usize = 5;

/// What is translated of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translated {
    /// Where it goes to (DNAT).
    Destination,
    /// Where it comes from (SNAT, masquerade).
    Source,
}

/// Between whom packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Who sends.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
}

/// An entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Number of the protocol, such as 6 for TCP.
    pub protocol: u8,
    /// As the first packet came.
    pub original: Ends,
    /// As answers come: the translated destination is their source.
    pub reply: Ends,
    /// What names it to the kernel.
    key: Vec<ConntrackAttribute>,
}

impl Entry {
    /// An entry that was not read.
    #[cfg(test)]
    pub(crate) const fn new(protocol: u8, original: Ends, reply: Ends) -> Self {
        Self {
            protocol,
            original,
            reply,
            key: Vec::new(),
        }
    }
}

/// The entries of both families that are translated in this way and have ports. Those in a zone of their own are
/// somebody else's and not among them.
///
/// # Errors
/// Where the kernel lacks CONFIG_NF_CT_NETLINK, or does not allow it; `EINTR` where the table changed so often that no
/// whole list was to be had.
pub fn entries(translated: Translated) -> io::Result<Vec<Entry>> {
    whole_list(Some(match translated {
        Translated::Destination => Status::DstNat,
        Translated::Source => Status::SrcNat,
    }))
}

/// As [`entries`], those that netfilter does not translate too: IPVS translates on its own.
///
/// # Errors
/// As there.
pub fn all_entries() -> io::Result<Vec<Entry>> {
    whole_list(None)
}

/// Deletes an entry: the next packet is treated as the first one of a connection. One that is gone already counts as
/// deleted.
///
/// # Errors
/// Where the kernel does not allow it.
pub fn delete(entry: &Entry) -> io::Result<()> {
    let of = family(Family::of(entry.original.source.ip()));
    exchange(of, ConntrackMessage::Delete(entry.key.clone())).map(drop)
}

fn whole_list(wanted: Option<Status>) -> io::Result<Vec<Entry>> {
    for _ in 0..TRIES {
        if let Some(entries) = list(wanted)? {
            return Ok(entries);
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// `None` where the table changed under the list.
fn list(wanted: Option<Status>) -> io::Result<Option<Vec<Entry>>> {
    // Kernels before 5.15 do not know this filter and give all entries.
    let filter = wanted.map(ConntrackAttribute::CtaStatus);
    let message = ConntrackMessage::Get(filter.into_iter().collect());
    let wanted = wanted.unwrap_or(Status::empty());
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    let socket = open()?;
    socket.send(&bytes(flags, NetfilterProtoFamily::Unspec, 0, message), 0)?;
    let mut entries = Vec::new();
    let mut whole = true;
    receive(&socket, usize::MAX, |header, message| {
        whole &= header.flags & NLM_F_DUMP_INTR == 0;
        entries.extend(entry(message, wanted));
    })?;
    Ok(whole.then_some(entries))
}

fn entry(message: NetfilterMessage, wanted: Status) -> Option<Entry> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner else {
        return None;
    };
    let mut original = None;
    let mut reply = None;
    let mut status = Status::empty();
    let mut key = Vec::new();
    for attribute in attributes {
        match &attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => {
                original = ends(tuple);
                key.push(attribute);
            }
            ConntrackAttribute::CtaTupleReply(tuple) => reply = ends(tuple),
            ConntrackAttribute::CtaStatus(bits) => status = *bits,
            ConntrackAttribute::Other(other) if other.kind() == CTA_ZONE => return None,
            ConntrackAttribute::Other(other) if other.kind() == CTA_ID => {
                let mut id = [0; 4];
                if other.value_len() == id.len() {
                    other.emit_value(&mut id);
                    let id = DefaultNla::new(CTA_ID, id.to_vec());
                    key.push(ConntrackAttribute::Other(id));
                }
            }
            _ => {}
        }
    }
    let (protocol, original) = original?;
    let (_, reply) = reply?;
    status.contains(wanted).then_some(Entry {
        protocol,
        original,
        reply,
        key,
    })
}

fn ends(tuple: &[Tuple]) -> Option<(u8, Ends)> {
    let (mut from, mut to): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut protocol, mut source_port, mut port) = (None, None, None);
    for part in tuple {
        match part {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(address) => from = Some(*address),
                        IPTuple::DestinationAddress(address) => to = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                        ProtoTuple::SourcePort(number) => source_port = Some(*number),
                        ProtoTuple::DestinationPort(number) => port = Some(*number),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let ends = Ends {
        source: SocketAddr::new(from?, source_port?),
        destination: SocketAddr::new(to?, port?),
    };
    Some((protocol?, ends))
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::{NetfilterHeader, conntrack::Protocol};

    use super::*;

    fn tuple(source: &str, destination: &str) -> Vec<Tuple> {
        let [source, destination]: [SocketAddr; 2] =
            [source, destination].map(|end| end.parse().unwrap());
        vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(source.ip()),
                IPTuple::DestinationAddress(destination.ip()),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(Protocol::Udp),
                ProtoTuple::SourcePort(source.port()),
                ProtoTuple::DestinationPort(destination.port()),
            ]),
        ]
    }

    fn message(attributes: Vec<ConntrackAttribute>) -> NetfilterMessage {
        NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
            ConntrackMessage::New(attributes),
        )
    }

    fn attributes(status: Status) -> Vec<ConntrackAttribute> {
        vec![
            ConntrackAttribute::CtaTupleOrig(tuple("10.0.0.1:5000", "10.96.0.1:53")),
            ConntrackAttribute::CtaTupleReply(tuple("10.0.0.2:5353", "10.0.0.1:5000")),
            ConntrackAttribute::CtaStatus(status),
        ]
    }

    #[test]
    fn an_entry_is_read_with_both_its_directions() {
        let found = entry(message(attributes(Status::DstNat)), Status::DstNat).unwrap();
        assert_eq!(found.protocol, 17);
        assert_eq!(found.original.destination.to_string(), "10.96.0.1:53");
        assert_eq!(found.reply.source.to_string(), "10.0.0.2:5353");
        assert_eq!(found.key.len(), 1);
    }

    #[test]
    fn entries_that_are_not_translated_and_those_of_zones_are_left_out() {
        let untranslated = message(attributes(Status::SrcNat));
        assert!(entry(untranslated, Status::DstNat).is_none());
        let mut of_a_zone = attributes(Status::DstNat);
        let zone = DefaultNla::new(CTA_ZONE, vec![0, 7]);
        of_a_zone.push(ConntrackAttribute::Other(zone));
        assert!(entry(message(of_a_zone), Status::DstNat).is_none());
    }
}
