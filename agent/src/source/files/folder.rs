//! The files of a folder and what each of them said when it was last readable.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    num::NonZeroUsize,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use super::manifest::{Document, Manifest, Unreadable, documents, parse};

/// How deep sub-folders are followed: links may make a circle.
const MAX_DEPTH: usize = 16;

/// A folder of manifests.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

/// A file of the folder.
#[derive(Debug, Default)]
pub(super) struct File {
    stamp: Option<Stamp>,
    /// What it says, in its order; where a part of it cannot be read, also what that part may have said before.
    pub(super) manifests: Vec<Manifest>,
    /// What cannot be read of it.
    pub(super) unreadable: Vec<Unreadable>,
}

/// Tells versions of a file apart without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Folder {
    /// A folder that was not read yet.
    pub(super) const fn new(root: PathBuf) -> Self {
        Self {
            root,
            files: BTreeMap::new(),
        }
    }

    /// Its files, by their paths below the folder.
    pub(super) const fn files(&self) -> &BTreeMap<PathBuf, File> {
        &self.files
    }

    /// Whether some of what the files say is unknown.
    pub(super) fn is_partly_unreadable(&self) -> bool {
        self.files.values().any(|file| !file.unreadable.is_empty())
    }

    /// Reads the files that are new, look different or are named in `touched`. Returns whether there were any, or
    /// some are gone.
    ///
    /// # Errors
    /// Where the folder itself cannot be read: nothing changes then.
    pub(super) fn refresh(&mut self, touched: &BTreeSet<PathBuf>) -> io::Result<bool> {
        let mut found = Found::default();
        found.walk(&self.root, Path::new(""), 0)?;
        let known = self.files.len();
        self.files.retain(|path, _| {
            found.files.contains_key(path)
                || found
                    .unreadable
                    .iter()
                    .any(|(below, _)| path.starts_with(below))
        });
        let mut changed = self.files.len() != known;
        for (path, error) in found.unreadable {
            let unreadable = vec![Unreadable {
                line: 0,
                reason: format!("cannot be read: {error}"),
            }];
            let file = self.files.entry(path).or_default();
            changed |= file.unreadable != unreadable;
            file.unreadable = unreadable;
        }
        let mut texts = Vec::new();
        for (path, stamp) in found.files {
            let file = self.files.entry(path.clone()).or_default();
            if file.stamp == Some(stamp) && !touched.contains(&self.root.join(&path)) {
                continue;
            }
            changed = true;
            match fs::read_to_string(self.root.join(&path)) {
                Ok(text) => {
                    file.stamp = Some(stamp);
                    texts.push((path, text));
                }
                Err(error) => {
                    file.stamp = None;
                    file.unreadable = vec![Unreadable {
                        line: 0,
                        reason: format!("cannot be read: {error}"),
                    }];
                }
            }
        }
        for (path, (manifests, unreadable)) in read(&texts) {
            let file = self.files.entry(path).or_default();
            let before = std::mem::replace(&mut file.manifests, manifests);
            if !unreadable.is_empty() {
                let said: BTreeSet<_> = file.manifests.iter().map(|m| (&m.kind, &m.name)).collect();
                let kept: Vec<_> = before
                    .into_iter()
                    .filter(|m| !said.contains(&(&m.kind, &m.name)))
                    .collect();
                file.manifests.extend(kept);
            }
            file.manifests.shrink_to_fit();
            file.unreadable = unreadable;
        }
        Ok(changed)
    }
}

#[derive(Default)]
struct Found {
    files: BTreeMap<PathBuf, Stamp>,
    unreadable: Vec<(PathBuf, io::Error)>,
}

impl Found {
    /// Hidden entries are left out: editors keep unfinished files there, and a mounted ConfigMap its older versions.
    fn walk(&mut self, root: &Path, below: &Path, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(root.join(below))? {
            let name = entry?.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = below.join(name);
            // Follows links. An entry that is gone by now is no error.
            let Ok(meta) = fs::metadata(root.join(&path)) else {
                continue;
            };
            if meta.is_dir() {
                if depth == MAX_DEPTH {
                    continue;
                }
                if let Err(error) = self.walk(root, &path, depth + 1) {
                    self.unreadable.push((path, error));
                }
            } else if meta.is_file() && is_manifest(&path) {
                let stamp = Stamp {
                    inode: meta.ino(),
                    size: meta.size(),
                    modified: (meta.mtime(), meta.mtime_nsec()),
                    changed: (meta.ctime(), meta.ctime_nsec()),
                };
                self.files.insert(path, stamp);
            }
        }
        Ok(())
    }
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    let kustomization = path.file_stem().is_some_and(|stem| stem == "kustomization");
    matches!(extension, Some("yaml" | "yml" | "json")) && !kustomization
}

type Read = (Vec<Manifest>, Vec<Unreadable>);

