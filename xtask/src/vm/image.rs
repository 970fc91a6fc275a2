//! The first and only file system of a machine: programs of this machine with their libraries, all under the paths
//! that they have here, and the kernel's modules.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use xtask::errand::{self, Errand};

use super::{cpio::Archive, kernel::Unpacked, modules};
use crate::project::{self, which};

/// Programs that are taken along where this machine has them.
const TOOLS: [&str; 67] = [
    "awk",
    "bash",
    "bpftool",
    "cat",
    "chmod",
    "conntrack",
    "cp",
    "curl",
    "cut",
    "date",
    "dig",
    "dmesg",
    "env",
    "ethtool",
    "false",
    "find",
    "getent",
    "grep",
    "head",
    "id",
    "ip",
    "ip6tables",
    "ip6tables-legacy-restore",
    "ip6tables-legacy-save",
    "ip6tables-restore",
    "ip6tables-save",
    "ipset",
    "iptables",
    "iptables-legacy",
    "iptables-legacy-restore",
    "iptables-legacy-save",
    "iptables-nft",
    "iptables-restore",
    "iptables-save",
    "ipvsadm",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mount",
    "mv",
    "nc",
    "nft",
    "nsenter",
    "nslookup",
    "ping",
    "ps",
    "rm",
    "sed",
    "sh",
    "sleep",
    "sort",
    "ss",
    "stat",
    "sysctl",
    "tail",
    "tc",
    "tcpdump",
    "tee",
    "timeout",
    "touch",
    "tr",
    "true",
    "umount",
    "uname",
    "unshare",
    "wc",
];

/// Files and folders that they read.
const DATA: [&str; 11] = [
    "/etc/group",
    "/etc/hosts",
    "/etc/iproute2",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs/ca-certificates.crt",
    "/usr/lib/x86_64-linux-gnu/xtables",
    "/usr/share/iproute2",
];

/// Folders that a system with one `usr` has as links into it.
const LINKS: [&str; 4] = ["/bin", "/sbin", "/lib", "/lib64"];

/// Below this size stripping is not worth its time.
const LARGE: u64 = 4 << 20;

/// A file system that is being put together.
pub(crate) struct Image {
    archive: Archive<BufWriter<File>>,
}

impl Image {
    /// One with the tools, whose first process is `init`.
    pub(crate) fn new(file: &Path, init: &Path) -> anyhow::Result<Self> {
        let output = File::create(file).with_context(|| file.display().to_string())?;
        let mut image = Self {
            archive: Archive::new(BufWriter::new(output)),
        };
        for link in LINKS.map(Path::new) {
            if let Ok(to) = fs::read_link(link) {
                image.archive.link(link, &to.to_string_lossy())?;
            }
        }
        image.program_as(init, Path::new("/init"))?;
        image
            .archive
            .link(Path::new("/usr/sbin/modprobe"), "/init")?;
        for tool in TOOLS.iter().filter_map(|tool| which(tool)) {
            image.program(&tool)?;
        }
        for data in DATA.map(Path::new) {
            image.data(data)?;
        }
        Ok(image)
    }

    /// Adds a program under the path that it has here, and its libraries.
    pub(crate) fn program(&mut self, path: &Path) -> anyhow::Result<()> {
        self.program_as(path, &in_usr(path)?)
    }

    /// Adds a file, or a folder with all that is in it. One that is not here is passed over.
    pub(crate) fn data(&mut self, path: &Path) -> anyhow::Result<()> {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                self.data(&entry?.path())?;
            }
        } else if path.is_file() {
            let to = in_usr(path)?;
            if !self.archive.has(&to) {
                self.archive.file(&to, &fs::read(path)?)?;
                for library in libraries(path)? {
                    self.data(&library)?;
                }
            }
        }
        Ok(())
    }

    /// Adds the modules of a kernel but for some, and the list of them that programs look into.
    pub(crate) fn modules(&mut self, kernel: &Unpacked, without: &[String]) -> anyhow::Result<()> {
        let mut index = Vec::new();
        let mut order = String::new();
        for file in modules::read(&kernel.modules)? {
            if without.contains(&file.module.name) {
                continue;
            }
            self.archive
                .file(Path::new(&file.module.path), &file.bytes)?;
            order += &format!("kernel/{}.ko\n", file.module.name);
            index.push(file.module);
        }
        let index = serde_json::to_vec(&index)?;
        self.archive.file(Path::new(errand::MODULES), &index)?;
        // A machine may have no folder for modules.
        let folder = fs::canonicalize("/lib").unwrap_or_else(|_| "/lib".into());
        let list = folder
            .join("modules")
            .join(&kernel.release)
            .join("modules.order");
        Ok(self.archive.file(&list, order.as_bytes())?)
    }

    /// Adds what is to be done, and writes the end.
    pub(crate) fn finish(mut self, errand: &Errand) -> anyhow::Result<()> {
        let text = serde_json::to_vec(errand)?;
        self.archive.file(Path::new(errand::FILE), &text)?;
        // The kernel opens it before there is a device file system.
        self.archive.folder(Path::new("/dev"))?;
        Ok(self.archive.finish()?)
    }

    fn program_as(&mut self, path: &Path, to: &Path) -> anyhow::Result<()> {
        if self.archive.has(to) {
            return Ok(());
        }
        let stripped = stripped(path)?;
        let bytes = fs::read(&stripped).with_context(|| stripped.display().to_string())?;
        self.archive.file(to, &bytes)?;
        for library in libraries(path)? {
            self.data(&library)?;
        }
        Ok(())
    }
}

/// A file's path without a link among its folders: what is a link here is one there.
fn in_usr(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let folder = path.parent().context("no folder")?;
    let folder = fs::canonicalize(folder).with_context(|| path.display().to_string())?;
    Ok(folder.join(path.file_name().context("no file")?))
}

/// The libraries that a program or library is linked with, as the dynamic linker finds them here; none for other files.
fn libraries(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut magic = [0; 4];
    let is_elf = std::io::Read::read_exact(&mut File::open(path)?, &mut magic).is_ok()
        && magic == *b"\x7fELF";
    if !is_elf {
        return Ok(Vec::new());
    }
    let output = Command::new("ldd")
        .arg(path)
        .output()
        .context("cannot start ldd")?;
    // It fails for what is linked statically.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        !text.contains("not found"),
        "{} lacks a library: {text}",
        path.display()
    );
    Ok(paths(&text).map(PathBuf::from).collect())
}

/// The paths in what ldd prints: `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld.so (0x…)`.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

/// A copy without debug information, which is most of a test program and would be copied by an emulated processor.
fn stripped(path: &Path) -> anyhow::Result<PathBuf> {
    let metadata = fs::metadata(path).with_context(|| path.display().to_string())?;
    if metadata.len() < LARGE || which("strip").is_none() {
        return Ok(path.to_owned());
    }
    let folder = project::target().join("vm/stripped");
    fs::create_dir_all(&folder)?;
    let copy = folder.join(path.file_name().unwrap_or_default());
    let is_newer = |copy: &Path| -> std::io::Result<bool> {
        Ok(fs::metadata(copy)?.modified()? >= metadata.modified()?)
    };
    if !is_newer(&copy).unwrap_or(false) {
        let mut strip = Command::new("strip");
        project::run(strip.arg("--strip-debug").arg("-o").arg(&copy).arg(path))?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0000)\n\t/lib64/ld-linux-x86-64.so.2 (0x0000)\n";
        let found: Vec<_> = paths(text).collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert_eq!(paths("\tstatically linked\n").count(), 0);
    }
}
