//! What the configuration of DNS says of the zone, as it changes.

use std::sync::Arc;

use tokio::sync::watch;

use super::super::desired;
use crate::{
    config::dns::{DnsConfig, file::DnsConfigFile},
    zone::{Options, Pods},
};

/// Hands on what the file says of the zone whenever that changes, and whether Pods are watched for it.
pub(super) async fn follow_dns(
    file: DnsConfigFile,
    first: DnsConfig,
    zone: watch::Sender<(u32, Arc<Options>)>,
    pods: watch::Sender<bool>,
) -> anyhow::Result<()> {
    let domain = first.cluster.domain.clone();
    let counts = file.counts();
    let (configs_in, mut configs) = watch::channel(Arc::new(first));
    let changes = async {
        while configs.changed().await.is_ok() {
            let config = Arc::clone(&configs.borrow_and_update());
            if config.cluster.domain != domain {
                tracing::warn!("cluster.domain changed: it counts from the agent's next start on");
            }
            let terms = terms(&config);
            pods.send_replace(terms.1.pods == Pods::Verified);
            zone.send_replace(terms);
            counts.taken_over();
        }
    };
    tokio::select! {
        () = file.follow(configs_in) => {}
        () = changes => {}
    }
    Ok(())
}

pub(super) fn terms(config: &DnsConfig) -> (u32, Arc<Options>) {
    let ttl = config.cluster.ttl.map_or(desired::TTL, |ttl| ttl.get());
    (ttl, Arc::new(config.zone_options()))
}
