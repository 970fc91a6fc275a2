//! Events on objects of the API server.

use tokio::sync::mpsc;

use crate::{
    admin::service_health::NotStarted,
    config::{AgentConfig, Source},
    source::kube::{
        KubeOptions,
        notes::{self, Note, Regarding},
    },
};

/// Notes on objects that wait to be posted.
const NOTES: usize = 64;

/// Posts that the agent starts, and from then on what fails to start.
///
/// # Errors
/// Never in truth: the first note has room.
pub(super) async fn start(
    config: &AgentConfig,
    node: &str,
) -> anyhow::Result<impl Fn(NotStarted) + Send + 'static> {
    let (notes_in, waiting) = mpsc::channel(NOTES);
    if config.source == Source::Kube {
        notes_in.send(Note::starting(node)).await?;
        tokio::spawn(post(kube_options(config, node), waiting));
    }
    let node = node.to_owned();
    Ok(move |failed: NotStarted| {
        let NotStarted {
            service,
            port,
            reason,
        } = failed;
        let text = format!(
            "node {node} failed to start healthcheck \"{service}\" on port {port}: {reason}"
        );
        tracing::error!("{text}");
        // Notes that nobody takes are lost: the log has them.
        let _ = notes_in.try_send(Note {
            regarding: Regarding::Service(service),
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            text,
        });
    })
}

/// How the API server is reached.
pub(super) fn kube_options(config: &AgentConfig, node: &str) -> KubeOptions {
    KubeOptions {
        kubeconfig: config.kubeconfig.clone(),
        server: config.api_server.clone(),
        node: Some(node.to_owned()),
        pods: None,
    }
}

async fn post(options: KubeOptions, receiver: mpsc::Receiver<Note>) {
    if let Err(error) = notes::post(options, receiver).await {
        tracing::warn!("no Events are posted: {error:#}");
    }
}
