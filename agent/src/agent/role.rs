//! `signpost agent`: puts source, loop, dataplane, feed and probes together.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow, ensure};
use axum::Router;
use ipnet::IpNet;
use signpost_common::{Cause, count::ServiceCount, device::DeviceValue, service::ServiceValue};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

mod ipvs;

use super::{
    Agent, AtInterfaces, Desired, Inputs, Publish,
    desired::{self, Given},
    other_proxy,
    report::{self, Report},
};
use crate::{
    addresses,
    admin::{
        self, About, Health, Metrics, ServiceHealth,
        kernel::{Kernel, MapFill},
        service_health::{self, NotStarted},
    },
    config::{
        AgentConfig, DnsAnswers, Instance, Source,
        dns::{DnsConfig, file::DnsConfigFile},
    },
    dataplane::{
        Handover,
        ebpf::{EbpfConfig, EbpfDataplane, cgroup::find_root, drain, takeover, view::View},
    },
    feed::{self, Feed, Hello},
    interfaces::{self, Addresses, Interface, Patterns, Place},
    model::{Event, ObjectName},
    probe::{Level, Mode, Row},
    source::{
        self,
        files::{self, FilesOptions},
    },
    sysctl,
    zone::{Name, Options, ZoneConfig},
};

/// Events that wait for the loop: enough for it to fill the maps while the source goes on reading.
const EVENTS: usize = 4096;
/// Notes on objects that wait to be posted.
const NOTES: usize = 64;
/// Interfaces that wait for the loop.
const INTERFACES: usize = 256;
/// An update that is under way when the agent is told to end is done within so long.
const LAST_UPDATE: Duration = Duration::from_secs(10);
/// How the data path is made by BPF programs, and by the virtual server.
const BPF: &str = "bpf";
const IPVS: &str = "ipvs";
/// An address that is taken is tried again after so long.
const TAKEN: Duration = Duration::from_secs(2);
/// An agent that is being replaced ends within so long.
const PREDECESSOR: Duration = Duration::from_secs(60);

