//! Latency of names: a socket in a pod, one question after the answer to the other.
//!
//! The floor is a program at another pod's interface that sends the same question back as it is.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hickory_proto::{op::ResponseCode, rr::RecordType};

use super::{
    Options,
    figure::{Figure, Reach},
    floor::Echo,
    progress::Progress,
    question::{check, question, search},
    rounds::{Comparison, Of, Sample, Subject, cpu_time, pin, take},
    site::{DNS, Site},
    statistics::quantile,
};
use crate::lab::Pod;

/// Times that an operation is repeated in one slice.
const OPERATIONS: usize = 3000;
const PATIENCE: Duration = Duration::from_secs(1);

/// What a resolver does at once: it sends all of these, then waits for as many answers.
type Burst = Vec<Vec<u8>>;

/// An operation: bursts one after the other.
type Operation = Vec<Burst>;

/// Measures it.
///
/// # Errors
/// Where an answer is wrong or does not come.
pub fn run(options: &Options, plain: &Site, served: &Site) -> anyhow::Result<Vec<Figure>> {
    let progress = Progress::new("dns", 4 * (options.pairs + 1));
    let floor_pod = &plain.clients[0];
    let _floor = Echo::attach(floor_pod)?;
    let (floor, signpost) = (socket(floor_pod)?, socket(&served.clients[0])?);

    let a = question("near.default.svc.cluster.local.", RecordType::A)?;
    expect(&signpost, &a, ResponseCode::NoError, 1)?;
    let nodata = question("near.default.svc.cluster.local.", RecordType::AAAA)?;
    expect(&signpost, &nodata, ResponseCode::NoError, 0)?;
    let missing = question("near.default.default.svc.cluster.local.", RecordType::A)?;
    expect(&signpost, &missing, ResponseCode::NXDomain, 0)?;
    let story = search("www.example.com", "default")?;
    for question in &story {
        expect(&signpost, question, ResponseCode::NXDomain, 0)?;
    }
    // glibc asks for both types at once.
    let story: Operation = story.chunks(2).map(<[_]>::to_vec).collect();

    let mut figures = Vec::new();
    for (what, operation) in [
        ("A", vec![vec![a]]),
        ("AAAA of a Service without one (NODATA)", vec![vec![nodata]]),
        ("NXDOMAIN", vec![vec![missing]]),
        ("six search-list misses (ndots:5)", story),
    ] {
        let mut subjects = [
            Subject::new("signpost", || {
                slice(&served.clients[0], &signpost, &operation)
            }),
            Subject::new("floor", || slice(floor_pod, &floor, &operation)),
        ];
        take(&mut subjects, options.pairs, &progress)?;
        for (of, part, reach) in [
            (Of::Value, "p50", Some(Reach::AtMost(1.5))),
            (Of::Tail, "p99", None),
        ] {
            let comparison = Comparison {
                suite: "dns",
                what: &format!("{what}, {part}"),
                unit: "µs",
                of,
                subject: "signpost",
                against: "floor",
                reach,
            };
            figures.push(comparison.figure(&subjects));
        }
    }
    Ok(figures)
}

fn socket(pod: &Pod) -> anyhow::Result<UdpSocket> {
    pod.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((DNS, 53))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        anyhow::Ok(socket)
    })?
}

fn expect(
    socket: &UdpSocket,
    question: &[u8],
    code: ResponseCode,
    records: usize,
) -> anyhow::Result<()> {
    socket.send(question)?;
    let mut answer = [0; 512];
    let length = socket
        .recv(&mut answer)
        .context("no answer to a question")?;
    check(&answer[..length], code, records)
}

fn slice(pod: &Pod, socket: &UdpSocket, operation: &Operation) -> anyhow::Result<Sample> {
    pod.run(|| {
        pin()?;
        let mut times = Vec::with_capacity(OPERATIONS);
        let mut answer = [0; 512];
        let cpu = cpu_time()?;
        for _ in 0..OPERATIONS {
            let start = Instant::now();
            for burst in operation {
                for question in burst {
                    socket.send(question)?;
                }
                for _ in burst {
                    socket.recv(&mut answer).context("no answer")?;
                }
            }
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        let cpu = cpu_time()? - cpu;
        times.sort_by(f64::total_cmp);
        Ok(Sample {
            value: quantile(&times, 0.5),
            tail: quantile(&times, 0.99),
            cpu: cpu.as_nanos() as f64 / OPERATIONS as f64,
        })
    })?
}
