use signpost_common::{
    Address, Port,
    dns::Config,
    layout::map,
    service::{
        AddressValue, FrontendKey, FrontendValue, MemberKey, MemberValue, RangeKey, SlotKey,
    },
};

use super::*;
use crate::dataplane::{
    NodeAddresses,
    ebpf::tables::{Addresses, Configs, Frontends, Members, Services, Slots, SourceRanges},
};

const VIP: &str = "10.96.0.1";

fn frontend(maps: &Model, at: &str) -> Option<FrontendValue> {
    let address = Address::from(address(at));
    maps.find::<Frontends>(&FrontendKey {
        address,
        port: Port::new(80),
        protocol: 6,
        pad: 0,
    })
}

fn member(maps: &Model, service: u32, last: u8) -> Option<u32> {
    let address = Address::from(address(&format!("10.1.0.{last}")));
    let key = MemberKey {
        service,
        address,
        port: Port::new(8080),
        pad: 0,
    };
    maps.find::<Members>(&key).map(|value| value.flags)
}

fn started(first: &Update) -> (Model, Differ) {
    let mut maps = Model::default();
    let mut differ = open(&mut maps);
    apply(&mut differ, &mut maps, first);
    maps.log.clear();
    (maps, differ)
}

#[test]
fn a_port_that_comes_is_written_from_the_inside_out() {
    let mut maps = Model::default();
    let mut differ = open(&mut maps);
    maps.log.clear();
    apply(
        &mut differ,
        &mut maps,
        &ports([(port("ent"), Some(plan(VIP, &[1, 200])))]),
    );
    let mut order: Vec<_> = maps.log.iter().map(|(map, _)| *map).collect();
    order.dedup();
    assert_eq!(
        order,
        [
            map::MEMBERS,
            map::SLOTS,
            map::SERVICES,
            map::FRONTENDS,
            map::DESTINATIONS,
            map::ADDRESSES,
            map::CONFIG
        ]
    );
    let value = frontend(&maps, VIP).unwrap();
    assert_eq!(
        (value.cluster, value.local, value.flags),
        (2, 1, FrontendValue::ANY_ENDPOINTS)
    );
    let address = Address::from(address(VIP));
    assert_eq!(
        maps.find::<Addresses>(&address).unwrap().flags,
        AddressValue::SERVICE | AddressValue::CLUSTER_IP
    );
    let all = MemberValue::SERVING | MemberValue::CHOSEN | MemberValue::CLUSTER;
    assert_eq!(
        member(&maps, value.service, 1),
        Some(all | MemberValue::LOCAL)
    );
    assert_eq!(member(&maps, value.service, 200), Some(all));
}

#[test]
fn a_port_that_goes_is_removed_from_the_outside_in() {
    let (mut maps, mut differ) = started(&ports([(port("ent"), Some(plan(VIP, &[1, 2])))]));
    apply(&mut differ, &mut maps, &ports([(port("ent"), None)]));
    let mut order = maps.log.clone();
    order.dedup();
    let expected = [
        map::FRONTENDS,
        map::ADDRESSES,
        map::MEMBERS,
        map::SLOTS,
        map::SERVICES,
    ];
    assert_eq!(order, expected.map(|map| (map, false)));
    assert_eq!(maps.canonical().len(), 0);
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let update = ports([(port("ent"), Some(plan(VIP, &[1, 2])))]);
    let (mut maps, mut differ) = started(&update);
    let report = apply(&mut differ, &mut maps, &update);
    assert_eq!((report.written, report.deleted, maps.log.len()), (0, 0, 0));
}

