//! Sockets of the host over tables in memory.

use std::net::{IpAddr, SocketAddr};

use signpost_common::{
    Address, Cause, Port,
    device::DeviceValue,
    dns::{Config, DNS_ALIVE_FOR, Network},
    name::{HashKeys, NameKey},
    service::{
        AddressValue, FrontendKey, FrontendValue, MemberKey, MemberValue, RangeKey, SlotKey,
        SlotValue,
    },
};

use super::{Socket, Verdict, connect, getpeername, recvmsg, sendmsg};
use crate::{headers::protocol, host::Memory};

mod pods;

const HOST: u64 = 0x1_0000_0007;
const SERVICE: u32 = 5;
const SECOND: u64 = 1_000_000_000;
const TCP: u32 = protocol::TCP as u32;
const UDP: u32 = protocol::UDP as u32;

/// A socket and the address of the call.
#[derive(Clone, Copy, Debug)]
struct Call {
    namespace: u64,
    cookie: u64,
    protocol: u32,
    address: Address,
    port: Port,
}

impl Call {
    fn of(cookie: u64, protocol: u32, to: SocketAddr) -> Self {
        Self {
            namespace: HOST,
            cookie,
            protocol,
            address: to.ip().into(),
            port: Port::new(to.port()),
        }
    }

    fn to(self) -> SocketAddr {
        (IpAddr::from(self.address), self.port.get()).into()
    }
}

impl Socket for Call {
    fn namespace(&self) -> u64 {
        self.namespace
    }

    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn protocol(&self) -> u32 {
        self.protocol
    }

    fn address(&self) -> Address {
        self.address
    }

    fn port(&self) -> Port {
        self.port
    }

