mod interfaces;
mod other_proxy;
mod running;
mod sockets;

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use super::{desired::Given, *};
use crate::{
    dataplane,
    model::{
        Endpoint, EndpointPort, EndpointSlice, Family, Node, Object, ObjectName, Problem, Protocol,
        Service, ServiceCidr, ServiceKind, ServicePort,
    },
    namespaces::Served,
    plan::node_ports::NodePortAddress,
    zone::Name,
};

/// A dataplane that writes down what it is told.
#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    updates: Vec<Update>,
    synced: usize,
    /// What was done at interfaces.
    order: Vec<String>,
    attached: BTreeMap<u32, String>,
    addresses: BTreeSet<IpAddr>,
    handover: dataplane::Handover,
    lost: Vec<u32>,
    /// Who is served at their sockets, each time it was said.
    at_sockets: Vec<BTreeMap<String, Served>>,
    refuses_sockets: Vec<Refusal>,
    fails: bool,
    refuses: Option<Refusal>,
    takes: Duration,
}

impl Fake {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dataplane for Fake {
    fn apply(&mut self, update: &Update) -> anyhow::Result<dataplane::Report> {
        let mut told = self.told();
        anyhow::ensure!(!told.fails, "no kernel today");
        std::thread::sleep(told.takes);
        told.updates.push(update.clone());
        Ok(dataplane::Report {
            refused: told.refuses.iter().cloned().collect(),
            ..dataplane::Report::default()
        })
    }

    fn set_handover(&mut self, handover: dataplane::Handover) -> anyhow::Result<()> {
        self.told().handover = handover;
        Ok(())
    }

    fn in_sync(&mut self) -> anyhow::Result<()> {
        self.told().synced += 1;
        Ok(())
    }

    fn sweep(&mut self) -> anyhow::Result<dataplane::Report> {
        Ok(dataplane::Report::default())
    }
}

impl AtInterfaces for Fake {
    fn prepare(&mut self, interface: &Interface) -> anyhow::Result<()> {
        self.told()
            .order
            .push(format!("prepare {}", interface.index));
        Ok(())
    }

    fn attach(&mut self, interface: &Interface) -> anyhow::Result<()> {
        let mut told = self.told();
        anyhow::ensure!(!told.fails, "no such device");
        told.order.push(format!("attach {}", interface.index));
        told.attached
            .insert(interface.index, interface.name.clone());
        Ok(())
    }

    fn forget(&mut self, index: u32) -> anyhow::Result<()> {
        self.told().attached.remove(&index);
        Ok(())
    }

    fn lost(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.told().lost)
    }

    fn attached(&self) -> Vec<u32> {
        self.told().attached.keys().copied().collect()
    }

    fn serve_at_sockets(&mut self, pods: &[SocketPod]) -> Vec<Refusal> {
        let mut told = self.told();
        let served = |pod: &SocketPod| (pod.namespace.name.clone(), pod.served);
        told.at_sockets.push(pods.iter().map(served).collect());
        told.refuses_sockets.clone()
    }

    fn set_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        self.told().addresses.clone_from(addresses);
        Ok(())
    }
}

#[derive(Clone, Debug, Default)]
struct Published(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    reports: Vec<Report>,
    zones: Vec<Vec<IpAddr>>,
    service_health: ServiceHealth,
}

impl Publish for Published {
    fn event(&mut self, _: &Event) {}

    fn in_sync(&mut self, _: bool) {}

    fn zone(&mut self, config: &ZoneConfig) {
        self.0.lock().unwrap().zones.push(config.dns.clone());
    }

    fn service_health(&mut self, service_health: ServiceHealth) {
        self.0.lock().unwrap().service_health = service_health;
    }

    fn report(&mut self, report: &Report) {
        self.0.lock().unwrap().reports.push(report.clone());
    }
}

