//! Debian's kernels: which there are, and how they come here.
//!
//! Each is looked up with apt, with lists of its own beside the machine's, so that packages of another release never
//! become candidates for anything else, and unpacked without being installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use crate::{progress::Spinner, project};

/// A kernel that the project is run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// How it is asked for.
    pub(crate) name: &'static str,
    /// Where it is from: archive and suite, the first one that has it.
    sources: &'static [(&'static str, &'static str)],
}

/// All, oldest first.
pub(crate) const ALL: [Kernel; 4] = [
    Kernel {
        name: "5.10",
        sources: &[
            ("debian-security", "bullseye-security"),
            ("debian", "bullseye"),
        ],
    },
    Kernel {
        name: "6.1",
        sources: &[("debian", "bookworm")],
    },
    Kernel {
        name: "6.12",
        sources: &[("debian", "trixie"), ("debian", "bookworm-backports")],
    },
    Kernel {
        name: "newest",
        sources: &[("debian", "trixie-backports"), ("debian", "sid")],
    },
];

/// The package whose dependency is the newest kernel of a suite, small enough to be fetched in seconds.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Unpacked {
    /// `uname -r`.
    pub(crate) release: String,
    /// What is booted.
    pub(crate) image: PathBuf,
    /// The folder `kernel` of its modules.
    pub(crate) modules: PathBuf,
}

/// The kernel of a name.
pub(crate) fn named(name: &str) -> anyhow::Result<Kernel> {
    let found = ALL.into_iter().find(|kernel| kernel.name == name);
    found.with_context(|| {
        let names = ALL.map(|kernel| kernel.name).join(", ");
        format!("there is no kernel {name}; there are {names}")
    })
}

/// Fetches and unpacks a kernel where it is not there yet, or where `renew` asks for the newest one of its series.
pub(crate) fn fetch(kernel: Kernel, renew: bool) -> anyhow::Result<Unpacked> {
    let folder = project::target().join("vm").join(kernel.name);
    let tree = folder.join("tree");
    if !renew && let Ok(unpacked) = find(&tree) {
        return Ok(unpacked);
    }
    ensure!(
        project::which("apt-get").is_some() && project::which("dpkg-deb").is_some(),
        "Debian's kernels are fetched with apt-get and dpkg-deb, which are not here"
    );
    let _spinner = Spinner::new(format!("fetching Debian's kernel {}", kernel.name));
    let mut reasons = Vec::new();
    for (archive, suite) in kernel.sources {
        match fetch_from(archive, suite, &folder, &tree) {
            Ok(unpacked) => return Ok(unpacked),
            Err(error) => reasons.push(format!("{suite}: {error:#}")),
        }
    }
    bail!(
        "Debian's kernel {} cannot be fetched: {}",
        kernel.name,
        reasons.join("; ")
    )
}

fn fetch_from(archive: &str, suite: &str, folder: &Path, tree: &Path) -> anyhow::Result<Unpacked> {
    let apt = Apt::new(&folder.join("apt").join(suite), archive, suite)?;
    apt.run("apt-get", &["update"])?;
    let packages = apt.parts_of(PACKAGE)?;
    let fetched = folder.join("fetched");
    remove(&fetched)?;
    fs::create_dir_all(&fetched)?;
    for package in &packages {
        let output = apt
            .command("apt-get")
            .args(["download", package])
            .current_dir(&fetched)
            .output()?;
        told(&output)?;
    }
    let half = folder.join("half");
    remove(&half)?;
    for package in fs::read_dir(&fetched)? {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(package?.path()).arg(&half);
        told(&unpack.output()?)?;
    }
    remove(&fetched)?;
    find(&half)?;
    remove(tree)?;
    fs::rename(&half, tree)?;
    find(tree)
}

/// The kernel in a folder that a package was unpacked to. Since 7.2 it lies beside its modules.
fn find(tree: &Path) -> anyhow::Result<Unpacked> {
    for library in ["lib", "usr/lib"] {
        let all = tree.join(library).join("modules");
        for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
            let release = entry.file_name().to_string_lossy().into_owned();
            let modules = entry.path().join("kernel");
            let images = [
                tree.join("boot").join(format!("vmlinuz-{release}")),
                entry.path().join("vmlinuz"),
            ];
            let image = images.into_iter().find(|image| image.is_file());
            if let Some(image) = image
                && modules.join("net").is_dir()
            {
                return Ok(Unpacked {
                    release,
                    image,
                    modules,
                });
            }
        }
    }
    bail!("no kernel with modules in {}", tree.display())
}