#[test]
fn backends_change_with_one_write_of_the_frontend() {
    let (mut maps, mut differ) = started(&ports([(port("ent"), Some(plan(VIP, &[1, 2])))]));
    let before = frontend(&maps, VIP).unwrap();
    apply(
        &mut differ,
        &mut maps,
        &ports([(port("ent"), Some(plan(VIP, &[2, 3, 4])))]),
    );
    let after = frontend(&maps, VIP).unwrap();
    assert_eq!(
        (after.service, after.generation),
        (before.service, before.generation + 1)
    );
    assert_eq!(
        maps.log
            .iter()
            .filter(|(map, _)| *map == map::FRONTENDS)
            .count(),
        1
    );
    assert_eq!(member(&maps, after.service, 1), None);

    let old = SlotKey {
        service: before.service,
        generation: before.generation,
        index: 0,
    };
    differ.sweep(&mut maps, 10).unwrap();
    differ.sweep(&mut maps, 10 + LATER / 4).unwrap();
    assert!(
        maps.find::<Slots>(&old).is_some(),
        "a program may still read it"
    );
    differ.sweep(&mut maps, 10 + LATER).unwrap();
    assert!(maps.find::<Slots>(&old).is_none());
    assert_eq!(maps.len::<Slots>(), 3 + 3);
}

#[test]
fn an_endpoint_that_no_longer_serves_loses_that_at_once_and_no_generation_is_spent() {
    let mut plan = plan(VIP, &[1, 2]);
    let (mut maps, mut differ) = started(&ports([(port("ent"), Some(plan.clone()))]));
    let before = frontend(&maps, VIP).unwrap();
    plan.members[1].serving = false;
    apply(&mut differ, &mut maps, &ports([(port("ent"), Some(plan))]));
    assert_eq!(frontend(&maps, VIP), Some(before));
    assert_eq!(maps.log, [(map::MEMBERS, true)]);
    let expected = MemberValue::CHOSEN | MemberValue::CLUSTER | MemberValue::LOCAL;
    assert_eq!(member(&maps, before.service, 2), Some(expected));
}

#[test]
fn a_restart_with_the_same_state_writes_nothing() {
    let update = ports([
        (port("ent"), Some(plan(VIP, &[1, 2]))),
        (port("web"), Some(plan("10.96.0.2", &[]))),
    ]);
    let (mut maps, differ) = started(&update);
    drop(differ);
    let report = apply(&mut open(&mut maps), &mut maps, &update);
    assert_eq!((report.written, report.deleted), (0, 0));
    assert_eq!(maps.log, []);
}

#[test]
fn ids_stay_over_a_restart_and_are_not_given_to_others() {
    let web = (port("web"), Some(plan("10.96.0.2", &[3])));
    let (mut maps, differ) = started(&ports([(port("ent"), Some(plan(VIP, &[1]))), web.clone()]));
    let (ent_id, web_id) = (
        frontend(&maps, VIP).unwrap().service,
        frontend(&maps, "10.96.0.2").unwrap().service,
    );
    drop(differ);
    let mut differ = open(&mut maps);
    let new = (port("new"), Some(plan("10.96.0.3", &[4])));
    apply(&mut differ, &mut maps, &ports([web, new]));
    assert_eq!(frontend(&maps, "10.96.0.2").unwrap().service, web_id);
    let new_id = frontend(&maps, "10.96.0.3").unwrap().service;
    assert!(new_id != ent_id && new_id != web_id);
    assert_eq!(frontend(&maps, VIP), None);
}

#[test]
fn a_port_that_is_renamed_hands_its_frontend_over_in_one_write() {
    let (mut maps, mut differ) = started(&ports([(port("ent"), Some(plan(VIP, &[1])))]));
    let renamed = PortName {
        port: "web".into(),
        ..port("ent")
    };
    let update = ports([(port("ent"), None), (renamed, Some(plan(VIP, &[1])))]);
    apply(&mut differ, &mut maps, &update);
    let frontends: Vec<_> = maps
        .log
        .iter()
        .filter(|(map, _)| *map == map::FRONTENDS)
        .collect();
    assert_eq!(frontends, [&(map::FRONTENDS, true)]);
    assert!(maps.log.iter().all(|(map, _)| *map != map::ADDRESSES));
    assert_eq!((maps.len::<Frontends>(), maps.len::<Services>()), (1, 1));
}

