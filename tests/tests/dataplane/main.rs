//! The dataplane on the running kernel: real maps, real links, interfaces in namespaces of their own. What the programs
//! do with packets is tested elsewhere.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod attaching;
mod bare;
mod following;
mod full;
mod sweeping;
mod volume;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use signpost::{
    dataplane::{
        Handover, Update,
        ebpf::{EbpfConfig, EbpfDataplane, attach::Hook},
    },
    model::{Family, ObjectName, Protocol},
    plan::{Backend, Frontend, FrontendKind, Member, PortName, PortPlan},
    zone::{Name, NameEntry},
};
use signpost_tests::lab::{
    links::{End, veth},
    namespace::{Namespace, Spec},
};

/// A folder on the BPF file system that is gone after the test.
struct Instance(PathBuf);

impl Instance {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("/sys/fs/bpf/signpost-test-{}-{number}", std::process::id()).into())
    }

    fn root(&self) -> &Path {
        &self.0
    }

    fn config(&self) -> EbpfConfig {
        EbpfConfig {
            pin_root: self.0.clone(),
            domain: name("cluster.local"),
            ttl: 30,
            negative_grace: Duration::from_secs(300),
            handover: Handover::default(),
            dns: true,
            cluster_ranges: Vec::new(),
            masquerade_all: false,
            fast_path: false,
            count_services: false,
            cgroup_root: None,
        }
    }

    fn open(&self) -> EbpfDataplane {
        EbpfDataplane::open(self.config()).unwrap()
    }

    fn open_with(&self, hook: Hook) -> EbpfDataplane {
        EbpfDataplane::open_with(self.config(), hook).unwrap()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Nothing is there where opening failed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn port(service: &str) -> PortName {
    PortName {
        service: ObjectName::new("prod", service),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

/// A service port with so many backends.
fn plan(frontend: IpAddr, backends: impl Iterator<Item = IpAddr> + Clone) -> PortPlan {
    let backend = |address| Backend {
        address,
        port: 8080,
        local: false,
    };
    let member = |address| Member {
        address,
        port: 8080,
        serving: true,
        chosen: true,
        cluster: true,
        local: false,
    };
    PortPlan {
        frontends: vec![Frontend {
            kind: FrontendKind::ClusterIp,
            address: frontend,
            port: 80,
        }],
        cluster: backends.clone().map(backend).collect(),
        local: Vec::new(),
        members: backends.map(member).collect(),
        internal_local: false,
        external_local: false,
        any_endpoints: true,
        source_ranges: Vec::new(),
        affinity_timeout: None,
        dns: false,
    }
}

/// One Service with one name and two backends.
fn one_service() -> Update {
    let backends = [1, 2].map(|last| IpAddr::from([10, 1, 0, last]));
    let plan = plan([10, 96, 0, 1].into(), backends.into_iter());
    let entry = NameEntry {
        service: true,
        complete: true,
        a: vec![[10, 96, 0, 1].into()],
        ttl: 30,
        ..NameEntry::default()
    };
    Update {
        ports: BTreeMap::from([(port("ent"), Some(plan))]),
        names: BTreeMap::from([(name("ent.prod.svc.cluster.local"), Some(entry))]),
        serial: 7,
        ..Update::default()
    }
}

fn namespace() -> Namespace {
    Namespace::new(Spec::default()).unwrap()
}

/// A pod's interface `veth0` of a node; the other end is in the pod.
fn connect(node: &Namespace, pod: &Namespace) {
    let end = |namespace, name| End {
        namespace,
        name,
        mac: None,
    };
    veth(&end(node, "veth0"), &end(pod, "eth0"), 1500).unwrap();
}

fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap()
}