/// Runs the agent until it is told to end (SIGTERM, SIGINT). Pins and links stay, so the data path goes on.
///
/// # Errors
/// Where something that the agent cannot do without is missing or ends.
pub fn run(config: &AgentConfig) -> anyhow::Result<()> {
    config.log.start()?;
    let node = config.node_name()?;
    config.log(&node);
    for (folder, flag) in [
        (&config.instance.state_folder, "--state-folder"),
        (&config.run_folder, "--run-folder"),
    ] {
        std::fs::create_dir_all(folder).with_context(|| {
            let folder = folder.display();
            format!("the folder {folder} cannot be made; give another one with {flag}")
        })?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve(config, node));
    // A thread that is blocked in a call must not keep the process from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn serve(config: &AgentConfig, node: String) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let (by_programs, probes) = ipvs::choose(config)?;
    let mode = if by_programs { BPF } else { IPVS };
    let features = probes.table(Some(if by_programs { Mode::Ebpf } else { Mode::Ipvs }));
    tell(&probes.kernel, &features);
    let health = Arc::new(Health::default());
    // The loop's own guards come later than the first probe may.
    let dataplane_open = health.guard("programs and maps loaded");
    let pinned: Box<dyn Kernel> = Box::new(Pinned(config.instance.bpffs_root.clone()));
    let metrics = Arc::new(Metrics::new(by_programs.then_some(pinned)));
    metrics.features(&features);
    let mut parts = JoinSet::new();
    parts.spawn(until_signalled()?);
    let routes = admin::health_routes(Arc::clone(&health), Arc::clone(&metrics));
    parts.spawn(part(
        "probes",
        serve_at(
            config.health_address,
            "--health-address",
            routes,
            stop.clone(),
        ),
    ));
    let about = About {
        mode,
        config: config.settings(),
    };
    let routes = admin::metrics_routes(Arc::clone(&metrics)).merge(admin::about_routes(about));
    parts.spawn(part(
        "metrics",
        serve_at(
            config.metrics_address,
            "--metrics-address",
            routes,
            stop.clone(),
        ),
    ));

    wait_for_predecessor(&config.instance).await;
    let (file, dns) = DnsConfigFile::open(config.dns_config.as_deref())?;
    let domain = match &dns.cluster.domain {
        Some(domain) => domain.clone(),
        None => Name::from_text(&config.cluster_domain)
            .with_context(|| format!("--cluster-domain {} is not a name", config.cluster_domain))?,
    };
    let (ttl, options) = terms(&dns);
    let desired = Desired::new(Given {
        node: node.clone().into(),
        domain,
        ttl,
        options: Arc::clone(&options),
        dns: config.dns_address.clone(),
        node_ports: config.nodeport_addresses.clone(),
        external_ips: config.external_ips,
        service_ranges: match config.source {
            Source::Files(_) => config.service_range.iter().map(IpNet::trunc).collect(),
            Source::Kube => BTreeSet::new(),
        },
        changes_sctp: !by_programs,
    });
    let zone = desired.zone().config().clone();
    let root = config.instance.bpffs_root.clone();
    let opened = if by_programs {
        let (dataplane, handover) = open_programs(config, &zone)?;
        Opened::Programs(Box::new(dataplane), handover)
    } else {
        Opened::VirtualServer(Box::new(ipvs::open(config)?))
    };
    let outside = by_programs && config.dns_answers == DnsAnswers::Kernel;
    let feed = match &opened {
        Opened::Programs(dataplane, _) => {
            let dns_alive = dataplane.dns_alive_fd()?.try_clone_to_owned()?;
            let keeper = dataplane.outside(&zone, outside)?;
            let feed = Feed::new(hello(&zone, outside), Some(dns_alive));
            if outside {
                feed.taking(Box::new(keeper), config.dns_user)
            } else {
                feed
            }
        }
        Opened::VirtualServer(_) => Feed::new(hello(&zone, outside), None),
    };
    let socket = config.run_folder.join(feed::SOCKET);
    let server = feed.clone();
    parts.spawn(part(
        "feed",
        async move { feed::serve(server, &socket).await },
    ));

    let (events_in, events) = mpsc::channel(EVENTS);
    let (in_sync_in, in_sync) = watch::channel(false);
    let settings = sysctl::apply(&config.proc_sys, &config.conntrack, &node);
    let settings = Event::Problems {
        kind: "Sysctl".to_owned(),
        object: ObjectName::new("", node.clone()),
        problems: settings,
    };
    events_in.send(settings).await?;
    let source = source(config.clone(), node.clone(), events_in, in_sync_in);
    parts.spawn(part("source", source));
    let (interfaces_in, interfaces) = mpsc::channel(INTERFACES);
    let patterns = Patterns {
        pods: config.pod_interfaces.clone(),
        wires: config.wire_interfaces.clone(),
    };
    let follower = interfaces::follow(patterns, interfaces_in);
    parts.spawn(part("watch of interfaces", follower));

    let (checks_in, checks) = watch::channel(ServiceHealth::default());
    let (notes_in, notes) = mpsc::channel(NOTES);
    if config.source == Source::Kube {
        let starting = source::kube::notes::Note::starting(&node);
        notes_in.send(starting).await?;
        tokio::spawn(post(config.clone(), node.clone(), notes));
    }
    let this_node = node.clone();
    let not_started = move |failed: NotStarted| {
        let NotStarted {
            service,
            port,
            reason,
        } = failed;
        let text = format!(
            "node {this_node} failed to start healthcheck \"{service}\" on port {port}: {reason}"
        );
        tracing::error!("{text}");
        // Notes that nobody takes are lost: the log has them.
        let _ = notes_in.try_send(source::kube::notes::Note {
            regarding: source::kube::notes::Regarding::Service(service),
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            text,
        });
    };
    tokio::spawn(service_health::serve(
        checks,
        Arc::clone(&health),
        not_started,
    ));
    let (addresses_in, addresses) = watch::channel(None);
    let follower = addresses::follow(addresses_in);
    parts.spawn(part("watch of this node's addresses", follower));

    let (zone_in, zone) = watch::channel((ttl, options));
    parts.spawn(part("configuration of DNS", follow_dns(file, dns, zone_in)));

    let (filled_in, filled) = watch::channel(false);
    let (other_proxy_in, other_proxy) = watch::channel(None);
    let report = Report {
        features,
        ..report(config, node, mode)
    };
    let published = Box::new(Published {
        feed,
        outside,
        service_health: checks_in,
        filled: filled_in,
        folder: config.instance.state_folder.clone(),
    });
    dataplane_open.done();
    let inputs = Inputs {
        events,
        interfaces,
        addresses,
        in_sync,
        zone,
        other_proxy,
    };
    let mut on_thread = match opened {
        Opened::Programs(dataplane, handover) => {
            let (left_in, left) = watch::channel(u64::from(handover.takeover));
            tokio::spawn(ipvs::leave_virtual_servers(filled.clone(), left_in));
            tokio::spawn(other_proxy::follow(
                root,
                handover,
                filled,
                left,
                Arc::clone(&metrics),
                other_proxy_in,
            ));
            let agent = Agent::new(desired, *dataplane, metrics, health, report, published);
            on_a_thread(agent.run(inputs, stop.clone()))?
        }
        Opened::VirtualServer(dataplane) => {
            tokio::spawn(ipvs::leave_programs(root, filled));
            // Nobody else is waited for, but the loop listens.
            tokio::spawn(async move { other_proxy_in.closed().await });
            let agent = Agent::new(desired, *dataplane, metrics, health, report, published);
            on_a_thread(agent.run(inputs, stop.clone()))?
        }
    };

    let first = tokio::select! {
        part = parts.join_next() => part.map_or(Ok(()), |joined| joined?),
        ended = &mut on_thread => ended.map_err(|_| anyhow!("the loop broke down"))?,
    };
    stop.cancel();
    // An update that is under way is carried out to its end.
    let _ = tokio::time::timeout(LAST_UPDATE, on_thread).await;
    first
}

