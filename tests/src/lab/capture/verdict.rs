//! Whether a packet's checksums are right. They are summed here from the bytes, independently of who built the packet.

use etherparse::{
    IpNumber, IpSlice, Ipv4HeaderSlice, NetSlice, SlicedPacket, checksum::Sum16BitWords,
    defrag::IpDefragPool,
};

use super::Seen;

/// Where fragments belong together: place, interface, direction.
type Channel = (String, i32, bool);

/// Judges packets; keeps fragments until they are complete.
#[derive(Debug)]
pub struct Judge(IpDefragPool<(), Channel>);

impl Default for Judge {
    fn default() -> Self {
        Self(IpDefragPool::new())
    }
}

impl Judge {
    /// Judges a packet. What is not IP is right.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn judge(&mut self, seen: &Seen) -> Result<(), String> {
        let packet = SlicedPacket::from_ethernet(&seen.frame).map_err(|e| e.to_string())?;
        let ip = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => IpSlice::Ipv4(ip.clone()),
            Some(NetSlice::Ipv6(ip)) => IpSlice::Ipv6(ip.clone()),
            _ => return Ok(()),
        };
        if let Some(v4) = ip.ipv4() {
            header(&v4.header())?;
        }
        if !ip.is_fragmenting_payload() {
            return payload(&ip, ip.payload_ip_number(), ip.payload().payload);
        }
        let channel = (seen.place.clone(), seen.interface, seen.outgoing);
        let whole = self.0.process_sliced_packet(&packet, (), channel);
        match whole.map_err(|e| e.to_string())? {
            Some(whole) => payload(&ip, whole.ip_number, &whole.payload),
            None => Ok(()),
        }
    }
}

fn header(header: &Ipv4HeaderSlice<'_>) -> Result<(), String> {
    right(Sum16BitWords::new().add_slice(header.slice()))
        .ok_or_else(|| "wrong IPv4 header checksum".to_owned())
}

fn payload(ip: &IpSlice<'_>, protocol: IpNumber, bytes: &[u8]) -> Result<(), String> {
    let mut sum = Sum16BitWords::new().add_slice(bytes);
    let v4 = ip.ipv4().map(|v4| v4.header());
    match (protocol, &v4) {
        // No checksum.
        (IpNumber::UDP, Some(_)) if bytes.get(6..8) == Some(&[0, 0]) => return Ok(()),
        (IpNumber::ICMP, Some(_)) => {
            if is_error(bytes)
                && let Some(Ok(inner)) = bytes.get(8..).map(Ipv4HeaderSlice::from_slice)
            {
                header(&inner).map_err(|e| format!("{e} inside an ICMP error"))?;
            }
        }
        (IpNumber::TCP | IpNumber::UDP | IpNumber::IPV6_ICMP, _) => {
            sum = match ip {
                IpSlice::Ipv4(v4) => sum
                    .add_4bytes(v4.header().source())
                    .add_4bytes(v4.header().destination()),
                IpSlice::Ipv6(v6) => sum
                    .add_16bytes(v6.header().source())
                    .add_16bytes(v6.header().destination()),
            };
            let length = u32::try_from(bytes.len()).map_err(|e| e.to_string())?;
            sum = sum
                .add_4bytes(length.to_be_bytes())
                .add_2bytes([0, protocol.0]);
        }
        _ => return Ok(()),
    }
    right(sum).ok_or_else(|| {
        let (from, to) = (ip.source_addr(), ip.destination_addr());
        format!(
            "wrong checksum of protocol {} from {from} to {to}",
            protocol.0
        )
    })
}

/// ICMP's destination unreachable, redirect, time exceeded, parameter problem: they quote a packet.
fn is_error(icmp: &[u8]) -> bool {
    matches!(icmp.first(), Some(3 | 5 | 11 | 12))
}

/// A sum that includes a right checksum is all ones.
fn right(sum: Sum16BitWords) -> Option<()> {
    (sum.ones_complement() == 0).then_some(())
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn seen(frame: Vec<u8>) -> Seen {
        Seen {
            place: "here".to_owned(),
            interface: 1,
            outgoing: false,
            frame,
        }
    }

    fn frames() -> Vec<Vec<u8>> {
        let ethernet = || PacketBuilder::ethernet2([1; 6], [2; 6]);
        let v4 = || ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let v6 = || ethernet().ipv6([1; 16], [2; 16], 64);
        let mut frames = vec![Vec::new(); 5];
        v4().udp(1, 2).write(&mut frames[0], b"odd").unwrap();
        v6().udp(1, 2).write(&mut frames[1], b"even").unwrap();
        v4().tcp(1, 2, 3, 4).write(&mut frames[2], b"x").unwrap();
        v4().icmpv4_echo_request(1, 2)
            .write(&mut frames[3], b"x")
            .unwrap();
        v6().icmpv6_echo_request(1, 2)
            .write(&mut frames[4], b"x")
            .unwrap();
        frames
    }

    #[test]
    fn what_etherparse_builds_is_right_and_any_other_bit_is_wrong() {
        for frame in frames() {
            assert_eq!(Judge::default().judge(&seen(frame.clone())), Ok(()));
            let mut broken = frame;
            *broken.last_mut().unwrap() ^= 1;
            let fault = Judge::default().judge(&seen(broken)).unwrap_err();
            assert!(fault.starts_with("wrong checksum"), "{fault}");
        }
    }

    #[test]
    fn a_wrong_ipv4_header_is_noticed() {
        let mut frame = frames().remove(0);
        frame[14 + 8] = 63;
        let fault = Judge::default().judge(&seen(frame)).unwrap_err();
        assert_eq!(fault, "wrong IPv4 header checksum");
    }
}