#[test]
fn a_frontend_that_is_taken_is_refused_until_its_owner_goes() {
    let (mut maps, mut differ) = started(&ports([(port("ent"), Some(plan(VIP, &[1])))]));
    let before = maps.canonical();
    let update = ports([(port("abc"), Some(plan(VIP, &[2])))]);
    let report = differ.apply(&mut maps, &update).unwrap();
    assert_eq!(report.refused.len(), 1);
    assert!(
        report.refused[0]
            .reason
            .contains("10.96.0.1 port 80 is already served")
    );
    assert_eq!(maps.canonical(), before);

    apply(&mut differ, &mut maps, &ports([(port("ent"), None)]));
    assert_eq!(frontend(&maps, VIP).map(|value| value.cluster), Some(1));
    assert_eq!(maps.len::<Frontends>(), 1);
}

#[test]
fn a_full_map_refuses_the_port_and_leaves_nothing_of_it_until_there_is_room() {
    for (map, size) in [(map::SLOTS, 5), (map::MEMBERS, 3), (map::SERVICES, 1)] {
        let (mut maps, mut differ) = started(&ports([(port("ent"), Some(plan(VIP, &[1, 2])))]));
        maps.sizes.insert(map, size);
        let before = maps.canonical();
        let update = ports([(port("web"), Some(plan("10.96.0.2", &[3, 4])))]);
        let report = differ.apply(&mut maps, &update).unwrap();
        assert_eq!(report.refused.len(), 1, "{map}");
        assert!(
            report.refused[0]
                .reason
                .contains(&format!("map {map} is full"))
        );
        assert_eq!(maps.canonical(), before, "{map}");

        maps.sizes.clear();
        apply(&mut differ, &mut maps, &ports([]));
        assert_eq!(
            frontend(&maps, "10.96.0.2").map(|value| value.cluster),
            Some(2),
            "{map}"
        );
    }
}

#[test]
fn a_change_without_room_takes_the_backends_that_are_gone_out_of_their_places() {
    let (mut maps, mut differ) =
        started(&ports([(port("ent"), Some(plan(VIP, &[100, 101, 102])))]));
    maps.sizes.insert(map::SLOTS, 4);
    let update = ports([(port("ent"), Some(plan(VIP, &[102, 103, 104])))]);
    let report = differ.apply(&mut maps, &update).unwrap();
    assert_eq!(report.refused.len(), 1);
    let stays = Address::from(address("10.1.0.102"));
    assert_eq!(frontend(&maps, VIP).unwrap().cluster, 3);
    assert!(
        maps.all::<Slots>()
            .iter()
            .all(|(_, slot)| slot.address == stays)
    );
    assert_eq!(maps.len::<Members>(), 1);

    let update = ports([(port("ent"), Some(plan(VIP, &[105, 106, 107])))]);
    assert_eq!(differ.apply(&mut maps, &update).unwrap().refused.len(), 1);
    assert_eq!(
        frontend(&maps, VIP).unwrap().cluster,
        0,
        "none of its backends is left"
    );

    maps.sizes.clear();
    apply(&mut differ, &mut maps, &ports([]));
    assert_eq!(frontend(&maps, VIP).unwrap().cluster, 3);
    sweep(&mut differ, &mut maps);
    assert_eq!((maps.len::<Slots>(), maps.len::<Members>()), (3, 3));
}

