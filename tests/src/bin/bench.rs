//! The benchmarks: `cargo xtask bench` builds and starts this.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use signpost_tests::bench::{
    Options, connector, dns,
    figure::{Figure, Report},
    ipvs, names, peers, plot, programs, scale, service,
    site::Site,
    table::table,
};
use signpost_tests::cluster::tools::Tools;

/// Measures signpost.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure, and print a report as JSON. Needs root
    Run {
        /// What to measure
        suite: Suite,
        /// Pairs of every comparison
        #[arg(long, default_value_t = 31)]
        pairs: usize,
        /// How many Services there are beside peers, growing; beside kube-proxy's IPVS mode the last of them
        #[arg(long, value_delimiter = ',', default_value = "10,1000,10000")]
        services: Vec<u32>,
    },
    /// Build the peers that have to be there before a virtual machine starts, and print their folder
    #[command(hide = true)]
    Tools,
    /// Connect as standard input says; a part of the benchmarks that has to be a process of its own
    #[command(hide = true)]
    Connect,
    /// Print a report as a table. Ends with 1 where something to be reached was missed
    Show {
        /// The report
        report: PathBuf,
        /// Draw it into this file as well
        #[arg(long)]
        svg: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    Programs,
    Dns,
    Service,
    Scale,
    Names,
    Peers,
    /// The IPVS mode; needs a kernel with IPVS
    Ipvs,
    /// All but those beside peers, which take half an hour
    All,
}

fn main() -> ExitCode {
    carry_out(Cli::parse().task).unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

fn carry_out(task: Task) -> anyhow::Result<ExitCode> {
    match task {
        Task::Run {
            suite,
            pairs,
            services,
        } => {
            let report = run(suite, &Options { pairs, services })?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            // What is printed inside of a virtual machine is not all that is heard outside.
            signpost_tests::report::keep(&report)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Tools => {
            println!("{}", Tools::build()?.path("").display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Connect => connector::obey().map(|()| ExitCode::SUCCESS),
        Task::Show { report, svg } => {
            let text = fs::read_to_string(&report).with_context(|| report.display().to_string())?;
            let report: Report = serde_json::from_str(&text)?;
            print!("{}", table(&report));
            if let Some(file) = svg {
                plot::draw(&report, &file)?;
            }
            Ok(if report.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

fn run(suite: Suite, options: &Options) -> anyhow::Result<Report> {
    let kernel = nix::sys::utsname::uname()?;
    let mut report = Report {
        kernel: format!(
            "{} {}",
            kernel.release().to_string_lossy(),
            kernel.machine().to_string_lossy()
        ),
        processors: processors(),
        load: load()?,
        figures: Vec::new(),
    };
    let wants = |one| {
        let with_peers = matches!(one, Suite::Peers | Suite::Names | Suite::Ipvs);
        suite == one || suite == Suite::All && !with_peers
    };
    if !matches!(
        suite,
        Suite::Scale | Suite::Names | Suite::Peers | Suite::Ipvs
    ) {
        report.figures = in_two_laboratories(options, wants)?;
    }
    if wants(Suite::Scale) {
        report.figures.extend(scale::run()?);
    }
    if wants(Suite::Names) {
        report.figures.extend(names::run(options)?);
    }
    if wants(Suite::Peers) {
        report.figures.extend(peers::run(options)?);
    }
    if wants(Suite::Ipvs) {
        report.figures.extend(ipvs::run(options)?);
    }
    Ok(report)
}

fn in_two_laboratories(
    options: &Options,
    wants: impl Fn(Suite) -> bool,
) -> anyhow::Result<Vec<Figure>> {
    let (plain, served) = (Site::plain()?, Site::served()?);
    let mut figures = Vec::new();
    if wants(Suite::Programs) {
        figures.extend(programs::run(options, &served)?);
    }
    if wants(Suite::Dns) {
        figures.extend(dns::run(options, &plain, &served)?);
    }
    if wants(Suite::Service) {
        figures.extend(service::run(options, &plain, &served)?);
    }
    Ok(figures)
}

fn processors() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = text.lines().filter_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field.trim() == "model name").then(|| value.trim().to_owned())
    });
    let names: Vec<_> = names.collect();
    match names.first() {
        Some(name) => format!("{} × {name}", names.len()),
        None => "processors unknown".to_owned(),
    }
}

/// Load average of the last minute.
fn load() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text.split(' ').next().context("an empty /proc/loadavg")?;
    Ok(first.parse()?)
}