/// Parses files, on as many threads as there are processors: documents are independent.
fn read(texts: &[(PathBuf, String)]) -> BTreeMap<PathBuf, Read> {
    let documents: Vec<(usize, Document<'_>)> = texts
        .iter()
        .enumerate()
        .flat_map(|(file, (_, text))| documents(text).into_iter().map(move |d| (file, d)))
        .collect();
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = documents.len().div_ceil(threads).max(64);
    let mut files: Vec<Read> = texts.iter().map(|_| Read::default()).collect();
    thread::scope(|scope| {
        let parsers: Vec<_> = documents
            .chunks(share)
            .map(|chunk| {
                scope.spawn(move || -> Vec<_> {
                    chunk
                        .iter()
                        .map(|(file, document)| (*file, parse(*document)))
                        .collect()
                })
            })
            .collect();
        for (parser, chunk) in parsers.into_iter().zip(documents.chunks(share)) {
            let Ok(parsed) = parser.join() else {
                for (file, document) in chunk {
                    files[*file].1.push(Unreadable {
                        line: document.line,
                        reason: "this part of the file ended its parser".to_owned(),
                    });
                }
                continue;
            };
            for (file, result) in parsed {
                match result {
                    Ok(manifests) => files[file].0.extend(manifests),
                    Err(unreadable) => files[file].1.push(unreadable),
                }
            }
        }
    });
    let paths = texts.iter().map(|(path, _)| path.clone());
    paths.zip(files).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, path: &str, text: &str) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn service(name: &str) -> String {
        format!("---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n")
    }

    fn names(folder: &Folder) -> Vec<String> {
        let manifests = folder.files.values().flat_map(|file| &file.manifests);
        manifests.map(|m| m.name.name.to_string()).collect()
    }

    fn refresh(folder: &mut Folder) -> bool {
        folder.refresh(&BTreeSet::new()).unwrap()
    }

    #[test]
    fn manifests_of_all_sub_folders_are_read() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "b.yaml", &(service("b1") + &service("b2")));
        write(root.path(), "a/deep/c.yml", &service("c"));
        write(
            root.path(),
            "d.json",
            r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "d"}}"#,
        );
        write(root.path(), "README.md", "not a manifest");
        write(root.path(), ".hidden.yaml", "not: [one");
        write(root.path(), "kustomization.yaml", "resources: []");
        let mut folder = Folder::new(root.path().to_owned());
        assert!(refresh(&mut folder));
        assert_eq!(names(&folder), ["c", "b1", "b2", "d"]);
        assert!(!refresh(&mut folder), "nothing changed");
        assert!(!folder.is_partly_unreadable());
    }

    #[test]
    fn changed_and_deleted_files_are_noticed() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "a.yaml", &service("a"));
        write(root.path(), "b.yaml", &service("b"));
        let mut folder = Folder::new(root.path().to_owned());
        refresh(&mut folder);
        write(root.path(), "new", &service("anew"));
        fs::rename(root.path().join("new"), root.path().join("a.yaml")).unwrap();
        fs::remove_file(root.path().join("b.yaml")).unwrap();
        assert!(refresh(&mut folder));
        assert_eq!(names(&folder), ["anew"]);
    }

    #[test]
    fn a_broken_file_keeps_what_it_said_before() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            "a.yaml",
            &(service("one") + &service("two") + &service("three")),
        );
        let mut folder = Folder::new(root.path().to_owned());
        refresh(&mut folder);
        write(
            root.path(),
            "a.yaml",
            &(service("one") + "---\nkind: [\n" + &service("four")),
        );
        assert!(refresh(&mut folder));
        assert_eq!(names(&folder), ["one", "four", "two", "three"]);
        assert!(folder.is_partly_unreadable());
        let file = &folder.files[Path::new("a.yaml")];
        assert!(
            (6..=8).contains(&file.unreadable[0].line),
            "{:?}",
            file.unreadable
        );

        write(root.path(), "a.yaml", &service("one"));
        refresh(&mut folder);
        assert_eq!(names(&folder), ["one"]);
        assert!(!folder.is_partly_unreadable());
    }

    #[test]
    fn a_folder_that_is_gone_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "sub/a.yaml", &service("a"));
        let mut folder = Folder::new(root.path().join("sub"));
        refresh(&mut folder);
        fs::remove_dir_all(root.path().join("sub")).unwrap();
        assert!(folder.refresh(&BTreeSet::new()).is_err());
        assert_eq!(names(&folder), ["a"]);
    }

    #[test]
    fn a_touched_file_is_read_whatever_it_looks_like() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "a.yaml", &service("a"));
        let mut folder = Folder::new(root.path().to_owned());
        refresh(&mut folder);
        let touched = BTreeSet::from([root.path().join("a.yaml")]);
        assert!(folder.refresh(&touched).unwrap());
    }

    #[test]
    fn a_circle_of_links_ends() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "a.yaml", &service("a"));
        std::os::unix::fs::symlink(root.path(), root.path().join("again")).unwrap();
        let mut folder = Folder::new(root.path().to_owned());
        assert!(refresh(&mut folder));
    }
}
