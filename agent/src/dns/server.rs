//! Puts source, zone, sockets, clock and probes together.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use axum::Router;
use hickory_server::Server as Hickory;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Args, Source, alive,
    forward::Times,
    handler::{Handler, Live},
    handover::Handover,
    logged::Watch,
    metrics::Metrics,
    probes,
    routes::Routes,
    state::{Configured, State},
    tcp,
};
use crate::{
    config::dns::{DnsConfig, Period, file::DnsConfigFile},
    feed::{self, Hello},
    model::Event,
    source::{
        self,
        agent::{self, Handed, News},
        files::{self, FilesOptions},
    },
    zone::{Pods, ZoneConfig},
};

/// Events that wait for the zone.
const EVENTS: usize = 4096;
/// How often the file with the upstreams is read. Polled: it may be a bind mount, which no notification crosses.
const REREAD: Duration = Duration::from_secs(5);

/// A DNS server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    args: Args,
    sockets: Vec<(UdpSocket, TcpListener)>,
    health: Vec<TcpListener>,
    metrics: TcpListener,
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub struct Listening {
    /// DNS, over UDP and TCP.
    pub dns: Vec<SocketAddr>,
    /// Probes.
    pub health: Vec<SocketAddr>,
    /// Metrics.
    pub metrics: SocketAddr,
}

