//! Starts a machine, and hears what it says until it powers off.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use xtask::errand::Mark;

use crate::project::{self, as_root, which};

const QEMU: &str = "qemu-system-x86_64";

/// The kernel says nothing but errors, ends at once when it panics, and boots fast.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=4 panic=-1 rdinit=/init nokaslr mitigations=off net.ifnames=0 cgroup_no_v1=all";

/// What a machine is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Processors.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory: u32,
    /// After which time it is ended.
    pub(crate) patience: Duration,
}

/// What a machine says of a command.
#[derive(Debug)]
pub(crate) enum Said<'a> {
    /// The command of this number begins.
    Begins(usize),
    /// A line of output.
    Line(&'a str),
    /// It has ended with this status.
    Ended(usize, i32),
}

/// A kernel with a file system, and where its console and report go to.
pub(crate) struct Machine<'a> {
    /// The kernel.
    pub(crate) kernel: &'a Path,
    /// The file system.
    pub(crate) image: &'a Path,
    /// Folder for `console.log` and `report.jsonl`.
    pub(crate) folder: &'a Path,
}

impl Machine<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// Where it cannot be started, or took longer than it was given.
    pub(crate) fn run(
        &self,
        size: Size,
        accelerator: Accelerator,
        mut hear: impl FnMut(Said<'_>),
    ) -> anyhow::Result<()> {
        let console = self.folder.join("console.log");
        let port = |file: PathBuf| format!("file:{}", file.display());
        let mut child = Command::new(QEMU)
            .args([
                "-no-user-config",
                "-nodefaults",
                "-no-reboot",
                "-display",
                "none",
            ])
            .args(accelerator.arguments())
            .args(["-smp", &size.cpus.to_string()])
            .args(["-m", &size.memory.to_string()])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.image)
            .args(["-append", KERNEL_ARGUMENTS])
            .args(["-serial", &port(console.clone())])
            .args(["-serial", "stdio"])
            .args(["-serial", &port(self.folder.join("report.jsonl"))])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {QEMU}"))?;
        let output = child.stdout.take().context("no pipe")?;
        let watch = Watch::new(child, size.patience);
        let mut lines = BufReader::new(output);
        let mut bytes = Vec::new();
        while lines.read_until(b'\n', &mut bytes)? > 0 {
            let line = String::from_utf8_lossy(&bytes);
            let line = line.trim_end_matches(['\r', '\n']);
            hear(match Mark::parse(line) {
                Some(Mark::Begin(number)) => Said::Begins(number),
                Some(Mark::End(number, status)) => Said::Ended(number, status),
                None => Said::Line(line),
            });
            bytes.clear();
        }
        ensure!(
            watch.finish()?,
            "the machine did not end within {} minutes; the kernel's last words are in {}",
            size.patience.as_secs() / 60,
            console.display()
        );
        Ok(())
    }

    /// The end of what the kernel said.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(self.folder.join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Ends a machine that takes too long.
struct Watch {
    ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<std::io::Result<bool>>,
}

impl Watch {
    fn new(mut child: Child, patience: Duration) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let deadline = Instant::now() + patience;
            while !seen.load(Ordering::Relaxed) {
                if child.try_wait()?.is_some() {
                    return Ok(true);
                }
                if Instant::now() > deadline {
                    child.kill()?;
                    child.wait()?;
                    return Ok(false);
                }
                thread::sleep(Duration::from_millis(50));
            }
            child.wait().map(|_| true)
        });
        Self { ended, thread }
    }

    /// Waits for its end: its output has ended. Says whether it ended by itself.
    fn finish(self) -> anyhow::Result<bool> {
        self.ended.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        Ok(joined.map_err(|_| anyhow::anyhow!("the watch has panicked"))??)
    }
}

/// What runs the machine's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// This machine's own processors.
    Kvm,
    /// Emulation, about ten times slower.
    Tcg,
}

impl Accelerator {
    /// What works here. That `/dev/kvm` exists says little: inside of a virtual machine it may fail with the first
    /// processor that is made.
    pub(crate) fn probe() -> anyhow::Result<Self> {
        if !Path::new("/dev/kvm").exists() {
            return Ok(Self::Tcg);
        }
        let mut child = Command::new(QEMU)
            .args(["-no-user-config", "-nodefaults", "-display", "none", "-S"])
            .args(["-m", "16", "-monitor", "stdio"])
            .args(Self::Kvm.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {QEMU}"))?;
        if let Some(mut input) = child.stdin.take() {
            // One that has ended already does not read it.
            let _ = input.write_all(b"quit\n");
        }
        Ok(if child.wait()?.success() {
            Self::Kvm
        } else {
            Self::Tcg
        })
    }

    /// For people.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "emulation, KVM does not work here",
        }
    }

    /// How many processors a machine has where nobody says. Emulated ones wait for each other so long that the kernel
    /// takes them for stuck, and once in a while they are.
    pub(crate) const fn cpus(self) -> u32 {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 1,
        }
    }

    const fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // QEMU 7.2 emulates the exchange of 16 bytes wrongly, which crashes Linux 6.12.
            Self::Tcg => [
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max,cx16=off,la57=off",
            ],
        }
    }
}

/// Installs QEMU where it is missing.
pub(crate) fn install() -> anyhow::Result<()> {
    if which(QEMU).is_some() {
        return Ok(());
    }
    ensure!(
        which("apt-get").is_some(),
        "{QEMU} is missing, and there is no apt-get here: install QEMU by your system's means"
    );
    println!("{QEMU} is missing: installing Debian's package qemu-system-x86");
    let why = "to install QEMU";
    project::run(as_root("apt-get", why).args(["update", "-qq"]))?;
    project::run(
        as_root("env", why)
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .arg("qemu-system-x86"),
    )
}
