//! What happens to a cluster, by chance.

use proptest::{collection::vec, option, prelude::*, sample::subsequence};
use signpost::model::Protocol;

use super::objects::{
    CLUSTER_IPS, Change, Endpoint, HERE, NodeObject, Place, Port, Service, Slice, Type, Way,
    WayKind,
};
use crate::packets::Family;

const SERVICES: usize = 4;
const SLICES: usize = 3;

/// Some things that happen before the agent looks.
pub(crate) fn changes() -> impl Strategy<Value = Vec<Change>> {
    vec(change(), 1..4)
}

fn change() -> impl Strategy<Value = Change> {
    let service = (0..SERVICES, option::weighted(0.85, service())).prop_map(|(n, s)| {
        let own = |way: Way| Way {
            at: match way.at {
                Place::Own(_) => Place::Own(n as u8),
                at => at,
            },
            ..way
        };
        let s = s.map(|s| Service {
            ways: s.ways.into_iter().map(own).collect(),
            ..s
        });
        Change::Service(n, s)
    });
    let slice = (0..SERVICES, 0..SLICES, option::weighted(0.85, slice()));
    let slice = slice.prop_map(|(service, number, slice)| {
        let slice = slice.map(|slice| Slice {
            service: slice.service.map(|moved| (service + moved) % SERVICES),
            ..slice
        });
        Change::Slice((service, number), slice)
    });
    prop_oneof![
        6 => service,
        8 => slice,
        1 => option::weighted(0.9, node()).prop_map(Change::Node),
        1 => any::<bool>().prop_map(Change::ServiceCidr),
        1 => (0..SERVICES).prop_map(Change::Rubbish),
        1 => Just(Change::Relist),
        1 => Just(Change::Restart),
        1 => prop::sample::select(vec![4_u64, 30]).prop_map(Change::Wait),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        2 => Just(Type::ClusterIp),
        3 => Just(Type::NodePort),
        3 => Just(Type::LoadBalancer),
        1 => Just(Type::Headless),
        1 => Just(Type::ExternalName),
    ];
    let families = prop::sample::select(vec![
        vec![Family::V4],
        vec![Family::V6],
        vec![Family::V4, Family::V6],
        vec![Family::V6, Family::V4],
    ]);
    let ranges = subsequence(
        vec![
            " 198.51.100.2/32",
            "10.1.0.0/24",
            "192.168.50.0/24",
            "2001:db9::2/128",
            "fd01::/32",
            "fd50::/64",
        ],
        0..=3,
    );
    let rare = prop::bool::weighted(0.1);
    let address = (kind, families, 0..CLUSTER_IPS);
    let policy = (
        any::<[bool; 2]>(),
        option::weighted(0.4, prop::sample::select(vec![10_u32, 3600])),
    );
    let ways = (
        vec(way(), 0..3),
        prop_oneof![2 => Just(vec![]), 1 => ranges],
    );
    (address, ports(), policy, ways, rare, rare).prop_map(
        |((kind, families, cluster_ip), ports, policy, (ways, ranges), other_proxy, malformed)| {
            let ([internal_local, external_local], affinity) = policy;
            Service {
                kind,
                families,
                cluster_ip,
                ports,
                internal_local,
                external_local,
                affinity,
                ways,
                ranges,
                other_proxy,
                malformed,
            }
        },
    )
}

fn way() -> impl Strategy<Value = Way> {
    let kind = prop::sample::select(vec![
        WayKind::External,
        WayKind::Vip,
        WayKind::Unset,
        WayKind::Proxy,
    ]);
    let at = prop_oneof![
        3 => Just(Place::Own(0)),
        1 => Just(Place::Shared),
        1 => (1..3_u8).prop_map(Place::Node),
    ];
    (kind, at).prop_map(|(kind, at)| Way { kind, at })
}

/// Names that Services and slices have in common, so that they meet; now and then others.
fn ports() -> impl Strategy<Value = Vec<Port>> {
    const TEMPLATES: [(&str, Protocol, u16); 4] = [
        ("http", Protocol::Tcp, 80),
        ("dns", Protocol::Udp, 53),
        ("dns-tcp", Protocol::Tcp, 53),
        ("assoc", Protocol::Sctp, 90),
    ];
    let rare = || prop::bool::weighted(0.15);
    let chosen = subsequence(TEMPLATES.to_vec(), 0..=4);
    (
        chosen,
        rare(),
        rare(),
        option::weighted(0.8, 0..SERVICES as u16),
    )
        .prop_map(|(chosen, renamed, moved, node_ports)| {
            let port = |(name, protocol, number): (&str, Protocol, u16)| Port {
                name: format!("{}{name}", if renamed { "new-" } else { "" }),
                protocol,
                number: number + if moved { 1000 } else { 0 },
                node_port: node_ports.map(|n| 30_000 + 100 * n + number),
            };
            chosen.into_iter().map(port).collect()
        })
}

fn slice() -> impl Strategy<Value = Slice> {
    let rare = || prop::bool::weighted(0.1);
    let family = prop_oneof![
        8 => Just(Some(Family::V4)),
        8 => Just(Some(Family::V6)),
        1 => Just(None),
    ];
    let service = option::weighted(0.95, prop_oneof![9 => Just(0_usize), 1 => Just(1)]);
    let endpoints = vec(endpoint(), 0..5);
    (service, family, ports(), endpoints, rare(), rare(), rare()).prop_map(
        |(service, family, mut ports, endpoints, headless, malformed, other)| {
            for port in &mut ports {
                port.number += if other { 9000 } else { 8000 };
            }
            Slice {
                service,
                family,
                ports,
                endpoints,
                headless,
                malformed,
            }
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    // Mostly ready: rules about all ready endpoints are hardly ever met otherwise.
    let ready = prop_oneof![3 => Just(None), 3 => Just(Some(true)), 4 => Just(Some(false))];
    let serving = prop_oneof![1 => Just(None), 2 => Just(Some(true)), 2 => Just(Some(false))];
    let terminating = prop_oneof![1 => Just(None), 2 => Just(Some(true)), 1 => Just(Some(false))];
    let zones = subsequence(vec!["z", "y"], 0..=2);
    let nodes = subsequence(vec![HERE, "there"], 0..=2);
    let second = prop::bool::weighted(0.1);
    (
        0..5_u8,
        any::<bool>(),
        (ready, serving, terminating),
        zones,
        nodes,
        second,
    )
        .prop_map(
            |(number, here, (ready, serving, terminating), zones, nodes, second)| Endpoint {
                number,
                here,
                ready,
                serving,
                terminating,
                zones,
                nodes,
                second,
            },
        )
}

fn node() -> impl Strategy<Value = NodeObject> {
    let zone = prop_oneof![Just(None), Just(Some("z")), Just(Some("y"))];
    (zone, 1..3_u8).prop_map(|(zone, primary)| NodeObject { zone, primary })
}