impl Server {
    /// Takes the ports.
    ///
    /// # Errors
    /// Where one cannot be had.
    pub async fn bind(args: Args) -> anyhow::Result<Self> {
        let mut sockets = Vec::new();
        for &address in &args.listen {
            let bound = both(address).await;
            sockets.push(bound.with_context(|| {
                format!(
                    "cannot listen on {address}; a port below 1024 needs the sysctl \
                     net.ipv4.ip_unprivileged_port_start or CAP_NET_BIND_SERVICE; see --listen"
                )
            })?);
        }
        let mut health = Vec::new();
        for &address in &args.health_address {
            health.push(listen(address, "--health-address").await?);
        }
        let metrics = listen(args.metrics_address, "--metrics-address").await?;
        Ok(Self {
            args,
            sockets,
            health,
            metrics,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where a socket has no address.
    pub fn listening(&self) -> io::Result<Listening> {
        Ok(Listening {
            dns: self
                .sockets
                .iter()
                .map(|(udp, _)| udp.local_addr())
                .collect::<io::Result<_>>()?,
            health: self
                .health
                .iter()
                .map(TcpListener::local_addr)
                .collect::<io::Result<_>>()?,
            metrics: self.metrics.local_addr()?,
        })
    }

    /// Answers until `stop`, and then for the lameduck time.
    ///
    /// # Errors
    /// Where a part that the server cannot do without ends.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        let begun = Instant::now();
        let listening = self.listening()?;
        let args = self.args;
        let (file, config) = DnsConfigFile::open(args.dns_config.as_deref())?;
        let times = super::metrics::times();
        let routes = Routes::new(&args, &config, None, &times)?;
        let patient_until = begun + startup_timeout(&args, &config);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), source = %args.source, ?listening,
            dns_config = ?args.dns_config, upstreams = ?routes.default.addresses(),
            cluster_domain = args.cluster_domain, "the DNS server starts"
        );
        let state = Arc::new(State::new(ZoneConfig {
            domain: match &config.cluster.domain {
                Some(domain) => domain.clone(),
                None => args.domain()?,
            },
            ttl: ttl(&args, &config),
            dns: args.dns_address.clone(),
            options: Arc::new(config.zone_options()),
        }));
        let live = Arc::new(Live::new(routes));
        let (handover, (session, answers, said)) =
            Handover::new(Arc::clone(&state), Arc::clone(&live));
        let handover = Arc::new(handover);
        let (watch, logged) = Watch::new();
        let watch = Arc::new(watch);
        let handed = Handed {
            session,
            answers,
            logged,
            options: said,
        };
        let metrics = Arc::new(Metrics::new(
            Arc::clone(&state),
            Arc::clone(&live),
            file.counts(),
            &times,
        ));
        let probe = Arc::new(AtomicU16::new(0));

        // Ends of parts are errors, whatever they end with.
        let mut parts = JoinSet::new();
        for listener in self.health {
            let routes = probes::routes(Arc::clone(&state), stop.clone());
            parts.spawn(part("probes", http(listener, routes)));
        }
        let routes = probes::metrics(Arc::clone(&metrics));
        parts.spawn(part("metrics", http(self.metrics, routes)));

        parts.spawn(part("upstreams", follow_upstreams(Arc::clone(&live))));
        let options = config.zone_options();
        let (pods_in, pods) = watch::channel(options.pods == Pods::Verified);
        let (zones_in, zones) = mpsc::channel(1);
        let follower = follow_config(
            args.clone(),
            file,
            config,
            (Arc::clone(&live), Arc::clone(&handover), times),
            (zones_in, pods_in),
        );
        parts.spawn(part("configuration", follower));

        let (clocks, clock) = watch::channel(None);
        let (events_in, events) = mpsc::channel(EVENTS);
        let (hellos_in, hellos) = mpsc::channel(1);
        let learns_dns = args.dns_address.is_empty() && !matches!(args.source, Source::Agent(_));
        let followed = Arc::clone(&state);
        parts.spawn(async move {
            followed.follow(events, hellos, zones, learns_dns).await;
            Err(anyhow!("the zone: nobody says anything any more"))
        });
        parts.spawn(part(
            "source",
            source(
                args.clone(),
                events_in,
                hellos_in,
                (clocks, pods),
                (Arc::clone(&handover), Arc::clone(&watch), handed),
            ),
        ));

        let handler = Handler {
            state: Arc::clone(&state),
            live: Arc::clone(&live),
            metrics,
            handover: Arc::clone(&handover),
            watch,
            max_payload: args.max_payload,
            probe: Arc::clone(&probe),
            patient_until,
        };
        let mut configured = state.configured();
        parts.spawn(async move {
            while configured.changed().await.is_ok() {
                handover.flush();
            }
            std::future::pending().await
        });
        let mut server = Hickory::new(handler.clone());
        for (udp, tcp) in self.sockets {
            server.register_socket(udp);
            let serving = tcp::serve(tcp, handler.clone());
            parts.spawn(part("DNS over TCP", async {
                serving.await;
                Ok(())
            }));
        }
        if let Some(&first) = listening.dns.first() {
            let stop = stop.clone();
            parts.spawn(async move {
                let kept = alive::keep(first, state, probe, clock, stop.clone()).await;
                stop.cancelled().await;
                kept.context("the dns alive clock")?;
                std::future::pending().await
            });
        }
        parts.spawn(async move {
            server.block_until_done().await.context("DNS")?;
            Err(anyhow!("DNS: the sockets were closed"))
        });

        tokio::select! {
            ended = parts.join_next() => return ended.map_or(Ok(()), |joined| joined?),
            () = stop.cancelled() => {}
        }
        let lameduck = live.routes().lameduck;
        tracing::info!(
            seconds = lameduck.as_secs_f64(),
            "questions are answered for a while longer"
        );
        tokio::select! {
            ended = parts.join_next() => ended.map_or(Ok(()), |joined| joined?),
            () = tokio::time::sleep(lameduck) => Ok(()),
        }
    }
}

