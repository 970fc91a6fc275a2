//! What the configuration of DNS says of the zone, as it changes.

use std::sync::Arc;

use tokio::sync::watch;

use super::super::desired;
use crate::{
    config::dns::{DnsConfig, file::DnsConfigFile},
    zone::Options,
};

/// Hands on what the file says of the zone whenever that changes.
pub(super) async fn follow_dns(
    file: DnsConfigFile,
    first: DnsConfig,
    zone: watch::Sender<(u32, Arc<Options>)>,
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
            zone.send_replace(terms(&config));
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