/// Logs what the kernel was found to lack.
fn tell(kernel: &str, features: &[Row]) {
    for row in features.iter().filter(|row| row.level != Level::Fine) {
        let Row {
            title,
            found,
            follows,
            todo,
            ..
        } = row;
        match row.level {
            Level::Broken => tracing::error!(kernel, "{title}: {found}: {follows}; {todo}"),
            _ => tracing::info!(kernel, "{title}: {found}: {follows}; {todo}"),
        }
    }
}

/// How Services are carried.
enum Opened {
    Programs(Box<EbpfDataplane>, Handover),
    VirtualServer(Box<ipvs::Ipvs>),
}

fn open_programs(
    config: &AgentConfig,
    zone: &ZoneConfig,
) -> anyhow::Result<(EbpfDataplane, Handover)> {
    let root = &config.instance.bpffs_root;
    let found = takeover::at_start(root);
    let handover = Handover {
        takeover: found.takeover || ipvs::has_connections(),
        drain: drain::is_on(root),
    };
    let mut dataplane = EbpfDataplane::open(EbpfConfig {
        pin_root: root.clone(),
        domain: zone.domain.clone(),
        ttl: zone.ttl,
        dns: config.dns_answers != DnsAnswers::Pods,
        negative_grace: config.negative_grace(),
        handover,
        cluster_ranges: config.cluster_cidr.clone(),
        masquerade_all: config.masquerade_all,
        count_services: config.count_services,
        cgroup_root: config.cgroup_root.clone().or_else(find_cgroup_root),
    })?;
    dataplane.keep_clear(&found)?;
    Ok((dataplane, handover))
}

/// Ends when the process is told to.
fn until_signalled() -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("told to end by SIGTERM"),
            _ = interrupt.recv() => tracing::info!("told to end by SIGINT"),
        }
        Ok(())
    })
}

