use signpost_common::{Address, Port, service::MemberKey};

use super::*;

/// The endpoint `10.1.0.N:8080` of the first service port.
fn endpoint(last: u8) -> MemberKey {
    MemberKey {
        service: 1,
        address: Address::v4([10, 1, 0, last]),
        port: Port::new(8080),
        pad: 0,
    }
}

fn udp() -> PortName {
    PortName {
        protocol: Protocol::Udp,
        ..port("dns")
    }
}

fn stopped(differ: &mut Differ) -> Vec<MemberKey> {
    let mut stopped = differ.take_stopped();
    stopped.sort();
    stopped
}

#[test]
fn endpoints_of_udp_that_serve_no_more_are_told_once() {
    let mut maps = Model::default();
    let mut differ = open(&mut maps);
    let first = plan("10.96.0.1", &[1, 2, 3]);
    apply(
        &mut differ,
        &mut maps,
        &ports([(udp(), Some(first.clone()))]),
    );
    assert_eq!(stopped(&mut differ), []);

    let mut second = PortPlan {
        members: first.members[..2].to_vec(),
        ..plan("10.96.0.1", &[2])
    };
    // It ends, and serves until then.
    second.members[0].chosen = false;
    apply(
        &mut differ,
        &mut maps,
        &ports([(udp(), Some(second.clone()))]),
    );
    assert_eq!(stopped(&mut differ), [endpoint(3)]);
    second.members[0].serving = false;
    apply(&mut differ, &mut maps, &ports([(udp(), Some(second))]));
    assert_eq!(stopped(&mut differ), [endpoint(1)]);
    assert_eq!(stopped(&mut differ), []);
    apply(&mut differ, &mut maps, &ports([(udp(), None)]));
    assert_eq!(stopped(&mut differ), [endpoint(2)]);
}

#[test]
fn endpoints_that_stopped_while_no_agent_ran_are_told_by_the_next_one() {
    let mut maps = Model::default();
    let both = plan("10.96.0.1", &[1, 2]);
    apply(
        &mut open(&mut maps),
        &mut maps,
        &ports([(udp(), Some(both))]),
    );
    let mut differ = open(&mut maps);
    let one = plan("10.96.0.1", &[1]);
    apply(&mut differ, &mut maps, &ports([(udp(), Some(one))]));
    assert_eq!(stopped(&mut differ), [endpoint(2)]);
}

#[test]
fn connections_of_tcp_stay_with_their_endpoint() {
    let mut maps = Model::default();
    let mut differ = open(&mut maps);
    let both = plan("10.96.0.1", &[1, 2]);
    apply(&mut differ, &mut maps, &ports([(port("web"), Some(both))]));
    let one = plan("10.96.0.1", &[1]);
    apply(&mut differ, &mut maps, &ports([(port("web"), Some(one))]));
    apply(&mut differ, &mut maps, &ports([(port("web"), None)]));
    assert_eq!(stopped(&mut differ), []);
}
