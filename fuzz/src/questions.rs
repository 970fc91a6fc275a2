//! Arbitrary questions to the kernel's DNS code, over a small cluster; [`judge`] says whether an answer is right.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use arbitrary::{Result, Unstructured};
use etherparse::PacketBuilder;
use serde_json::{Value, json};
use signpost::{
    agent::desired::{Desired, Given},
    dataplane::{
        Handover,
        ebpf::{EbpfConfig, differ::Differ},
    },
    model::{Event, Object, ObjectName},
    registry::Registry,
    source::convert::{self, Addresses},
    zone::{Name, Zone},
};
use signpost_ebpf::{
    Verdict, from_pod,
    host::{Frame, Memory},
};

use crate::{judge, maps::Maps};

const DNS: [u8; 4] = [10, 96, 0, 10];
/// Labels that lead somewhere, alone or in the wrong place.
const LABELS: [&str; 18] = [
    "ent",
    "web",
    "many",
    "dual",
    "out",
    "away",
    "dev",
    "prod",
    "svc",
    "pod",
    "cluster",
    "local",
    "host-1",
    "_http",
    "_tcp",
    "10-1-0-1",
    "nobody",
    "dns-version",
];
const SUFFIXES: [&str; 6] = [
    "",
    "svc.cluster.local",
    "dev.svc.cluster.local",
    "prod.svc.cluster.local",
    "cluster.local",
    "96.10.in-addr.arpa",
];

struct Cluster {
    tables: Memory,
    zone: Desired,
}

thread_local! {
    static CLUSTER: RefCell<Option<Cluster>> = const { RefCell::new(None) };
}

/// Asks one question.
pub fn run(data: &[u8]) {
    let Ok(question) = question(&mut Unstructured::new(data)) else {
        return;
    };
    CLUSTER.with_borrow_mut(|cluster| {
        let cluster = cluster.get_or_insert_with(cluster_of_examples);
        cluster.tables.flows.borrow_mut().clear();
        cluster.tables.counted.borrow_mut().clear();
        let builder = PacketBuilder::ethernet2([2; 6], [0; 6])
            .ipv4([10, 1, 0, 2], DNS, 64)
            .udp(40_000, 53);
        let mut frame = Vec::new();
        builder
            .write(&mut frame, &question)
            .expect("a packet is written");
        let mut frame = Frame(frame);
        let before = frame.clone();
        match from_pod(&mut frame, &cluster.tables) {
            Ok(Verdict::SendBack(_) | Verdict::Answered(_)) => {
                is_right(cluster.zone.zone(), &question, &frame.0);
            }
            Ok(Verdict::Continue) | Err(_) => {
                assert_eq!(frame, before, "changed what it passes on");
            }
            // To the DNS pods, with the question as it was.
            Ok(Verdict::Rewritten(_)) => assert_eq!(frame.0[42..], before.0[42..]),
            Ok(Verdict::Drop(cause)) => panic!("a question was dropped: {cause:?}"),
            Ok(Verdict::Forwarded(cause)) => panic!("a question was forwarded: {cause:?}"),
        }
    });
}

fn is_right(zone: &Zone, question: &[u8], frame: &[u8]) {
    assert!(
        crate::packets::is_sound(frame),
        "a checksum is wrong: {frame:02x?}"
    );
    let answer = frame.get(42..).expect("an answer has a header");
    let message = judge::read(question, answer);
    let name =
        Name::from_wire(judge::asked(question)).expect("only well-formed names are answered");
    let kind = message.queries[0].query_type().into();
    if let Err(why) = judge::agrees(zone, &name, &message, &zone.lookup(&name, kind)) {
        panic!("{name} {kind}: {why}");
    }
}

fn question(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    if input.ratio(1, 8)? {
        let length = input.int_in_range(0..=300)?;
        return Ok(input.bytes(length.min(input.len()))?.to_vec());
    }
    let mut message = vec![0x12, 0x34];
    let flags = *input.choose(&[0x0100_u16, 0x0120, 0x0000, 0x0110, 0x8100, 0x2800])?;
    message.extend(flags.to_be_bytes());
    message.extend([0, *input.choose(&[1, 1, 1, 1, 1, 1, 0, 2])?, 0, 0, 0, 0, 0]);
    let edns = input.ratio(1, 2)?;
    message.push(u8::from(edns));
    for _ in 0..input.int_in_range(0..=5)? {
        label(input, &mut message)?;
    }
    for known in input
        .choose(&SUFFIXES)?
        .split('.')
        .filter(|label| !label.is_empty())
    {
        push(&mut message, known.as_bytes());
    }
    message.push(*input.choose(&[0, 0, 0, 0, 0, 0, 0, 0xc0])?);
    let kinds = [1_u16, 28, 33, 12, 16, 5, 2, 6, 255, 65, input.arbitrary()?];
    message.extend(input.choose(&kinds)?.to_be_bytes());
    message.extend(input.choose(&[1_u16, 1, 1, 1, 1, 3, 255])?.to_be_bytes());
    if edns {
        let size = *input.choose(&[512_u16, 1232, 4096, 0, 65_535])?;
        message.extend([0, 0, 41]);
        message.extend(size.to_be_bytes());
        message.extend([
            0,
            *input.choose(&[0, 0, 0, 1])?,
            *input.choose(&[0, 0x80])?,
            0,
        ]);
        let options = input.int_in_range(0..=12)?;
        let options = input.bytes(options.min(input.len()))?;
        message.extend((options.len() as u16).to_be_bytes());
        message.extend(options);
    }
    if input.ratio(1, 8)? {
        let more = input.int_in_range(0..=8)?;
        message.extend(input.bytes(more.min(input.len()))?);
    }
    Ok(message)
}

