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

/// Bytes of a transport header up to the end of its checksum.
const TCP_NEEDED: u32 = 18;
const UDP_NEEDED: u32 = 8;

/// What a transport header says to a flow.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    ports: Ports,
    /// The flags of [`FlowValue`] that this packet adds.
    pub(crate) adds: u32,
    /// The first packet of a TCP connection.
    pub(crate) opens: bool,
}

impl Segment {
    /// Reads the ports, and the flags of TCP. A header that ends before its checksum is too short: it could be read
    /// but not be written.
    ///
    /// # Errors
    /// [`Cause::TooShort`].
    #[inline(always)]
    pub fn read(packet: &impl Packet, headers: &Headers) -> Result<Self, Cause> {
        let tcp = headers.protocol == protocol::TCP;
        let needed = if tcp { TCP_NEEDED } else { UDP_NEEDED };
        if packet.length() < headers.transport + needed {
            return Err(Cause::TooShort);
        }
        let ports = packet.load(headers.transport)?;
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

    /// The destination port.
    #[inline(always)]
    pub const fn destination(&self) -> Port {
        self.ports.destination
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
