//! What a transport header says to a flow.

use signpost_common::{
    Cause, Port,
    flow::{FlowKey, FlowValue},
};

use crate::{
    headers::{Headers, protocol},
    packet::Packet,
    rewrite::Ports,
};

const TCP_FIN: u8 = 1;
const TCP_SYN: u8 = 2;
const TCP_RST: u8 = 4;
const TCP_ACK: u8 = 16;

/// Types of SCTP chunks (RFC 9260 §3.2).
const SCTP_INIT: u8 = 1;
const SCTP_INIT_ACK: u8 = 2;
const SCTP_ABORT: u8 = 6;
const SCTP_SHUTDOWN: u8 = 7;
const SCTP_SHUTDOWN_ACK: u8 = 8;
const SCTP_SHUTDOWN_COMPLETE: u8 = 14;

/// Bytes of a transport header up to the end of its checksum.
const TCP_NEEDED: u32 = 18;
const UDP_NEEDED: u32 = 8;
/// The same of SCTP, whose first chunk says what the packet is for.
const SCTP_NEEDED: u32 = 16;

/// What a transport header says to a flow.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    ports: Ports,
    /// The flags of [`FlowValue`] that this packet adds.
    pub(crate) adds: u32,
    /// The first packet of a TCP connection or SCTP association.
    pub(crate) opens: bool,
}

impl Segment {
    /// Reads the ports, and the flags of TCP or the first chunk of SCTP. A header that ends before its checksum is too short: it could be read
    /// but not be written.
    ///
    /// # Errors
    /// [`Cause::TooShort`].
    #[inline(always)]
    pub fn read(packet: &impl Packet, headers: &Headers) -> Result<Self, Cause> {
        let tcp = headers.protocol == protocol::TCP;
        let sctp = headers.protocol == protocol::SCTP;
        let needed = if tcp {
            TCP_NEEDED
        } else if sctp {
            SCTP_NEEDED
        } else {
            UDP_NEEDED
        };
        if packet.length() < headers.transport + needed {
            return Err(Cause::TooShort);
        }
        let ports = packet.load(headers.transport)?;
        if sctp {
            let chunk: u8 = packet.load(headers.transport + 12)?;
            return Ok(Self {
                ports,
                adds: sctp_adds(chunk),
                opens: chunk == SCTP_INIT,
            });
        }
        if !tcp {
            return Ok(Self {
                ports,
                adds: FlowValue::ESTABLISHED,
                opens: false,
            });
        }
        let flags: u8 = packet.load(headers.transport + 13)?;
        let opens = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
        let mut adds = 0;
        if flags & TCP_SYN == 0 {
            adds |= FlowValue::ESTABLISHED;
        }
        if flags & TCP_FIN != 0 {
            adds |= FlowValue::FIN;
        }
        if flags & TCP_RST != 0 {
            adds |= FlowValue::RESET;
        }
        Ok(Self { ports, adds, opens })
    }

    /// Whether this is the second packet of a TCP connection or SCTP association.
    #[inline(always)]
    pub(crate) const fn accepts(&self) -> bool {
        self.adds == 0 && !self.opens
    }

    /// The source port.
    #[inline(always)]
    pub const fn source(&self) -> Port {
        self.ports.source
    }

    /// The destination port.
    #[inline(always)]
    pub const fn destination(&self) -> Port {
        self.ports.destination
    }

    /// Writes the key of what answers this packet.
    #[inline(always)]
    pub(crate) fn write_answers_key(&self, headers: &Headers, direction: u8, key: &mut FlowKey) {
        let ports = Ports {
            source: self.ports.destination,
            destination: self.ports.source,
        };
        key.write(
            &headers.destination,
            &headers.source,
            bytemuck::cast(ports),
            headers.protocol,
            direction,
        );
    }

    /// Writes the key of this packet's flow.
    #[inline(always)]
    pub(crate) fn write_key(&self, headers: &Headers, direction: u8, key: &mut FlowKey) {
        key.write(
            &headers.source,
            &headers.destination,
            bytemuck::cast(self.ports),
            headers.protocol,
            direction,
        );
    }
}

/// Chunks that end an association come first in their packets: ABORT and SHUTDOWN COMPLETE are followed by none.
#[inline(always)]
const fn sctp_adds(chunk: u8) -> u32 {
    match chunk {
        SCTP_INIT | SCTP_INIT_ACK => 0,
        SCTP_ABORT | SCTP_SHUTDOWN_COMPLETE => FlowValue::ESTABLISHED | FlowValue::RESET,
        SCTP_SHUTDOWN | SCTP_SHUTDOWN_ACK => FlowValue::ESTABLISHED | FlowValue::FIN,
        _ => FlowValue::ESTABLISHED,
    }
}
