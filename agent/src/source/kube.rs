//! The Kubernetes API as source: watches Services, EndpointSlices, Namespaces, this Node and ServiceCIDRs; and Pods while
//! somebody wants them.
//!
//! All Services are watched, those of other proxies too: their names exist all the same. What was known stays while
//! the API server is away; that it is away is said beside the events.

mod contact;
mod follow;
pub mod notes;
mod resource;
#[cfg(test)]
mod tests;

use std::{future::pending, path::PathBuf, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher,
};
use tokio::sync::{mpsc, watch};

use self::{
    contact::{Contact, ContactLayer},
    follow::follow,
};
use crate::model::{Event, Kind};

/// What the `kube` source has to know.
#[derive(Clone, Debug, Default)]
pub struct KubeOptions {
    /// A kubeconfig file; without it, `$KUBECONFIG`, the usual place, or the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// URL of the API server, instead of the one that the configuration names. The name `kubernetes.default` cannot
    /// be used: it is this agent that makes it resolve.
    pub server: Option<String>,
    /// The node whose Node object is watched; none where nobody needs it.
    pub node: Option<String>,
    /// Whether Pods are watched; of a large cluster they are many. Those that were known stay when it says no.
    pub pods: Option<watch::Receiver<bool>>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// The wait after a first failure; doubled with each further one.
    first_wait: Duration,
    /// The longest wait: a server that comes back is noticed within this time.
    longest_wait: Duration,
    /// A streamed list that is not complete after so long is given up: a server that does not know the parameter
    /// ignores it (Kubernetes before 1.27) and never says that the list is complete.
    streamed_list: Duration,
    /// A watch that was silent for longer is taken for dead. Bookmarks come once a minute.
    silence: Duration,
    /// A watch that ended has so long to begin again: servers end every watch after some minutes.
    pause: Duration,
    /// How often it is looked whether the watches are alive.
    look: Duration,
}

const TIMING: Timing = Timing {
    first_wait: Duration::from_millis(250),
    longest_wait: Duration::from_secs(8),
    streamed_list: Duration::from_secs(30),
    silence: Duration::from_secs(90),
    pause: Duration::from_secs(3),
    look: Duration::from_millis(500),
};

/// The Pods that have an address.
const LIVING: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Watches the API server until nobody listens to `events`. A server that cannot be reached is tried again for ever.
///
/// # Errors
/// Where the configuration cannot be used.
pub async fn run(
    options: KubeOptions,
    events: mpsc::Sender<Event>,
    in_sync: watch::Sender<bool>,
) -> anyhow::Result<()> {
    let config = configuration(&options).await?;
    tracing::info!(server = %config.cluster_url, "watching the API server");
    let contact = Contact::new(TIMING);
    let client = ClientBuilder::try_from(config)
        .context("cannot make a client of the Kubernetes configuration")?
        .with_layer(&ContactLayer(contact.clone()))
        .build();
    let KubeOptions { node, pods, .. } = options;
    watch_all(client, contact, (node.as_deref(), pods), events, in_sync).await;
    Ok(())
}

/// Watches with a client whose traffic `contact` sees, until nobody listens.
async fn watch_all(
    client: Client,
    contact: Contact,
    (node, pods): (Option<&str>, Option<watch::Receiver<bool>>),
    events: mpsc::Sender<Event>,
    in_sync: watch::Sender<bool>,
) {
    let mut kinds = vec![Kind::Service, Kind::EndpointSlice, Kind::Namespace];
    kinds.extend(node.map(|_| Kind::Node));
    let all = watcher::Config::default();
    let this_node = async {
        if let Some(node) = node {
            let config = all.clone().fields(&format!("metadata.name={node}"));
            follow::<Node>(Api::all(client.clone()), config, &contact, &events).await;
        }
    };
    // Whoever needs no Node does not need them either.
    let service_cidrs = async {
        if node.is_some() {
            follow::<ServiceCIDR>(Api::all(client.clone()), all.clone(), &contact, &events).await;
        }
    };
    let pods = async {
        let Some(mut wanted) = pods else { return };
        while wanted.wait_for(|wanted| *wanted).await.is_ok() {
            // Those that are over have no address any more (CoreDNS lists the same).
            let config = all.clone().fields(LIVING);
            let mut until = wanted.clone();
            let unwanted = async {
                if until.wait_for(|wanted| !*wanted).await.is_err() {
                    pending::<()>().await;
                }
            };
            tokio::select! {
                () = follow::<Pod>(Api::all(client.clone()), config, &contact, &events) => return,
                () = unwanted => {}
            }
        }
    };
    let watches = async {
        tokio::join!(
            follow::<Service>(Api::all(client.clone()), all.clone(), &contact, &events),
            follow::<EndpointSlice>(Api::all(client.clone()), all.clone(), &contact, &events),
            follow::<Namespace>(Api::all(client.clone()), all.clone(), &contact, &events),
            this_node,
            service_cidrs,
            pods,
        )
    };
    tokio::select! {
        _ = watches => {}
        () = contact.report(&kinds, &in_sync) => {}
        () = events.closed() => {}
    }
}

async fn configuration(options: &KubeOptions) -> anyhow::Result<Config> {
    let server = options
        .server
        .as_deref()
        .map(|server| {
            server
                .parse::<http::Uri>()
                .with_context(|| format!("{server:?} is no URL of an API server"))
        })
        .transpose()?;
    let mut config = match (&options.kubeconfig, &server) {
        (Some(path), _) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?
        }
        (None, Some(server)) => Config::infer()
            .await
            .unwrap_or_else(|_| Config::new(server.clone())),
        (None, None) => Config::infer().await.context(
            "found no Kubernetes configuration: give a kubeconfig, or run in a pod with a service account",
        )?,
    };
    if let Some(server) = server {
        config.cluster_url = server;
    }
    Ok(config)
}
