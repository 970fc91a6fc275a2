//! ICMP messages, built by etherparse.

use std::net::IpAddr;

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, icmpv4, icmpv6,
};

use crate::packets::Ip;

/// An ICMP message of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    PortUnreachable,
    /// Fragmentation needed, or packet too big.
    TooBig,
    TimeExceeded,
    ParameterProblem,
    /// Not an error.
    Echo,
}

impl Message {
    /// Every error.
    pub(crate) const ERRORS: [Self; 4] = [
        Self::PortUnreachable,
        Self::TooBig,
        Self::TimeExceeded,
        Self::ParameterProblem,
    ];

    /// From the IP header on: the message from one address to another, with what it quotes.
    pub(crate) fn ip(self, from: IpAddr, to: IpAddr, quote: &[u8]) -> Vec<u8> {
        self.in_ip(
            &Ip::new(
                from,
                to,
                if from.is_ipv4() {
                    IpNumber::ICMP
                } else {
                    IpNumber::IPV6_ICMP
                },
            ),
            quote,
        )
    }

    /// The same in another IP header.
    pub(crate) fn in_ip(self, ip: &Ip, quote: &[u8]) -> Vec<u8> {
        let header = match (ip.from, ip.to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                Icmpv6Header::with_checksum(self.v6(), from.octets(), to.octets(), quote)
                    .unwrap()
                    .to_bytes()
                    .to_vec()
            }
            _ => Icmpv4Header::with_checksum(self.v4(), quote)
                .to_bytes()
                .to_vec(),
        };
        ip.around(&[&header, quote].concat())
    }

    fn v4(self) -> Icmpv4Type {
        use icmpv4::DestUnreachableHeader::{FragmentationNeeded, Port};
        match self {
            Self::PortUnreachable => Icmpv4Type::DestinationUnreachable(Port),
            Self::TooBig => {
                Icmpv4Type::DestinationUnreachable(FragmentationNeeded { next_hop_mtu: 1400 })
            }
            Self::TimeExceeded => {
                Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)
            }
            Self::ParameterProblem => Icmpv4Type::ParameterProblem(
                icmpv4::ParameterProblemHeader::PointerIndicatesError(8),
            ),
            Self::Echo => Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 2 }),
        }
    }

    fn v6(self) -> Icmpv6Type {
        match self {
            Self::PortUnreachable => {
                Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
            }
            Self::TooBig => Icmpv6Type::PacketTooBig { mtu: 1400 },
            Self::TimeExceeded => {
                Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded)
            }
            Self::ParameterProblem => {
                Icmpv6Type::ParameterProblem(icmpv6::ParameterProblemHeader {
                    code: icmpv6::ParameterProblemCode::ErroneousHeaderField,
                    pointer: 7,
                })
            }
            Self::Echo => Icmpv6Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 2 }),
        }
    }
}
