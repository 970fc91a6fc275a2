//! The zone's answers, box by box of the Kubernetes DNS specification 1.1.0 (D) and of CoreDNS (C).

mod selected;

use rstest::rstest;
use signpost_common::dns::qtype::*;

use super::*;
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, Event, Family, Object, Protocol, Service, ServiceKind,
    ServicePort,
};

const ANY: u16 = 255;
const MX: u16 = 15;

/// Names with what the kernel may know of them.
pub(super) type Entries = BTreeMap<Name, NameEntry>;

pub(super) fn config() -> ZoneConfig {
    ZoneConfig {
        domain: name("cluster.local"),
        ttl: 30,
        dns: vec!["10.96.0.10".parse().unwrap()],
        options: Arc::default(),
    }
}

pub(super) fn service(
    namespace: &str,
    name: &str,
    kind: ServiceKind,
    ports: &[(&str, u16)],
) -> Service {
    Service {
        name: ObjectName::new(namespace, name),
        created: 0,
        kind,
        ports: ports
            .iter()
            .map(|(name, port)| ServicePort {
                name: (*name).into(),
                protocol: if *name == "dns" {
                    Protocol::Udp
                } else {
                    Protocol::Tcp
                },
                port: *port,
                node_port: 0,
            })
            .collect(),
        ways_in: Default::default(),
        internal_local: false,
        external_local: false,
        affinity_timeout: None,
        proxied: true,
        labels: Default::default(),
    }
}

/// Endpoints are address, ready, hostname; those of one family make the slice.
pub(super) fn slice(
    namespace: &str,
    name: &str,
    service: &str,
    ports: &[(&str, u16)],
    endpoints: &[(IpAddr, bool, Option<&str>)],
) -> EndpointSlice {
    let family = endpoints
        .first()
        .map_or(Family::V4, |(address, ..)| Family::of(*address));
    EndpointSlice {
        name: ObjectName::new(namespace, name),
        service: Some(service.into()),
        family,
        ports: ports
            .iter()
            .map(|(name, port)| EndpointPort {
                name: (*name).into(),
                protocol: Protocol::Tcp,
                port: *port,
            })
            .collect(),
        endpoints: endpoints
            .iter()
            .filter(|(address, ..)| Family::of(*address) == family)
            .map(|(address, ready, hostname)| Endpoint {
                addresses: (*address).into(),
                ready: *ready,
                serving: true,
                terminating: false,
                hostname: hostname.map(Into::into),
                node: None,
                hints: None,
                pod: None,
            })
            .collect(),
        proxied: true,
        triggered: None,
        labels: Default::default(),
    }
}

/// A cluster with every kind of Service.
pub(super) fn example() -> Zone {
    example_with_entries().0
}