struct Bench {
    agent: Agent<Fake>,
    fake: Fake,
    published: Published,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

fn bench(dns: &[&str]) -> Bench {
    let (fake, published) = (Fake::default(), Published::default());
    let (metrics, health) = (Arc::new(Metrics::new(None)), Arc::new(Health::default()));
    let dns = dns.iter().map(|a| a.parse().unwrap()).collect();
    let desired = Desired::new(Given {
        node: "n1".into(),
        domain: Name::from_text("cluster.local").unwrap(),
        ttl: desired::TTL,
        options: Arc::default(),
        dns,
        node_ports: vec![NodePortAddress::Primary, NodePortAddress::Localhost],
        external_ips: false,
        service_ranges: ["10.96.0.0/12".parse().unwrap()].into(),
        changes_sctp: false,
    });
    let agent = Agent::new(
        desired,
        fake.clone(),
        Arc::clone(&metrics),
        Arc::clone(&health),
        Report::default(),
        Box::new(published.clone()),
    );
    Bench {
        agent,
        fake,
        published,
        metrics,
        health,
    }
}

impl Bench {
    fn hears(&mut self, events: impl IntoIterator<Item = Event>) {
        events
            .into_iter()
            .for_each(|event| self.agent.take_in(event));
    }

    fn updates(&self) -> Vec<Update> {
        std::mem::take(&mut self.fake.told().updates)
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.text().unwrap().lines().any(|l| l == line)
    }
}

fn lists(kinds: impl IntoIterator<Item = Kind>) -> impl Iterator<Item = Event> {
    kinds
        .into_iter()
        .flat_map(|kind| [Event::Begin(kind), Event::End(kind)])
}

fn apply(object: impl Into<Object>) -> Event {
    Event::Apply(object.into(), Vec::new())
}

fn service(namespace: &str, name: &str, address: &str) -> Event {
    apply(service_object(namespace, name, address))
}

fn service_object(namespace: &str, name: &str, address: &str) -> Service {
    Service {
        name: ObjectName::new(namespace, name),
        created: 0,
        kind: ServiceKind::ClusterIp(vec![address.parse().unwrap()]),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 8080,
            node_port: 0,
        }],
        ways_in: Default::default(),
        internal_local: false,
        external_local: false,
        affinity_timeout: None,
        proxied: true,
        labels: Default::default(),
    }
}

fn slice(namespace: &str, service: &str, addresses: &[&str]) -> Event {
    apply(slice_object(namespace, service, addresses))
}

fn slice_object(namespace: &str, service: &str, addresses: &[&str]) -> EndpointSlice {
    let endpoint = |address: &&str| Endpoint {
        addresses: address.parse::<IpAddr>().unwrap().into(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: None,
        hints: None,
        pod: None,
    };
    EndpointSlice {
        name: ObjectName::new(namespace, format!("{service}-1")),
        service: Some(service.into()),
        family: Family::V4,
        ports: vec![EndpointPort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: addresses.iter().map(endpoint).collect(),
        proxied: true,
        triggered: None,
        labels: Default::default(),
    }
}

fn namespace(name: &str) -> Event {
    Event::Apply(
        Object::Namespace(ObjectName::new("", name).into()),
        Vec::new(),
    )
}

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

#[test]
fn nothing_is_applied_before_every_list_is_complete() {
    let mut bench = bench(&[]);
    bench.hears(lists([Kind::Service, Kind::EndpointSlice, Kind::Namespace]));
    bench.hears([service("dev", "ent", "10.96.0.7")]);
    bench.agent.round(true);
    bench.agent.tick(true);
    assert!(bench.updates().is_empty());
    assert_eq!(bench.fake.told().synced, 0);
    assert_eq!(
        bench.health.pending(),
        [
            "first list of kind Node",
            "maps filled",
            "programs attached to the pods' interfaces"
        ]
    );

    bench.hears(lists([Kind::Node]));
    bench.agent.round(true);
    let updates = bench.updates();
    assert_eq!(updates.len(), 1);
    assert!(!updates[0].ports.is_empty());
    assert_eq!(updates[0].node_addresses, None, "they are not known yet");
    let ranges = ["10.96.0.0/12".parse().unwrap()];
    assert_eq!(updates[0].service_ranges, Some(ranges.into()));
    assert_eq!(updates[0].dns_addresses, Some(Vec::new()));
    assert_eq!(bench.fake.told().synced, 1);
    bench.agent.interface(InterfaceEvent::Listed);
    bench.agent.addresses(Some(local(&["192.0.2.1"], &[])));
    assert!(bench.health.pending().is_empty());
}

#[test]
fn an_empty_cluster_is_applied_too_so_that_what_is_left_in_the_kernel_goes() {
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    bench.agent.round(false);
    assert_eq!(bench.updates().len(), 1);
    assert_eq!(bench.fake.told().synced, 0);
}

#[test]
fn a_service_and_its_name_come_and_go_in_one_update() {
    let mut bench = bench(&["10.96.0.10"]);
    bench.hears(lists(Kind::ALL));
    bench.agent.round(true);
    bench.updates();

    let ent = name("ent.dev.svc.cluster.local");
    bench.hears([
        namespace("dev"),
        service("dev", "ent", "10.96.0.7"),
        slice("dev", "ent", &["10.1.0.5"]),
    ]);
    bench.agent.round(true);
    let updates = bench.updates();
    assert_eq!(updates.len(), 1);
    let (port, plan) = updates[0].ports.first_key_value().unwrap();
    assert_eq!(port.service, ObjectName::new("dev", "ent"));
    assert_eq!(plan.as_ref().unwrap().cluster.len(), 1);
    let entry = updates[0].names[&ent].as_ref().unwrap();
    assert_eq!(
        entry.a,
        ["10.96.0.7".parse::<std::net::Ipv4Addr>().unwrap()]
    );

    bench.hears([Event::Delete(Kind::Service, ObjectName::new("dev", "ent"))]);
    bench.agent.round(true);
    let updates = bench.updates();
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0].ports.first_key_value(), Some((port, &None)));
    assert_eq!(updates[0].names.get(&ent), Some(&None));
}

