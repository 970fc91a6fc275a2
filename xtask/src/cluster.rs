//! `cargo xtask cluster`: builds the laboratory and starts it as root.

use std::process::{Command, ExitCode};

use anyhow::ensure;

use crate::{project, setup};

/// What to do with the cluster.
#[derive(clap::Subcommand)]
pub(crate) enum Task {
    /// Raise the cluster and print the path of its kubeconfig
    Up {
        /// How many nodes, at most 8; every second one joins its pods with a bridge, the others route
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// Do not put signpost into it
        #[arg(long)]
        bare: bool,
    },
    /// Take the cluster down
    Down,
    /// Run a program inside of a Pod, a shell where none is given: `enter dev jump curl ent:8080`
    Enter {
        /// The Pod's namespace
        namespace: String,
        /// The Pod
        pod: String,
        /// The program with its arguments
        #[arg(trailing_var_arg = true)]
        program: Vec<String>,
    },
}

/// Builds what the cluster needs, then hands over to it.
pub(crate) fn run(task: &Task) -> anyhow::Result<ExitCode> {
    if let Task::Up { .. } = task {
        ensure!(
            project::which("go").is_some(),
            "the control plane is built from source and needs Go 1.26: https://go.dev/dl"
        );
        setup::for_build()?;
        setup::bpffs()?;
        println!("building signpost and the laboratory");
        project::run(project::cargo().args([
            "build",
            "--quiet",
            "--package",
            "signpost",
            "--package",
            "signpost-tests",
            "--bins",
        ]))?;
    }
    let mut cluster = project::as_root(
        project::target().join("debug/cluster"),
        "to make network namespaces and load BPF programs for the cluster",
    );
    add_arguments(&mut cluster, task);
    Ok(if cluster.status()?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn add_arguments(command: &mut Command, task: &Task) {
    match task {
        Task::Up { nodes, bare } => {
            command.arg("up").arg(format!("--nodes={nodes}"));
            command.args(bare.then_some("--bare"));
        }
        Task::Down => {
            command.arg("down");
        }
        Task::Enter {
            namespace,
            pod,
            program,
        } => {
            command.args(["enter", namespace, pod, "--"]).args(program);
        }
    }
}