/// As [`example`], with what was told of it.
pub(super) fn example_with_entries() -> (Zone, Entries) {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let ips = |list: &[&str]| ServiceKind::ClusterIp(list.iter().map(|t| ip(t)).collect());
    let external = |target: &str| ServiceKind::ExternalName(target.to_owned());
    let mut services = vec![
        service(
            "default",
            "kubernetes",
            ips(&["10.96.0.1"]),
            &[("https", 443)],
        ),
        service(
            "kube-system",
            "kube-dns",
            ips(&["10.96.0.10"]),
            &[("dns", 53)],
        ),
        service("dev", "ent", ips(&["10.96.1.1"]), &[("http", 80)]),
        service("dev", "unnamed", ips(&["10.96.1.2"]), &[("", 80)]),
        service(
            "dev",
            "dual",
            ips(&["10.96.1.3", "fd00:96::3"]),
            &[("http", 80), ("", 81)],
        ),
        service("dev", "web", ServiceKind::Headless, &[("http", 80)]),
        service("dev", "down", ServiceKind::Headless, &[("http", 80)]),
        service("dev", "bare", ServiceKind::Headless, &[]),
        service("dev", "six", ServiceKind::Headless, &[("http", 80)]),
        service("dev", "ext", external("Example.com"), &[]),
        service("dev", "to-ent", external("ent.dev.svc.cluster.local"), &[]),
        service(
            "dev",
            "to-pod",
            external("10-0-0-9.dev.pod.cluster.local"),
            &[],
        ),
        service(
            "dev",
            "to-none",
            external("none.dev.svc.cluster.local"),
            &[],
        ),
        service("dev", "to-ext", external("ext.dev.svc.cluster.local"), &[]),
        service("dev", "loop", external("loop.dev.svc.cluster.local"), &[]),
        service("dev", "address", external("192.0.2.1"), &[]),
        service("gone", "lost", ips(&["10.96.9.9"]), &[("http", 80)]),
    ];
    for n in 0..13 {
        services.push(match n {
            0 => service("dev", "chain0", external("ent.dev.svc.cluster.local"), &[]),
            n => service(
                "dev",
                &format!("chain{n}"),
                external(&format!("chain{}.dev.svc.cluster.local", n - 1)),
                &[],
            ),
        });
    }
    let http = [("http", 8080)];
    let slices = [
        slice(
            "dev",
            "ent-a",
            "ent",
            &http,
            &[(ip("10.0.0.1"), true, Some("ent-0"))],
        ),
        slice(
            "dev",
            "web-a",
            "web",
            &[("http", 8080), ("admin", 9090)],
            &[
                (ip("10.0.0.2"), true, Some("web-0")),
                (ip("10.0.0.3"), true, None),
                (ip("10.0.0.4"), false, Some("web-2")),
            ],
        ),
        slice("dev", "web-b", "web", &http, &[(ip("fd00::"), true, None)]),
        slice(
            "dev",
            "down-a",
            "down",
            &http,
            &[(ip("10.0.0.5"), false, None)],
        ),
        slice(
            "dev",
            "bare-a",
            "bare",
            &[],
            &[(ip("10.0.0.6"), true, None)],
        ),
        slice("dev", "six-a", "six", &http, &[(ip("fd00::6"), true, None)]),
        slice(
            "dev",
            "orphan-a",
            "orphan",
            &http,
            &[(ip("10.0.0.7"), true, Some("o"))],
        ),
        slice(
            "dev",
            "ent-v6",
            "ent",
            &http,
            &[(ip("10.96.1.3"), true, None)],
        ),
    ];
    let mut registry = Registry::default();
    for namespace in ["default", "kube-system", "dev", "empty"] {
        registry.apply(Event::Apply(
            Object::Namespace(ObjectName::new("", namespace).into()),
            vec![],
        ));
    }
    for service in services {
        registry.apply(Event::Apply(Object::from(service), vec![]));
    }
    for slice in slices {
        registry.apply(Event::Apply(Object::from(slice), vec![]));
    }
    let mut zone = Zone::new(config());
    let changes = registry.take_changes();
    let told = zone.update(&registry, &changes, 1);
    let entries = told.into_iter().filter_map(|(name, e)| Some((name, e?)));
    (zone, entries.collect())
}

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

