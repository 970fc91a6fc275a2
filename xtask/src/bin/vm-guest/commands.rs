//! Runs the errand's commands, their output going to the port for it.

use std::{
    fs::{self, File},
    io::Write as _,
    os::{fd::AsRawFd as _, unix::process::ExitStatusExt as _},
    process::{self, ExitStatus, Stdio},
};

use anyhow::Context as _;
use xtask::errand::{Command, Mark, OUTPUT, REPORT, REPORT_PORT};

/// Where programs are.
pub(crate) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs them all. One that cannot be started fails and does not keep the others from running.
pub(crate) fn run_all(commands: &[Command]) -> anyhow::Result<()> {
    let mut output = port(OUTPUT)?;
    // A machine may have no such port; its name is of a file then.
    let _ = port(REPORT_PORT);
    for (number, command) in commands.iter().enumerate() {
        writeln!(output, "{}", Mark::Begin(number))?;
        let status = match run(command, &output) {
            Ok(status) => status,
            Err(error) => {
                writeln!(output, "{error:#}")?;
                127
            }
        };
        writeln!(output, "\n{}", Mark::End(number, status))?;
    }
    // The kernel's buffer goes with the machine.
    // SAFETY: a descriptor that is open.
    unsafe { libc::tcdrain(output.as_raw_fd()) };
    Ok(())
}

fn run(command: &Command, output: &File) -> anyhow::Result<i32> {
    fs::create_dir_all(&command.folder).context(command.folder.clone())?;
    let status = process::Command::new(&command.program)
        .args(&command.arguments)
        .current_dir(&command.folder)
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/"), (REPORT, REPORT_PORT)])
        .envs(command.environment.iter().map(|(n, v)| (n, v)))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .status()
        .with_context(|| format!("cannot start {}", command.program))?;
    Ok(code(status))
}

/// As a shell gives it.
fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// A serial port that passes on bytes as they are.
fn port(path: &str) -> anyhow::Result<File> {
    let port = File::options()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| path.to_owned())?;
    let fd = port.as_raw_fd();
    // SAFETY: the descriptor is open, and the structure is one that the first call has filled.
    unsafe {
        let mut termios = std::mem::zeroed::<libc::termios>();
        if libc::tcgetattr(fd, &raw mut termios) == 0 {
            libc::cfmakeraw(&raw mut termios);
            libc::tcsetattr(fd, libc::TCSANOW, &raw const termios);
        }
    }
    Ok(port)
}