    fn set(&mut self, address: &Address, port: Port) {
        (self.address, self.port) = (*address, port);
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Both families: the Service, and two backends of which the first is on this node.
fn families() -> [(SocketAddr, [SocketAddr; 2]); 2] {
    [
        (
            at("10.96.0.7:80"),
            [at("10.244.1.2:8080"), at("10.244.2.2:8080")],
        ),
        (
            at("[fd00:96::7]:80"),
            [at("[fd00:244:1::2]:8080"), at("[fd00:244:2::2]:8080")],
        ),
    ]
}

/// Tables with nothing in them but the host's cookie.
fn tables() -> Memory {
    let name = NameKey {
        labels: 2,
        ..NameKey::default()
    };
    let mut tables = Memory::default();
    tables.config = Some(Config {
        flags: 0,
        negative_grace: 0,
        zone: name,
        services: name,
        soa: [0; 56],
        hash: HashKeys { words: [0; 72] },
        host: [HOST as u32, (HOST >> 32) as u32],
        service_ranges: Default::default(),
        dns: Default::default(),
        external_ports: Config::NO_PORTS,
        pad: 0,
    });
    tables.now = 100 * SECOND;
    tables
}

/// Adds a service port for both protocols; the first backend is on this node.
fn serve(tables: &mut Memory, service: u32, vip: SocketAddr, backends: &[SocketAddr], flags: u32) {
    let address = Address::from(vip.ip());
    let entry = tables.addresses.entry(address).or_default();
    entry.flags |= AddressValue::SERVICE;
    for number in [protocol::TCP, protocol::UDP] {
        let key = FrontendKey {
            address,
            port: Port::new(vip.port()),
            protocol: number,
            pad: 0,
        };
        let value = FrontendValue {
            check: key.check(),
            service,
            generation: 1,
            cluster: backends.len() as u32,
            local: backends.len().min(1) as u32,
            flags,
            affinity_timeout: 0,
        };
        tables.frontends.insert(key, value);
    }
    let mut slot = |index, backend: &SocketAddr, flags| {
        let key = SlotKey {
            service,
            generation: 1,
            index,
        };
        let value = SlotValue {
            service,
            generation: 1,
            address: backend.ip().into(),
            port: Port::new(backend.port()),
            flags,
        };
        tables.slots.insert(key, value);
    };
    for (index, backend) in (0..).zip(backends) {
        let local = if index == 0 { SlotValue::LOCAL } else { 0 };
        slot(index, backend, local);
        if index == 0 {
            slot(SlotKey::LOCAL, backend, local);
        }
    }
    for (index, backend) in backends.iter().enumerate() {
        let local = if index == 0 { MemberValue::LOCAL } else { 0 };
        let flags = MemberValue::SERVING | MemberValue::CHOSEN | MemberValue::CLUSTER | local;
        tables
            .members
            .insert(member(service, *backend), MemberValue { flags });
    }
}

fn member(service: u32, backend: SocketAddr) -> MemberKey {
    MemberKey {
        service,
        address: backend.ip().into(),
        port: Port::new(backend.port()),
        pad: 0,
    }
}

fn change(tables: &mut Memory, change: impl Fn(&mut FrontendValue)) {
    tables.frontends.values_mut().for_each(change);
}

/// Whom a socket is connected to, as the network sees it.
fn connected(tables: &Memory, cookie: u64, protocol: u32, to: SocketAddr) -> SocketAddr {
    let mut call = Call::of(cookie, protocol, to);
    assert_eq!(connect(&mut call, tables), Verdict::Continue);
    call.to()
}

/// Where a datagram goes.
fn sent(tables: &Memory, cookie: u64, to: SocketAddr) -> SocketAddr {
    let mut call = Call::of(cookie, UDP, to);
    assert_eq!(sendmsg(&mut call, tables), Verdict::Continue);
    call.to()
}

/// Whose a datagram is, as the process sees it.
fn received(tables: &Memory, cookie: u64, from: SocketAddr) -> SocketAddr {
    let mut call = Call::of(cookie, UDP, from);
    recvmsg(&mut call, tables);
    call.to()
}

/// Whom a socket is connected to, as the process sees it.
fn peer(tables: &Memory, cookie: u64, protocol: u32, backend: SocketAddr) -> SocketAddr {
    let mut call = Call::of(cookie, protocol, backend);
    getpeername(&mut call, tables);
    call.to()
}

#[test]
fn a_connection_goes_to_a_backend_and_the_process_sees_the_service() {
    for (vip, backends) in families() {
        let mut tables = tables();
        serve(&mut tables, SERVICE, vip, &backends, 0);
        for (cookie, protocol) in [(1, TCP), (2, UDP), (3, 262)] {
            let backend = connected(&tables, cookie, protocol, vip);
            assert!(backends.contains(&backend), "{backend}");
            assert_eq!(peer(&tables, cookie, protocol, backend), vip);
            assert_eq!(peer(&tables, 9, protocol, backend), backend);
        }
        assert_eq!(tables.counted.take(), [Cause::SocketConnected; 3]);
    }
}

#[test]
fn every_backend_gets_connections() {
    let (vip, backends) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &backends, 0);
    let mut found = std::collections::BTreeSet::new();
    for (cookie, random) in (1..).zip([0, 1 << 31, u32::MAX]) {
        tables.random.set(random);
        found.insert(connected(&tables, cookie, TCP, vip));
    }
    assert_eq!(found, backends.into());
}

#[test]
fn sockets_of_other_namespaces_and_other_protocols_are_left_alone() {
    let (vip, backends) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &backends, 0);
    let of_host = Call::of(1, TCP, vip);
    let of_pod = Call {
        namespace: HOST + 1,
        ..of_host
    };
    let ping = Call {
        protocol: 1,
        ..of_host
    };
    for call in [of_pod, ping] {
        let mut call = call;
        assert_eq!(connect(&mut call, &tables), Verdict::Continue);
        assert_eq!(sendmsg(&mut call, &tables), Verdict::Continue);
        assert_eq!(call.to(), vip);
    }
    tables.config = None;
    assert_eq!(connected(&tables, 1, TCP, vip), vip);
    assert_eq!(tables.counted.take(), []);
    assert!(tables.sockets.take().is_empty());
}