/// A part that the agent cannot do without: that it ends is an error, however it ends.
async fn part<E: Into<anyhow::Error>>(
    name: &'static str,
    work: impl Future<Output = Result<(), E>>,
) -> anyhow::Result<()> {
    match work.await {
        Ok(()) => Err(anyhow!("{name}: ended")),
        Err(error) => Err(error.into().context(name)),
    }
}

/// Where cgroup2 is mounted, as this process sees it.
fn find_cgroup_root() -> Option<PathBuf> {
    find_root(&std::fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// Serves routes from when the address is free: kube-proxy has the same ports by default, and goes only after the agent
/// has come.
async fn serve_at(
    address: SocketAddr,
    flag: &'static str,
    routes: Router,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut said = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        "{address} is taken, by another proxy perhaps; trying again, or change {flag}"
                    );
                }
                tokio::time::sleep(TAKEN).await;
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot listen on {address}; change {flag}"));
            }
        }
    };
    admin::serve(listener, routes, stop).await?;
    Ok(())
}

/// During an upgrade two agents overlap for a moment.
async fn wait_for_predecessor(instance: &Instance) {
    let begun = Instant::now();
    while report::is_alive(instance) && begun.elapsed() < PREDECESSOR {
        tracing::info!(
            bpffs_root = ?instance.bpffs_root,
            "another agent of this instance runs; waiting for its end"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn source(
    config: AgentConfig,
    node: String,
    events: mpsc::Sender<Event>,
    in_sync: watch::Sender<bool>,
) -> anyhow::Result<()> {
    match config.source {
        Source::Files(folder) => {
            let options = FilesOptions {
                folder,
                state: config.instance.state_folder,
                service_ranges: config.service_range,
                node: Some(node),
            };
            files::run(options, events, in_sync).await
        }
        Source::Kube => source::kube::run(kube_options(config, node), events, in_sync).await,
    }
}

/// Posts notes on objects to the API server.
async fn post(config: AgentConfig, node: String, notes: mpsc::Receiver<source::kube::notes::Note>) {
    if let Err(error) = source::kube::notes::post(kube_options(config, node), notes).await {
        tracing::warn!("no Events are posted: {error:#}");
    }
}

fn kube_options(config: AgentConfig, node: String) -> source::kube::KubeOptions {
    source::kube::KubeOptions {
        kubeconfig: config.kubeconfig,
        server: config.api_server,
        node: Some(node),
    }
}

/// Runs a future on a thread of its own, where it may block.
fn on_a_thread(
    work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
    let (ended, wait) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("loop".to_owned())
        .spawn(move || {
            // Nobody waits any more when the process is about to end.
            let _ = ended.send(runtime.block_on(work));
        })?;
    Ok(wait)
}

/// Hands on what the file says of the zone whenever that changes.
async fn follow_dns(
    file: DnsConfigFile,
    first: DnsConfig,
    zone: watch::Sender<(u32, Arc<Options>)>,
) -> anyhow::Result<()> {
    let domain = first.cluster.domain.clone();
    let counts = file.counts();
    let (configs_in, mut configs) = watch::channel(Arc::new(first));
    let changes = async {
        while configs.changed().await.is_ok() {
            let config = Arc::clone(&configs.borrow_and_update());
            if config.cluster.domain != domain {
                tracing::warn!("cluster.domain changed: it counts from the agent's next start on");
            }
            zone.send_replace(terms(&config));
            counts.taken_over();
        }
    };
    tokio::select! {
        () = file.follow(configs_in) => {}
        () = changes => {}
    }
    Ok(())
}

fn terms(config: &DnsConfig) -> (u32, Arc<Options>) {
    let ttl = config.cluster.ttl.map_or(desired::TTL, |ttl| ttl.get());
    (ttl, Arc::new(config.zone_options()))
}

fn hello(zone: &ZoneConfig, takes_answers: bool) -> Hello {
    Hello {
        domain: zone.domain.clone(),
        ttl: zone.ttl,
        dns: zone.dns.clone(),
        takes_answers,
    }
}

fn report(config: &AgentConfig, node: String, mode: &str) -> Report {
    Report {
        instance: config.instance.bpffs_root.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        node,
        mode: mode.to_owned(),
        source: config.source.to_string(),
        domain: config.cluster_domain.clone(),
        ..Report::default()
    }
}

/// Hands on to the DNS server's feed and to the state folder.
#[derive(Debug)]
struct Published {
    feed: Feed,
    /// Whether answers to questions outside of the cluster are taken.
    outside: bool,
    service_health: watch::Sender<ServiceHealth>,
    filled: watch::Sender<bool>,
    folder: PathBuf,
}

impl Publish for Published {
    fn event(&mut self, event: &Event) {
        self.feed.event(event);
    }

    fn in_sync(&mut self, in_sync: bool) {
        self.feed.in_sync(in_sync);
    }

    fn zone(&mut self, config: &ZoneConfig) {
        self.feed.zone(config);
        self.feed.hello(hello(config, self.outside));
    }

    fn service_health(&mut self, service_health: ServiceHealth) {
        self.service_health.send_if_modified(|before| {
            let changed = *before != service_health;
            *before = service_health;
            changed
        });
    }

    fn filled(&mut self) {
        self.filled.send_replace(true);
    }

    fn report(&mut self, report: &Report) {
        if let Err(error) = report.write(&self.folder) {
            tracing::warn!("operators' commands read an old report: {error:#}");
        }
    }
}

/// What the kernel counts, for metrics. Opened anew for each scrape, so that it is the instance's current maps.
#[derive(Debug)]
struct Pinned(PathBuf);

impl Kernel for Pinned {
    fn counters(&self) -> anyhow::Result<Vec<(Cause, u64)>> {
        Ok(View::open(&self.0)?.counters()?)
    }

    fn maps(&self) -> anyhow::Result<Vec<MapFill>> {
        let fill = View::open(&self.0)?.fill()?;
        let fill = fill.into_iter().map(|f| MapFill {
            map: f.map.to_owned(),
            entries: f.elements as u64,
            capacity: f.size.into(),
            memory: f.memory,
        });
        Ok(fill.collect())
    }

    fn services(&self) -> anyhow::Result<Vec<(ServiceValue, ServiceCount)>> {
        Ok(View::open(&self.0)?.service_counts()?)
    }
}

impl AtInterfaces for EbpfDataplane {
    fn prepare(&mut self, interface: &Interface) -> anyhow::Result<()> {
        let Addresses { v4, v6 } = interface.addresses;
        self.set_device(interface.index, v4, v6)?;
        if interface.place == Place::Bare || interface.ethernet {
            Self::prepare(self, interface.index, &interface.name, interface.place)?;
        }
        Ok(())
    }

    fn attach(&mut self, interface: &Interface) -> anyhow::Result<()> {
        ensure!(
            interface.place == Place::Bare || interface.ethernet,
            "interface {}: its packets begin neither with an Ethernet header nor with the IP header, one of which the \
             programs need; NodePorts and masqueraded Services do not work over it",
            interface.name
        );
        let Addresses { v4, v6 } = interface.addresses;
        self.set_device(interface.index, v4, v6)?;
        match interface.place {
            Place::Pod => Self::attach(self, interface.index, &interface.name),
            Place::Wire => self.attach_wire(interface.index, &interface.name),
            Place::Bare => self.attach_bare(interface.index, &interface.name),
        }
    }

    fn attached(&self) -> Vec<u32> {
        Self::attached(self).keys().copied().collect()
    }

    fn lost(&mut self) -> Vec<u32> {
        self.look_again()
    }

    fn forget(&mut self, index: u32) -> anyhow::Result<()> {
        Self::detach(self, index)
    }

    fn set_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        let v4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.iter().find_map(|address| match address {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        self.set_device(DeviceValue::ANY, v4, v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_taken_is_served_once_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = serve_at(address, "--here", Router::new(), stop.clone());
        let serving = tokio::spawn(serving);
        tokio::task::yield_now().await;
        assert!(!serving.is_finished());
        drop(taken);
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