#[test]
fn addresses_say_what_they_are_for_as_long_as_they_are() {
    let mut first = ports([(port("dns"), Some(plan("10.96.0.10", &[1])))]);
    first.dns_addresses = Some(vec![address("10.96.0.10")]);
    first.node_addresses = Some(node(&["192.0.2.1", "fd00::1"], &["192.0.2.1"]));
    let (mut maps, mut differ) = started(&first);
    let flags =
        |maps: &Model, at: &str| maps.find::<Addresses>(&address(at).into()).map(|v| v.flags);
    let all = AddressValue::SERVICE | AddressValue::CLUSTER_IP | AddressValue::DNS;
    assert_eq!(flags(&maps, "10.96.0.10"), Some(all));
    let config = |maps: &Model| maps.find::<Configs>(&0).unwrap();
    assert_eq!(config(&maps).dns, [address("10.96.0.10").into(); 4]);
    let node_port = AddressValue::NODE | AddressValue::NODE_PORT;
    assert_eq!(flags(&maps, "192.0.2.1"), Some(node_port));
    assert_eq!(flags(&maps, "fd00::1"), Some(AddressValue::NODE));

    apply(&mut differ, &mut maps, &ports([(port("dns"), None)]));
    assert_eq!(flags(&maps, "10.96.0.10"), Some(AddressValue::DNS));
    let dns = [
        "10.96.0.11",
        "fd00::a",
        "10.96.0.12",
        "fd00::b",
        "10.96.0.13",
    ];
    let update = Update {
        node_addresses: Some(node(&["192.0.2.2"], &[])),
        dns_addresses: Some(dns.map(address).to_vec()),
        ..ports([])
    };
    apply(&mut differ, &mut maps, &update);
    // There is no room for the fifth, whose questions go to the DNS pods.
    let [first, second, third, fourth, _] = dns.map(|at| address(at).into());
    assert_eq!(config(&maps).dns, [first, second, third, fourth]);
    assert_eq!(flags(&maps, "fd00::1"), None);
    assert_eq!(flags(&maps, "192.0.2.2"), Some(AddressValue::NODE));
}

fn node(all: &[&str], node_ports: &[&str]) -> NodeAddresses {
    let set = |texts: &[&str]| texts.iter().map(|text| address(text)).collect();
    NodeAddresses {
        all: set(all),
        node_ports: set(node_ports),
    }
}

/// A plan with one frontend of each kind, and source ranges.
fn every_way(ranges: &[&str]) -> PortPlan {
    let way = |kind, at: &str, port| Frontend {
        kind,
        address: address(at),
        port,
    };
    PortPlan {
        frontends: vec![
            way(FrontendKind::ClusterIp, VIP, 80),
            way(FrontendKind::NodePort, "0.0.0.0", 30_080),
            way(FrontendKind::ExternalIp, "192.0.2.80", 80),
            way(FrontendKind::LoadBalancer, "198.51.100.80", 80),
        ],
        source_ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
        external_local: true,
        affinity_timeout: Some(60),
        ..plan(VIP, &[1, 200])
    }
}

#[test]
fn each_way_in_has_its_flags() {
    let (maps, _) = started(&ports([(port("ent"), Some(every_way(&["10.0.0.0/8"])))]));
    let node_port = FrontendKey {
        address: Address::v4([0; 4]),
        port: Port::new(30_080),
        protocol: 6,
        pad: 0,
    };
    let of = |value: FrontendValue| {
        assert_eq!(
            (value.cluster, value.local, value.affinity_timeout),
            (2, 1, 60)
        );
        value.flags & !FrontendValue::ANY_ENDPOINTS & !FrontendValue::EXTERNAL_LOCAL
    };
    assert_eq!(of(frontend(&maps, VIP).unwrap()), 0);
    let external = FrontendValue::EXTERNAL;
    assert_eq!(of(maps.find::<Frontends>(&node_port).unwrap()), external);
    assert_eq!(of(frontend(&maps, "192.0.2.80").unwrap()), external);
    assert_eq!(
        of(frontend(&maps, "198.51.100.80").unwrap()),
        external | FrontendValue::SOURCE_RANGES
    );
    let flags = |at: &str| maps.find::<Addresses>(&address(at).into()).map(|v| v.flags);
    let cluster_ip = AddressValue::SERVICE | AddressValue::CLUSTER_IP;
    assert_eq!(flags(VIP), Some(cluster_ip));
    assert_eq!(flags("192.0.2.80"), Some(AddressValue::SERVICE));
    assert_eq!(flags("198.51.100.80"), Some(AddressValue::SERVICE));
    assert_eq!(flags("0.0.0.0"), None, "nobody sends to it");
}

