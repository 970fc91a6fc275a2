//! A folder of manifests as source: signpost plays the control plane.
//!
//! It does what an API server and its controllers would do between `kubectl apply` and what a node sees: gives each
//! Service its ClusterIPs, turns selectors and Pods into EndpointSlices, mirrors Endpoints. Kinds that say nothing to
//! a node's Services and names are ignored.

mod allocate;
mod cluster;
mod emit;
mod folder;
mod manifest;
mod node_ports;
mod pod;
mod service;
mod slices;
#[cfg(test)]
mod tests;
mod watcher;

use std::{collections::BTreeSet, io, path::PathBuf};

use anyhow::Context as _;
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

use self::{
    allocate::Allocator,
    cluster::{Cluster, cluster},
    emit::emit,
    folder::Folder,
    node_ports::NodePorts,
    watcher::Watcher,
};
use crate::model::{Event, ObjectName, Problem};

/// What the `files` source has to know.
#[derive(Clone, Debug)]
pub struct FilesOptions {
    /// The folder of manifests, with its sub-folders.
    pub folder: PathBuf,
    /// The folder where the ClusterIPs and NodePorts that were given out are kept over restarts.
    pub state: PathBuf,
    /// The ranges that ClusterIPs are given out of: at most one a family, the first one's family is the primary one.
    pub service_ranges: Vec<IpNet>,
    /// The node whose Node object is emitted; none where nobody needs it.
    pub node: Option<String>,
}

/// Kind and name of an object in a text, and what is wrong with it.
pub type Said = (String, ObjectName, Vec<Problem>);

/// What each document of a text says on its own: kind and name of the object with what is wrong with it, or where and why it
/// cannot be read.
pub fn parse(text: &str) -> Vec<Result<Said, String>> {
    let documents = manifest::documents(text).into_iter();
    let read = documents.map(|document| match manifest::parse(document) {
        Ok(manifests) => {
            let said = |m: manifest::Manifest| Ok((m.kind, m.name, m.problems));
            manifests.into_iter().map(said).collect()
        }
        Err(unreadable) => vec![Err(format!(
            "line {}: {}",
            unreadable.line, unreadable.reason
        ))],
    });
    read.flatten().collect()
}

/// Reads the folder and follows its changes until nobody listens to `events`.
///
/// A file that cannot be read, or a part of one, is a [`crate::model::Problem`] of kind `File`; what it said before
/// stays.
///
/// # Errors
/// Where the folder or the state cannot be read at the start, or the ranges contradict each other.
pub async fn run(
    options: FilesOptions,
    events: mpsc::Sender<Event>,
    in_sync: watch::Sender<bool>,
) -> anyhow::Result<()> {
    let root = options.folder.clone();
    let mut watcher = Watcher::new(&root);
    let mut control_plane = ControlPlane {
        folder: Folder::new(options.folder),
        allocator: Allocator::load(&options.service_ranges, &options.state)?,
        node_ports: NodePorts::load(&options.state)?,
        node: options.node,
    };
    let mut emitted: Option<Cluster> = None;
    let mut touched = BTreeSet::new();
    let mut lost = false;
    loop {
        let first = emitted.is_none();
        let round;
        (control_plane, round) =
            tokio::task::spawn_blocking(move || control_plane.refresh(&touched, first)).await?;
        match round {
            Ok(changed) => {
                if let Some(cluster) = changed {
                    if emit(emitted.as_ref(), &cluster, &events).await.is_err() {
                        return Ok(());
                    }
                    emitted = Some(cluster);
                }
                if std::mem::take(&mut lost) {
                    // What changed before it is watched again is seen in one more round.
                    watcher = Watcher::new(&root);
                    touched = BTreeSet::new();
                    continue;
                }
                in_sync.send_replace(true);
            }
            Err(error) if first => {
                return Err(error).with_context(|| {
                    format!(
                        "cannot read {}: it has to be a folder of manifests",
                        root.display()
                    )
                });
            }
            Err(error) => {
                in_sync.send_replace(false);
                if !std::mem::replace(&mut lost, true) {
                    tracing::warn!(folder = %root.display(), %error, "the folder cannot be read; what it said stays");
                }
                watcher.stop();
            }
        }
        touched = tokio::select! {
            touched = watcher.changes() => touched,
            () = events.closed() => return Ok(()),
        };
    }
}

struct ControlPlane {
    folder: Folder,
    allocator: Allocator,
    node_ports: NodePorts,
    node: Option<String>,
}

impl ControlPlane {
    /// The cluster, where a file changed or it is the first time.
    fn refresh(
        mut self,
        touched: &BTreeSet<PathBuf>,
        first: bool,
    ) -> (Self, io::Result<Option<Cluster>>) {
        let round = self.folder.refresh(touched).map(|changed| {
            (changed || first).then(|| {
                let (allocator, ports) = (&mut self.allocator, &mut self.node_ports);
                cluster(&self.folder, allocator, ports, self.node.as_deref())
            })
        });
        (self, round)
    }
}
