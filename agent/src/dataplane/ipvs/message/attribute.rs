//! The attributes of IPVS's messages: numbers of the host's byte order, but for addresses and ports.

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLA_F_NESTED, Nla, NlaBuffer, NlasIterator,
    Parseable as _, parse_u16, parse_u16_be, parse_u32,
};

use super::{Command, TrafficAttribute};

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Attribute {
    /// A virtual server, whole or as far as it names one.
    Service(Vec<ServiceAttribute>),
    /// A destination, whole or as far as it names one.
    Destination(Vec<DestinationAttribute>),
    /// After so many seconds an idle TCP connection is forgotten.
    TimeoutTcp(u32),
    /// After so many seconds a TCP connection that ends is forgotten.
    TimeoutTcpFin(u32),
    /// After so many seconds an idle UDP flow is forgotten.
    TimeoutUdp(u32),
    /// Version of the kernel's part: major, minor and patch, a byte each.
    Version(u32),
    /// Any other.
    Other(DefaultNla),
}

/// What is said of a virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum ServiceAttribute {
    /// `AF_INET` or `AF_INET6`.
    Family(u16),
    /// Number of the protocol.
    Protocol(u16),
    /// The address, IPv4 in the first four bytes.
    Address([u8; 16]),
    /// The port.
    Port(u16),
    /// Name of the scheduler.
    Scheduler(String),
    /// Flags, and which of them count.
    Flags(u32, u32),
    /// Seconds for which clients stay with their destination.
    Timeout(u32),
    /// Which clients stay together: as the mask's bytes are in memory (IPv4), or the length of the prefix.
    Netmask(u32),
    /// What it has counted.
    Traffic(Vec<TrafficAttribute>),
    /// Any other.
    Other(DefaultNla),
}

/// What is said of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum DestinationAttribute {
    /// The address, IPv4 in the first four bytes.
    Address([u8; 16]),
    /// The port.
    Port(u16),
    /// How packets get there; 0 is by translation.
    Forwarding(u32),
    /// The weight.
    Weight(u32),
    /// Connections above which nothing new is sent there; 0 for no limit.
    UpperThreshold(u32),
    /// Connections below which that ends.
    LowerThreshold(u32),
    /// Connections that are established.
    ActiveConnections(u32),
    /// Connections that are not established any more, or not yet.
    InactiveConnections(u32),
    /// `AF_INET` or `AF_INET6`; kernels before 3.18 know none.
    Family(u16),
    /// Any other.
    Other(DefaultNla),
}

impl Attribute {
    pub(super) fn parse_all(command: Command, bytes: &[u8]) -> Result<Vec<Self>, DecodeError> {
        let parse = |nla: Buffer<'_>| {
            let value = nla.value();
            // Their numbers are those of other attributes.
            if command == Command::SetInfo {
                return Ok(match nla.kind() {
                    1 => Self::Version(parse_u32(value)?),
                    _ => Self::Other(DefaultNla::parse(&nla)?),
                });
            }
            Ok(match nla.kind() {
                1 => Self::Service(each(value, ServiceAttribute::parse)?),
                2 => Self::Destination(each(value, DestinationAttribute::parse)?),
                4 => Self::TimeoutTcp(parse_u32(value)?),
                5 => Self::TimeoutTcpFin(parse_u32(value)?),
                6 => Self::TimeoutUdp(parse_u32(value)?),
                _ => Self::Other(DefaultNla::parse(&nla)?),
            })
        };
        each(bytes, parse)
    }
}

type Buffer<'a> = NlaBuffer<&'a [u8]>;

