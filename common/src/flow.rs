//! Keys and values of the maps that remember what was done to a packet.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Address, Port, check::products};

/// Key of the `flows` map: a packet as it arrives at the program. Aligned so that it is written in long words: the
/// kernel compares it in long words, and a processor waits for shorter ones to arrive in memory first.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, NoUninit, AnyBitPattern)]
pub struct FlowKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: Port,
    /// Destination port.
    pub destination_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// [`FlowKey::FROM_POD`] or one of the constants beside it: which program's table this entry is in.
    pub direction: u8,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// All zero.
    pub const ZERO: Self = Self {
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        source_port: Port::new(0),
        destination_port: Port::new(0),
        protocol: 0,
        direction: 0,
        pad: 0,
    };
    /// The packet comes from a pod: client to Service, and the reply of a hairpin flow.
    pub const FROM_POD: u8 = 0;
    /// The packet goes to a pod: backend to client.
    pub const TO_POD: u8 = 1;
    /// The packet enters the node by an uplink or a tunnel.
    pub const FROM_WIRE: u8 = 2;
    /// The packet leaves the node by an uplink or a tunnel.
    pub const TO_WIRE: u8 = 3;
    /// What tells the two directions at one interface apart.
    pub const OTHER_WAY: u8 = 1;

    /// Writes a key. `ports` is the source and the destination port as they lie in memory.
    #[inline(always)]
    pub fn write(
        &mut self,
        source: &Address,
        destination: &Address,
        ports: u32,
        protocol: u8,
        direction: u8,
    ) {
        let [a, b, c, d] = source.words();
        let [e, f, g, h] = destination.words();
        let kind = u32::from_ne_bytes([protocol, direction, 0, 0]);
        let words = [[a, b], [c, d], [e, f], [g, h], [ports, kind]].map(bytemuck::cast::<_, u64>);
        *bytemuck::cast_mut::<Self, [u64; 5]>(self) = words;
    }

    /// A number that tells keys apart: [`FlowValue::check`], and what the backend of a new flow is chosen by, so that
    /// a forgotten flow finds its backend again as long as the set is the same.
    #[inline(always)]
    pub fn check(&self) -> u32 {
        let [a, b, c, d] = self.source.words();
        let [e, f, g, h] = self.destination.words();
        let ports = (self.source_port.wire() as u32) << 16 | self.destination_port.wire() as u32;
        let kind = (self.protocol as u32) << 8 | self.direction as u32;
        products(&[[a, b], [c, d], [e, f], [g, h], [ports, kind]])
    }
}

/// Value of the `flows` map: the addresses and ports that the packet gets instead.
///
/// A flow has two entries that find each other: the key of the other one is this value's addresses and ports, source
/// and destination exchanged.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct FlowValue {
    /// [`FlowKey::check`] of the entry's key: an element of an LRU map is reused under a reader, who reads this last
    /// and holds somebody else's value where it differs.
    pub check: u32,
    /// The service port that the flow belongs to, as in [`crate::service::FrontendValue::service`].
    pub service: u32,
    /// New source address.
    pub source: Address,
    /// New destination address.
    pub destination: Address,
    /// New source port.
    pub source_port: Port,
    /// New destination port.
    pub destination_port: Port,
    /// A sum of the constants of this type.
    pub flags: u32,
    /// What the new addresses add to a checksum over the packet: a ones'-complement sum of half-words as they lie in
    /// memory (RFC 1624). The same for every packet of the flow.
    pub addresses_sum: u16,
    /// What the new ports add, likewise.
    pub ports_sum: u16,
    /// With [`FlowValue::LET_PASS`] when such a datagram last left: seconds of `CLOCK_MONOTONIC`. Zero without.
    pub left_at: u32,
    /// When the entry was last used: nanoseconds of `CLOCK_MONOTONIC`. Written at most once a second.
    pub last_seen: u64,
}

const _: () = assert!(size_of::<FlowValue>() == 64);

