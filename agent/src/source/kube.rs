//! The Kubernetes API as source.

use std::path::PathBuf;

use tokio::sync::{mpsc, watch};

use crate::model::Event;

/// What the `kube` source has to know.
#[derive(Clone, Debug, Default)]
pub struct KubeOptions {
    /// A kubeconfig file; without it, `$KUBECONFIG`, the usual place, or the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// URL of the API server, instead of the one that the configuration names.
    pub server: Option<String>,
    /// The node whose Node object is watched; none where nobody needs it.
    pub node: Option<String>,
}

/// Watches the API server until nobody listens to `events`. A server that cannot be reached is tried again for ever.
///
/// # Errors
/// Where the configuration cannot be used.
pub async fn run(
    options: KubeOptions,
    events: mpsc::Sender<Event>,
    in_sync: watch::Sender<bool>,
) -> anyhow::Result<()> {
    let _ = (options, events, in_sync);
    todo!()
}
