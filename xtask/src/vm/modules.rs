//! The modules of a kernel's package: which there are, and which needs which.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use xtask::errand::Module;

/// Folders of a kernel's modules that are taken along; the rest is drivers and file systems that no test uses.
const FOLDERS: [&str; 5] = ["net", "lib", "crypto", "arch/x86/crypto", "drivers/net"];

/// Folders in them that are not.
const NOT: [&str; 7] = [
    "ethernet",
    "hyperv",
    "wwan",
    "wireless",
    "rxrpc",
    "sunrpc",
    "vmw_vsock",
];

/// A module with its content, ready to be loaded.
pub(crate) struct File {
    /// For the index.
    pub(crate) module: Module,
    /// What it is made of, not compressed.
    pub(crate) bytes: Vec<u8>,
}

/// Reads the modules below `kernel` of an unpacked package.
pub(crate) fn read(kernel: &Path) -> anyhow::Result<Vec<File>> {
    let mut paths = Vec::new();
    for folder in FOLDERS {
        collect(&kernel.join(folder), &mut paths)?;
    }
    ensure!(!paths.is_empty(), "no modules below {}", kernel.display());
    paths.iter().map(|path| file(path)).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if !NOT.contains(&&*name) {
                collect(&entry.path(), paths)?;
            }
        } else if name.contains(".ko") {
            paths.push(entry.path());
        }
    }
    Ok(())
}

fn file(path: &Path) -> anyhow::Result<File> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (name, packing) = name.split_once(".ko").context("not a module")?;
    let bytes = match packing {
        "" => fs::read(path)?,
        ".xz" => unpacked("xz", path)?,
        ".zst" => unpacked("zstd", path)?,
        other => anyhow::bail!("{}: {other} is no known packing", path.display()),
    };
    let name = name.replace('-', "_");
    let mut module = information(&bytes);
    module.path = format!("/modules/{name}.ko");
    module.name = name;
    Ok(File { module, bytes })
}

fn unpacked(program: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    let output = Command::new(program)
        .arg("-dc")
        .arg(path)
        .output()
        .with_context(|| format!("cannot start {program}, which unpacks kernel modules"))?;
    ensure!(
        output.status.success(),
        "{program} cannot unpack {}",
        path.display()
    );
    Ok(output.stdout)
}

/// What a module says of itself: strings of the form `key=value`, each with a zero behind it (section `.modinfo`).
fn information(bytes: &[u8]) -> Module {
    let mut module = Module::default();
    for text in bytes.split(|byte| *byte == 0) {
        let Ok(text) = std::str::from_utf8(text) else {
            continue;
        };
        let underscored = |name: &str| name.replace('-', "_");
        match text.split_once('=') {
            Some(("depends", needs)) => {
                let needs = needs.split(',').filter(|name| !name.is_empty());
                module.needs.extend(needs.map(underscored));
            }
            Some(("alias", alias)) if !alias.contains(['*', '?', '[']) => {
                module.aliases.push(underscored(alias));
            }
            _ => {}
        }
    }
    module
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        let bytes = b"\x7fELF\0code\xff\0alias=net-pf-16-proto-16-family-IPVS\0alias=pci:v*d*\0depends=nf_conntrack,x-y\0";
        let module = information(bytes);
        assert_eq!(module.needs, ["nf_conntrack", "x_y"]);
        assert_eq!(module.aliases, ["net_pf_16_proto_16_family_IPVS"]);
        assert_eq!(information(b"depends=\0").needs, [""; 0]);
    }
}