#[test]
fn addresses_and_ports_of_no_service_are_left_alone() {
    let (vip, backends) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &backends, 0);
    for other in [at("10.96.0.7:81"), at("192.0.2.1:80"), at("0.0.0.0:80")] {
        assert_eq!(connected(&tables, 1, TCP, other), other);
        assert_eq!(sent(&tables, 2, other), other);
    }
    assert_eq!(tables.counted.take(), []);
}

#[test]
fn datagrams_of_a_socket_stay_with_their_backend_while_it_serves() {
    for (vip, backends) in families() {
        let mut tables = tables();
        serve(&mut tables, SERVICE, vip, &backends, 0);
        let first = sent(&tables, 1, vip);
        for random in [0, 1 << 31, u32::MAX] {
            tables.random.set(random);
            assert_eq!(sent(&tables, 1, vip), first);
        }
        assert_eq!(received(&tables, 1, first), vip);
        assert_eq!(received(&tables, 2, first), first);

        // It may not get new flows any more, but serves.
        let flags = MemberValue::SERVING;
        tables
            .members
            .insert(member(SERVICE, first), MemberValue { flags });
        assert_eq!(sent(&tables, 1, vip), first);

        tables.members.remove(&member(SERVICE, first));
        let [a, b] = backends;
        let other = if first == a { b } else { a };
        tables.random.set(if other == a { 0 } else { u32::MAX });
        assert_eq!(sent(&tables, 1, vip), other);
        assert_eq!(sent(&tables, 1, vip), other);
        assert_eq!(received(&tables, 1, other), vip);
        // A late answer of the first is still one of the Service.
        assert_eq!(received(&tables, 1, first), vip);
    }
}

#[test]
fn a_connected_socket_that_gives_the_address_again_keeps_its_backend() {
    let (vip, backends) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &backends, 0);
    let backend = connected(&tables, 1, UDP, vip);
    for random in [0, u32::MAX] {
        tables.random.set(random);
        assert_eq!(sent(&tables, 1, vip), backend);
        assert_eq!(connected(&tables, 1, UDP, vip), backend);
    }
}

#[test]
fn a_service_that_is_another_one_by_now_gets_a_backend_of_its_own() {
    let (vip, [first, second]) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &[first], 0);
    assert_eq!(sent(&tables, 1, vip), first);
    serve(&mut tables, SERVICE + 1, vip, &[second], 0);
    assert_eq!(sent(&tables, 1, vip), second);
}

#[test]
fn two_services_with_a_common_backend_get_different_ones_where_there_are() {
    let (vip, backends) = families()[0];
    let other = at("10.96.0.8:80");
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &backends, 0);
    serve(&mut tables, SERVICE + 1, other, &backends, 0);
    for random in [0, 1 << 31] {
        tables.random.set(random);
        let cookie = random.into();
        let first = sent(&tables, cookie, vip);
        tables.random.set(random);
        let second = sent(&tables, cookie, other);
        assert_ne!(first, second);
        assert_eq!(received(&tables, cookie, first), vip);
        assert_eq!(received(&tables, cookie, second), other);
    }
}

#[test]
fn with_one_common_backend_the_answer_is_of_the_service_that_was_asked_last() {
    let (vip, [backend, _]) = families()[0];
    let other = at("10.96.0.8:80");
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &[backend], 0);
    serve(&mut tables, SERVICE + 1, other, &[backend], 0);
    for asked in [vip, other, vip, other] {
        assert_eq!(sent(&tables, 1, asked), backend);
        assert_eq!(received(&tables, 1, backend), asked);
    }
}