#[test]
fn what_changes_nothing_is_no_update() {
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    bench.hears([service("dev", "ent", "10.96.0.7")]);
    bench.agent.round(true);
    assert_eq!(bench.updates().len(), 1);
    bench.hears([service("dev", "ent", "10.96.0.7")]);
    bench.agent.round(true);
    bench.agent.tick(true);
    assert!(bench.updates().is_empty());
}

#[test]
fn the_dns_addresses_are_those_of_the_service_kube_dns() {
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    bench.hears([
        namespace("kube-system"),
        service("kube-system", "kube-dns", "10.96.0.10"),
    ]);
    bench.agent.round(true);
    let learned = |bench: &Bench| bench.agent.desired.dns().to_vec();
    assert_eq!(learned(&bench), ["10.96.0.10".parse::<IpAddr>().unwrap()]);
    let updates = bench.updates();
    let plan = updates[0].ports.first_key_value().unwrap().1;
    assert!(plan.as_ref().unwrap().dns);

    bench.hears([service("kube-system", "kube-dns", "10.96.0.53")]);
    bench.agent.round(true);
    assert_eq!(learned(&bench), ["10.96.0.53".parse::<IpAddr>().unwrap()]);
    let updates = bench.updates();
    assert_eq!(updates[0].dns_addresses, Some(learned(&bench)));
    let plan = updates[0].ports.first_key_value().unwrap().1;
    assert!(plan.as_ref().unwrap().dns);
    assert!(updates[0].names[&name("kube-dns.kube-system.svc.cluster.local")].is_some());
    assert_eq!(bench.published.0.lock().unwrap().zones.len(), 2);
}

#[test]
fn a_malformed_object_is_reported_once_and_harms_no_other() {
    let mut bench = bench(&[]);
    let bad = Event::Problems {
        kind: "Service".to_owned(),
        object: ObjectName::new("dev", "bad"),
        problems: vec![Problem {
            kind: "Service".to_owned(),
            object: ObjectName::new("dev", "bad"),
            field: "spec.clusterIP".to_owned(),
            reason: "not an address".to_owned(),
        }],
    };
    bench.hears(lists(Kind::ALL));
    bench.hears([bad.clone(), service("dev", "ent", "10.96.0.7")]);
    bench.agent.round(true);
    bench.hears([bad]);
    bench.agent.round(true);
    bench.agent.tick(true);
    bench.agent.tick(true);
    assert!(bench.metric("signpost_problems_seen_total 1"));
    assert!(bench.metric("signpost_problems{kind=\"Service\"} 1"));
    assert_eq!(bench.updates()[0].ports.len(), 1);
    let reports = &bench.published.0.lock().unwrap().reports;
    assert_eq!(reports.len(), 1, "the report is written when it changes");
    assert_eq!(reports[0].problems[0].field, "spec.clusterIP");
}

