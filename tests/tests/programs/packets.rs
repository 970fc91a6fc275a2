//! Packets, built by etherparse: what goes in, and independently what must come out.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options,
    Ipv6FragmentHeader, Ipv6Header, TcpHeader, UdpHeader,
};
use pcap_file::pcap::{PcapPacket, PcapWriter};

use crate::machine::{Action, Done};
use signpost_common::Cause;

/// Ethernet addresses: the pod's end of its interface or a machine on the wire, and the host's, which is that of the
/// interface that the kernel's test runs have their packets at.
const POD: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST: [u8; 6] = [0; 6];

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(crate) fn number(self) -> IpNumber {
        match self {
            Self::Tcp => IpNumber::TCP,
            Self::Udp => IpNumber::UDP,
            Self::Sctp => IpNumber::SCTP,
        }
    }
}

/// Where the addresses of a test come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// A pod of this node.
    pub(crate) fn pod(self, number: u8) -> IpAddr {
        self.address([10, 1, 0, number], [0xfd01, 0])
    }

    /// A pod of another node.
    pub(crate) fn far_pod(self, number: u8) -> IpAddr {
        self.address([10, 1, 9, number], [0xfd01, 9])
    }

    /// A Service's address.
    pub(crate) fn service(self, number: u8) -> IpAddr {
        self.address([10, 96, 0, number], [0xfd96, 0])
    }

    /// An address of this node.
    pub(crate) fn node(self, number: u8) -> IpAddr {
        self.address([192, 168, 50, number], [0xfd50, 0])
    }

    /// A machine outside the cluster.
    pub(crate) fn outside(self, number: u8) -> IpAddr {
        self.address([198, 51, 100, number], [0x2001, 0xdb9])
    }

    /// No address.
    pub(crate) fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// A router between two nodes.
    pub(crate) fn router(self) -> IpAddr {
        self.address([192, 0, 2, 1], [0x2001, 0xdb8])
    }

    fn address(self, v4: [u8; 4], v6: [u16; 2]) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(v4).into(),
            Self::V6 => Ipv6Addr::new(v6[0], v6[1], 0, 0, 0, 0, 0, u16::from(v4[3])).into(),
        }
    }
}

/// What stands in an IP header. Lengths, versions and checksums follow from it.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: IpNumber,
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
    /// DSCP and ECN of IPv4.
    pub(crate) service: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) identification: u32,
    /// Offset in bytes, and whether more follow. In IPv6 there is a fragment header then.
    pub(crate) fragment: Option<(u16, bool)>,
    /// IP options; not in IPv6.
    pub(crate) options: [u8; 4],
}

impl Ip {
    pub(crate) fn new(from: IpAddr, to: IpAddr, protocol: IpNumber) -> Self {
        Self {
            from,
            to,
            protocol,
            ttl: 63,
            service: 0,
            dont_fragment: false,
            identification: 0x1234,
            fragment: None,
            options: [0; 4],
        }
    }

    /// Header and payload.
    pub(crate) fn around(&self, payload: &[u8]) -> Vec<u8> {
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.v4(from, to, payload),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.v6(from, to, payload),
            mixed => panic!("two families in one packet: {mixed:?}"),
        }
    }

    fn v4(&self, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        let (offset, more) = self.fragment.unwrap_or_default();
        let mut header = Ipv4Header {
            dscp: (self.service >> 2).try_into().unwrap(),
            identification: self.identification as u16,
            dont_fragment: self.dont_fragment,
            more_fragments: more,
            fragment_offset: IpFragOffset::try_new(offset / 8).unwrap(),
            ..Ipv4Header::new(
                payload.len() as u16,
                self.ttl,
                self.protocol,
                from.octets(),
                to.octets(),
            )
            .unwrap()
        };
        if self.options != [0; 4] {
            header.options = Ipv4Options::from(self.options);
            header.set_payload_len(payload.len()).unwrap();
        }
        header.header_checksum = header.calc_header_checksum();
        [&header.to_bytes(), payload].concat()
    }

    fn v6(&self, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
        let fragment = self.fragment.map(|(offset, more)| {
            Ipv6FragmentHeader::new(
                self.protocol,
                IpFragOffset::try_new(offset / 8).unwrap(),
                more,
                self.identification,
            )
            .to_bytes()
        });
        let fragment = fragment.as_ref().map_or(&[][..], |bytes| &bytes[..]);
        let header = Ipv6Header {
            payload_length: (fragment.len() + payload.len()) as u16,
            next_header: if fragment.is_empty() {
                self.protocol
            } else {
                IpNumber::IPV6_FRAGMENTATION_HEADER
            },
            hop_limit: self.ttl,
            source: from.octets(),
            destination: to.octets(),
            ..Ipv6Header::default()
        };
        [&header.to_bytes()[..], fragment, payload].concat()
    }
}

