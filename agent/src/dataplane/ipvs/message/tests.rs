use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_generic::GenlMessage;
use signpost_common::count::ServiceCount;

use super::*;
use crate::{
    dataplane::ipvs::server::{
        self, KnownDestination, OURS, Operation, ServerKey, Terms, WITH_PORT, known_destination,
        known_server,
    },
    model::{Family, Protocol},
};

/// The number that the family had in the captures.
const NUMBER: u16 = 0x20;

type Message = NetlinkMessage<GenlMessage<IpvsMessage>>;

/// What was captured with this command line, to the kernel or from it, but for the question for the version.
fn captured(command: &str, direction: &str) -> Vec<Vec<u8>> {
    let found: Vec<Vec<u8>> = include_str!("captured.txt")
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let matches = fields.next() == Some(command) && fields.next() == Some(direction);
            let digits = fields.next().filter(|_| matches)?;
            let digits = digits.as_bytes().chunks(2);
            let text = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            Some(digits.map(text).collect::<Vec<u8>>())
        })
        .filter(|bytes| !matches!(bytes[16], 14 | 15))
        .collect();
    assert!(!found.is_empty(), "{command} was not captured");
    found
}

fn parse(bytes: &[u8]) -> IpvsMessage {
    let message = Message::deserialize(bytes).unwrap();
    match message.payload {
        NetlinkPayload::InnerMessage(message) => message.payload,
        other => panic!("{other:?}"),
    }
}

/// The message as the kernel gets it, with the flags of the captured one.
fn bytes(message: IpvsMessage, like: &[u8]) -> Vec<u8> {
    let mut message = GenlMessage::from_payload(message);
    message.set_resolved_family_id(NUMBER);
    let flags = u16::from_ne_bytes([like[6], like[7]]);
    crate::dataplane::netlink::bytes(flags, NetlinkPayload::from(message))
}

fn key(protocol: Protocol, address: &str, port: u16) -> ServerKey {
    ServerKey {
        protocol,
        address: address.parse().unwrap(),
        port,
    }
}

fn terms(scheduler: &str, flags: u32, persistence: Option<u32>) -> Terms {
    Terms {
        scheduler: scheduler.into(),
        flags,
        persistence,
    }
}

fn dns() -> ServerKey {
    key(Protocol::Tcp, "10.96.0.10", 53)
}

fn api() -> ServerKey {
    key(Protocol::Tcp, "fd96::a", 443)
}

#[test]
fn virtual_servers_are_made_and_changed_as_ipvsadm_does() {
    let cases = [
        (
            "ipvsadm -A -t 10.96.0.10:53 -s rr",
            Operation::AddServer(dns(), terms("rr", 0, None)),
        ),
        (
            "ipvsadm -A -u 10.96.0.10:53 -s wrr -p 300",
            Operation::AddServer(
                key(Protocol::Udp, "10.96.0.10", 53),
                terms("wrr", 0, Some(300)),
            ),
        ),
        (
            "ipvsadm -A -t [fd96::a]:443 -s mh -b mh-port,flag-3",
            Operation::AddServer(api(), terms("mh", WITH_PORT | OURS, None)),
        ),
        (
            "ipvsadm -E -t 10.96.0.10:53 -s lc -b flag-3",
            Operation::SetServer(dns(), terms("lc", OURS, None)),
        ),
    ];
    for (command, operation) in cases {
        let expected = &captured(command, ">")[0];
        assert_eq!(bytes(operation.message(), expected), *expected, "{command}");
    }
}

/// Of the virtual server `ipvsadm` says more than its name, which the kernel does not ask for; of the destination it says
/// how a tunnel would be made.
#[test]
fn destinations_are_named_and_made_as_ipvsadm_does() {
    let [v4, v6] = ["10.1.0.5:5353", "[fd01::5]:6443"].map(|a| a.parse().unwrap());
    let cases = [
        (
            "ipvsadm -a -t 10.96.0.10:53 -r 10.1.0.5:5353 -m -w 1",
            Operation::AddDestination(dns(), v4, 1),
        ),
        (
            "ipvsadm -a -t [fd96::a]:443 -r [fd01::5]:6443 -m -w 1",
            Operation::AddDestination(api(), v6, 1),
        ),
        (
            "ipvsadm -e -t 10.96.0.10:53 -r 10.1.0.5:5353 -m -w 0",
            Operation::SetDestination(dns(), v4, 0),
        ),
        (
            "ipvsadm -d -t 10.96.0.10:53 -r 10.1.0.5:5353",
            Operation::DeleteDestination(dns(), v4),
        ),
        (
            "ipvsadm -D -t 10.96.0.10:53",
            Operation::DeleteServer(dns()),
        ),
    ];
    for (command, operation) in cases {
        let theirs = parse(&captured(command, ">")[0]);
        let ours = operation.message();
        assert_eq!(ours.command, theirs.command, "{command}");
        assert_eq!(ours.attributes.len(), theirs.attributes.len(), "{command}");
        for (ours, theirs) in ours.attributes.iter().zip(&theirs.attributes) {
            match (ours, theirs) {
                (Attribute::Service(ours), Attribute::Service(theirs)) => {
                    assert_eq!(ours[..], theirs[..4], "{command}");
                }
                (Attribute::Destination(ours), Attribute::Destination(theirs)) => {
                    let said = ours.iter().filter(|part| theirs.contains(part)).count();
                    assert_eq!(said, ours.len(), "{command}: {ours:?}");
                }
                other => panic!("{command}: {other:?}"),
            }
        }
    }
}

