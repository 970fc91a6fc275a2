//! Time of the programs themselves, by `BPF_PROG_TEST_RUN` on the programs and maps of a running agent.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use anyhow::bail;
use aya::programs::{ProgramFd, TcAttachType};
use hickory_proto::rr::RecordType;
use signpost_common::layout::program;

use super::{
    Options,
    figure::{Figure, Reach},
    floor::Bench,
    progress::Progress,
    question::{datagram, question, segment},
    rounds::pin,
    site::{ANSWERS, DNS, NEAR, Site},
    statistics::Estimate,
};
use crate::lab::Pod;

/// Runs of one sample.
const RUNS: u32 = 100_000;
/// Runs of one sample that leave a flow each: few enough that all of them find room.
const FLOWS: u32 = 2_000;

/// A packet that is measured.
struct Case<'a> {
    what: &'static str,
    program: &'a ProgramFd,
    packet: Vec<u8>,
    /// Each run is of a client of its own.
    clients: bool,
    reach: Option<Reach>,
}

/// Measures them.
///
/// # Errors
/// Where the programs are not attached.
pub fn run(options: &Options, served: &Site) -> anyhow::Result<Vec<Figure>> {
    let client = &served.clients[0];
    let from_pod = &served.program(client, program::FROM_POD, TcAttachType::Ingress)?;
    let to_pod = &served.program(client, program::TO_POD, TcAttachType::Egress)?;
    let here = SocketAddrV4::new(v4(client)?, 30_000);
    let backend = SocketAddrV4::new(v4(&served.near)?, ANSWERS);
    let service = SocketAddrV4::new(NEAR, 80);
    let dns = SocketAddrV4::new(DNS, 53);
    let asked = |name: &str, kind| datagram(here, dns, &question(name, kind)?);

    let syn = segment(here, service, None)?;
    let cases = [
        Case {
            what: "DNS, A",
            program: from_pod,
            packet: asked("near.default.svc.cluster.local.", RecordType::A)?,
            clients: false,
            reach: Some(Reach::AtMost(300.0)),
        },
        Case {
            what: "DNS, NXDOMAIN of a search list",
            program: from_pod,
            packet: asked("www.example.com.default.svc.cluster.local.", RecordType::A)?,
            clients: false,
            reach: Some(Reach::AtMost(400.0)),
        },
        Case {
            what: "DNS, headless, 20 endpoints",
            program: from_pod,
            packet: asked("set.default.svc.cluster.local.", RecordType::A)?,
            clients: false,
            reach: Some(Reach::AtMost(700.0)),
        },
        Case {
            what: "first packet of a flow",
            program: from_pod,
            packet: syn.clone(),
            clients: true,
            reach: Some(Reach::AtMost(800.0)),
        },
        Case {
            what: "packet of an established flow, to the backend",
            program: from_pod,
            packet: segment(here, service, Some(&[b'x'; 64]))?,
            clients: false,
            reach: Some(Reach::AtMost(100.0)),
        },
        Case {
            what: "packet of an established flow, to the client",
            program: to_pod,
            packet: segment(backend, here, Some(&[b'x'; 64]))?,
            clients: false,
            reach: Some(Reach::AtMost(100.0)),
        },
        Case {
            what: "packet of no Service, from a pod",
            program: from_pod,
            packet: segment(here, backend, Some(&[b'x'; 64]))?,
            clients: false,
            reach: None,
        },
        Case {
            what: "packet of no Service, to a pod",
            program: to_pod,
            packet: segment(SocketAddrV4::new(*backend.ip(), 1), here, Some(&[b'x'; 64]))?,
            clients: false,
            reach: None,
        },
    ];

    pin()?;
    let mut bench = Bench::new()?;
    let nothing = bench.nothing()?;
    let progress = Progress::new("programs", cases.len());
    // The flow that the established packets belong to.
    bench.time(from_pod, &syn, false, 1)?;
    let mut figures = Vec::new();
    for case in &cases {
        let runs = if case.clients { FLOWS } else { RUNS };
        let mut samples = Vec::new();
        for _ in 0..options.pairs {
            let mut time = |program| bench.time(program, &case.packet, case.clients, runs);
            let (empty, full) = (time(&nothing)?, time(case.program)?);
            samples.push(full.as_nanos() as f64 - empty.as_nanos() as f64);
        }
        figures.push(Figure {
            suite: "programs".to_owned(),
            what: case.what.to_owned(),
            unit: "ns".to_owned(),
            measured: Estimate::of(&samples),
            against: None,
            reach: case.reach,
            samples,
        });
        progress.step();
    }
    Ok(figures)
}

fn v4(pod: &Pod) -> anyhow::Result<Ipv4Addr> {
    match pod.v4() {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => bail!("{address} is not IPv4"),
    }
}
