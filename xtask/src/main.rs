//! Everything a person types: set-up, build, demo, tests, benches. `cargo xtask help` lists it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod check;
mod cluster;
mod demo;
mod fuzz;
mod progress;
mod project;
mod setup;
mod test;
mod tidy;
mod vm;

/// Tasks of the signpost project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the build and the tests need: rust-src, bpf-linker, Debian packages; mount bpffs
    ///
    /// The other tasks do the part of this that they need by themselves, and say so. rust-src is added by rustup,
    /// bpf-linker goes into the target folder, Debian packages come by apt-get (root is asked for with sudo).
    Setup,
    /// Build the `signpost` binary with its BPF programs
    Build(build::Args),
    /// Show the whole story on this machine: names and addresses from the kernel, in numbered steps
    ///
    /// Raises a laboratory node out of network namespaces, runs the agent on `examples/enterprise` and looks around
    /// from the pod `jump`. Needs root for namespaces and BPF; nothing of the host's own network is touched.
    Demo(demo::Args),
    /// Run every test that can run here, and say at the end what could not and why
    ///
    /// Tests that need root are built by you and run with sudo. FILTERS select tests whose path contains one of them.
    Test(test::Args),
    /// Raise a real Kubernetes control plane on this machine, with network namespaces as nodes and signpost in it
    ///
    /// etcd, kube-apiserver and kube-controller-manager are built from source, which takes some minutes the first time
    /// and needs Go. Nothing of the host's own network is touched.
    #[command(subcommand)]
    Cluster(cluster::Task),
    /// Measure what signpost costs, beside what it is compared with, and say what was to be reached
    ///
    /// Builds with optimisation. Needs root for namespaces and BPF, a quiet machine, and about ten minutes for all.
    /// docs/benchmarks.md says how each figure comes about.
    Bench(bench::Args),
    /// Give arbitrary input to what reads packets, DNS questions, manifests and the feed
    ///
    /// What is found is kept in `fuzz/artifacts`. Put it into `fuzz/corpus` with its repair: `cargo xtask test` replays that.
    Fuzz(fuzz::Args),
    /// Run tests, or any program, on other kernels: Debian's 5.10, 6.1, 6.12 and newest, in virtual machines
    ///
    /// Fetches the kernels with apt, builds a file system with the programs, and boots each kernel once under QEMU, with
    /// KVM where it works and emulated where not, which is about ten times slower. The machine has the system's ip, nft,
    /// iptables, ipvsadm and the like where this one has them, and loads kernel modules by itself (ip_vs with all its
    /// schedulers, nf_tables, sctp …). `cargo xtask vm 6.1 -- signpost status` runs a program of the workspace there,
    /// `cargo xtask vm 6.1 -- sh -c "ip link add d0 type dummy && ipvsadm -Ln"` one of the system, and
    /// `cargo xtask vm 6.1 --suite programs --filter affinity` some tests. What the kernel itself said is in
    /// `target/vm/<kernel>/console.log`. Needs no root but to install QEMU.
    Vm(vm::Args),
    /// Check formatting, lints, documentation and the project's own rules
    Check(check::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup => setup::everything(),
        Task::Build(args) => build::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Cluster(task) => cluster::run(&task),
        Task::Bench(args) => bench::run(&args),
        Task::Fuzz(args) => fuzz::fuzz(&args),
        Task::Vm(args) => vm::run(&args),
        Task::Check(args) => check::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}