#[test]
fn a_socket_that_is_connected_to_the_backend_itself_forgets_the_service() {
    let (vip, [backend, _]) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &[backend], 0);
    assert_eq!(connected(&tables, 1, UDP, vip), backend);
    assert_eq!(connected(&tables, 1, UDP, backend), backend);
    assert_eq!(peer(&tables, 1, UDP, backend), backend);
}

#[test]
fn without_endpoints_the_process_is_refused() {
    for (vip, _) in families() {
        let mut tables = tables();
        serve(&mut tables, SERVICE, vip, &[], 0);
        for protocol in [TCP, UDP] {
            let mut call = Call::of(1, protocol, vip);
            assert_eq!(connect(&mut call, &tables), Verdict::Refuse);
        }
        assert_eq!(
            sendmsg(&mut Call::of(1, UDP, vip), &tables),
            Verdict::Refuse
        );
        assert_eq!(tables.counted.take(), [Cause::SocketRefused; 3]);
    }
}

#[test]
fn a_policy_that_allows_no_endpoint_here_looks_like_dropped_packets() {
    let (vip, backends) = families()[0];
    let mut tables = tables();
    let flags = FrontendValue::INTERNAL_LOCAL | FrontendValue::ANY_ENDPOINTS;
    serve(&mut tables, SERVICE, vip, &backends, flags);
    for random in [0, u32::MAX] {
        tables.random.set(random);
        assert_eq!(connected(&tables, 1, TCP, vip), backends[0]);
    }
    change(&mut tables, |frontend| frontend.local = 0);
    let mut tcp = Call::of(2, TCP, vip);
    assert_eq!(connect(&mut tcp, &tables), Verdict::TimeOut);
    let mut udp = Call::of(2, UDP, vip);
    assert_eq!(connect(&mut udp, &tables), Verdict::Deny);
    assert_eq!(sendmsg(&mut udp, &tables), Verdict::Deny);
    // Ways in for outside clients take those inside to all endpoints.
    change(&mut tables, |f| f.flags |= FrontendValue::EXTERNAL);
    assert!(backends.contains(&connected(&tables, 3, TCP, vip)));
}

#[test]
fn an_undefined_port_of_a_cluster_ip_is_refused() {
    let (vip, backends) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &backends, 0);
    for value in tables.addresses.values_mut() {
        value.flags |= AddressValue::CLUSTER_IP;
    }
    let other = at("10.96.0.7:81");
    let mut tcp = Call::of(1, TCP, other);
    assert_eq!(connect(&mut tcp, &tables), Verdict::Refuse);
    let mut udp = Call::of(1, UDP, other);
    assert_eq!(sendmsg(&mut udp, &tables), Verdict::Refuse);
    // getaddrinfo connects so to learn a source address.
    assert_eq!(connected(&tables, 1, UDP, other), other);
    if let Some(config) = &mut tables.config {
        config.flags |= Config::TAKEOVER;
    }
    assert_eq!(connected(&tables, 1, TCP, other), other);
}

#[test]
fn an_address_of_a_service_range_that_is_none_of_a_service_looks_like_dropped_packets() {
    let mut tables = tables();
    let nobody = at("10.96.0.9:80");
    assert_eq!(connected(&tables, 1, TCP, nobody), nobody);
    if let Some(config) = &mut tables.config {
        config.flags |= Config::SERVICE_RANGES;
        config.service_ranges = [Network {
            address: at("10.96.0.0:0").ip().into(),
            mask: Address::v6_words([u32::MAX, u32::MAX, u32::MAX, 0xffff_0000_u32.to_be()]),
        }; 4];
    }
    let mut tcp = Call::of(1, TCP, nobody);
    assert_eq!(connect(&mut tcp, &tables), Verdict::TimeOut);
    let mut udp = Call::of(1, UDP, nobody);
    assert_eq!(sendmsg(&mut udp, &tables), Verdict::Deny);
    let outside = at("10.97.0.9:80");
    assert_eq!(connected(&tables, 1, TCP, outside), outside);
    for other_proxy in [Config::TAKEOVER, Config::DRAIN] {
        tables.config.as_mut().unwrap().flags ^= other_proxy;
        assert_eq!(connected(&tables, 1, TCP, nobody), nobody);
        tables.config.as_mut().unwrap().flags ^= other_proxy;
    }
    let flags = AddressValue::FOREIGN;
    tables
        .addresses
        .insert(nobody.ip().into(), AddressValue { flags });
    assert_eq!(connected(&tables, 1, TCP, nobody), nobody);
}

