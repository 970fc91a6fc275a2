//! `cargo xtask bench`: builds the benchmarks with optimisation, starts them as root, shows what came out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::{progress::Spinner, project, setup};

mod machine;

/// Flags of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure
    #[arg(default_value = "all", value_parser = ["programs", "dns", "service", "scale", "names", "peers", "ipvs", "all"])]
    suite: String,
    /// Pairs of every comparison; below 15 the bounds say little
    #[arg(long, default_value_t = 31)]
    pairs: u16,
    /// How many Services there are beside kube-proxy, one after the other, growing [default: 10,1000,10000; 5000 beside
    /// its IPVS mode]
    #[arg(long)]
    services: Option<String>,
    /// Folder for the JSON report and the SVG plot [default: bench in the target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Measures, prints a table, and leaves a report and a plot behind. Fails where something was missed for sure.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    setup::for_build()?;
    setup::bpffs()?;
    {
        let _spinner = Spinner::new("building signpost and the benchmarks with optimisation");
        project::run(project::cargo().args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "signpost",
            "--package",
            "signpost-tests",
            "--bin",
            "signpost",
            "--bin",
            "bench",
        ]))?;
    }
    let built = project::target().join("release");
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| project::target().join("bench"));
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let (report, plot) = (
        out.join(format!("{}.json", args.suite)),
        out.join(format!("{}.svg", args.suite)),
    );

    let measured = if args.suite == "ipvs" {
        machine::measure(&built, args)?
    } else {
        here(&built, args)?
    };
    fs::write(&report, measured).with_context(|| report.display().to_string())?;

    let mut show = std::process::Command::new(built.join("bench"));
    show.arg("show").arg(&report).arg("--svg").arg(&plot);
    let status = show
        .status()
        .with_context(|| format!("cannot start {}", project::line(&show)))?;
    println!("report: {}\nplot:   {}", report.display(), plot.display());
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the benchmarks on this machine; returns the report.
fn here(built: &Path, args: &Args) -> anyhow::Result<Vec<u8>> {
    let mut bench = project::as_root(
        built.join("bench"),
        "to make network namespaces and load BPF programs for the benchmarks",
    );
    let measured = bench
        .env("SIGNPOST_BIN", built.join("signpost"))
        .args(["run", &args.suite, "--pairs", &args.pairs.to_string()])
        .args([
            "--services",
            args.services.as_deref().unwrap_or("10,1000,10000"),
        ])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", project::line(&bench)))?;
    ensure!(
        measured.status.success(),
        "the benchmarks failed: {}",
        measured.status
    );
    Ok(measured.stdout)
}