fn label(input: &mut Unstructured<'_>, message: &mut Vec<u8>) -> Result<()> {
    if input.ratio(1, 6)? {
        let length = input.int_in_range(1..=63)?;
        push(message, input.bytes(length.min(input.len()))?);
        return Ok(());
    }
    let upper: bool = input.arbitrary()?;
    let known = input.choose(&LABELS)?;
    let text = if upper {
        known.to_ascii_uppercase()
    } else {
        (*known).to_owned()
    };
    push(message, text.as_bytes());
    Ok(())
}

fn push(message: &mut Vec<u8>, label: &[u8]) {
    if !label.is_empty() {
        message.push(label.len() as u8);
        message.extend(label);
    }
}

fn cluster_of_examples() -> Cluster {
    let mut registry = Registry::default();
    let namespaces = ["dev", "prod", "kube-system"].map(|name| ObjectName::new("", name));
    for namespace in namespaces {
        registry.apply(Event::Apply(
            Object::Namespace(namespace.into()),
            Vec::new(),
        ));
    }
    let cluster_ips = |ips: &[&str]| {
        json!({"clusterIP": ips[0], "clusterIPs": ips, "ports": [
            {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
        ]})
    };
    let alias = |target: &str| json!({"type": "ExternalName", "externalName": target});
    for (namespace, name, spec) in [
        ("kube-system", "kube-dns", cluster_ips(&["10.96.0.10"])),
        ("dev", "ent", cluster_ips(&["10.96.0.20"])),
        ("prod", "ent", cluster_ips(&["fd96::20"])),
        ("dev", "dual", cluster_ips(&["10.96.0.21", "fd96::21"])),
        ("dev", "web", cluster_ips(&["None"])),
        ("prod", "many", cluster_ips(&["None"])),
        ("dev", "out", alias("example.org")),
        ("dev", "away", alias("ent.prod.svc.cluster.local")),
    ] {
        service(&mut registry, namespace, name, &spec);
    }
    // What the kernel does not answer goes to a DNS pod.
    slice(&mut registry, "kube-system", "kube-dns", 1);
    slice(&mut registry, "dev", "web", 3);
    slice(&mut registry, "prod", "many", 60);

    let domain = Name::from_text("cluster.local").expect("a name");
    let dns = vec![IpAddr::from(Ipv4Addr::from(DNS))];
    let mut zone = Desired::new(Given::new("here".into(), domain.clone(), dns));
    let mut maps = Maps::default();
    let config = EbpfConfig {
        pin_root: "/nowhere".into(),
        domain,
        ttl: 30,
        negative_grace: Duration::from_secs(300),
        handover: Handover::default(),
        dns: true,
        cluster_ranges: Vec::new(),
        masquerade_all: false,
        fast_path: false,
        cgroup_root: None,
        count_services: false,
    };
    let mut differ = Differ::open(config, &mut maps).expect("the differ opens");
    let update = zone
        .update(&mut registry, 1_700_000_000)
        .expect("the first update");
    differ.apply(&mut maps, &update).expect("an update");
    let mut tables = Memory::default();
    maps.fill(&mut tables);
    tables.now = 1_000_000_000_000;
    tables.in_sync_at = tables.now;
    Cluster { tables, zone }
}

fn service(registry: &mut Registry, namespace: &str, name: &str, spec: &Value) {
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    let object = serde_json::from_value(object).expect("a Service");
    let (service, problems) = convert::service(&object, Addresses::Given);
    let service = Object::from(service.expect("it can be used"));
    registry.apply(Event::Apply(service, problems));
}

fn slice(registry: &mut Registry, namespace: &str, service: &str, endpoints: u8) {
    let endpoint = |n: u8| {
        let hostname = (n % 2 == 1).then(|| format!("host-{n}"));
        json!({"addresses": [Ipv4Addr::new(10, 1, 0, n)], "hostname": hostname})
    };
    let object = json!({
        "metadata": {
            "namespace": namespace, "name": service, "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "endpoints": (1..=endpoints).map(endpoint).collect::<Vec<_>>(),
    });
    let object = serde_json::from_value(object).expect("an EndpointSlice");
    let (slice, problems) = convert::slice(&object);
    let slice = Object::from(slice.expect("it can be used"));
    registry.apply(Event::Apply(slice, problems));
}