#[test]
fn an_update_that_failed_is_carried_out_later_with_what_came_since() {
    let mut bench = bench(&["10.96.0.10"]);
    bench.hears(lists(Kind::ALL));
    bench.hears([service("dev", "ent", "10.96.0.7")]);
    bench.fake.told().fails = true;
    bench.agent.round(true);
    bench.hears([service("dev", "other", "10.96.0.8")]);
    bench.agent.addresses(Some(local(&["192.0.2.1"], &[])));
    bench.agent.round(true);
    bench.agent.tick(true);
    assert_eq!(bench.fake.told().synced, 0, "names may be missing");
    assert!(bench.health.pending().contains(&"maps filled".to_owned()));

    bench.fake.told().fails = false;
    bench.agent.tick(true);
    let updates = bench.updates();
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0].ports.len(), 2);
    assert!(updates[0].node_addresses.is_some());
    assert!(updates[0].service_ranges.is_some());
    assert_eq!(bench.fake.told().synced, 1);
}

#[test]
fn what_is_refused_is_said_once_tried_again_and_said_to_be_served_again() {
    let mut bench = bench(&[]);
    let refusal = Refusal {
        object: "dev/ent".to_owned(),
        reason: "map frontends is full".to_owned(),
    };
    bench.fake.told().refuses = Some(refusal);
    bench.hears(lists(Kind::ALL));
    bench.agent.round(true);
    for _ in 0..RETRY_TICKS * 3 {
        bench.agent.tick(true);
    }
    assert_eq!(bench.updates().len(), 4);
    assert!(bench.metric("signpost_refusals_seen_total 1"));
    assert!(bench.metric("signpost_refusals 1"));

    bench.fake.told().refuses = None;
    for _ in 0..RETRY_TICKS * 3 {
        bench.agent.tick(true);
    }
    assert_eq!(bench.updates().len(), 1);
    assert!(bench.metric("signpost_refusals 0"));
}

#[test]
fn the_clock_is_only_set_while_the_source_is_in_sync() {
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    bench.agent.round(false);
    bench.agent.tick(false);
    assert_eq!(bench.fake.told().synced, 0);
    bench.agent.tick(true);
    assert_eq!(bench.fake.told().synced, 1);
}

