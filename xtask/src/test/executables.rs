//! Test programs, as cargo builds them.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::project;

/// A program made of tests.
pub(crate) struct Executable {
    /// `package` or `package/target`.
    pub(crate) name: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// Folder of the package, in which cargo would run it.
    pub(crate) folder: PathBuf,
}

impl Executable {
    /// The command that starts it, as root where a reason is given.
    pub(crate) fn command(&self, as_root: Option<&str>) -> Command {
        let mut command = match as_root {
            Some(why) => project::as_root(&self.path, why),
            None => Command::new(&self.path),
        };
        command
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .env("PATH", project::path())
            .env("SIGNPOST_BIN", project::target().join("debug/signpost"))
            .stdin(Stdio::null());
        command
    }

    /// Its tests that fit the filters: those that `which` asks for (`--ignored`), else those that need nothing.
    pub(crate) fn list(
        &self,
        filters: &[String],
        which: Option<&str>,
    ) -> anyhow::Result<Vec<String>> {
        let output = self
            .command(None)
            .args(["--list", "--format=terse"])
            .args(which)
            .args(filters)
            .output()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        Ok(String::from_utf8(output.stdout)?
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(str::to_owned)
            .collect())
    }
}

/// A line of `cargo --message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds all tests, and the programs that they start.
pub(crate) fn build() -> anyhow::Result<Vec<Executable>> {
    build_with(&[])
}

/// Builds the suites of these names, and the programs that they start.
pub(crate) fn build_some(suites: &[&str]) -> anyhow::Result<Vec<Executable>> {
    let flags: Vec<_> = suites.iter().flat_map(|name| ["--test", name]).collect();
    build_with(&flags)
}

fn build_with(flags: &[&str]) -> anyhow::Result<Vec<Executable>> {
    project::run(project::cargo().args(["build", "--quiet", "--workspace", "--bins"]))?;
    let output = project::cargo()
        .args([
            "test",
            "--quiet",
            "--workspace",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .args(flags)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    let mut executables: Vec<_> = String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter_map(executable)
        .collect();
    executables.sort_by(|a, b| a.name.cmp(&b.name));
    ensure!(!executables.is_empty(), "cargo built no tests");
    Ok(executables)
}

fn executable(message: Message) -> Option<Executable> {
    let target = message.target?;
    if message.reason != "compiler-artifact" || !message.profile?.test {
        return None;
    }
    let folder = message.manifest_path?.parent()?.to_owned();
    let package = folder.file_name()?.to_string_lossy().into_owned();
    let is_library = target.kind.iter().any(|kind| kind.ends_with("lib"));
    Some(Executable {
        name: if is_library {
            package
        } else {
            format!("{package}/{}", target.name)
        },
        path: message.executable?,
        folder,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_found_in_what_cargo_says() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/p/agent/Cargo.toml",
            "target":{"name":"it","kind":["test"]},"profile":{"test":true},"executable":"/t/it-1"}"#;
        let found = executable(serde_json::from_str(line).unwrap()).unwrap();
        assert_eq!(found.name, "agent/it");
        assert_eq!(found.folder, PathBuf::from("/p/agent"));
        let line = line.replace(r#""test":true"#, r#""test":false"#);
        assert!(executable(serde_json::from_str(&line).unwrap()).is_none());
    }
}