/// Takes the upstreams of files whenever they change, and looks whether one leads back here.
async fn follow_upstreams(live: Arc<Live>) -> anyhow::Result<()> {
    loop {
        let routes = live.routes();
        for (zone, forward) in routes.all() {
            match forward.follow() {
                Ok(true) => {
                    tracing::info!(zone, upstreams = ?forward.addresses(), "other upstreams");
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(zone, "the upstreams stay as they are: {error:#}"),
            }
            if routes.looks_for_loops {
                forward.look_for_loops(|name| live.has_looped(name)).await;
            }
        }
        drop(routes);
        tokio::time::sleep(REREAD).await;
    }
}

/// Takes over what the file says whenever that changes. What is under way is answered as before.
async fn follow_config(
    args: Args,
    file: DnsConfigFile,
    first: DnsConfig,
    (live, handover, times): (Arc<Live>, Arc<Handover>, Times),
    (zones, pods): (mpsc::Sender<Configured>, watch::Sender<bool>),
) -> anyhow::Result<()> {
    let counts = file.counts();
    let (configs_in, mut configs) = watch::channel(Arc::new(first));
    let changes = async {
        while configs.changed().await.is_ok() {
            let config = Arc::clone(&configs.borrow_and_update());
            match Routes::new(&args, &config, Some(&live.routes()), &times) {
                Ok(routes) => {
                    live.replace(routes);
                    handover.flush();
                    counts.taken_over();
                }
                Err(error) => {
                    counts.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!("the configuration of DNS stays as it was: {error:#}");
                    continue;
                }
            }
            let configured = Configured {
                domain: config.cluster.domain.clone(),
                ttl: ttl(&args, &config),
                options: Arc::new(config.zone_options()),
            };
            pods.send_replace(configured.options.pods == Pods::Verified);
            zones.send(configured).await?;
        }
        Ok(())
    };
    tokio::select! {
        () = file.follow(configs_in) => Ok(()),
        ended = changes => ended,
    }
}

fn startup_timeout(args: &Args, config: &DnsConfig) -> Duration {
    let timeout = config.cluster.startup_timeout;
    timeout.map_or(Duration::from_secs(args.startup_timeout), Period::get)
}

fn ttl(args: &Args, config: &DnsConfig) -> u32 {
    config.cluster.ttl.map_or(args.ttl, |ttl| ttl.get())
}

async fn part(
    name: &'static str,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    work.await.context(name)?;
    Err(anyhow!("{name}: ended"))
}

async fn http(listener: TcpListener, routes: Router) -> anyhow::Result<()> {
    Ok(axum::serve(listener, routes).await?)
}

async fn source(
    args: Args,
    events: mpsc::Sender<Event>,
    hellos: mpsc::Sender<Hello>,
    (clocks, pods): (
        watch::Sender<Option<Arc<super::clock::Clock>>>,
        watch::Receiver<bool>,
    ),
    (handover, watch, handed): (Arc<Handover>, Arc<Watch>, Handed),
) -> anyhow::Result<()> {
    let (in_sync, _) = watch::channel(false);
    match args.source {
        Source::Agent(socket) => {
            let socket = socket.unwrap_or_else(|| args.run_folder.join(feed::SOCKET));
            let (news_in, mut news) = mpsc::channel(4);
            let said = async {
                while let Some(said) = news.recv().await {
                    match said {
                        News::Hello(hello) => {
                            handover.set_wanted(hello.takes_answers);
                            handover.set_compared(hello.options.is_some());
                            watch.set(hello.watched);
                            hellos.send(hello).await?;
                        }
                        News::Asked(asked) => handover.asked(asked),
                        News::Clock(fd) => alive::take_over(fd, &clocks),
                    }
                }
                Ok(())
            };
            tokio::try_join!(agent::run(socket, events, in_sync, news_in, handed), said)?;
            Ok(())
        }
        Source::Kube => {
            let options = source::kube::KubeOptions {
                kubeconfig: args.kubeconfig,
                server: args.api_server,
                node: None,
                pods: Some(pods),
            };
            source::kube::run(options, events, in_sync).await
        }
        Source::Files(folder) => {
            let options = FilesOptions {
                folder,
                state: args.state_folder,
                service_ranges: args.service_range,
                node: None,
            };
            files::run(options, events, in_sync).await
        }
    }
}

/// UDP and TCP on one port, also where the system chooses it.
async fn both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    const TRIES: usize = 16;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let udp = match UdpSocket::bind(address).await {
            Err(error) if lacks_ipv6(&error, address) => UdpSocket::bind(ipv4(address)).await?,
            bound => bound?,
        };
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if address.port() == 0 => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

async fn listen(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if lacks_ipv6(&error, address) => TcpListener::bind(ipv4(address)).await,
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on {address}; change {flag}"))
}

fn lacks_ipv6(error: &io::Error, address: SocketAddr) -> bool {
    let errors = [Some(libc::EAFNOSUPPORT), Some(libc::EADDRNOTAVAIL)];
    address.is_ipv6() && address.ip().is_unspecified() && errors.contains(&error.raw_os_error())
}

fn ipv4(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port())
}
