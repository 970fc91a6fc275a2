//! `cargo xtask setup`: what the build and the tests need and the machine lacks.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::{
    progress,
    project::{self, as_root, run, which},
};

/// The last bpf-linker that borrows rustc's own LLVM, so that none has to be installed.
const BPF_LINKER: &str = "0.10.3";

/// Programs that the laboratory and its tests call, with the Debian package of each.
pub(crate) const PROGRAMS: [(&str, &str); 10] = [
    ("cc", "gcc"),
    ("make", "make"),
    ("ip", "iproute2"),
    ("dig", "bind9-dnsutils"),
    ("nslookup", "bind9-dnsutils"),
    ("kdig", "knot-dnsutils"),
    ("musl-gcc", "musl-tools"),
    ("nft", "nftables"),
    ("iptables-nft", "iptables"),
    ("ipset", "ipset"),
];

/// Everything.
pub(crate) fn everything() -> anyhow::Result<ExitCode> {
    for_build()?;
    packages()?;
    resolved()?;
    bpffs()?;
    println!("set up: rust-src, bpf-linker, Debian packages, bpffs");
    if which("go").is_none() {
        println!("Go is not here: the laboratory with a real API server cannot run without it");
    }
    Ok(ExitCode::SUCCESS)
}

/// What the build needs.
pub(crate) fn for_build() -> anyhow::Result<()> {
    rust_src()?;
    bpf_linker()
}

/// The folder where the BPF programs pin their maps in must be of the right kind.
pub(crate) fn bpffs() -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    if mounts.contains(" - bpf ") {
        return Ok(());
    }
    println!("bpffs is not mounted: mounting it on /sys/fs/bpf");
    run(as_root("mount", "to mount bpffs").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))
}

/// The sources of `core`, which the BPF programs are built with.
fn rust_src() -> anyhow::Result<()> {
    if library()?.is_dir() {
        return Ok(());
    }
    println!("rust-src is missing: rustup adds it");
    // The pinned version may be linked to `stable`, and components can only be added to the latter.
    for toolchain in [None, Some("stable")] {
        let mut rustup = Command::new("rustup");
        rustup
            .current_dir(project::root())
            .args(["component", "add", "rust-src"]);
        if let Some(name) = toolchain {
            rustup.args(["--toolchain", name]);
        }
        rustup
            .status()
            .context("cannot start rustup: install it from https://rustup.rs")?;
        if library()?.is_dir() {
            return Ok(());
        }
    }
    anyhow::bail!("rustup could not add rust-src; see its message above")
}

fn library() -> anyhow::Result<PathBuf> {
    let output = Command::new("rustc")
        .current_dir(project::root())
        .args(["--print", "sysroot"])
        .output()
        .context("cannot start rustc")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let sysroot = String::from_utf8(output.stdout)?;
    Ok(PathBuf::from(sysroot.trim()).join("lib/rustlib/src/rust/library"))
}

fn bpf_linker() -> anyhow::Result<()> {
    if which("bpf-linker").is_some() {
        return Ok(());
    }
    println!(
        "bpf-linker is missing: building {BPF_LINKER} in {} (about two minutes)",
        project::tools().display()
    );
    progress::quietly(
        "building bpf-linker",
        project::cargo()
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"])
            .arg("--root")
            .arg(project::tools())
            // A folder of its own, so that this build does not wait for the workspace's.
            .env("CARGO_TARGET_DIR", project::tools().join("build")),
    )
}

/// Debian packages.
fn packages() -> anyhow::Result<()> {
    let mut missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| which(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    println!("missing Debian packages: {}", missing.join(" "));
    ensure!(
        which("apt-get").is_some(),
        "there is no apt-get here: install what these packages hold by your system's means"
    );
    let why = "to install Debian packages";
    run(as_root("apt-get", why).args(["update", "-qq"]))?;
    run(as_root("env", why)
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(missing))
}

/// systemd-resolved, for a test. It is only unpacked: its package, installed, makes it the machine's own resolver.
fn resolved() -> anyhow::Result<()> {
    const DAEMON: &str = "systemd-resolved";
    if which(DAEMON).is_some() || which("apt-get").is_none() {
        return Ok(());
    }
    let (folder, programs) = (project::tools().join(DAEMON), project::tools().join("bin"));
    fs::create_dir_all(&folder)?;
    fs::create_dir_all(&programs)?;
    let download = Command::new("apt-get")
        .args(["download", "-qq", DAEMON])
        .current_dir(&folder)
        .status()?;
    let entries = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = entries
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "deb"));
    let Some(package) = package.filter(|_| download.success()) else {
        println!("{DAEMON} is not to be had here: the test with it cannot run");
        return Ok(());
    };
    run(Command::new("dpkg-deb").arg("-x").args([&package, &folder]))?;
    let daemon = ["usr/lib/systemd", "lib/systemd"]
        .map(|below| folder.join(below).join(DAEMON))
        .into_iter()
        .find(|daemon| daemon.is_file());
    let daemon = daemon.with_context(|| format!("{} has no {DAEMON}", package.display()))?;
    // It needs libraries that its package leaves to others.
    let runs = Command::new(&daemon)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !runs.is_ok_and(|status| status.success()) {
        println!("{DAEMON} does not run here: the test with it cannot run");
        return Ok(());
    }
    let link = programs.join(DAEMON);
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(daemon, link)?;
    Ok(())
}
