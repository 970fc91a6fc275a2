//! `cargo xtask vm`: the tests on other kernels.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use xtask::errand::{Command, Errand};

use crate::{
    progress::Spinner,
    project, setup,
    test::outcome::{self, Outcome},
};

mod cpio;
mod image;
mod kernel;
mod machine;
mod modules;
mod page;
mod record;
mod suite;

use image::Image;
use kernel::{Kernel, Unpacked};
use machine::{Accelerator, Machine, Said, Size};
use record::Record;
use suite::Extent;

/// Kernel modules that every machine has from its start. Others come when the kernel asks for them.
const MODULES: [&str; 18] = [
    "veth",
    "bridge",
    "br_netfilter",
    "vxlan",
    "sch_ingress",
    "cls_bpf",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "sctp",
    "tun",
    "ip_vs",
    "ip_vs_rr",
];

/// Flags of `cargo xtask vm`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Debian's kernels to run: 5.10, 6.1, 6.12, newest [default: 5.10 and 6.1]
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Run every kernel
    #[arg(long, conflicts_with = "kernels")]
    all: bool,
    /// Run these suites of `tests/tests` [default: all that are made for this]
    #[arg(long = "suite", value_name = "SUITE")]
    suites: Vec<String>,
    /// Run what shows the most in a few minutes, as CI does
    #[arg(long, conflicts_with_all = ["suites", "filters"])]
    quick: bool,
    /// Run all that runs there at all: hours where processors are emulated
    #[arg(long, conflicts_with_all = ["quick", "filters"])]
    full: bool,
    /// Name what cannot be fetched or installed as not run, and do not fail for it
    #[arg(long)]
    if_possible: bool,
    /// Write docs/kernels.md out of this run and those before it
    #[arg(long)]
    docs: bool,
    /// Run only tests whose path contains one of these
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Take these files and folders along, under the paths that they have here; programs with their libraries
    #[arg(long = "take", value_name = "PATH")]
    taken: Vec<PathBuf>,
    /// Leave this kernel module out, as if the kernel had been built without it: `nf_tables`, for instance
    #[arg(long, value_name = "MODULE")]
    without: Vec<String>,
    /// Processors of the machine [default: 2, or 1 where it is emulated]
    #[arg(long)]
    cpus: Option<u32>,
    /// Memory of the machine, in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Minutes after which a machine is ended
    #[arg(long, default_value_t = 30)]
    patience: u32,
    /// Fetch the kernels' newest packages, though there are some already
    #[arg(long)]
    renew: bool,
    /// Run this program there instead of the tests: its path, or the name of one of the workspace's or the system's
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs one command on a kernel, with one processor, where times are to mean something; returns the file with what it
/// has kept. Fails where the command does.
pub(crate) fn run_command(
    kernel: &str,
    taken: Vec<PathBuf>,
    command: Vec<String>,
) -> anyhow::Result<PathBuf> {
    let args = Args {
        kernels: vec![kernel.to_owned()],
        all: false,
        suites: Vec::new(),
        quick: false,
        full: false,
        if_possible: false,
        docs: false,
        filters: Vec::new(),
        taken,
        without: Vec::new(),
        cpus: Some(1),
        memory: 4096,
        patience: 120,
        renew: false,
        command,
    };
    let ended = run(&args)?;
    ensure!(
        ended == ExitCode::SUCCESS,
        "the command has failed in the machine"
    );
    Ok(project::target()
        .join("vm")
        .join(kernel)
        .join("report.jsonl"))
}

impl Args {
    fn size(&self, accelerator: Accelerator) -> Size {
        Size {
            cpus: self.cpus.unwrap_or_else(|| accelerator.cpus()),
            memory: self.memory,
            patience: Duration::from_secs(60 * u64::from(self.patience)),
        }
    }

    const fn extent(&self) -> Extent {
        match (self.quick, self.full) {
            (true, _) => Extent::Quick,
            (_, true) => Extent::Full,
            _ => Extent::Usual,
        }
    }

    fn kernels(&self) -> anyhow::Result<Vec<Kernel>> {
        match (self.all, &self.kernels[..]) {
            (true, _) => Ok(kernel::ALL.to_vec()),
            (false, []) => Ok(kernel::ALL[..2].to_vec()),
            (false, names) => names.iter().map(|name| kernel::named(name)).collect(),
        }
    }
}

/// What a machine is to do: programs, and what they are called.
struct Work {
    /// Programs that are taken along.
    programs: Vec<PathBuf>,
    /// What runs, each with the name in the table and how many tests do not.
    parts: Vec<suite::Part>,
}

impl Work {
    /// The parts that are tests.
    fn tests(&self) -> impl Iterator<Item = &suite::Part> {
        self.parts.iter().filter(|part| !part.is_note())
    }
}

