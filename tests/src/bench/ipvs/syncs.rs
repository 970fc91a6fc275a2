//! How long all Services take, and one change of an EndpointSlice among them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::against_kube_proxy;
use crate::{
    bench::{
        Options,
        connector::exchange,
        figure::{Figure, Reach},
        objects,
        progress::Progress,
        scale,
        site::{FAR_SAYS, NEAR_SAYS, PORTS, Site, service, slice},
    },
    cluster::{kube_proxy::KubeProxy, lists::Lists, node::ClusterNode, tools::Tools},
    lab::{Agent, Cni, Lab, Node, agent::fetch, wait::until},
};

/// Starts of each, at most.
const STARTS: usize = 5;
/// Changes after each start.
const CHANGES: usize = 6;
/// The Service whose endpoint changes.
const MOVING: Ipv4Addr = Ipv4Addr::new(10, 96, 100, 3);
/// How long anything may take, on processors that are not emulated.
const PATIENCE: Duration = Duration::from_secs(240);
/// Between two connections.
const BREATH: Duration = Duration::from_millis(2);
/// The network of pods.
const PODS: &str = "10.244.0.0/16";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Signpost,
    KubeProxy,
}

/// What one start showed.
#[derive(Default)]
struct Start {
    /// Seconds until the last Service was served and the proxy said that it was done.
    until_served: f64,
    /// Seconds of the rounds that brought all Services.
    full: f64,
    /// Milliseconds from each change to the first connection that followed it.
    effects: Vec<f64>,
    /// Milliseconds of the round that brought it.
    rounds: Vec<f64>,
}

/// Whoever carries out Services; it ends with this.
#[expect(dead_code, reason = "what they are held for is their end")]
enum Proxy {
    Signpost(Agent),
    KubeProxy(KubeProxy),
}

/// The rounds that a proxy has counted, and their seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Rounds {
    count: f64,
    seconds: f64,
}

/// Measures it.
pub(super) fn run(options: &Options) -> Result<Vec<Figure>> {
    let starts = options.pairs.min(STARTS);
    let services = *options.services.last().context("no number of Services")?;
    let progress = Progress::new("syncs", 2 * starts);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        for (way, into) in [(Way::Signpost, &mut ours), (Way::KubeProxy, &mut theirs)] {
            into.push(start(way, services)?);
            progress.step();
        }
    }
    let each = |number: fn(&Start) -> f64| {
        let of = |starts: &[Start]| starts.iter().map(number).collect::<Vec<_>>();
        (of(&ours), of(&theirs))
    };
    let all = |numbers: fn(&Start) -> &[f64]| {
        let of = |starts: &[Start]| starts.iter().flat_map(numbers).copied().collect::<Vec<_>>();
        (of(&ours), of(&theirs))
    };
    let (full, served) = (each(|start| start.full), each(|start| start.until_served));
    let (effects, rounds) = (all(|start| &start.effects), all(|start| &start.rounds));
    let what = |what: &str| format!("{services} Services: {what}");
    Ok(vec![
        against_kube_proxy(
            what("full sync, by its own clock"),
            "s",
            (&full.0, &full.1),
            Some(Reach::AtMost(1.0 / 5.0)),
        ),
        against_kube_proxy(
            what("start to last Service served, with the list"),
            "s",
            (&served.0, &served.1),
            None,
        ),
        against_kube_proxy(
            what("EndpointSlice change to effect"),
            "ms",
            (&effects.0, &effects.1),
            Some(Reach::AtMost(1.0 / 10.0)),
        ),
        against_kube_proxy(
            what("the round that brought it, by its own clock"),
            "ms",
            (&rounds.0, &rounds.1),
            None,
        ),
    ])
}

/// Starts one of them in a laboratory of its own.
fn start(way: Way, services: u32) -> Result<Start> {
    let site = Site::raise(
        Lab::builder()
            .node("one", Cni::Routed)
            .node("two", Cni::Routed)
            .start()?,
    )?;
    let node = site.lab.node("one")?.clone();
    let api = Lists::new(lists(&site, &node, services)?)?;
    let kubeconfig = api.listen(&node)?;
    let begin = Instant::now();
    let _proxy = Proxy::start(way, &node, &kubeconfig)?;
    let last = scale::service_ip(services - 1);
    for address in [MOVING, last] {
        until("an answer", PATIENCE, || {
            site.clients[0].run(|| exchange((address, 80).into()))?
        })?;
    }
    let mut start = Start {
        until_served: begin.elapsed().as_secs_f64(),
        ..Start::default()
    };
    let first = rounds(way, &node, true)?;
    start.full = match way {
        Way::Signpost => first.seconds,
        // Every round of kube-proxy is a full one.
        Way::KubeProxy => first.seconds / first.count,
    };
    let sides = [(site.far.v4(), FAR_SAYS), (site.near.v4(), NEAR_SAYS)];
    for index in 0..CHANGES {
        let (address, says) = sides[index % 2];
        let before = settled(way, &node)?;
        let at = Instant::now();
        api.put("endpointslices", slice("moving", address))?;
        arrives(&site, says)?;
        start.effects.push(at.elapsed().as_secs_f64() * 1e3);
        let after = until("the end of the round", PATIENCE, || {
            let after = rounds(way, &node, false)?;
            ensure!(after.count > before.count, "not yet");
            Ok(after)
        })?;
        let each = (after.seconds - before.seconds) / (after.count - before.count);
        start.rounds.push(each * 1e3);
    }
    Ok(start)
}