impl FlowValue {
    /// All zero.
    pub const ZERO: Self = Self {
        check: 0,
        service: 0,
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        source_port: Port::new(0),
        destination_port: Port::new(0),
        flags: 0,
        addresses_sum: 0,
        ports_sum: 0,
        left_at: 0,
        last_seen: 0,
    };
    /// Client and backend are one pod: the packet goes back where it came from.
    pub const HAIRPIN: u32 = 1 << 0;
    /// The packet goes from the client to the backend; without it, the other way.
    pub const FORWARD: u32 = 1 << 1;
    /// The backend is a DNS pod of this node: the flow moves when the *dns alive* clock is stale.
    pub const LOCAL_DNS: u32 = 1 << 2;
    /// The packet gets the address of the interface that it leaves by as its source, and a port of ours
    /// (kube-proxy's masquerade). Source address and port are zero until the first packet leaves.
    pub const MASQUERADE: u32 = 1 << 3;
    /// Nothing is done to the packet, and no flow opened for it: it answers a datagram that left this node from a port
    /// at which a Service is served, no longer ago than [`FlowValue::LET_PASS_FOR`]. The entry has no other one.
    pub const LET_PASS: u32 = 1 << 4;
    /// The client is outside and the backend on another node, and the stack does not have to see the packets
    /// ([`crate::dns::Config::FAST_PATH`]).
    pub const THROUGH: u32 = 1 << 5;
    /// A FIN was seen in this entry's direction. This and the next two are added while other processors may do the same,
    /// so each has a byte of its own.
    pub const FIN: u32 = 1 << 8;
    /// A RST was seen in this entry's direction.
    pub const RESET: u32 = 1 << 16;
    /// A packet with data or a second packet was seen: the flow is more than one unanswered packet.
    pub const ESTABLISHED: u32 = 1 << 24;
    /// Seconds for which a datagram is answered, as nf_conntrack's `udp_timeout` has it.
    pub const LET_PASS_FOR: u32 = 30;

    /// Writes the key of the pair's other entry. `key` is this entry's own.
    #[inline(always)]
    pub fn write_opposite(&self, key: &FlowKey, to: &mut FlowKey) {
        to.source = self.destination;
        to.destination = self.source;
        to.source_port = self.destination_port;
        to.destination_port = self.source_port;
        to.protocol = key.protocol;
        // Both packets of a hairpin flow come from the pod.
        to.direction = if self.flags & Self::HAIRPIN != 0 {
            FlowKey::FROM_POD
        } else {
            key.direction ^ FlowKey::OTHER_WAY
        };
        to.pad = 0;
    }
}

/// Key of the `fragments` map: what the fragments of a packet have in common (RFC 791 §3.2, RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, NoUninit, AnyBitPattern)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification, in network byte order; 16 bits in IPv4.
    pub identification: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// As in [`FlowKey::direction`].
    pub direction: u8,
    /// [`FragmentKey::PACKET`] or [`FragmentKey::LAST`].
    pub kind: u16,
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

impl FragmentKey {
    /// The entry is of one packet.
    pub const PACKET: u16 = 0;
    /// The entry is of the last packet in fragments between these two; without identification.
    pub const LAST: u16 = 1;

    /// A number that tells keys apart: [`FragmentValue::check`].
    #[inline(always)]
    pub fn check(&self) -> u32 {
        let [a, b, c, d] = self.source.words();
        let [e, f, g, h] = self.destination.words();
        let kind = (self.kind as u32) << 16 | (self.protocol as u32) << 8 | self.direction as u32;
        products(&[[a, b], [c, d], [e, f], [g, h], [self.identification, kind]])
    }
}

/// Value of the `fragments` map: the addresses that the later fragments get, as the first one did.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct FragmentValue {
    /// New source address.
    pub source: Address,
    /// New destination address.
    pub destination: Address,
    /// When the first fragment came: nanoseconds of `CLOCK_MONOTONIC`.
    pub last_seen: u64,
    /// [`FlowValue::HAIRPIN`] where the flow has it, and [`FragmentValue::SEVERAL`].
    pub flags: u32,
    /// [`FragmentKey::check`] of the entry's key: an element of an LRU map is reused under a reader.
    pub check: u32,
}

const _: () = assert!(size_of::<FragmentValue>() == 48);

impl FragmentValue {
    /// Of [`FragmentKey::LAST`]: packets between these two went to several places lately, so that nobody can tell where
    /// the next one will go.
    pub const SEVERAL: u32 = 1 << 31;
    /// Nanoseconds for which the last packet says where the next one goes.
    pub const LAST_FOR: u64 = 30_000_000_000;
}