/// A packet of TCP or UDP.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
    flags: &'static str,
    payload: Vec<u8>,
    checksum: Option<u16>,
}

/// A packet of UDP, or a SYN.
pub(crate) fn first(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Segment {
    Segment {
        protocol,
        from,
        to,
        flags: "S",
        payload: match protocol {
            Protocol::Tcp => vec![],
            Protocol::Udp => b"hello".to_vec(),
            Protocol::Sctp => sctp_chunk(1),
        },
        checksum: None,
    }
}

/// A packet of UDP, or a segment with data and ACK.
pub(crate) fn later(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Segment {
    Segment {
        flags: "A",
        payload: b"odd".to_vec(),
        ..first(protocol, from, to)
    }
}

impl Segment {
    /// Who sends it.
    pub(crate) fn source(&self) -> SocketAddr {
        self.from
    }

    /// Who gets it.
    pub(crate) fn destination(&self) -> SocketAddr {
        self.to
    }

    /// The same from another socket.
    pub(crate) fn from(&self, from: SocketAddr) -> Self {
        Self {
            from,
            ..self.clone()
        }
    }

    /// The same to another socket.
    pub(crate) fn to(&self, to: SocketAddr) -> Self {
        Self { to, ..self.clone() }
    }

    /// With these TCP flags: any of `S`, `A`, `F`, `R`.
    pub(crate) fn flags(&self, flags: &'static str) -> Self {
        Self {
            flags,
            ..self.clone()
        }
    }

    /// With this payload.
    pub(crate) fn payload(&self, payload: &[u8]) -> Self {
        Self {
            payload: payload.to_vec(),
            ..self.clone()
        }
    }

    /// With this checksum, right or wrong.
    pub(crate) fn checksum(&self, checksum: u16) -> Self {
        Self {
            checksum: Some(checksum),
            ..self.clone()
        }
    }

    /// With the checksum of another one.
    pub(crate) fn checksum_of(&self, other: &Self) -> Self {
        let at = match self.protocol {
            Protocol::Tcp => 16,
            Protocol::Udp => 6,
            Protocol::Sctp => panic!("it has no checksum of this kind"),
        };
        let bytes = other.transport();
        self.checksum(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
    }

    /// The IP header without a payload.
    pub(crate) fn ip_header(&self) -> Ip {
        Ip::new(self.from.ip(), self.to.ip(), self.protocol.number())
    }

    /// From the IP header on.
    pub(crate) fn ip(&self) -> Vec<u8> {
        self.ip_header().around(&self.transport())
    }

    /// The whole packet as the pod sends or gets it: the Ethernet addresses tell nothing apart but [`sent_back`].
    pub(crate) fn frame(&self) -> Vec<u8> {
        frame(&self.ip())
    }

    /// Header and payload of the transport.
    pub(crate) fn transport(&self) -> Vec<u8> {
        let (from, to) = (self.from, self.to);
        match self.protocol {
            Protocol::Sctp => {
                let mut bytes = Vec::new();
                bytes.extend(from.port().to_be_bytes());
                bytes.extend(to.port().to_be_bytes());
                bytes.extend([0, 0, 0, 0]);
                // CRC32c over ports, tag and chunks: the same whatever the addresses are.
                let checksum = crc32c(&[&bytes[..], &[0; 4], &self.payload].concat());
                bytes.extend(checksum.to_le_bytes());
                [bytes, self.payload.clone()].concat()
            }
            Protocol::Udp => {
                let (source, target) = (from.port(), to.port());
                let mut header = match (from.ip(), to.ip()) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => UdpHeader::with_ipv4_checksum(
                        source,
                        target,
                        &Ipv4Header::new(0, 0, IpNumber::UDP, a.octets(), b.octets()).unwrap(),
                        &self.payload,
                    ),
                    (IpAddr::V6(a), IpAddr::V6(b)) => UdpHeader::with_ipv6_checksum(
                        source,
                        target,
                        &Ipv6Header {
                            source: a.octets(),
                            destination: b.octets(),
                            ..Ipv6Header::default()
                        },
                        &self.payload,
                    ),
                    mixed => panic!("two families in one packet: {mixed:?}"),
                }
                .unwrap();
                header.checksum = self.checksum.unwrap_or(header.checksum);
                [&header.to_bytes(), &self.payload[..]].concat()
            }
            Protocol::Tcp => {
                let mut header = TcpHeader::new(from.port(), to.port(), 0x0102_0304, 0x7f00);
                header.syn = self.flags.contains('S');
                header.ack = self.flags.contains('A');
                header.fin = self.flags.contains('F');
                header.rst = self.flags.contains('R');
                if header.ack {
                    header.acknowledgment_number = 0x0506_0708;
                }
                let checksum = match (from.ip(), to.ip()) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => {
                        header.calc_checksum_ipv4_raw(a.octets(), b.octets(), &self.payload)
                    }
                    (IpAddr::V6(a), IpAddr::V6(b)) => {
                        header.calc_checksum_ipv6_raw(a.octets(), b.octets(), &self.payload)
                    }
                    mixed => panic!("two families in one packet: {mixed:?}"),
                };
                header.checksum = self.checksum.unwrap_or(checksum.unwrap());
                [&header.to_bytes(), &self.payload[..]].concat()
            }
        }
    }

    /// The fragments of the packet, cut at these offsets of the transport's bytes (multiples of eight).
    pub(crate) fn fragments(&self, cuts: &[usize]) -> Vec<Vec<u8>> {
        let bytes = self.transport();
        let mut starts = vec![0];
        starts.extend(cuts);
        starts
            .iter()
            .enumerate()
            .map(|(n, &start)| {
                let end = starts.get(n + 1).copied().unwrap_or(bytes.len());
                let header = Ip {
                    fragment: Some((start as u16, end != bytes.len())),
                    ..self.ip_header()
                };
                frame(&header.around(&bytes[start..end]))
            })
            .collect()
    }
}

/// A chunk of SCTP: its type, its length, and something in it.
pub(crate) fn sctp_chunk(kind: u8) -> Vec<u8> {
    let mut chunk = vec![kind, 0, 0, 20];
    chunk.extend([7; 16]);
    chunk
}

/// The checksum of RFC 9260 appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 * low);
        }
    }
    !crc
}

