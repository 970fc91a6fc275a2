//! What others learn from the agent: DNS servers by the feed, operators by the state folder.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use super::super::{Publish, report::Report};
use crate::{
    admin::ServiceHealth,
    config::AgentConfig,
    feed::{Feed, Hello},
    model::Event,
    zone::ZoneConfig,
};

/// Hands on to the DNS server's feed and to the state folder.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) feed: Feed,
    /// Whether answers to questions outside of the cluster are taken.
    pub(super) outside: bool,
    pub(super) service_health: watch::Sender<ServiceHealth>,
    pub(super) filled: watch::Sender<bool>,
    pub(super) folder: PathBuf,
}

impl Publish for Published {
    fn event(&mut self, event: &Event) {
        self.feed.event(event);
    }

    fn in_sync(&mut self, in_sync: bool) {
        self.feed.in_sync(in_sync);
    }

    fn zone(&mut self, config: &ZoneConfig) {
        self.feed.zone(config);
        self.feed.hello(hello(config, self.outside));
    }

    fn service_health(&mut self, service_health: ServiceHealth) {
        self.service_health.send_if_modified(|before| {
            let changed = *before != service_health;
            *before = service_health;
            changed
        });
    }

    fn filled(&mut self) {
        self.filled.send_replace(true);
    }

    fn report(&mut self, report: &Report) {
        if let Err(error) = report.write(&self.folder) {
            tracing::warn!("operators' commands read an old report: {error:#}");
        }
    }
}

pub(super) fn hello(zone: &ZoneConfig, takes_answers: bool) -> Hello {
    Hello {
        domain: zone.domain.clone(),
        ttl: zone.ttl,
        dns: zone.dns.clone(),
        options: Some(zone.options.digest),
        takes_answers,
        watched: false,
    }
}

pub(super) fn report(config: &AgentConfig, node: String, mode: &str) -> Report {
    Report {
        instance: config.instance.bpffs_root.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        node,
        mode: mode.to_owned(),
        source: config.source.to_string(),
        domain: config.cluster_domain.clone(),
        ..Report::default()
    }
}
