//! Sockets of pods whose interface has no programs.

use signpost_common::{service::AffinityKey, socket::PodValue};

use super::*;

const POD: u64 = 0x2_0000_0009;
const ADDRESSES: [&str; 2] = ["10.244.1.9", "fd00:244:1::9"];

/// The tables of [`tables`] with a pod whose sockets are looked at.
fn with_pod(flags: u32) -> Memory {
    let mut tables = tables();
    let [v4, v6] = ADDRESSES.map(|text| Address::from(text.parse::<IpAddr>().unwrap()));
    let pod = PodValue {
        namespace: POD,
        v4,
        v6,
        flags,
        pad: 0,
    };
    tables.socket_pods.insert(POD, pod);
    if let Some(config) = &mut tables.config {
        config.flags |= Config::SOCKET_PODS;
    }
    tables
}

fn of_pod(cookie: u64, protocol: u32, to: SocketAddr) -> Call {
    Call {
        namespace: POD,
        ..Call::of(cookie, protocol, to)
    }
}

/// Where a pod's connection goes, or its datagram.
fn asked(tables: &Memory, cookie: u64, protocol: u32, to: SocketAddr) -> SocketAddr {
    let mut call = of_pod(cookie, protocol, to);
    let verdict = match protocol {
        UDP => sendmsg(&mut call, tables),
        _ => connect(&mut call, tables),
    };
    assert_eq!(verdict, Verdict::Continue);
    call.to()
}

#[test]
fn a_pod_without_programs_at_its_interface_is_served_at_its_sockets() {
    for (vip, backends) in families() {
        let mut tables = with_pod(0);
        serve(&mut tables, SERVICE, vip, &backends, 0);
        for (cookie, protocol) in [(1, TCP), (2, UDP)] {
            let backend = asked(&tables, cookie, protocol, vip);
            assert!(backends.contains(&backend), "{backend}");
            let mut call = of_pod(cookie, protocol, backend);
            getpeername(&mut call, &tables);
            assert_eq!(call.to(), vip);
        }
        let backend = asked(&tables, 2, UDP, vip);
        let mut call = of_pod(2, UDP, backend);
        recvmsg(&mut call, &tables);
        assert_eq!(call.to(), vip);
    }
}

#[test]
fn a_pod_that_is_served_at_its_interface_too_keeps_its_datagrams_for_that() {
    for (vip, backends) in families() {
        let mut tables = with_pod(PodValue::TCP_ONLY);
        serve(&mut tables, SERVICE, vip, &backends, 0);
        assert_ne!(asked(&tables, 1, TCP, vip), vip);
        assert_eq!(asked(&tables, 2, UDP, vip), vip);
        let mut call = of_pod(3, UDP, vip);
        assert_eq!(connect(&mut call, &tables), Verdict::Continue);
        assert_eq!(call.to(), vip);
    }
}

#[test]
fn a_pod_that_is_not_listed_is_left_alone_and_keeps_what_its_sockets_got() {
    let (vip, backends) = families()[0];
    let mut tables = with_pod(0);
    serve(&mut tables, SERVICE, vip, &backends, 0);
    let backend = asked(&tables, 1, UDP, vip);
    tables.socket_pods.clear();
    assert_eq!(asked(&tables, 2, TCP, vip), vip);
    let mut call = of_pod(1, UDP, backend);
    recvmsg(&mut call, &tables);
    assert_eq!(call.to(), vip);
}

#[test]
fn what_a_pod_asks_of_itself_is_not_the_nodes() {
    let mut tables = with_pod(0);
    for (text, any) in [("127.0.0.1", "0.0.0.0:30080"), ("::1", "[::]:30080")] {
        let node: IpAddr = text.parse().unwrap();
        let entry = tables.addresses.entry(node.into()).or_default();
        entry.flags |= AddressValue::NODE | AddressValue::NODE_PORT;
        serve(&mut tables, SERVICE, at(any), &[at("10.244.1.2:8080")], 0);
    }
    for text in ["127.0.0.1:30080", "127.9.9.9:30080", "[::1]:30080"] {
        let itself = at(text);
        assert_eq!(asked(&tables, 1, TCP, itself), itself);
        assert_ne!(connected(&tables, 2, TCP, itself), itself, "the host's");
    }
}

#[test]
fn source_ranges_are_asked_for_the_pods_own_address() {
    for ((vip, backends), own) in families().into_iter().zip(ADDRESSES) {
        let mut tables = with_pod(0);
        serve(
            &mut tables,
            SERVICE,
            vip,
            &backends,
            FrontendValue::SOURCE_RANGES,
        );
        let mut call = of_pod(1, TCP, vip);
        assert_eq!(connect(&mut call, &tables), Verdict::TimeOut);
        let key = RangeKey {
            bits: RangeKey::ALL_BITS,
            service: SERVICE,
            address: own.parse::<IpAddr>().unwrap().into(),
        };
        tables.source_ranges.insert(key, 1);
        assert_ne!(asked(&tables, 1, TCP, vip), vip);
    }
}

#[test]
fn affinity_is_the_pods_own_as_at_its_interface() {
    for ((vip, backends), own) in families().into_iter().zip(ADDRESSES) {
        let mut tables = with_pod(0);
        serve(&mut tables, SERVICE, vip, &backends, 0);
        change(&mut tables, |frontend| frontend.affinity_timeout = 60);
        let first = asked(&tables, 1, TCP, vip);
        for random in [0, 1 << 31, u32::MAX] {
            tables.random.set(random);
            assert_eq!(asked(&tables, 2, TCP, vip), first);
        }
        let key = AffinityKey {
            client: own.parse::<IpAddr>().unwrap().into(),
            service: SERVICE,
        };
        assert!(tables.affinity.borrow().contains_key(&key));
    }
}
