//! An interface whose packets begin with the IP header. The kernel's test runs give every packet an Ethernet header, so
//! this is a TUN device: whoever holds it is the network beyond.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
};

use etherparse::{IpNumber, Ipv4Header, PacketBuilder, SlicedPacket, TransportSlice};
use signpost::{dataplane::Dataplane as _, interfaces::Place};
use signpost_tests::lab::links::{add_addresses, up};

use super::*;

const CLIENT: [u8; 4] = [192, 0, 2, 9];
const NODE: [u8; 4] = [192, 0, 2, 1];
const BACKEND: [u8; 4] = [192, 0, 2, 77];
const SERVICE: [u8; 4] = [10, 96, 0, 1];
const EMPTY: [u8; 4] = [10, 96, 0, 2];

/// A TUN device of the calling thread's network namespace.
fn tun(name: &str) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: all zeros are a request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is one of the device, and the request outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    file
}

/// An address and a port.
type At = ([u8; 4], u16);

/// A datagram from the IP header on.
fn datagram(from: At, to: At, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4(from.0, to.0, 64).udp(from.1, to.1);
    builder.write(&mut packet, payload).unwrap();
    packet
}

/// The next packet of IPv4 that comes out of the device.
fn next(tun: &mut File) -> Vec<u8> {
    let mut packet = vec![0; 2048];
    loop {
        let length = tun.read(&mut packet).unwrap();
        if packet[0] >> 4 == 4 {
            return packet[..length].to_vec();
        }
    }
}

/// Source, destination and payload of a datagram; its checksums are right.
fn read(packet: &[u8]) -> (At, At, Vec<u8>) {
    let (header, _) = Ipv4Header::from_slice(packet).unwrap();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(TransportSlice::Udp(udp)) = sliced.transport else {
        panic!("{packet:02x?}");
    };
    let expected = udp
        .to_header()
        .calc_checksum_ipv4_raw(header.source, header.destination, udp.payload())
        .unwrap();
    assert_eq!(udp.checksum(), expected);
    (
        (header.source, udp.source_port()),
        (header.destination, udp.destination_port()),
        udp.payload().to_vec(),
    )
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn packets_without_an_ethernet_header_are_translated_there_and_back() {
    let node = namespace();
    let mut beyond = node.run(|| tun("tun0")).unwrap();
    add_addresses(&node, "tun0", &[(NODE.into(), 24)]).unwrap();
    up(&node, "tun0").unwrap();
    node.sysctl("ipv4/ip_forward", "1").unwrap();
    // What goes out where it came in is on purpose here.
    for device in ["all", "tun0"] {
        let name = format!("ipv4/conf/{device}/send_redirects");
        node.sysctl(&name, "0").unwrap();
    }
    let instance = Instance::new();
    let _dataplane = node
        .run(|| {
            let mut dataplane = instance.open();
            let udp = |service| PortName {
                protocol: Protocol::Udp,
                ..port(service)
            };
            let served = plan(SERVICE.into(), [IpAddr::from(BACKEND)].into_iter());
            let mut empty = plan(EMPTY.into(), std::iter::empty());
            empty.any_endpoints = false;
            let update = Update {
                ports: BTreeMap::from([(udp("ent"), Some(served)), (udp("none"), Some(empty))]),
                ..Update::default()
            };
            dataplane.apply(&update).unwrap();
            dataplane
                .attach(index("tun0"), "tun0", Place::Bare)
                .unwrap();
            dataplane
        })
        .unwrap();

    let client = (CLIENT, 40_001);
    let question = datagram(client, (SERVICE, 80), b"who?");
    beyond.write_all(&question).unwrap();
    let there = next(&mut beyond);
    assert_eq!(
        read(&there),
        (client, (BACKEND, 8080), b"who?".to_vec()),
        "the backend is beyond the same device"
    );
    let answer = datagram((BACKEND, 8080), client, b"me");
    beyond.write_all(&answer).unwrap();
    assert_eq!(
        read(&next(&mut beyond)),
        ((SERVICE, 80), client, b"me".to_vec())
    );

    let question = datagram(client, (EMPTY, 80), b"who?");
    beyond.write_all(&question).unwrap();
    let refusal = next(&mut beyond);
    let (header, quote) = Ipv4Header::from_slice(&refusal).unwrap();
    assert_eq!(header.protocol, IpNumber::ICMP);
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(
        (
            Ipv4Addr::from(header.source),
            Ipv4Addr::from(header.destination)
        ),
        (EMPTY.into(), CLIENT.into())
    );
    assert_eq!(quote[..2], [3, 3], "port unreachable");
    assert_eq!(quote[8..], question[..28]);
}