/// What a lookup says, in one line: answers, then additional ones after `+`.
fn said(zone: &Zone, question: &str, qtype: u16) -> String {
    let records = |list: &[Record]| {
        let one = |r: &Record| {
            let owner = r.owner.as_ref().map_or(String::new(), |o| format!("{o}="));
            owner
                + &match &r.data {
                    RecordData::Address(a) => a.to_string(),
                    RecordData::Cname(n) => format!("CNAME {n}"),
                    RecordData::Srv {
                        priority,
                        weight,
                        port,
                        target,
                    } => format!("{priority} {weight} {port} {target}"),
                    RecordData::Ptr(n) => format!("PTR {n}"),
                    RecordData::Txt(t) => format!("{t:?}"),
                    RecordData::Ns(n) => format!("NS {n}"),
                    RecordData::Soa => "SOA".to_owned(),
                }
        };
        list.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let text = match zone.lookup(&name(question), qtype) {
        Lookup::Outside => "outside".to_owned(),
        Lookup::NoData => "NODATA".to_owned(),
        Lookup::NxDomain => "NXDOMAIN".to_owned(),
        Lookup::Alias { answers, target } => format!("{} ? {target}", records(&answers)),
        Lookup::Answer {
            answers,
            additional,
        } if additional.is_empty() => records(&answers),
        Lookup::Answer {
            answers,
            additional,
        } => format!("{} + {}", records(&answers), records(&additional)),
    };
    text.replace(".svc.cluster.local", "~")
}

#[rstest]
#[case::d1_letter_case("Ent.DEV.svc.Cluster.LOCAL", A, "10.96.1.1")]
#[case::d6_version("dns-version.cluster.local", TXT, "\"1.1.0\"")]
#[case::d6_other_types("dns-version.cluster.local", A, "NXDOMAIN")]
#[case::d6_soa("dns-version.cluster.local", SOA, "NODATA")]
#[case::d7_a("kubernetes.default.svc.cluster.local", A, "10.96.0.1")]
#[case::d7_a_of_both("dual.dev.svc.cluster.local", A, "10.96.1.3")]
#[case::d7_aaaa("dual.dev.svc.cluster.local", AAAA, "fd00:96::3")]
#[case::d7_without_endpoints("unnamed.dev.svc.cluster.local", A, "10.96.1.2")]
#[case::d8_srv(
    "_http._tcp.ent.dev.svc.cluster.local",
    SRV,
    "0 100 80 ent.dev~ + ent.dev~=10.96.1.1"
)]
#[case::d8_other_protocol("_http._udp.ent.dev.svc.cluster.local", SRV, "NXDOMAIN")]
#[case::d8_udp(
    "_dns._udp.kube-dns.kube-system.svc.cluster.local",
    SRV,
    "0 100 53 kube-dns.kube-system~ + kube-dns.kube-system~=10.96.0.10"
)]
#[case::d8_absent_port("_https._tcp.ent.dev.svc.cluster.local", SRV, "NXDOMAIN")]
#[case::d8_unnamed_port_of_the_bare_name(
    "unnamed.dev.svc.cluster.local",
    SRV,
    "0 100 80 unnamed.dev~ + unnamed.dev~=10.96.1.2"
)]
#[case::d9_ptr("1.0.96.10.in-addr.arpa", PTR, "PTR kubernetes.default~")]
#[case::d9_ptr_v6(
    "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa",
    PTR,
    "PTR dual.dev~"
)]
#[case::d10_ready_endpoints("web.dev.svc.cluster.local", A, "10.0.0.2, 10.0.0.3")]
#[case::d10_ready_endpoints_v6("web.dev.svc.cluster.local", AAAA, "fd00::")]
#[case::d10_no_ready_endpoint("down.dev.svc.cluster.local", A, "NXDOMAIN")]
#[case::d10_no_ready_endpoint_other_type("down.dev.svc.cluster.local", TXT, "NXDOMAIN")]
#[case::d10_other_family("six.dev.svc.cluster.local", A, "NODATA")]
#[case::d11_hostname("web-0.web.dev.svc.cluster.local", A, "10.0.0.2")]
#[case::d11_not_ready("web-2.web.dev.svc.cluster.local", A, "NXDOMAIN")]
#[case::d11_other_type("web-0.web.dev.svc.cluster.local", TXT, "NODATA")]
#[case::d12_srv(
    "_admin._tcp.web.dev.svc.cluster.local",
    SRV,
    "0 50 9090 web-0.web.dev~, 0 50 9090 10-0-0-3.web.dev~ + web-0.web.dev~=10.0.0.2, 10-0-0-3.web.dev~=10.0.0.3"
)]
#[case::d12_srv_all_families(
    "_http._tcp.web.dev.svc.cluster.local",
    SRV,
    "0 33 8080 web-0.web.dev~, 0 33 8080 10-0-0-3.web.dev~, 0 33 8080 fd00--0.web.dev~ + web-0.web.dev~=10.0.0.2, 10-0-0-3.web.dev~=10.0.0.3, fd00--0.web.dev~=fd00::"
)]
#[case::d12_no_ports("bare.dev.svc.cluster.local", SRV, "NODATA")]
#[case::d12_no_ports_a("bare.dev.svc.cluster.local", A, "10.0.0.6")]
#[case::d13_hostname("2.0.0.10.in-addr.arpa", PTR, "PTR web-0.web.dev~")]
#[case::d13_dashed("3.0.0.10.in-addr.arpa", PTR, "PTR 10-0-0-3.web.dev~")]
#[case::d13_of_a_cluster_ip_service("1.0.0.10.in-addr.arpa", PTR, "PTR ent-0.ent.dev~")]
#[case::d13_without_service("7.0.0.10.in-addr.arpa", PTR, "PTR o.orphan.dev~")]
#[case::d13_not_ready("5.0.0.10.in-addr.arpa", PTR, "outside")]
#[case::d14_cname("ext.dev.svc.cluster.local", CNAME, "CNAME example.com")]
#[case::d14_outside("ext.dev.svc.cluster.local", A, "CNAME example.com ? example.com")]
#[case::d14_other_type("ext.dev.svc.cluster.local", TXT, "NODATA")]
#[case::d14_srv("ext.dev.svc.cluster.local", SRV, "NODATA")]
#[case::d14_wildcards("_._.ext.dev.svc.cluster.local", CNAME, "CNAME example.com")]
#[case::d14_below("a.ext.dev.svc.cluster.local", A, "NXDOMAIN")]
#[case::d14_address("address.dev.svc.cluster.local", A, "NXDOMAIN")]
#[case::d15_dashed("10-0-0-3.web.dev.svc.cluster.local", A, "10.0.0.3")]
#[case::d15_dashed_with_hostname("10-0-0-2.web.dev.svc.cluster.local", A, "NXDOMAIN")]
#[case::d16_pod("10-1-2-3.dev.pod.cluster.local", A, "10.1.2.3")]
#[case::c3_endpoint_of_a_cluster_ip_service("ent-0.ent.dev.svc.cluster.local", A, "10.0.0.1")]
#[case::c3_endpoint_srv(
    "ent-0.ent.dev.svc.cluster.local",
    SRV,
    "0 100 8080 ent-0.ent.dev~ + ent-0.ent.dev~=10.0.0.1"
)]
#[case::c3_port_a("_http._tcp.ent.dev.svc.cluster.local", A, "10.96.1.1")]
#[case::c3_no_underscores("http.tcp.ent.dev.svc.cluster.local", A, "10.96.1.1")]
#[case::c3_wildcards("_._.ent.dev.svc.cluster.local", A, "10.96.1.1")]
#[case::c3_wildcard_port(
    "_._tcp.unnamed.dev.svc.cluster.local",
    SRV,
    "0 100 80 unnamed.dev~ + unnamed.dev~=10.96.1.2"
)]
#[case::c3_three_left("_http._tcp.web-0.web.dev.svc.cluster.local", SRV, "NXDOMAIN")]
#[case::c3_non_terminal("_tcp.ent.dev.svc.cluster.local", A, "NXDOMAIN")]
#[case::c3_non_terminal_dns("dns.cluster.local", A, "NXDOMAIN")]
#[case::c4_weight_of_a_dual_stack_port(
    "_http._tcp.dual.dev.svc.cluster.local",
    SRV,
    "0 50 80 dual.dev~ + dual.dev~=10.96.1.3, dual.dev~=fd00:96::3"
)]
#[case::c4_weight_of_two_ports(
    "dual.dev.svc.cluster.local",
    SRV,
    "0 25 80 dual.dev~, 0 25 81 dual.dev~ + dual.dev~=10.96.1.3, dual.dev~=fd00:96::3"
)]
#[case::c5_trailing_dash("fd00--0.web.dev.svc.cluster.local", AAAA, "fd00::")]
#[case::c7_inside(
    "to-ent.dev.svc.cluster.local",
    A,
    "CNAME ent.dev~, ent.dev~=10.96.1.1"
)]
#[case::c7_inside_pod(
    "to-pod.dev.svc.cluster.local",
    A,
    "CNAME 10-0-0-9.dev.pod.cluster.local, 10-0-0-9.dev.pod.cluster.local=10.0.0.9"
)]
#[case::c7_other_family("to-ent.dev.svc.cluster.local", AAAA, "NODATA")]
#[case::c7_missing("to-none.dev.svc.cluster.local", A, "NODATA")]
#[case::c7_two_steps_outside(
    "to-ext.dev.svc.cluster.local",
    AAAA,
    "CNAME ext.dev~, ext.dev~=CNAME example.com ? example.com"
)]
#[case::c7_loop("loop.dev.svc.cluster.local", A, "NODATA")]
#[case::c7_loop_cname("loop.dev.svc.cluster.local", CNAME, "CNAME loop.dev~")]
#[case::c7_twelfth("chain11.dev.svc.cluster.local", A, "NODATA")]
#[case::c8_v6("fd00--1.dev.pod.cluster.local", AAAA, "fd00::1")]
#[case::c8_other_family("10-1-2-3.dev.pod.cluster.local", AAAA, "NODATA")]
#[case::c8_missing_namespace("10-1-2-3.none.pod.cluster.local", A, "NXDOMAIN")]
#[case::c8_no_address("10-1-2.dev.pod.cluster.local", A, "NXDOMAIN")]
#[case::c8_leading_zero("10-1-2-03.dev.pod.cluster.local", A, "NXDOMAIN")]
#[case::c8_one_left("a.10-0-0-1.dev.pod.cluster.local", A, "10.0.0.1")]
#[case::c8_two_left("a.b.10-0-0-1.dev.pod.cluster.local", A, "10.0.0.1")]
#[case::c8_three_left("a.b.c.10-0-0-1.dev.pod.cluster.local", A, "NXDOMAIN")]
#[case::c8_srv(
    "10-0-0-1.dev.pod.cluster.local",
    SRV,
    "0 100 0 10-0-0-1.dev.pod.cluster.local + 10-0-0-1.dev.pod.cluster.local=10.0.0.1"
)]
#[case::c9_cluster_ip_before_endpoint("3.1.96.10.in-addr.arpa", PTR, "PTR dual.dev~")]
#[case::c9_unknown("8.8.8.8.in-addr.arpa", PTR, "outside")]
#[case::c9_other_type("1.0.96.10.in-addr.arpa", A, "outside")]
#[case::c10_soa("cluster.local", SOA, "SOA")]
#[case::c10_ns(
    "cluster.local",
    NS,
    "NS kube-dns.kube-system~ + kube-dns.kube-system~=10.96.0.10"
)]
#[case::c10_ns_dns("ns.dns.cluster.local", A, "10.96.0.10")]
#[case::c10_ns_dns_v6("ns.dns.cluster.local", AAAA, "NODATA")]
#[case::c10_below_ns_dns("a.ns.dns.cluster.local", A, "NXDOMAIN")]
#[case::table_apex("cluster.local", A, "NODATA")]
#[case::table_svc("svc.cluster.local", A, "NODATA")]
#[case::table_pod("pod.cluster.local", AAAA, "NODATA")]
#[case::table_namespace("empty.svc.cluster.local", A, "NODATA")]
#[case::table_namespace_pod("empty.pod.cluster.local", A, "NODATA")]
#[case::table_namespace_missing("none.svc.cluster.local", A, "NXDOMAIN")]
#[case::table_service_missing("none.dev.svc.cluster.local", A, "NXDOMAIN")]
#[case::table_service_of_a_missing_namespace("lost.gone.svc.cluster.local", A, "NXDOMAIN")]
#[case::table_other_type("ent.dev.svc.cluster.local", AAAA, "NODATA")]
#[case::table_other_type_mx("ent.dev.svc.cluster.local", MX, "NODATA")]
#[case::table_any("ent.dev.svc.cluster.local", ANY, "NODATA")]
#[case::table_anything_else("x.cluster.local", A, "NXDOMAIN")]
#[case::table_search_list("api.github.com.dev.svc.cluster.local", A, "NXDOMAIN")]
#[case::rfc_txt_of_the_apex("cluster.local", TXT, "NODATA")]
#[case::rfc_soa_of_a_missing_name("x.cluster.local", SOA, "NXDOMAIN")]
#[case::outside("example.com", A, "outside")]
fn the_zone_says(#[case] question: &str, #[case] qtype: u16, #[case] expected: &str) {
    assert_eq!(said(&example(), question, qtype), expected);
}