#[test]
fn source_ranges_let_processes_in_where_the_node_is_in_them() {
    let (vip, backends) = families()[0];
    let mut tables = tables();
    let flags = FrontendValue::EXTERNAL | FrontendValue::SOURCE_RANGES;
    serve(&mut tables, SERVICE, vip, &backends, flags);
    let mut tcp = Call::of(1, TCP, vip);
    assert_eq!(connect(&mut tcp, &tables), Verdict::TimeOut);
    let mut udp = Call::of(1, UDP, vip);
    assert_eq!(sendmsg(&mut udp, &tables), Verdict::Deny);
    let range = |address: &str| RangeKey {
        bits: RangeKey::ALL_BITS,
        service: SERVICE,
        address: address.parse::<IpAddr>().unwrap().into(),
    };
    // That the Service's own address is in them says nothing of the node.
    let own = range(&vip.ip().to_string());
    tables.source_ranges.insert(own, 1);
    let node = DeviceValue {
        v4: "192.168.50.11".parse::<IpAddr>().unwrap().into(),
        v6: Address::UNSPECIFIED,
    };
    tables.devices.insert(DeviceValue::ANY, node);
    assert_eq!(connect(&mut tcp, &tables), Verdict::TimeOut);
    tables.source_ranges.insert(range("192.168.50.11"), 1);
    assert!(backends.contains(&connected(&tables, 1, TCP, vip)));
    assert!(backends.contains(&sent(&tables, 2, vip)));
    // What goes to an address of the node comes from there.
    tables.source_ranges.clear();
    let flags = AddressValue::NODE | AddressValue::SERVICE;
    tables
        .addresses
        .insert(vip.ip().into(), AddressValue { flags });
    assert_eq!(connect(&mut tcp, &tables), Verdict::TimeOut);
    tables.source_ranges.insert(own, 1);
    assert!(backends.contains(&connected(&tables, 3, TCP, vip)));
}

#[test]
fn node_ports_are_served_at_the_addresses_that_have_them() {
    let (_, backends) = families()[0];
    let mut tables = tables();
    let flags = FrontendValue::EXTERNAL;
    serve(&mut tables, SERVICE, at("0.0.0.0:30080"), &backends, flags);
    tables.addresses.clear();
    for (address, flags) in [
        (
            "192.168.50.11",
            AddressValue::NODE | AddressValue::NODE_PORT,
        ),
        ("127.0.0.1", AddressValue::NODE | AddressValue::NODE_PORT),
        ("192.168.51.11", AddressValue::NODE),
    ] {
        let address: IpAddr = address.parse().unwrap();
        tables
            .addresses
            .insert(address.into(), AddressValue { flags });
    }
    for (cookie, to) in (1..).zip([
        at("192.168.50.11:30080"),
        at("127.0.0.1:30080"),
        at("127.1.2.3:30080"),
    ]) {
        let backend = connected(&tables, cookie, TCP, to);
        assert!(backends.contains(&backend), "{to}: {backend}");
        assert_eq!(peer(&tables, cookie, TCP, backend), to);
    }
    for to in [
        at("192.168.50.11:30081"),
        at("192.168.51.11:30080"),
        at("0.0.0.0:30080"),
    ] {
        assert_eq!(connected(&tables, 8, TCP, to), to);
    }
}

