//! The project's own rules, checked by reading its sources. ARCHITECTURE.md gives the reasons.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

mod layout;
mod shown;
mod words;

use words::{code, names_crate, words};

/// Longest source file, in lines. A file has one subject; one that is longer has more.
const LONGEST: usize = 700;

/// Folders with sources of the project.
const CRATES: [&str; 6] = ["agent", "common", "ebpf", "fuzz", "tests", "xtask"];

/// What a pure module must not name.
const IMPURE: [&str; 10] = [
    "tokio",
    "fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "Instant",
    "SystemTime",
];

/// The pure modules of the agent.
const PURE: [&str; 4] = ["model", "plan", "registry", "zone"];

/// Texts that belong to one machine. They are put together here so that this file does not hold them itself.
const OF_A_MACHINE: [&str; 6] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("replace-", "with"),
    concat!("GOPROXY", "="),
    concat!("index-", "url"),
];

/// A text file of the project.
struct Source {
    /// Path from the root.
    path: PathBuf,
    text: String,
}

/// Checks every rule.
///
/// # Errors
/// Says every breach, with its file.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let sources = sources(root)?;
    let mut breaches = Vec::new();
    for source in &sources {
        breaches.extend(
            breaches_of(source)
                .into_iter()
                .map(|breach| format!("{}: {breach}", source.path.display())),
        );
    }
    breaches.extend(layout::check(root)?);
    let texts = sources.iter().map(|source| (&*source.path, &*source.text));
    breaches.extend(shown::check(root, texts)?);
    ensure!(breaches.is_empty(), "{}", breaches.join("\n"));
    Ok(())
}

fn breaches_of(source: &Source) -> Vec<String> {
    let mut breaches = Vec::new();
    for text in OF_A_MACHINE {
        if source.text.contains(text) {
            breaches.push(format!("names `{text}`, which belongs to one machine"));
        }
    }
    if source.path.extension().is_none_or(|e| e != "rs") {
        return breaches;
    }
    let stem = source
        .path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    if matches!(&*stem, "mod" | "utils" | "util" | "helpers" | "misc") {
        breaches.push("give the file the name of its subject".to_owned());
    }
    let lines = source.text.lines().count();
    if lines > LONGEST {
        breaches.push(format!(
            "has {lines} lines; split it by subject ({LONGEST})"
        ));
    }
    if let Ok(module) = source.path.strip_prefix("agent/src") {
        breaches.extend(breaches_of_module(module, &code(&source.text)));
    }
    breaches
}

/// The invariants of the agent's modules. `module` is the file's path from `agent/src`.
fn breaches_of_module(module: &Path, code: &str) -> Vec<String> {
    let module = module.to_string_lossy();
    let mut breaches = Vec::new();
    if names_crate(code, "kube") && !module.starts_with("source/kube") {
        breaches.push("only source/kube may use kube".to_owned());
    }
    if names_crate(code, "k8s_openapi") && !module.starts_with("source") {
        breaches.push("only source may know the API's types (k8s_openapi)".to_owned());
    }
    if names_crate(code, "aya") && !module.starts_with("dataplane/ebpf") {
        breaches.push("only dataplane/ebpf may use aya".to_owned());
    }
    let top = module.split(['/', '.']).next().unwrap_or_default();
    if PURE.contains(&top) {
        for word in words(code).filter(|word| IMPURE.contains(word)) {
            breaches.push(format!("{top} is pure and may not name {word}"));
        }
    }
    breaches
}

/// Every text file that is the project's own.
fn sources(root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut files = Vec::new();
    for folder in CRATES
        .iter()
        .chain(&[".ci", ".cargo", "deploy", "docs", "examples"])
    {
        collect(&root.join(folder), &mut files)?;
    }
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "md" || e == "toml") {
            files.push(path);
        }
    }
    files
        .into_iter()
        .map(|file| {
            let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
            Ok(Source {
                path: file.strip_prefix(root)?.to_owned(),
                text: String::from_utf8_lossy(&bytes).into_owned(),
            })
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                collect(&path, files)?;
            }
        } else if path.file_name().is_none_or(|name| name != "go.sum") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, code: &str) -> Vec<String> {
        breaches_of_module(Path::new(path), &words::code(code))
    }

    #[test]
    fn the_project_keeps_its_rules() {
        check(&crate::project::root()).unwrap();
    }

    #[test]
    fn kube_is_known_in_one_place() {
        assert_eq!(module("source/kube/watch.rs", "use kube::Client;"), [""; 0]);
        assert_eq!(module("agent.rs", "use kube::Client;").len(), 1);
        assert_eq!(module("agent.rs", "use kube_like::Client;"), [""; 0]);
        assert_eq!(module("agent.rs", "// not kube::Client\n"), [""; 0]);
    }

    #[test]
    fn aya_is_known_in_one_place() {
        assert_eq!(module("dataplane/ebpf/load.rs", "use aya::Ebpf;"), [""; 0]);
        assert_eq!(
            module("dataplane.rs", "let x = aya::Ebpf::load(b);").len(),
            1
        );
    }

    #[test]
    fn pure_modules_have_neither_clock_nor_files() {
        for code in [
            "use std::{fs, net::IpAddr};",
            "let now = Instant::now();",
            "tokio::spawn(x);",
        ] {
            assert_eq!(module("zone/lookup.rs", code).len(), 1, "{code}");
            assert_eq!(module("dns/server.rs", code), [""; 0]);
        }
    }
}