/// Connects until that server answers.
fn arrives(site: &Site, says: u8) -> Result<()> {
    let begin = Instant::now();
    site.clients[0].run(|| {
        while exchange(SocketAddr::from((MOVING, 80)))? != says {
            ensure!(begin.elapsed() < 10 * PATIENCE, "nothing changes");
            std::thread::sleep(BREATH);
        }
        Ok(())
    })?
}

/// The rounds once no more come for a moment.
fn settled(way: Way, node: &Node) -> Result<Rounds> {
    let mut before = rounds(way, node, false)?;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = rounds(way, node, false)?;
        if now.count.total_cmp(&before.count).is_eq() {
            return Ok(now);
        }
        before = now;
    }
}

/// What it says of its rounds of IPv4, or of those alone in which it wrote everything.
fn rounds(way: Way, node: &Node, full: bool) -> Result<Rounds> {
    let text = node.namespace().run(|| fetch(10_249, "/metrics"))??;
    let kind = match (way, full) {
        (Way::Signpost, true) => "sync_full_proxy_rules",
        _ => "sync_proxy_rules",
    };
    let number = |part: &str| -> Result<f64> {
        let start = format!("kubeproxy_{kind}_duration_seconds_{part}{{ip_family=\"IPv4\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        Ok(line
            .with_context(|| format!("no {start}"))?
            .trim()
            .parse()?)
    };
    Ok(Rounds {
        count: number("count")?,
        seconds: number("sum")?,
    })
}

impl Proxy {
    /// Starts it and waits until it says that it serves.
    fn start(way: Way, node: &Node, kubeconfig: &Path) -> Result<Self> {
        if way == Way::KubeProxy {
            let settings = json!({
                "mode": "ipvs",
                "clusterCIDR": PODS,
                "clientConnection": {
                    "kubeconfig": kubeconfig, "qps": 1000, "burst": 1000,
                    "acceptContentTypes": "application/json", "contentType": "application/json",
                },
                "ipvs": {"minSyncPeriod": "10ms", "syncPeriod": "600s"},
            });
            let proxy = KubeProxy::start(&Tools::built()?, node, kubeconfig, &settings)?;
            return Ok(Self::KubeProxy(proxy));
        }
        let flags = [
            "--mode",
            "ipvs",
            "--cluster-cidr",
            PODS,
            "--dns-address",
            "10.96.0.10",
        ];
        Ok(Self::Signpost(Agent::of_cluster(node, kubeconfig, &flags)?))
    }
}

/// All objects: Services of two endpoints each, and the one whose endpoint changes.
fn lists(site: &Site, node: &Node, count: u32) -> Result<Vec<(&'static str, Vec<Value>)>> {
    let endpoints = [site.near.v4(), site.far.v4()];
    let mut services: Vec<Value> = (0..count).map(objects::service).collect();
    services.push(service("default", "moving", MOVING, &PORTS));
    for service in &mut services {
        let spec = &mut service["spec"];
        spec["type"] = "ClusterIP".into();
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
        spec["ipFamilies"] = json!(["IPv4"]);
        spec["sessionAffinity"] = "None".into();
    }
    let slices = (0..count)
        .map(|number| objects::slice(number, &endpoints))
        .chain([slice("moving", site.near.v4())]);
    let place = ClusterNode::new(node.clone(), "zone")?;
    let mut object = place.object();
    object["status"] = place.status()["status"].clone();
    let namespaces = (0..50).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": scale::namespace(number)},
        })
    });
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/12"]},
    });
    Ok(vec![
        ("services", services),
        ("endpointslices", slices.collect()),
        ("nodes", vec![object]),
        ("namespaces", namespaces.collect()),
        ("servicecidrs", vec![range]),
    ])
}