#[test]
fn source_ranges_are_there_before_the_frontend_that_asks_for_them() {
    let (mut maps, mut differ) = started(&ports([(port("ent"), Some(every_way(&[])))]));
    let update = ports([(
        port("ent"),
        Some(every_way(&["10.0.0.0/8", "192.0.2.0/24"])),
    )]);
    apply(&mut differ, &mut maps, &update);
    let mut order: Vec<_> = maps.log.iter().map(|(map, put)| (*map, *put)).collect();
    order.dedup();
    assert_eq!(order, [(map::SOURCE_RANGES, true), (map::FRONTENDS, true)]);

    let id = frontend(&maps, VIP).unwrap().service;
    let ranges = |maps: &Model| -> Vec<(u32, u32)> {
        let all = maps.all::<SourceRanges>();
        all.iter().map(|(key, _)| (key.service, key.bits)).collect()
    };
    assert_eq!(ranges(&maps), [(id, 32 + 96 + 8), (id, 32 + 96 + 24)]);
    let update = ports([(port("ent"), Some(every_way(&["192.0.2.0/24"])))]);
    apply(&mut differ, &mut maps, &update);
    assert_eq!(ranges(&maps), [(id, 32 + 96 + 24)]);
    apply(&mut differ, &mut maps, &ports([(port("ent"), None)]));
    assert_eq!(ranges(&maps), []);
}

#[test]
fn a_source_range_without_room_lets_nobody_in() {
    let (mut maps, mut differ) = started(&ports([(port("ent"), Some(every_way(&["10.0.0.0/8"])))]));
    maps.sizes.insert(map::SOURCE_RANGES, 1);
    let update = ports([(port("ent"), Some(every_way(&["192.0.2.0/24"])))]);
    assert_eq!(differ.apply(&mut maps, &update).unwrap().refused.len(), 1);
    assert_eq!(maps.len::<SourceRanges>(), 0);
    let value = frontend(&maps, "198.51.100.80").unwrap();
    assert_ne!(value.flags & FrontendValue::SOURCE_RANGES, 0);
    maps.sizes.clear();
    apply(&mut differ, &mut maps, &ports([]));
    assert_eq!(maps.len::<SourceRanges>(), 1);
}

#[test]
fn the_networks_of_the_cluster_follow_the_option() {
    let mut maps = Model::default();
    let mut with = |ranges: &[&str]| {
        let config = EbpfConfig {
            cluster_ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
            ..config()
        };
        let mut differ = Differ::open(config, &mut maps).unwrap();
        apply(&mut differ, &mut maps, &ports([]));
        let flags = maps.find::<Configs>(&0).unwrap().flags;
        let keys = maps.all::<SourceRanges>();
        assert!(keys.iter().all(|(key, _)| key.service == RangeKey::CLUSTER));
        (flags & Config::CLUSTER_RANGES != 0, keys.len())
    };
    assert_eq!(with(&["10.1.0.0/16", "fd00:1::/48"]), (true, 2));
    assert_eq!(with(&["10.2.0.0/16"]), (true, 1));
    assert_eq!(with(&[]), (false, 0));
}

