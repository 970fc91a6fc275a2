//! Names beside the real CoreDNS: two nodes that are alike, one with it and one with signpost, and one real API server.

use anyhow::Context as _;
use hickory_proto::{op::ResponseCode, rr::RecordType};
use signpost::dataplane::ebpf::view::View;
use signpost_common::layout::map;

use super::{
    Options,
    figure::{Figure, Reach},
    floor::Echo,
    progress::Progress,
    question::question,
    rounds::{Comparison, Of, Subject, take},
    site::ENDPOINTS_OF_SET,
    statistics::Estimate,
};
use crate::lab::upstream;

mod asking;
mod created;
mod rivals;

use asking::{Asker, load};
use rivals::{HEADLESS_ENDPOINTS, Rivals, SERVICES};

const CORE_DNS: &str = "CoreDNS";
const SIGNPOST: &str = "signpost";
const FLOOR: &str = "floor";

/// Times that the C library resolves a name in one slice.
const LOOKUPS: u32 = 300;

/// Measures it.
///
/// # Errors
/// Without root, or where one of them answers wrongly.
pub fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let mut rivals = Rivals::up()?;
    let progress = Progress::new("names", 6 * (options.pairs + 1));
    let mut figures = Vec::new();
    for asked in &ASKED {
        figures.extend(one_at_a_time(options, &rivals, asked, &progress)?);
    }
    figures.push(searching(options, &mut rivals, &progress)?);
    figures.push(user_space(options, &rivals, &progress)?);
    figures.push(memory(&rivals)?);
    figures.extend(created::run(&rivals)?);
    Ok(figures)
}

/// A question, and what its answer is.
struct Asked {
    what: &'static str,
    name: &'static str,
    kind: RecordType,
    code: ResponseCode,
    records: usize,
    /// What is to be reached of CoreDNS's CPU time.
    cpu: Option<Reach>,
}

const ASKED: [Asked; 4] = [
    Asked {
        what: "A",
        name: "near.default.svc.cluster.local.",
        kind: RecordType::A,
        code: ResponseCode::NoError,
        records: 1,
        cpu: Some(Reach::AtMost(0.1)),
    },
    Asked {
        what: "NXDOMAIN",
        name: "near.default.default.svc.cluster.local.",
        kind: RecordType::A,
        code: ResponseCode::NXDomain,
        records: 0,
        cpu: Some(Reach::AtMost(0.1)),
    },
    Asked {
        what: "headless, 20 endpoints",
        name: "set.default.svc.cluster.local.",
        kind: RecordType::A,
        code: ResponseCode::NoError,
        records: ENDPOINTS_OF_SET as usize,
        cpu: None,
    },
    Asked {
        what: "SRV",
        name: "_answers._tcp.near.default.svc.cluster.local.",
        kind: RecordType::SRV,
        code: ResponseCode::NoError,
        records: 1,
        cpu: None,
    },
];

/// Latency and the machine's CPU time of a question after the answer to the other.
fn one_at_a_time(
    options: &Options,
    rivals: &Rivals,
    asked: &Asked,
    progress: &Progress,
) -> anyhow::Result<Vec<Figure>> {
    let message = question(asked.name, asked.kind)?;
    let _floor = Echo::attach(&rivals.floor)?;
    let (core_dns, signpost, floor) = (
        Asker::new(&rivals.core_dns.client)?,
        Asker::new(&rivals.signpost.client)?,
        Asker::new(&rivals.floor)?,
    );
    for (who, asker) in [(CORE_DNS, &core_dns), (SIGNPOST, &signpost)] {
        asker
            .expect(&message, asked.code, asked.records)
            .with_context(|| format!("{who}: {}", asked.name))?;
    }
    let mut subjects = [
        Subject::new(CORE_DNS, || core_dns.slice(&message)),
        Subject::new(SIGNPOST, || signpost.slice(&message)),
        Subject::new(FLOOR, || floor.slice(&message)),
    ];
    take(&mut subjects, options.pairs, progress)?;
    let figures = [
        (
            "CPU time of the machine",
            "ns",
            Of::Cpu,
            CORE_DNS,
            asked.cpu,
        ),
        ("p50", "µs", Of::Value, FLOOR, Some(Reach::AtMost(1.5))),
        ("p50", "µs", Of::Value, CORE_DNS, None),
        ("p99", "µs", Of::Tail, CORE_DNS, Some(Reach::AtMost(0.04))),
    ];
    Ok(figures
        .map(|(part, unit, of, against, reach)| {
            let comparison = Comparison {
                suite: "names",
                what: &format!("{}: {part}", asked.what),
                unit,
                of,
                subject: SIGNPOST,
                against,
                reach,
            };
            comparison.figure(&subjects)
        })
        .into())
}

/// A name outside the cluster as glibc resolves it, with the search list and `ndots:5`.
fn searching(
    options: &Options,
    rivals: &mut Rivals,
    progress: &Progress,
) -> anyhow::Result<Figure> {
    let name = upstream::NAME.trim_end_matches('.');
    let [core_dns, signpost] = &mut rivals.resolvers;
    let mut subjects = [
        Subject::new(CORE_DNS, || core_dns.resolve(name, LOOKUPS)),
        Subject::new(SIGNPOST, || signpost.resolve(name, LOOKUPS)),
    ];
    take(&mut subjects, options.pairs, progress)?;
    let comparison = Comparison {
        suite: "names",
        what: "getaddrinfo of a name outside the cluster, warm",
        unit: "µs",
        of: Of::Value,
        subject: SIGNPOST,
        against: CORE_DNS,
        reach: Some(Reach::AtMost(1.0 / 8.0)),
    };
    Ok(comparison.figure(&subjects))
}

/// What both servers in user space make of a name that they have in their caches.
fn user_space(options: &Options, rivals: &Rivals, progress: &Progress) -> anyhow::Result<Figure> {
    let message = question(upstream::NAME, RecordType::A)?;
    let slice =
        |rival: &rivals::Rival| load(&rival.client, rival.server.v4(), rival.process, &message);
    let mut subjects = [
        Subject::new(CORE_DNS, || slice(&rivals.core_dns)),
        Subject::new(SIGNPOST, || slice(&rivals.signpost)),
    ];
    take(&mut subjects, options.pairs, progress)?;
    let comparison = Comparison {
        suite: "names",
        what: "user space, cached name outside: answers a second per core",
        unit: "1/s",
        of: Of::Value,
        subject: SIGNPOST,
        against: CORE_DNS,
        reach: Some(Reach::AtLeast(1.5)),
    };
    Ok(comparison.figure(&subjects))
}

fn memory(rivals: &Rivals) -> anyhow::Result<Figure> {
    let fill = View::open(&rivals.bpffs())?.fill()?;
    let of_names = [
        map::NAMES,
        map::NAME_TEXTS,
        map::ANSWERS_SMALL,
        map::ANSWERS_LARGE,
    ];
    let bytes: u64 = fill
        .iter()
        .filter(|fill| of_names.contains(&fill.map))
        .map(|fill| fill.memory)
        .sum();
    let samples = vec![bytes as f64 / 1e6];
    Ok(Figure {
        suite: "names".to_owned(),
        what: format!(
            "{SERVICES} Services, {HEADLESS_ENDPOINTS} headless endpoints: memory of the maps of names"
        ),
        unit: "MB".to_owned(),
        measured: Estimate::of(&samples),
        against: None,
        reach: Some(Reach::AtMost(64.0)),
        samples,
    })
}
