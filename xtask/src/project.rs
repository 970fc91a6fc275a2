//! Where things are, and how programs are started from there.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// Where tools go that the project installs for itself.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The cargo that runs this task, in the workspace's root.
///
/// What cargo has told this program about itself is taken away: build scripts look at it, and dependencies would be built
/// anew whenever a task and a plain `cargo build` take turns.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env("PATH", path());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// `PATH`, with the project's own tools in front.
pub(crate) fn path() -> std::ffi::OsString {
    let old = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(tools().join("bin")).chain(env::split_paths(&old));
    env::join_paths(folders).unwrap_or(old)
}

/// Where a program is, as a shell would find it. The folders of system programs are looked through as well, because a
/// plain user's `PATH` may lack them.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&path())
        .chain(["/usr/sbin", "/sbin", "/usr/lib/systemd"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command that runs as root: as it is where we are root, else through sudo, with a sentence that says why.
pub(crate) fn as_root(program: impl AsRef<OsStr>, why: &str) -> Command {
    let mut command = if is_root() {
        Command::new(program)
    } else {
        eprintln!("sudo: root is needed {why}");
        let mut sudo = Command::new("sudo");
        sudo.arg("--preserve-env=PATH,CARGO,RUST_BACKTRACE,NO_COLOR,SIGNPOST_BIN,LAB_POD_BIN")
            .arg(program.as_ref());
        sudo
    };
    command.current_dir(root());
    command
}

/// Whether root can be had at all.
pub(crate) fn can_be_root() -> bool {
    is_root() || which("sudo").is_some()
}

/// Runs a command with its output on the terminal.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", line(command)))?;
    ensure!(status.success(), "{} failed: {status}", line(command));
    Ok(())
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
