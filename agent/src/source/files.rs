//! A folder of manifests as source: signpost plays the control plane.

use std::path::PathBuf;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

use crate::model::Event;

/// What the `files` source has to know.
#[derive(Clone, Debug)]
pub struct FilesOptions {
    /// The folder of manifests, with its sub-folders.
    pub folder: PathBuf,
    /// The folder where the ClusterIPs that were given out are kept over restarts.
    pub state: PathBuf,
    /// The ranges that ClusterIPs are given out of: at most one a family, the first one's family is the primary one.
    pub service_ranges: Vec<IpNet>,
    /// The node whose Node object is emitted; none where nobody needs it.
    pub node: Option<String>,
}

/// Reads the folder and follows its changes until nobody listens to `events`.
///
/// # Errors
/// Where the folder or the state cannot be read at the start, or the ranges contradict each other.
pub async fn run(
    options: FilesOptions,
    events: mpsc::Sender<Event>,
    in_sync: watch::Sender<bool>,
) -> anyhow::Result<()> {
    let _ = (options, events, in_sync);
    todo!()
}