#[test]
fn questions_and_the_rest_are_those_of_ipvsadm() {
    let message = |command, attributes| IpvsMessage {
        command,
        attributes,
    };
    let timeouts = vec![
        Attribute::TimeoutTcp(900),
        Attribute::TimeoutTcpFin(120),
        Attribute::TimeoutUdp(300),
    ];
    let listed = captured("ipvsadm -L -n", ">");
    let cases = [
        (
            &captured("ipvsadm --set 900 120 300", ">")[0],
            message(Command::SetConfig, timeouts),
        ),
        (
            &captured("ipvsadm -C", ">")[0],
            message(Command::Flush, Vec::new()),
        ),
        (&listed[0], message(Command::GetService, Vec::new())),
        (
            &listed[1],
            message(Command::GetDestination, vec![server::name(&dns())]),
        ),
        (
            &listed[3],
            message(Command::GetDestination, vec![server::name(&api())]),
        ),
    ];
    for (expected, message) in cases {
        assert_eq!(bytes(message, expected), *expected);
    }
}

#[test]
fn what_the_kernel_lists_is_understood() {
    let listed: Vec<IpvsMessage> = captured("ipvsadm -L -n", "<")
        .iter()
        .map(|bytes| parse(bytes))
        .collect();
    let servers: Vec<_> = listed.iter().filter_map(known_server).collect();
    assert_eq!(
        servers,
        [
            (dns(), terms("lc", OURS, None)),
            (
                key(Protocol::Udp, "10.96.0.10", 53),
                terms("wrr", 0, Some(300))
            ),
            (api(), terms("mh", WITH_PORT | OURS, None)),
        ]
    );
    let of = |family| -> Vec<_> {
        let found = listed.iter().filter_map(|m| known_destination(m, family));
        found.collect()
    };
    let known = |weight| KnownDestination {
        weight,
        connections: 0,
    };
    assert_eq!(
        of(Family::V4),
        [
            ("10.1.0.5:5353".parse().unwrap(), known(0)),
            ("[fd01::5]:6443".parse().unwrap(), known(1)),
        ],
        "each says its own family"
    );
}

#[test]
fn what_a_virtual_server_has_counted_is_understood() {
    let [tcp, ..] = &captured("ipvsadm -L -n", "<")[..] else {
        panic!("nothing was listed");
    };
    let none = server::known_traffic(&parse(tcp));
    assert_eq!(none, Some((dns(), ServiceCount::ZERO)));
    // The counts of 64 bits come last: each has a header of four bytes, and so has their list.
    let mut counted = tcp.clone();
    let first = counted.len() - 10 * 12 + 4;
    for (number, count) in [7_u64, 60, 50, 6000, 5000].into_iter().enumerate() {
        let at = first + 12 * number;
        counted[at..at + 8].copy_from_slice(&count.to_ne_bytes());
    }
    let expected = ServiceCount {
        connections: 7,
        packets_in: 60,
        packets_out: 50,
        bytes_in: 6000,
        bytes_out: 5000,
    };
    let found = server::known_traffic(&parse(&counted));
    assert_eq!(found, Some((dns(), expected)));
}

#[test]
fn every_message_is_written_as_it_was_read() {
    for line in include_str!("captured.txt").lines().skip(1) {
        let command = line.split('\t').next().unwrap();
        for direction in [">", "<"] {
            let asks_version = line.contains("\t14000000") && line.ends_with("0f010000");
            let is_version = line.contains("<\t24000000");
            if asks_version || is_version || !line.contains(&format!("\t{direction}\t")) {
                continue;
            }
            for expected in captured(command, direction) {
                let mut again = bytes(parse(&expected), &expected);
                // The kernel does not say of its lists that they are nested.
                if direction == "<" {
                    again[23] &= 0x7f;
                }
                assert_eq!(again, expected, "{command}");
            }
        }
    }
}

#[test]
fn the_answer_about_the_version_is_understood() {
    let line = include_str!("captured.txt")
        .lines()
        .find(|line| line.contains("<\t24000000"))
        .unwrap();
    let digits = line.rsplit('\t').next().unwrap();
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect();
    let message = parse(&bytes);
    assert_eq!(message.command, Command::SetInfo);
    assert_eq!(message.attributes[0], Attribute::Version(0x01_02_01));
}
