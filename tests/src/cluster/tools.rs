//! The programs of the control plane, built from `tests/cluster/go.mod` into the target folder, and CoreDNS, built from
//! `tests/cluster/coredns/go.mod`.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// Package of each program, by the name that its binary gets.
const PACKAGES: [(&str, &str); 5] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    (
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
];

/// Package of CoreDNS.
const CORE_DNS: &str = "github.com/coredns/coredns";

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Why the programs cannot be had on this machine; nothing where they can.
    pub fn missing() -> Option<String> {
        match Command::new("go").arg("version").output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!(
                "`go version` failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(e) => Some(format!(
                "the control plane is built with Go 1.26 or newer, and `go` cannot be run: {e}"
            )),
        }
    }

    /// Builds what is not there yet. The first time takes some minutes, and says so on standard error; later ones
    /// only look at a stamp.
    ///
    /// # Errors
    /// Where a program cannot be built; the text holds the compiler's.
    pub fn build() -> Result<Self> {
        let folder = folder()?.join("bin");
        fs::create_dir_all(&folder)
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        let tools = Self { folder };
        tools.build_all(&module(), &PACKAGES)?;
        Ok(tools)
    }

    /// Those that are there already, where nothing can be built.
    ///
    /// # Errors
    /// Where this program does not lie in a target folder.
    pub fn built() -> Result<Self> {
        let folder = folder()?.join("bin");
        Ok(Self { folder })
    }

    /// The path of CoreDNS, which is built where it is not there yet.
    ///
    /// # Errors
    /// Where it cannot be built; the text holds the compiler's.
    pub fn core_dns(&self) -> Result<PathBuf> {
        self.build_all(&module().join("coredns"), &[("coredns", CORE_DNS)])?;
        Ok(self.path("coredns"))
    }

    /// The path of a program: `etcd`, `kube-apiserver`, `kube-controller-manager`, `kube-proxy` or `kubectl`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn build_all(&self, module: &Path, packages: &[(&str, &str)]) -> Result<()> {
        let lock = File::create(self.folder.join("lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .context("another build of the control plane cannot be waited for")?;
        let stamp = stamp(module)?;
        for (name, package) in packages {
            let binary = self.path(name);
            let stamp_file = self.folder.join(format!("{name}.stamp"));
            let fresh = binary.exists()
                && fs::read_to_string(&stamp_file).is_ok_and(|built| built == stamp);
            if !fresh {
                build(module, package, &binary)?;
                fs::write(&stamp_file, &stamp)?;
            }
        }
        Ok(())
    }
}

/// The folder of the target folder that is the cluster's. The target folder is the one that the running program lies
/// in.
///
/// # Errors
/// Where the program lies elsewhere.
pub fn folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    program
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists())
        .map(|target| target.join("cluster"))
        .with_context(|| format!("{} does not lie in a target folder", program.display()))
}

fn build(module: &Path, package: &str, binary: &Path) -> Result<()> {
    let name = binary.file_name().unwrap_or_default().to_string_lossy();
    eprintln!("building {name} (minutes the first time, then only when its version changes)");
    let started = Instant::now();
    let version = version()?;
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let variables = "k8s.io/component-base/version";
    let output = Command::new("go")
        .current_dir(module)
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags"])
        .arg(format!(
            "-s -w -X {variables}.gitVersion={version} -X {variables}.gitMajor={major} -X {variables}.gitMinor={minor}"
        ))
        .arg("-o")
        .arg(binary)
        .arg(package)
        .stdin(Stdio::null())
        .output()
        .context("`go build` cannot be run")?;
    if !output.status.success() {
        bail!(
            "{name} cannot be built from {}: {}",
            module.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    eprintln!("built {name} in {} s", started.elapsed().as_secs());
    Ok(())
}

/// What a build depends on: the module's files and the compiler.
fn stamp(module: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for file in ["go.mod", "go.sum"] {
        fs::read(module.join(file))?.hash(&mut hasher);
    }
    let go = Command::new("go")
        .arg("version")
        .output()
        .context("`go version` cannot be run")?;
    go.stdout.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

/// The version of Kubernetes that `go.mod` asks for.
fn version() -> Result<String> {
    let text = fs::read_to_string(module().join("go.mod"))?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .and_then(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .context("tests/cluster/go.mod names no version of k8s.io/kubernetes")
}

fn module() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_kubernetes_is_the_one_of_the_module() {
        let version = version().unwrap();
        assert!(version.starts_with("v1."), "{version}");
        assert!(
            version
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '.'),
            "{version}"
        );
    }
}