#[test]
fn eleven_aliases_in_a_row_lead_to_the_address() {
    let said = said(&example(), "chain10.dev.svc.cluster.local", A);
    assert_eq!(said.matches("CNAME").count(), 11, "{said}");
    assert!(said.ends_with("ent.dev~=10.96.1.1"), "{said}");
}

#[test]
fn a_name_belongs_to_the_service_it_is_at_or_below() {
    let zone = example();
    let of = |text| zone.service_of(&name(text));
    let ent = Some(ObjectName::new("dev", "ent"));
    assert_eq!(of("ent.dev.svc.cluster.local"), ent);
    assert_eq!(of("_http._tcp.ent.dev.svc.cluster.local"), ent);
    assert_eq!(of("dev.svc.cluster.local"), None);
    assert_eq!(of("10-0-0-1.dev.pod.cluster.local"), None);
}

#[test]
fn a_namespace_that_goes_takes_its_names_along_and_brings_them_back() {
    let mut registry = Registry::default();
    let namespace = Object::Namespace(ObjectName::new("", "dev").into());
    let kind = ServiceKind::ClusterIp(vec!["10.96.1.1".parse().unwrap()]);
    registry.apply(Event::Apply(namespace.clone(), vec![]));
    registry.apply(Event::Apply(
        Object::from(service("dev", "ent", kind, &[("http", 80)])),
        vec![],
    ));
    let mut zone = Zone::new(config());
    let changes = registry.take_changes();
    zone.update(&registry, &changes, 1);
    let gone = ObjectName::new("", "dev");
    registry.apply(Event::Delete(crate::model::Kind::Namespace, gone));
    let changes = registry.take_changes();
    let changed = zone.update(&registry, &changes, 2);
    // The namespace, the Service and its port.
    assert_eq!(changed.len(), 3);
    assert!(changed.values().all(Option::is_none));
    assert_eq!(said(&zone, "ent.dev.svc.cluster.local", A), "NXDOMAIN");
    registry.apply(Event::Apply(namespace, vec![]));
    let changes = registry.take_changes();
    assert_eq!(zone.update(&registry, &changes, 3).len(), 3);
    assert_eq!(said(&zone, "ent.dev.svc.cluster.local", A), "10.96.1.1");
    assert_eq!(zone.serial(), 3);
}