/// Boots each kernel once, and says what came of it.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let kernels = args.kernels()?;
    if let Err(error) = machine::install() {
        ensure!(args.if_possible, error);
        println!("not run: {error:#}");
        return Ok(ExitCode::SUCCESS);
    }
    setup::for_build()?;
    let guest = guest()?;
    let work = match &args.command[..] {
        [] => suite::work(&args.suites, &args.filters, args.extent())?,
        command => one_command(command)?,
    };
    let accelerator = Accelerator::probe()?;
    println!("machines run by {}", accelerator.text());
    let mut outcomes = Vec::new();
    let mut status = 0;
    for kernel in kernels {
        let unpacked = match kernel::fetch(kernel, args.renew) {
            Ok(unpacked) => unpacked,
            Err(error) if args.if_possible => {
                let why = format!("{error:#}");
                outcomes.push(Outcome::not_run(
                    kernel.name.to_owned(),
                    work.parts.len(),
                    &why,
                ));
                continue;
            }
            Err(error) => return Err(error),
        };
        match boot(kernel, &unpacked, args, &guest, &work, accelerator) {
            Ok((found, ended)) => {
                outcomes.extend(found);
                status = status.max(ended);
            }
            Err(error) => {
                eprintln!("{}: {error:#}", kernel.name);
                outcomes.push(Outcome {
                    name: kernel.name.to_owned(),
                    broken: true,
                    ..Outcome::default()
                });
                status = status.max(1);
            }
        }
    }
    if args.command.is_empty() {
        print!("{}", outcome::table(&outcomes));
    }
    if args.docs {
        let records: Result<Vec<_>, _> = kernel::ALL
            .into_iter()
            .map(|kernel| anyhow::Ok((kernel.name, Record::read(kernel)?)))
            .collect();
        fs::write(project::root().join(page::FILE), page::page(&records?))?;
        println!("wrote {}", page::FILE);
    }
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

/// Runs everything on one kernel: what came of the tests, and the highest exit status.
fn boot(
    kernel: Kernel,
    unpacked: &Unpacked,
    args: &Args,
    guest: &Path,
    work: &Work,
    accelerator: Accelerator,
) -> anyhow::Result<(Vec<Outcome>, i32)> {
    let folder = project::target().join("vm").join(kernel.name);
    let file = folder.join("image.cpio");
    {
        let _spinner = Spinner::new(format!("{}: putting its file system together", kernel.name));
        let mut image = Image::new(&file, guest)?;
        for program in &work.programs {
            image.program(program)?;
        }
        image.data(&project::root().join("examples"))?;
        for path in &args.taken {
            ensure!(path.exists(), "there is no {}", path.display());
            image.data(path)?;
        }
        image.modules(unpacked, &args.without)?;
        image.finish(&Errand {
            modules: MODULES
                .into_iter()
                .map(str::to_owned)
                .filter(|module| !args.without.contains(module))
                .collect(),
            commands: work.parts.iter().map(|part| part.command.clone()).collect(),
        })?;
    }
    println!("{}: Linux {}", kernel.name, unpacked.release);
    let machine = Machine {
        kernel: &unpacked.image,
        image: &file,
        folder: &folder,
    };
    let mut hearing = suite::Hearing::new(kernel.name, &work.parts, !args.command.is_empty());
    machine.run(args.size(accelerator), accelerator, |said| match said {
        Said::Begins(number) => hearing.begins(number),
        Said::Line(line) => hearing.line(line),
        Said::Ended(number, status) => hearing.ended(number, status),
    })?;
    // It is made anew for each run, and large.
    fs::remove_file(&file)?;
    let heard = hearing
        .finish()
        .inspect_err(|_| eprintln!("{}", machine.last_words()))?;
    if args.command.is_empty() {
        let mut record = Record::read(kernel)?;
        record.release.clone_from(&unpacked.release);
        // What a kernel lacks that was robbed says nothing of the kernel.
        let is_whole = args.without.is_empty();
        if is_whole {
            for (name, text) in &heard.notes {
                record.diagnosed(text).with_context(|| name.clone())?;
            }
            record.reported(&fs::read_to_string(folder.join("report.jsonl"))?);
        }
        // Tests that somebody picked say nothing of the suite.
        if args.filters.is_empty() {
            for ((part, outcome), tests) in work.tests().zip(&heard.outcomes).zip(heard.tests) {
                let mut name = part.name().to_owned();
                if !is_whole {
                    name = format!("{name} without {}", args.without.join(", "));
                }
                record.ran(&name, outcome, part.left_out(), tests);
            }
        }
        record.write(kernel)?;
    }
    Ok((heard.outcomes, heard.status))
}

/// The program that is the first process there.
fn guest() -> anyhow::Result<PathBuf> {
    project::run(project::cargo().args([
        "build",
        "--quiet",
        "--package",
        "xtask",
        "--bin",
        "vm-guest",
    ]))?;
    Ok(project::target().join("debug/vm-guest"))
}

/// A command of the user's.
fn one_command(command: &[String]) -> anyhow::Result<Work> {
    let (name, arguments) = command.split_first().context("no command")?;
    let built = project::target().join("debug").join(name);
    let program = if name.contains('/') {
        fs::canonicalize(name).with_context(|| name.clone())?
    } else if built.is_file() {
        built
    } else {
        project::which(name).with_context(|| {
            format!("there is no program {name}, neither in the target folder nor in the system's")
        })?
    };
    let folder = std::env::current_dir()?.display().to_string();
    let mut programs = suite::programs_of_the_laboratory();
    programs.push(program.clone());
    Ok(Work {
        programs,
        parts: vec![suite::Part::new(
            name,
            Command {
                program: program.display().to_string(),
                arguments: arguments.to_vec(),
                environment: suite::environment(),
                folder,
            },
        )],
    })
}
