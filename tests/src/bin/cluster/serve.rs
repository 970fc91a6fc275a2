//! The process that a cluster lives in.

use std::{
    fs::File,
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::{Pid, setsid},
};
use signpost_tests::cluster::Cluster;

use crate::state::{self, State};

/// How long a cluster may take to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the process, waits until the cluster is up, and says how to use it.
pub(crate) fn start(nodes: u8, bare: bool) -> Result<()> {
    ensure!(
        State::read()?.is_none(),
        "a cluster is up already: cargo xtask cluster down"
    );
    let log = state::log()?;
    let output = File::create(&log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("serve")
        .arg(format!("--nodes={nodes}"))
        .args(bare.then_some("--bare"))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    // SAFETY: between fork and exec only one system call is made.
    unsafe {
        command.pre_exec(|| Ok(setsid().map(drop)?));
    }
    let mut child = command.spawn()?;
    let state = loop {
        if let Some(state) = State::read()?.filter(|state| state.process == child.id()) {
            break state;
        }
        if let Some(status) = child.try_wait()? {
            let mut text = String::new();
            File::open(&log)?.read_to_string(&mut text)?;
            bail!("the cluster did not come up ({status}):\n{}", text.trim());
        }
        thread::sleep(Duration::from_millis(100));
    };
    println!(
        "The cluster is up. Its kubeconfig:\n\n    \
         export KUBECONFIG={kubeconfig}\n    \
         {kubectl} get pods -A -o wide\n    \
         {kubectl} apply -f examples/enterprise\n    \
         cargo xtask cluster enter dev jump\n\n\
         The logs of everything are in {logs}. It stays until `cargo xtask cluster down`.",
        kubeconfig = state.kubeconfig.display(),
        kubectl = state.kubectl.display(),
        logs = state.logs.display(),
    );
    Ok(())
}

/// Ends the process, and with it the cluster.
pub(crate) fn stop() -> Result<()> {
    let Some(state) = State::read()? else {
        println!("No cluster is up.");
        return Ok(());
    };
    let process = Pid::from_raw(i32::try_from(state.process)?);
    kill(process, Signal::SIGTERM)?;
    let end = Instant::now() + PATIENCE;
    while kill(process, None).is_ok() {
        ensure!(
            Instant::now() < end,
            "process {process} does not end; see {}",
            state::log()?.display()
        );
        thread::sleep(Duration::from_millis(50));
    }
    println!("The cluster is down.");
    Ok(())
}

/// Runs a program in the place of a Pod.
pub(crate) fn enter(namespace: &str, pod: &str, program: &[String]) -> Result<()> {
    let state = State::read()?.context("no cluster is up: cargo xtask cluster up")?;
    let asked = Command::new(&state.kubectl)
        .arg("--kubeconfig")
        .arg(&state.kubeconfig)
        .args(["--namespace", namespace, "get", "pod", pod])
        .arg("--output=jsonpath={.status.containerStatuses[0].containerID}")
        .stderr(Stdio::inherit())
        .output()?;
    let container = String::from_utf8(asked.stdout)?;
    let process = container
        .strip_prefix("process://")
        .with_context(|| format!("no process runs in Pod {namespace}/{pod}"))?;
    let shell = ["sh".to_owned()];
    let program = if program.is_empty() { &shell } else { program };
    // Only comes back where it fails.
    Err(Command::new("nsenter")
        .args(["--target", process, "--net", "--mount", "--uts", "--"])
        .args(program)
        .exec()
        .into())
}

/// Raises the cluster and keeps it until a signal comes.
pub(crate) fn run(nodes: u8, bare: bool) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let zones: Vec<_> = (1..=nodes).map(|number| format!("zone-{number}")).collect();
    let zones: Vec<_> = zones.iter().map(String::as_str).collect();
    let cluster = Cluster::up(&zones)?;
    if !bare {
        cluster.install()?;
    }
    let state = State {
        process: std::process::id(),
        kubeconfig: cluster.kubeconfig().to_owned(),
        kubectl: cluster.kubectl_path(),
        logs: cluster.logs(),
    };
    state.write()?;
    signals.wait()?;
    State::remove()
}