fn each<T>(
    bytes: &[u8],
    parse: impl Fn(Buffer<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    NlasIterator::new(bytes).map(|nla| parse(nla?)).collect()
}

fn address(value: &[u8]) -> Result<[u8; 16], DecodeError> {
    value
        .try_into()
        .map_err(|_| DecodeError::from("an address that has not 16 bytes"))
}

impl ServiceAttribute {
    fn parse(nla: Buffer<'_>) -> Result<Self, DecodeError> {
        let value = nla.value();
        Ok(match nla.kind() {
            1 => Self::Family(parse_u16(value)?),
            2 => Self::Protocol(parse_u16(value)?),
            3 => Self::Address(address(value)?),
            4 => Self::Port(parse_u16_be(value)?),
            6 => Self::Scheduler(netlink_packet_core::parse_string(value)?),
            7 if value.len() == 8 => Self::Flags(parse_u32(&value[..4])?, parse_u32(&value[4..])?),
            8 => Self::Timeout(parse_u32(value)?),
            9 => Self::Netmask(parse_u32(value)?),
            12 => Self::Traffic(each(value, TrafficAttribute::parse)?),
            _ => Self::Other(DefaultNla::parse(&nla)?),
        })
    }
}

impl DestinationAttribute {
    fn parse(nla: Buffer<'_>) -> Result<Self, DecodeError> {
        let value = nla.value();
        Ok(match nla.kind() {
            1 => Self::Address(address(value)?),
            2 => Self::Port(parse_u16_be(value)?),
            3 => Self::Forwarding(parse_u32(value)?),
            4 => Self::Weight(parse_u32(value)?),
            5 => Self::UpperThreshold(parse_u32(value)?),
            6 => Self::LowerThreshold(parse_u32(value)?),
            7 => Self::ActiveConnections(parse_u32(value)?),
            8 => Self::InactiveConnections(parse_u32(value)?),
            11 => Self::Family(parse_u16(value)?),
            _ => Self::Other(DefaultNla::parse(&nla)?),
        })
    }
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Service(parts) => parts.as_slice().buffer_len(),
            Self::Destination(parts) => parts.as_slice().buffer_len(),
            Self::TimeoutTcp(_)
            | Self::TimeoutTcpFin(_)
            | Self::TimeoutUdp(_)
            | Self::Version(_) => 4,
            Self::Other(other) => other.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Service(_) => 1 | NLA_F_NESTED,
            Self::Destination(_) => 2 | NLA_F_NESTED,
            Self::TimeoutTcp(_) => 4,
            Self::TimeoutTcpFin(_) => 5,
            Self::TimeoutUdp(_) => 6,
            Self::Version(_) => 1,
            Self::Other(other) => other.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Service(parts) => parts.as_slice().emit(buffer),
            Self::Destination(parts) => parts.as_slice().emit(buffer),
            Self::TimeoutTcp(value)
            | Self::TimeoutTcpFin(value)
            | Self::TimeoutUdp(value)
            | Self::Version(value) => buffer[..4].copy_from_slice(&value.to_ne_bytes()),
            Self::Other(other) => other.emit_value(buffer),
        }
    }
}

impl Nla for ServiceAttribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Family(_) | Self::Protocol(_) | Self::Port(_) => 2,
            Self::Address(_) => 16,
            Self::Timeout(_) | Self::Netmask(_) => 4,
            Self::Scheduler(name) => name.len() + 1,
            Self::Flags(..) => 8,
            Self::Traffic(parts) => parts.as_slice().buffer_len(),
            Self::Other(other) => other.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Family(_) => 1,
            Self::Protocol(_) => 2,
            Self::Address(_) => 3,
            Self::Port(_) => 4,
            Self::Scheduler(_) => 6,
            Self::Flags(..) => 7,
            Self::Timeout(_) => 8,
            Self::Netmask(_) => 9,
            Self::Traffic(_) => 12,
            Self::Other(other) => other.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Family(value) | Self::Protocol(value) => {
                buffer[..2].copy_from_slice(&value.to_ne_bytes());
            }
            Self::Address(bytes) => buffer[..16].copy_from_slice(bytes),
            Self::Port(port) => buffer[..2].copy_from_slice(&port.to_be_bytes()),
            Self::Timeout(value) | Self::Netmask(value) => {
                buffer[..4].copy_from_slice(&value.to_ne_bytes());
            }
            Self::Scheduler(name) => {
                buffer[..name.len()].copy_from_slice(name.as_bytes());
                buffer[name.len()] = 0;
            }
            Self::Flags(flags, mask) => {
                buffer[..4].copy_from_slice(&flags.to_ne_bytes());
                buffer[4..8].copy_from_slice(&mask.to_ne_bytes());
            }
            Self::Traffic(parts) => parts.as_slice().emit(buffer),
            Self::Other(other) => other.emit_value(buffer),
        }
    }
}

impl Nla for DestinationAttribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Address(_) => 16,
            Self::Port(_) | Self::Family(_) => 2,
            Self::Other(other) => other.value_len(),
            _ => 4,
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Address(_) => 1,
            Self::Port(_) => 2,
            Self::Forwarding(_) => 3,
            Self::Weight(_) => 4,
            Self::UpperThreshold(_) => 5,
            Self::LowerThreshold(_) => 6,
            Self::ActiveConnections(_) => 7,
            Self::InactiveConnections(_) => 8,
            Self::Family(_) => 11,
            Self::Other(other) => other.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Address(bytes) => buffer[..16].copy_from_slice(bytes),
            Self::Port(port) => buffer[..2].copy_from_slice(&port.to_be_bytes()),
            Self::Family(family) => buffer[..2].copy_from_slice(&family.to_ne_bytes()),
            Self::Forwarding(value)
            | Self::Weight(value)
            | Self::UpperThreshold(value)
            | Self::LowerThreshold(value)
            | Self::ActiveConnections(value)
            | Self::InactiveConnections(value) => {
                buffer[..4].copy_from_slice(&value.to_ne_bytes());
            }
            Self::Other(other) => other.emit_value(buffer),
        }
    }
}
