//! What a virtual server has counted, as 64-bit numbers (`IPVS_SVC_ATTR_STATS64`, Linux 4.1).

use netlink_packet_core::{DecodeError, DefaultNla, Nla, NlaBuffer, Parseable as _, parse_u64};

/// One of the counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum TrafficAttribute {
    /// Connections that were given to a destination.
    Connections(u64),
    /// Packets of clients.
    PacketsIn(u64),
    /// Packets to clients.
    PacketsOut(u64),
    /// Bytes of the former, from the IP header on.
    BytesIn(u64),
    /// Bytes of the latter.
    BytesOut(u64),
    /// Any other: rates.
    Other(DefaultNla),
}

impl TrafficAttribute {
    pub(super) fn parse(nla: NlaBuffer<&[u8]>) -> Result<Self, DecodeError> {
        let value = nla.value();
        Ok(match nla.kind() {
            1 => Self::Connections(parse_u64(value)?),
            2 => Self::PacketsIn(parse_u64(value)?),
            3 => Self::PacketsOut(parse_u64(value)?),
            4 => Self::BytesIn(parse_u64(value)?),
            5 => Self::BytesOut(parse_u64(value)?),
            _ => Self::Other(DefaultNla::parse(&nla)?),
        })
    }
}

impl Nla for TrafficAttribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Other(other) => other.value_len(),
            _ => 8,
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Connections(_) => 1,
            Self::PacketsIn(_) => 2,
            Self::PacketsOut(_) => 3,
            Self::BytesIn(_) => 4,
            Self::BytesOut(_) => 5,
            Self::Other(other) => other.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Connections(count)
            | Self::PacketsIn(count)
            | Self::PacketsOut(count)
            | Self::BytesIn(count)
            | Self::BytesOut(count) => buffer[..8].copy_from_slice(&count.to_ne_bytes()),
            Self::Other(other) => other.emit_value(buffer),
        }
    }
}
