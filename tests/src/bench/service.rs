//! Connections: what a ClusterIP costs beside the pod's own address.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    Options,
    connector::{self, Connector},
    figure::{Figure, Reach},
    floor::Idle,
    progress::Progress,
    rounds::{Comparison, Of, Sample, Subject, cpu_time, pin, take},
    site::{ANSWERS, FAR, NEAR, SINK, Site},
};
use crate::lab::{Pod, wait};

/// Connections in one slice.
const CONNECTIONS: u32 = 2000;
/// How long a slice of a stream takes.
const STREAM_FOR: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take until pods are served at their sockets. It decides nothing.
const AT_SOCKETS: Duration = Duration::from_secs(30);
/// Direct connections of a process in the pod: programs of sockets see no other.
const DIRECT_OF_PROCESS: &str = "pod IP, nothing loaded, of a process";

/// Measures it.
///
/// # Errors
/// Where a connection fails.
pub fn run(options: &Options, plain: &Site, served: &Site) -> anyhow::Result<Vec<Figure>> {
    // What it costs to have programs at all.
    let idle = Site::plain()?;
    let pods = [&idle.clients[0], &idle.near, &idle.far];
    let _programs = Idle::attach(&pods)?;
    let sockets = Site::served_with(&["--pod-sockets", "all"])?;
    let [direct, through] = [plain, &sockets].map(|site| {
        let pod = &site.clients[0];
        Connector::start(|program| pod.command(program))
    });
    let (mut direct, mut through) = (direct?, through?);
    wait::until("service at a pod's sockets", AT_SOCKETS, || {
        let agent = &sockets.agents[0];
        through.slice((NEAR, 80).into(), 1)?;
        ensure!(agent.counter("socket_connected")? > 0, "not at its sockets");
        Ok(())
    })?;
    let progress = Progress::new("service", 3 * (options.pairs + 1));
    let mut figures = Vec::new();
    for (place, service, of_plain, of_served, of_idle) in [
        ("local", NEAR, &plain.near, &served.near, &idle.near),
        ("remote", FAR, &plain.far, &served.far, &idle.far),
    ] {
        let pod = |pod: &Pod| SocketAddr::from((pod.v4(), ANSWERS));
        let service = SocketAddr::from((service, 80));
        // A client for each: a port that comes back through another address too soon finds its last connection.
        let mut subjects = [
            Subject::new("pod IP, nothing loaded", || {
                connect(&plain.clients[0], pod(of_plain))
            }),
            Subject::new("ClusterIP", || connect(&served.clients[0], service)),
            Subject::new("pod IP, signpost loaded", || {
                connect(&served.clients[1], pod(of_served))
            }),
            Subject::new("pod IP, programs that do nothing", || {
                connect(&idle.clients[0], pod(of_idle))
            }),
            Subject::new("the same of another client", || {
                connect(&plain.clients[1], pod(of_plain))
            }),
            Subject::new(DIRECT_OF_PROCESS, || {
                direct.slice(pod(of_plain), CONNECTIONS)
            }),
            Subject::new("ClusterIP, at sockets", || {
                through.slice(service, CONNECTIONS)
            }),
        ];
        take(&mut subjects, options.pairs, &progress)?;
        let direct = "pod IP, nothing loaded";
        for (subject, against, reach) in [
            ("ClusterIP", direct, Some(Reach::AtLeast(0.95))),
            (
                "pod IP, signpost loaded",
                direct,
                Some(Reach::AtLeast(0.98)),
            ),
            ("pod IP, programs that do nothing", direct, None),
            ("the same of another client", direct, None),
            (
                "ClusterIP, at sockets",
                DIRECT_OF_PROCESS,
                Some(Reach::AtLeast(0.95)),
            ),
        ] {
            let comparison = Comparison {
                suite: "service",
                what: &format!("connect-request-close, {place}: {subject}"),
                unit: "1/s",
                of: Of::Value,
                subject,
                against,
                reach,
            };
            figures.push(comparison.figure(&subjects));
        }
    }
    figures.extend(stream(options, plain, served, &progress)?);
    Ok(figures)
}

fn connect(pod: &Pod, to: SocketAddr) -> anyhow::Result<Sample> {
    pod.run(|| {
        pin()?;
        Ok(connector::connect(to, CONNECTIONS)?.sample(CONNECTIONS, Duration::ZERO))
    })?
}

fn stream(
    options: &Options,
    plain: &Site,
    served: &Site,
    progress: &Progress,
) -> anyhow::Result<Vec<Figure>> {
    let open = |pod: &Pod, to: (Ipv4Addr, u16)| {
        pod.run(|| TcpStream::connect_timeout(&to.into(), PATIENCE))?
            .context("no connection for a stream")
    };
    let std::net::IpAddr::V4(near) = plain.near.v4() else {
        anyhow::bail!("no IPv4 address");
    };
    let direct = open(&plain.clients[0], (near, SINK))?;
    let service = open(&served.clients[0], (NEAR, SINK))?;
    let mut subjects = [
        Subject::new("ClusterIP", || send(&served.clients[0], &service)),
        Subject::new("pod IP, nothing loaded", || {
            send(&plain.clients[0], &direct)
        }),
    ];
    take(&mut subjects, options.pairs, progress)?;
    let figure = |what, unit, of, reach| {
        Comparison {
            suite: "service",
            what,
            unit,
            of,
            subject: "ClusterIP",
            against: "pod IP, nothing loaded",
            reach,
        }
        .figure(&subjects)
    };
    Ok(vec![
        figure(
            "one TCP stream, CPU time per MiB",
            "µs",
            Of::Cpu,
            Some(Reach::AtMost(1.02)),
        ),
        figure("one TCP stream, throughput", "MiB/s", Of::Value, None),
    ])
}

fn send(pod: &Pod, mut stream: &TcpStream) -> anyhow::Result<Sample> {
    pod.run(|| {
        pin()?;
        let block = vec![0; 128 << 10];
        let (start, cpu) = (Instant::now(), cpu_time()?);
        let mut sent = 0;
        while start.elapsed() < STREAM_FOR {
            stream.write_all(&block)?;
            sent += block.len();
        }
        let (time, cpu) = (start.elapsed(), cpu_time()? - cpu);
        let size = sent as f64 / f64::from(1 << 20);
        Ok(Sample {
            value: size / time.as_secs_f64(),
            cpu: cpu.as_secs_f64() * 1e6 / size,
            ..Sample::default()
        })
    })?
}
