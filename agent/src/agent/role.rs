//! `signpost agent`: puts source, loop, dataplane, feed and probes together.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

mod counting;
mod ipvs;
mod notes;
mod programs;
mod published;
mod serving;
mod zone;

use self::{
    ipvs::Way,
    notes::kube_options,
    programs::open_programs,
    published::{Published, hello, report},
    serving::{on_a_thread, part, serve_at, until_signalled},
    zone::{follow_dns, terms},
};
use super::{
    Agent, Desired, Inputs,
    desired::Given,
    other_proxy,
    report::{Report, is_alive},
    socket_pods::PodSockets,
};
use crate::{
    addresses,
    admin::{self, About, Health, Metrics, ServiceHealth, service_health},
    config::{AgentConfig, DnsAnswers, Instance, Source, dns::file::DnsConfigFile},
    dataplane::{Handover, ebpf::EbpfDataplane},
    feed::{self, Feed},
    interfaces::{self, Patterns},
    model::{Event, ObjectName},
    namespaces::{self, Namespaces},
    probe::{Level, Mode, Row},
    source::{
        self,
        files::{self, FilesOptions},
    },
    sysctl,
    zone::{Name, Pods},
};

/// Events that wait for the loop: enough for it to fill the maps while the source goes on reading.
const EVENTS: usize = 4096;
/// Interfaces that wait for the loop.
const INTERFACES: usize = 256;
/// An update that is under way when the agent is told to end is done within so long.
const LAST_UPDATE: Duration = Duration::from_secs(10);
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
    let (way, probes) = ipvs::choose(config)?;
    let mode = way.mode();
    let by_programs = mode == Mode::Ebpf;
    let features = probes.table(Some(mode));
    tell(&probes.kernel, &features);
    let health = Arc::new(Health::default());
    // The loop's own guards come later than the first probe may.
    let dataplane_open = health.guard("programs and maps loaded");
    let metrics = Arc::new(Metrics::new(counting::kernel(config, by_programs)));
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
        mode: mode.name(),
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
    let (pods_in, pods) = watch::channel(options.pods == Pods::Verified);
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
    let opened = match way {
        Way::Programs => {
            let (dataplane, handover) = open_programs(config, &zone)?;
            Opened::Programs(Box::new(dataplane), handover)
        }
        Way::VirtualServer(netfilter) => {
            Opened::VirtualServer(Box::new(ipvs::open(config, netfilter)?))
        }
    };
    let outside = by_programs && config.dns_answers == DnsAnswers::Kernel;
    let feed = match &opened {
        Opened::Programs(dataplane, _) => {
            let dns_alive = dataplane.dns_alive_fd()?.try_clone_to_owned()?;
            let keeper = dataplane.outside(&zone, outside)?;
            let feed = Feed::new(hello(&zone, outside), Some(dns_alive));
            if outside {
                feed.taking(Box::new(keeper))
            } else {
                feed
            }
        }
        Opened::VirtualServer(_) => Feed::new(hello(&zone, outside), None),
    };
    let (events_in, events) = mpsc::channel(EVENTS);
    let feed = feed.believing(config.dns_user).telling(events_in.clone());
    let socket = config.run_folder.join(feed::SOCKET);
    let server = feed.clone();
    parts.spawn(part(
        "feed",
        async move { feed::serve(server, &socket).await },
    ));

    let (in_sync_in, in_sync) = watch::channel(false);
    let settings = sysctl::apply(&config.proc_sys, &config.conntrack, &node);
    let settings = Event::Problems {
        kind: "Sysctl".to_owned(),
        object: ObjectName::new("", node.clone()),
        problems: settings,
    };
    events_in.send(settings).await?;
    let source = source(config.clone(), node.clone(), pods, events_in, in_sync_in);
    parts.spawn(part("source", source));
    let (interfaces_in, interfaces) = mpsc::channel(INTERFACES);
    let patterns = Patterns {
        pods: config.pod_interfaces.clone(),
        wires: config.wire_interfaces.clone(),
    };
    let follower = interfaces::follow(patterns, interfaces_in);
    parts.spawn(part("watch of interfaces", follower));

    let (namespaces_in, namespaces) = watch::channel(Namespaces::default());
    if by_programs && config.pod_sockets != PodSockets::None {
        let follower = namespaces::follow(config.netns_folders.clone(), namespaces_in);
        parts.spawn(part("watch of the pods' network namespaces", follower));
    } else {
        // Nobody is looked for, but the loop listens.
        tokio::spawn(async move { namespaces_in.closed().await });
    }

    let (checks_in, checks) = watch::channel(ServiceHealth::default());
    let not_started = notes::start(config, &node).await?;
    tokio::spawn(service_health::serve(
        checks,
        Arc::clone(&health),
        not_started,
    ));
    let (addresses_in, addresses) = watch::channel(None);
    let follower = addresses::follow(addresses_in);
    parts.spawn(part("watch of this node's addresses", follower));

    let (zone_in, zone) = watch::channel((ttl, options));
    parts.spawn(part(
        "configuration of DNS",
        follow_dns(file, dns, zone_in, pods_in),
    ));

    let (filled_in, filled) = watch::channel(false);
    let (other_proxy_in, other_proxy) = watch::channel(None);
    let report = Report {
        features,
        netfilter: way.netfilter().to_owned(),
        ..report(config, node, mode.name())
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
        namespaces,
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
            let agent = Agent::new(desired, *dataplane, metrics, health, report, published)
                .with_pod_sockets(config.pod_sockets);
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

/// During an upgrade two agents overlap for a moment.
async fn wait_for_predecessor(instance: &Instance) {
    let begun = Instant::now();
    while is_alive(instance) && begun.elapsed() < PREDECESSOR {
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
    pods: watch::Receiver<bool>,
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
        Source::Kube => {
            let options = source::kube::KubeOptions {
                pods: Some(pods),
                ..kube_options(&config, &node)
            };
            source::kube::run(options, events, in_sync).await
        }
    }
}
