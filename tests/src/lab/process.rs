//! Programs inside namespaces.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Gid, Pid, Uid, setgid, setgroups, setuid},
};

use super::{cgroup::Cgroup, namespace::Namespace};

/// User and group of unprivileged programs: `nobody` and `nogroup` of Debian.
const NOBODY: u32 = 65534;

/// A program that is to be started inside a namespace.
#[derive(Debug)]
pub struct Command {
    namespace: Arc<Namespace>,
    cgroup: OwnedFd,
    inner: std::process::Command,
    unprivileged: bool,
}

impl Command {
    /// A program inside a namespace and a cgroup.
    ///
    /// # Errors
    /// Where the cgroup is gone.
    pub fn new(
        program: impl AsRef<OsStr>,
        namespace: Arc<Namespace>,
        cgroup: &Cgroup,
    ) -> anyhow::Result<Self> {
        let mut inner = std::process::Command::new(program);
        inner.stdin(Stdio::null());
        Ok(Self {
            namespace,
            cgroup: cgroup.processes()?,
            inner,
            unprivileged: false,
        })
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.inner.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.inner.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.inner.env(name, value);
        self
    }

    /// Takes the terminal's input and output.
    pub fn interactive(&mut self) -> &mut Self {
        self.inner
            .stdin(Stdio::inherit())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit());
        self
    }

    /// Gives up every privilege before the program starts.
    pub const fn unprivileged(&mut self) -> &mut Self {
        self.unprivileged = true;
        self
    }

    /// Runs the program to its end and collects its output.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn output(&mut self) -> anyhow::Result<Output> {
        self.inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.start()?;
        Ok(child.wait_with_output()?)
    }

    /// Runs the program to its end and gives its standard output.
    ///
    /// # Errors
    /// Where it cannot be started or fails; with its standard error.
    pub fn text(&mut self) -> anyhow::Result<String> {
        let output = self.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "{:?}: {}\n{text}{}",
            self.inner,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Runs the program to its end, on the terminal.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn status(&mut self) -> anyhow::Result<ExitStatus> {
        Ok(self.start()?.wait()?)
    }

    /// Starts the program, its output going into a file.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn background(&mut self, log: &Path) -> anyhow::Result<Process> {
        let file = File::options().create(true).append(true).open(log)?;
        self.inner.stdout(file.try_clone()?).stderr(file);
        Ok(Process {
            child: self.start()?,
            log: log.to_owned(),
        })
    }

    /// Starts the program with pipes to its input and from its output.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn piped(&mut self) -> anyhow::Result<Child> {
        self.inner.stdin(Stdio::piped()).stdout(Stdio::piped());
        self.start()
    }

    fn start(&mut self) -> anyhow::Result<Child> {
        let cgroup = self.cgroup.try_clone()?;
        let unprivileged = self.unprivileged;
        let program = std::mem::replace(&mut self.inner, std::process::Command::new(""));
        let name = program.get_program().to_owned();
        let mut program = program;
        // SAFETY: the closure only makes system calls, on memory that it owns; nothing in it allocates or locks.
        unsafe {
            program.pre_exec(move || {
                nix::unistd::write(cgroup.as_fd(), b"0")?;
                if unprivileged {
                    drop_privileges()?;
                }
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                Ok(())
            });
        }
        self.namespace
            .spawn(program)
            .with_context(|| format!("cannot start {}", name.to_string_lossy()))
    }
}

fn drop_privileges() -> io::Result<()> {
    setgroups(&[])?;
    setgid(Gid::from_raw(NOBODY))?;
    setuid(Uid::from_raw(NOBODY))?;
    Ok(())
}

/// A program that runs in the background. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// What it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            signal,
        )?)
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, waits, and kills it where it does not follow within a few seconds.
    pub fn terminate(&mut self) -> ExitStatus {
        let _ = self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        ExitStatus::from_raw(Signal::SIGKILL as i32)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
