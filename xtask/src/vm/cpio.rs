//! An archive in the format that the kernel unpacks as its first file system: cpio "newc"
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::{collections::BTreeSet, io::Write, path::Path};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive that is being written.
pub(crate) struct Archive<W> {
    output: W,
    number: u32,
    there: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub(crate) fn new(output: W) -> Self {
        Self {
            output,
            number: 0,
            there: BTreeSet::new(),
        }
    }

    /// Adds a file that everybody may read and run, under an absolute path. One that is there stays as it is.
    pub(crate) fn file(&mut self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        self.folder_of(path)?;
        self.entry(&name(path), PROGRAM, bytes)
    }

    /// Adds a symbolic link, likewise.
    pub(crate) fn link(&mut self, path: &Path, to: &str) -> std::io::Result<()> {
        self.folder_of(path)?;
        self.entry(&name(path), LINK, to.as_bytes())
    }

    /// Adds a folder and those above it.
    pub(crate) fn folder(&mut self, path: &Path) -> std::io::Result<()> {
        self.folder_of(path)?;
        match name(path) {
            root if root.is_empty() => Ok(()),
            name => self.entry(&name, FOLDER, &[]),
        }
    }

    /// Whether something is there under a path.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.there.contains(&name(path))
    }

    /// Writes the end.
    pub(crate) fn finish(mut self) -> std::io::Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.output.flush()
    }

    fn folder_of(&mut self, path: &Path) -> std::io::Result<()> {
        match path.parent() {
            Some(parent) => self.folder(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) -> std::io::Result<()> {
        if !self.there.insert(name.to_owned()) {
            return Ok(());
        }
        self.number += 1;
        let size = u32::try_from(bytes.len())
            .map_err(|_| std::io::Error::other(format!("{name} is too large for an archive")))?;
        let fields = [
            self.number,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        header.push_str(name);
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(bytes)
    }

    /// Header with name, and content, end at a multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.output.write_all(bytes)?;
        self.output
            .write_all(&[0; 3][..bytes.len().wrapping_neg() % 4])
    }
}

/// Names in the archive begin below the root.
fn name(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_format_says() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file(Path::new("/a/b"), b"hello").unwrap();
        archive.file(Path::new("/a/b"), b"again").unwrap();
        assert!(archive.has(Path::new("/a")));
        archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let zero = "00000000";
        let folder = format!(
            "07070100000001000041ED{zero}{zero}00000001{zero}{zero}{zero}{zero}{zero}{zero}00000002{zero}a\0"
        );
        let file = format!(
            "07070100000002000081ED{zero}{zero}00000001{zero}00000005{zero}{zero}{zero}{zero}00000004{zero}a/b\0\0\0hello\0\0\0"
        );
        assert!(
            text.starts_with(&format!("{folder}{file}070701")),
            "{text:?}"
        );
        assert_eq!(text.len() % 4, 0);
        assert!(text.contains("TRAILER!!!"));
    }
}