/// apt with lists and a state of its own.
struct Apt {
    settings: PathBuf,
}

impl Apt {
    fn new(folder: &Path, archive: &str, suite: &str) -> anyhow::Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let mirror = mirror();
        let sources = folder.join("sources.list");
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        fs::write(
            &sources,
            format!("deb [signed-by={keys}] {mirror}/{archive} {suite} main\n"),
        )?;
        let settings = folder.join("apt.conf");
        let path = |part: &str| folder.join(part).display().to_string();
        let lines = [
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::State", path("")),
            ("Dir::State::lists", path("lists")),
            ("Dir::State::status", "/dev/null".to_owned()),
            ("Dir::Cache", path("cache")),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::Retries", "2".to_owned()),
            ("Acquire::http::Timeout", "30".to_owned()),
            (
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
                "false".to_owned(),
            ),
            ("APT::Sandbox::User", String::new()),
            ("APT::Architecture", "amd64".to_owned()),
        ];
        let text: String = lines
            .iter()
            .map(|(name, value)| format!("{name} \"{value}\";\n"))
            .collect();
        fs::write(&settings, text)?;
        Ok(Self { settings })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-q").env("APT_CONFIG", &self.settings);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        told(&output)?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The packages that kernel and modules are in: since 6.17 those are two.
    fn parts_of(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let mut parts = Vec::new();
        let mut open = vec![package.to_owned()];
        while let Some(name) = open.pop() {
            let text = self.run("apt-cache", &["show", "--no-all-versions", &name])?;
            let needs = dependencies(&text);
            parts.push(name);
            for need in needs {
                if !parts.contains(&need) && !open.contains(&need) {
                    open.push(need);
                }
            }
        }
        // It has nothing in it but what it depends on.
        parts.retain(|part| part != package);
        ensure!(!parts.is_empty(), "{package} depends on no kernel");
        Ok(parts)
    }
}

/// The kernels and modules that a package needs, out of what `apt-cache show` says of it.
fn dependencies(shown: &str) -> Vec<String> {
    let wanted = ["linux-image-", "linux-modules-", "linux-binary-"];
    let lines = shown
        .lines()
        .filter_map(|line| line.strip_prefix("Depends: "));
    lines
        .flat_map(|line| line.split(','))
        .filter_map(|need| need.split_whitespace().next())
        .filter(|need| wanted.iter().any(|prefix| need.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

/// Where this machine has its own packages from, or Debian's usual address.
fn mirror() -> String {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    for entry in fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
    {
        texts.push(fs::read_to_string(entry.path()).unwrap_or_default());
    }
    mirror_in(&texts.join("\n")).unwrap_or_else(|| "http://deb.debian.org".to_owned())
}

/// The part before `/debian` of the first archive of that name.
fn mirror_in(sources: &str) -> Option<String> {
    let lines = sources
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    lines
        .flat_map(str::split_whitespace)
        .filter(|word| word.contains("://"))
        .find_map(|word| word.trim_end_matches('/').strip_suffix("/debian"))
        .map(str::to_owned)
}

fn told(output: &std::process::Output) -> anyhow::Result<()> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}",
        errors.lines().last().unwrap_or("apt failed")
    );
    Ok(())
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_with_the_kernel_are_found() {
        let shown = "Package: linux-image-cloud-amd64\nDepends: linux-base-cloud-amd64 (= 7), linux-image-7.3.4-cloud-amd64 (= 7), linux-modules-7.3.4-cloud-amd64 (= 7)\n";
        assert_eq!(
            dependencies(shown),
            [
                "linux-image-7.3.4-cloud-amd64",
                "linux-modules-7.3.4-cloud-amd64"
            ]
        );
        assert_eq!(dependencies("Depends: kmod, linux-base"), [""; 0]);
    }

    #[test]
    fn the_machines_own_mirror_is_used() {
        let old = "# deb http://x/debian a main\ndeb [arch=amd64] http://mirror.example/debian bookworm main\n";
        assert_eq!(mirror_in(old).as_deref(), Some("http://mirror.example"));
        let new = "Types: deb\nURIs: http://deb.debian.org/debian/\nSuites: bookworm\n";
        assert_eq!(mirror_in(new).as_deref(), Some("http://deb.debian.org"));
        assert_eq!(mirror_in("URIs: http://x.example/debian-security\n"), None);
    }

    #[test]
    fn every_kernel_is_found_by_its_name() {
        for kernel in ALL {
            assert_eq!(named(kernel.name).unwrap(), kernel);
        }
        assert!(named("4.19").is_err());
    }
}
