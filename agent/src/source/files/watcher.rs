//! When to look at the folder again.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

/// A change is taken up when no other one has come for so long: editors and `cp` write a file in several steps.
const QUIET: Duration = Duration::from_millis(30);
/// A change is taken up after so long whatever goes on.
const PATIENCE: Duration = Duration::from_millis(250);
/// The folder is looked at so often without being told: some file systems tell nothing, and targets of links neither.
const INTERVAL: Duration = Duration::from_secs(5);
/// The same where the kernel cannot tell of changes at all.
const SHORT_INTERVAL: Duration = Duration::from_secs(1);

/// Tells of changes below a folder.
pub(super) struct Watcher {
    changes: mpsc::UnboundedReceiver<PathBuf>,
    /// Tells as long as it lives.
    watcher: Option<RecommendedWatcher>,
}

impl Watcher {
    /// Watches a folder; where that cannot be done, the folder is looked at more often.
    pub(super) fn new(folder: &Path) -> Self {
        let (sender, changes) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else {
                return;
            };
            if is_change(event.kind) {
                for path in event.paths {
                    // Nobody listens any more when the source has ended.
                    let _ = sender.send(path);
                }
            }
        });
        let watched = watcher.and_then(|mut watcher| {
            watcher.watch(folder, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watched {
            tracing::warn!(folder = %folder.display(), %error, "cannot be told of changes; looking every second");
        }
        Self {
            changes,
            watcher: watched.ok(),
        }
    }

    /// Stops being told: the folder is gone, and is looked for more often.
    pub(super) fn stop(&mut self) {
        self.watcher = None;
    }

    /// Waits until the folder should be looked at again. Returns the paths that changed for certain.
    pub(super) async fn changes(&mut self) -> BTreeSet<PathBuf> {
        let interval = if self.watcher.is_some() {
            INTERVAL
        } else {
            SHORT_INTERVAL
        };
        let mut touched = BTreeSet::new();
        match timeout(interval, self.changes.recv()).await {
            Ok(Some(path)) => touched.insert(path),
            Ok(None) => {
                tokio::time::sleep(interval).await;
                return touched;
            }
            Err(_) => return touched,
        };
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match timeout(QUIET, self.changes.recv()).await {
                Ok(Some(path)) => touched.insert(path),
                Ok(None) | Err(_) => break,
            };
        }
        touched
    }
}

/// Reading a file, which we do ourselves, is none.
const fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}
