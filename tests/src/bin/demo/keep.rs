//! A laboratory that stays up after the demo: the demo runs in a process that goes to the background when it is done.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::{Pid, pipe, setsid},
};
use signpost_tests::lab::workplace;

/// File in the laboratory's folder with the id of the process that keeps it.
const MARK: &str = "kept-by";

/// Runs the demo in another process and returns when its steps are over.
pub(crate) fn in_background(shell: bool) -> anyhow::Result<bool> {
    let (report, end) = pipe()?;
    fcntl(&end, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut demo = Command::new(std::env::current_exe()?);
    demo.arg("--keep")
        .args(["--report", &end.as_raw_fd().to_string()]);
    if shell {
        demo.arg("--shell");
    }
    demo.spawn()?;
    drop(end);
    let mut held = Vec::new();
    File::from(report).read_to_end(&mut held)?;
    Ok(held == [1])
}

/// Keeps the programs that are started from now on from holding the report open.
pub(crate) fn own(report: RawFd) -> anyhow::Result<OwnedFd> {
    // SAFETY: the process that started us made this file descriptor for us, and nothing else here knows of it.
    let report = unsafe { OwnedFd::from_raw_fd(report) };
    fcntl(&report, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("--report")?;
    Ok(report)
}

/// Says how the steps ended, leaves the terminal and waits for the end.
pub(crate) fn stay(report: OwnedFd, held: bool, folder: &Path) -> anyhow::Result<()> {
    println!("\nthe laboratory stays up; to end it: cargo xtask demo --stop");
    fs::write(folder.join(MARK), std::process::id().to_string())?;
    setsid().context("cannot leave the terminal")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    File::from(report).write_all(&[u8::from(held)])?;
    loop {
        thread::park();
    }
}

/// Ends every laboratory that was left up.
pub(crate) fn stop() -> anyhow::Result<bool> {
    let mut ended = 0;
    for folder in workplace::folders() {
        let Ok(keeper) = fs::read_to_string(folder.join(MARK)) else {
            continue;
        };
        let keeper = Pid::from_raw(keeper.trim().parse()?);
        kill(keeper, Signal::SIGTERM)
            .with_context(|| format!("cannot end process {keeper}: root is needed"))?;
        for _ in 0..500 {
            if !folder.exists() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        ensure!(!folder.exists(), "process {keeper} does not end");
        ended += 1;
    }
    println!("{ended} laboratories ended");
    Ok(true)
}