#[test]
fn the_udp_ports_of_clients_outside_are_told_to_the_programs() {
    let (mut maps, mut differ) = started(&ports([]));
    let mut told = |service: &str, protocol: Protocol, node_port: Option<u16>| {
        let name = PortName {
            protocol,
            ..port(service)
        };
        let mut wanted = plan("10.96.0.1", &[1]);
        wanted.frontends = node_port
            .into_iter()
            .map(|port| Frontend {
                kind: FrontendKind::NodePort,
                address: address("0.0.0.0"),
                port,
            })
            .collect();
        let update = Update {
            ports: [(name, node_port.map(|_| wanted))].into(),
            ..Update::default()
        };
        apply(&mut differ, &mut maps, &update);
        maps.find::<Configs>(&0).unwrap().external_ports
    };
    assert_eq!(told("a", Protocol::Tcp, Some(30_001)), Config::NO_PORTS);
    assert_eq!(told("b", Protocol::Udp, Some(30_002)), [30_002, 30_002]);
    assert_eq!(told("c", Protocol::Udp, Some(30_009)), [30_002, 30_009]);
    assert_eq!(told("b", Protocol::Udp, Some(30_005)), [30_005, 30_009]);
    assert_eq!(told("b", Protocol::Udp, None), [30_009, 30_009]);
    assert_eq!(told("c", Protocol::Udp, None), Config::NO_PORTS);
}

#[test]
fn the_ranges_of_services_are_told_to_the_programs_as_far_as_there_is_room() {
    let (mut maps, mut differ) = started(&ports([]));
    let mut told = |ranges: &[&str]| {
        let update = Update {
            service_ranges: Some(ranges.iter().map(|text| text.parse().unwrap()).collect()),
            ..ports([])
        };
        apply(&mut differ, &mut maps, &update);
        let config = maps.find::<Configs>(&0).unwrap();
        let inside = |at: &str| {
            let at = Address::from(address(at));
            config.service_ranges.iter().any(|r| r.difference(&at) == 0)
        };
        let known = config.flags & Config::SERVICE_RANGES != 0;
        known.then(|| {
            (
                inside("10.96.0.1"),
                inside("fd00:96::1"),
                inside("10.1.0.1"),
            )
        })
    };
    assert_eq!(told(&["10.96.0.0/12"]), Some((true, false, false)));
    let both = ["10.96.0.0/12", "fd00:96::/108"];
    assert_eq!(told(&both), Some((true, true, false)));
    assert_eq!(told(&[]), None);
    let five = [
        "10.96.0.0/16",
        "10.97.0.0/16",
        "10.98.0.0/16",
        "10.99.0.0/16",
        "10.100.0.0/16",
    ];
    assert_eq!(told(&five), None);
}

#[test]
fn an_address_that_others_serve_is_marked() {
    let (mut maps, mut differ) = started(&ports([]));
    let mut told = |addresses: &[&str]| {
        let update = Update {
            foreign_addresses: Some(addresses.iter().map(|a| address(a)).collect()),
            ..ports([])
        };
        apply(&mut differ, &mut maps, &update);
        let found = maps.find::<Addresses>(&address("10.96.0.9").into());
        found.map(|value| value.flags)
    };
    assert_eq!(told(&["10.96.0.9"]), Some(AddressValue::FOREIGN));
    assert_eq!(told(&[]), None);
}

#[test]
fn the_slots_of_backends_that_left_without_room_go_in_a_later_sweep() {
    let (mut maps, mut differ) = started(&ports([(port("ent"), Some(every_way(&[])))]));
    maps.sizes.insert(map::SOURCE_RANGES, 0);
    let without_backends = PortPlan {
        cluster: Vec::new(),
        local: Vec::new(),
        members: Vec::new(),
        ..every_way(&["10.0.0.0/8"])
    };
    let update = ports([(port("ent"), Some(without_backends))]);
    assert_eq!(differ.apply(&mut maps, &update).unwrap().refused.len(), 1);
    assert_eq!(frontend(&maps, VIP).unwrap().cluster, 0);
    assert_eq!(maps.len::<Slots>(), 3, "somebody may still read them");
    sweep(&mut differ, &mut maps);
    assert_eq!(maps.len::<Slots>(), 0);
}