/// A packet as the pod sends it.
pub(crate) fn frame(ip: &[u8]) -> Vec<u8> {
    let ether_type = if ip[0] >> 4 == 4 {
        EtherType::IPV4
    } else {
        EtherType::IPV6
    };
    let header = Ethernet2Header {
        source: POD,
        destination: HOST,
        ether_type,
    };
    [&header.to_bytes(), ip].concat()
}

/// The same packet with its Ethernet addresses exchanged: sent back to the pod.
pub(crate) fn sent_back(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&POD);
    frame[6..12].copy_from_slice(&HOST);
    frame
}

impl Done {
    /// The packet goes on, as this one, with these causes counted.
    #[track_caller]
    pub(crate) fn continues_as(&self, expected: &[u8], causes: &[Cause]) {
        self.is(Action::Continue, expected, causes);
    }

    /// The packet goes back to the pod, as this one.
    #[track_caller]
    pub(crate) fn goes_back_as(&self, expected: &[u8], causes: &[Cause]) {
        self.is(Action::SendBack, expected, causes);
    }

    #[track_caller]
    pub(crate) fn is(&self, action: Action, expected: &[u8], causes: &[Cause]) {
        if self.packet != expected {
            let path = dump(&[&self.packet, expected]);
            panic!(
                "another packet than expected ({action:?} {causes:?}; was {:?} {:?}): the packet and the expected one \
                 are in {}\n {:02x?}\n {:02x?}",
                self.action,
                self.causes,
                path.display(),
                self.packet,
                expected
            );
        }
        let mut causes = causes.to_vec();
        causes.sort();
        assert_eq!(
            (self.action, &self.causes),
            (action, &causes),
            "what became of the packet, and what was counted"
        );
    }
}

/// Writes packets to a file that Wireshark reads.
pub(crate) fn dump(packets: &[&[u8]]) -> PathBuf {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("packets").replace("::", "-");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.pcap"));
    let mut writer = PcapWriter::new(File::create(&path).expect("a file in the target folder"))
        .expect("a pcap header is written");
    for packet in packets {
        writer
            .write_packet(&PcapPacket::new(
                Duration::ZERO,
                packet.len() as u32,
                packet,
            ))
            .expect("a packet is written");
    }
    path
}