#[test]
fn of_ten_thousand_services_only_the_one_that_changed_is_told_of() {
    let mut registry = Registry::default();
    registry.apply(Event::Apply(
        Object::Namespace(ObjectName::new("", "dev").into()),
        vec![],
    ));
    for n in 0..10_000u32 {
        let address = IpAddr::from((0x0a60_0000 + n).to_be_bytes());
        let kind = ServiceKind::ClusterIp(vec![address]);
        let name = format!("s{n}");
        registry.apply(Event::Apply(
            Object::from(service("dev", &name, kind, &[("http", 80)])),
            vec![],
        ));
        let endpoints: Vec<_> = (0..10u32)
            .map(|e| {
                (
                    IpAddr::from((0x0a00_0000 + n * 10 + e).to_be_bytes()),
                    true,
                    None,
                )
            })
            .collect();
        registry.apply(Event::Apply(
            Object::from(slice("dev", &name, &name, &[("http", 80)], &endpoints)),
            vec![],
        ));
    }
    let mut zone = Zone::new(config());
    let changes = registry.take_changes();
    zone.update(&registry, &changes, 1);
    assert!(zone.names().len() > 10_000);
    registry.apply(Event::Delete(
        crate::model::Kind::Service,
        ObjectName::new("dev", "s77"),
    ));
    let changes = registry.take_changes();
    assert_eq!(changes.services.len(), 1);
    let gone = [
        "s77.dev.svc.cluster.local",
        "_http._tcp.s77.dev.svc.cluster.local",
        "77.0.96.10.in-addr.arpa",
    ];
    let gone = gone.map(|name| (Name::from_text(name).unwrap(), None));
    assert_eq!(zone.update(&registry, &changes, 2), gone.into());
}