#[test]
fn a_node_port_under_the_unspecified_ipv6_address_is_one_of_ipv6() {
    let (_, backends) = families()[1];
    let mut tables = tables();
    serve(&mut tables, SERVICE, at("[::]:30080"), &backends, 0);
    tables.addresses.clear();
    for address in ["::1", "127.0.0.1"] {
        let address: IpAddr = address.parse().unwrap();
        let flags = AddressValue::NODE_PORT;
        tables
            .addresses
            .insert(address.into(), AddressValue { flags });
    }
    assert!(backends.contains(&connected(&tables, 1, TCP, at("[::1]:30080"))));
    let v4 = at("127.0.0.1:30080");
    assert_eq!(connected(&tables, 1, TCP, v4), v4);
}

#[test]
fn all_processes_of_the_host_are_one_client_of_session_affinity() {
    for (vip, backends) in families() {
        let mut tables = tables();
        serve(&mut tables, SERVICE, vip, &backends, 0);
        change(&mut tables, |frontend| frontend.affinity_timeout = 10);
        tables.random.set(0);
        assert_eq!(connected(&tables, 1, TCP, vip), backends[0]);
        tables.random.set(u32::MAX);
        tables.now += 9 * SECOND;
        assert_eq!(connected(&tables, 2, TCP, vip), backends[0]);
        // Each connection begins the time anew.
        tables.now += 9 * SECOND;
        tables.random.set(u32::MAX);
        assert_eq!(sent(&tables, 3, vip), backends[0]);
        tables.now += 10 * SECOND;
        tables.random.set(u32::MAX);
        assert_eq!(connected(&tables, 4, TCP, vip), backends[1]);
        // A backend that may not get new flows is left.
        let flags = MemberValue::SERVING;
        tables
            .members
            .insert(member(SERVICE, backends[1]), MemberValue { flags });
        tables.random.set(0);
        assert_eq!(connected(&tables, 5, TCP, vip), backends[0]);
    }
}

#[test]
fn affinity_stays_inside_the_local_set() {
    let (vip, backends) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &backends, 0);
    change(&mut tables, |frontend| frontend.affinity_timeout = 10);
    tables.random.set(u32::MAX);
    assert_eq!(connected(&tables, 1, TCP, vip), backends[1]);
    change(&mut tables, |f| f.flags = FrontendValue::INTERNAL_LOCAL);
    assert_eq!(connected(&tables, 2, TCP, vip), backends[0]);
}

#[test]
fn the_dns_pod_of_this_node_is_used_while_it_is_alive() {
    let (vip, backends) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &backends, FrontendValue::DNS);
    tables.dns_alive_at = tables.now;
    for (cookie, random) in (1..).zip([0, u32::MAX]) {
        tables.random.set(random);
        assert_eq!(sent(&tables, cookie, vip), backends[0]);
    }
    tables.now += DNS_ALIVE_FOR;
    for random in [0, u32::MAX] {
        tables.random.set(random);
        assert_eq!(sent(&tables, 1, vip), backends[1]);
    }
}

#[test]
fn a_frontend_that_is_replaced_meanwhile_is_read_again() {
    let (vip, [first, second]) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &[first, second], 0);
    tables.slots.clear();
    assert_eq!(connected(&tables, 1, TCP, vip), vip);
    assert_eq!(tables.counted.take(), [Cause::SlotsChanging]);
}

#[test]
fn while_the_node_drains_only_known_sockets_are_translated() {
    let (vip, backends) = families()[0];
    let mut tables = tables();
    serve(&mut tables, SERVICE, vip, &backends, 0);
    let backend = sent(&tables, 1, vip);
    if let Some(config) = &mut tables.config {
        config.flags |= Config::DRAIN;
    }
    assert_eq!(sent(&tables, 1, vip), backend);
    assert_eq!(sent(&tables, 2, vip), vip);
    assert_eq!(connected(&tables, 3, TCP, vip), vip);
}