fn node(addresses: &[&str]) -> Event {
    let node = Node {
        name: ObjectName::new("", "n1"),
        labels: BTreeMap::new(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        leaving: false,
    };
    Event::Apply(Object::Node(node), Vec::new())
}

fn local(all: &[&str], preferred: &[&str]) -> LocalAddresses {
    let set = |texts: &[&str]| texts.iter().map(|a| a.parse().unwrap()).collect();
    LocalAddresses {
        all: set(all),
        preferred: set(preferred),
    }
}

#[test]
fn node_ports_are_served_at_the_addresses_of_the_node_object_else_at_the_preferred_ones() {
    const ALL: [&str; 3] = ["127.0.0.1", "192.0.2.1", "192.0.2.2"];
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    bench.agent.addresses(Some(local(&ALL, &["192.0.2.2"])));
    bench.agent.round(true);
    let node_ports = |update: &Update| -> Vec<String> {
        let addresses = update.node_addresses.as_ref().expect("they changed");
        assert_eq!(addresses.all, local(&ALL, &[]).all);
        addresses
            .node_ports
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(node_ports(&bench.updates()[0]), ["127.0.0.1", "192.0.2.2"]);

    bench.hears([node(&["192.0.2.1"])]);
    bench.agent.round(true);
    assert_eq!(node_ports(&bench.updates()[0]), ["127.0.0.1", "192.0.2.1"]);
    bench.agent.addresses(Some(local(&ALL, &[])));
    bench.agent.round(true);
    assert_eq!(bench.updates().len(), 0, "nothing changed for anybody");
}

#[test]
fn external_ips_that_are_refused_are_a_problem_and_no_frontend() {
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    let mut object = service_object("dev", "ent", "10.96.0.1");
    object.ways_in.external_ips = vec!["192.0.2.9".parse().unwrap()];
    bench.hears([apply(object)]);
    bench.agent.round(true);
    let updates = bench.updates();
    let plan = updates[0].ports.values().next().unwrap().as_ref().unwrap();
    assert_eq!(plan.frontends.len(), 1, "{:?}", plan.frontends);
    assert!(bench.metric("signpost_problems{kind=\"Service\"} 1"));
}

#[test]
fn the_addresses_that_others_serve_are_told() {
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    let set_proxied = |proxied| {
        let mut object = service_object("dev", "ent", "10.96.0.1");
        object.proxied = proxied;
        apply(object)
    };
    bench.hears([set_proxied(false)]);
    bench.agent.round(true);
    let foreign = |bench: &Bench| bench.updates().remove(0).foreign_addresses;
    let address: IpAddr = "10.96.0.1".parse().unwrap();
    assert_eq!(foreign(&bench), Some([address].into()));
    bench.hears([set_proxied(true)]);
    bench.agent.round(true);
    assert_eq!(foreign(&bench), Some(BTreeSet::new()));
    bench.hears([slice("dev", "ent", &["10.1.0.1"])]);
    bench.agent.round(true);
    assert_eq!(foreign(&bench), None);
}

#[test]
fn load_balancers_leave_a_node_that_leaves() {
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    bench.agent.round(true);
    assert!(
        bench.health.proxy().node_eligible,
        "a cluster without this Node"
    );
    let Event::Apply(Object::Node(mut leaving), _) = node(&["192.0.2.1"]) else {
        unreachable!("it is a Node");
    };
    leaving.leaving = true;
    bench.hears([Event::Apply(Object::Node(leaving.clone()), Vec::new())]);
    bench.agent.round(true);
    assert!(!bench.health.proxy().node_eligible);
    bench.hears([node(&["192.0.2.1"])]);
    bench.agent.round(true);
    assert!(bench.health.proxy().node_eligible);
    bench.hears([Event::Delete(Kind::Node, leaving.name)]);
    bench.agent.round(true);
    assert!(!bench.health.proxy().node_eligible, "it is gone");
}

/// A Service of type LoadBalancer with `externalTrafficPolicy: Local`.
fn balanced() -> Event {
    let mut object = service_object("dev", "ent", "10.96.0.1");
    object.external_local = true;
    object.ways_in.health_check_node_port = 30_001;
    object.ports[0].node_port = 30_080;
    apply(object)
}

/// An EndpointSlice with endpoints on this node, each ready or only terminating.
fn here(ready: &[bool]) -> Event {
    let addresses: Vec<String> = (1..=ready.len()).map(|n| format!("10.1.0.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut slice = slice_object("dev", "ent", &addresses);
    for (endpoint, ready) in slice.endpoints.iter_mut().zip(ready) {
        endpoint.node = Some("n1".into());
        (endpoint.ready, endpoint.terminating) = (*ready, !ready);
    }
    apply(slice)
}

#[test]
fn the_health_check_node_port_fails_where_endpoints_only_terminate() {
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    let endpoints = |bench: &mut Bench, ready: &[bool]| {
        bench.hears([balanced(), here(ready)]);
        bench.agent.round(true);
        let told = bench.published.0.lock().unwrap();
        let check = told.service_health.checks.first().cloned().unwrap();
        assert_eq!((check.family, check.port), (Family::V4, 30_001));
        check.endpoints
    };
    assert_eq!(endpoints(&mut bench, &[true, true, false]), 2);
    assert_eq!(endpoints(&mut bench, &[false]), 0);
    bench.hears([service("dev", "ent", "10.96.0.1")]);
    bench.agent.round(true);
    let told = bench.published.0.lock().unwrap();
    assert!(told.service_health.checks.is_empty());
}

#[test]
fn a_policy_that_finds_no_endpoint_here_is_counted_and_a_change_is_timed_from_its_trigger() {
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    let mut elsewhere = slice_object("dev", "ent", &["10.1.0.1"]);
    elsewhere.triggered = Some(milliseconds() + 10);
    let old = EndpointSlice {
        name: ObjectName::new("dev", "old"),
        triggered: Some(1),
        ..elsewhere.clone()
    };
    let events = [elsewhere, old].map(apply);
    bench.hears([balanced()]);
    bench.hears(events);
    bench.agent.round(true);
    let lines = [
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 1",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"internal\"} 0",
        "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 1",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
    ];
    for line in lines {
        assert!(bench.metric(line), "{line}");
    }
}

#[test]
fn service_cidrs_extend_and_shrink_the_ranges() {
    let mut bench = bench(&[]);
    bench.hears(lists(Kind::ALL));
    bench.agent.round(true);
    bench.updates();
    let cidr = ServiceCidr {
        name: ObjectName::new("", "more"),
        networks: vec!["10.200.0.0/16".parse().unwrap()],
    };
    let name = cidr.name.clone();
    bench.hears([Event::Apply(Object::ServiceCidr(cidr), Vec::new())]);
    bench.agent.round(true);
    let ranges = |bench: &Bench| bench.updates().remove(0).service_ranges.unwrap().len();
    assert_eq!(ranges(&bench), 2);
    bench.hears([Event::Delete(Kind::ServiceCidr, name)]);
    bench.agent.round(true);
    assert_eq!(ranges(&bench), 1);
}
