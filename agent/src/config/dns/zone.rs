//! What the file says of the zone, as the zone wants it.

use std::sync::Arc;

use super::{Cluster, DnsConfig, Pods};
use crate::{
    fnv,
    zone::{Hosts, Name, Options, Pods as ZonePods, Rewrite},
};

impl DnsConfig {
    /// The options of the zone: the same for the kernel and for the server.
    pub fn zone_options(&self) -> Options {
        let default = Options::default();
        let Cluster {
            domain: _,
            startup_timeout: _,
            other_domains,
            reverse_zones,
            ttl: _,
            pods,
            namespaces,
            namespace_labels,
            labels,
            endpoint_pod_names,
            ignore_empty_services,
            fallthrough,
        } = &self.cluster;
        let reverse = reverse_zones.as_ref().map_or(default.reverse, |zones| {
            zones.iter().flat_map(|zone| zone.zones()).collect()
        });
        let options = Options {
            aliases: other_domains.clone(),
            reverse,
            fallthrough: fallthrough.clone().unwrap_or(default.fallthrough),
            elsewhere: self
                .stub_domains
                .iter()
                .flat_map(|stub| stub.domains.clone())
                .collect(),
            pods: match pods {
                Some(Pods::Disabled) => ZonePods::Disabled,
                Some(Pods::Verified) => ZonePods::Verified,
                Some(Pods::Insecure) | None => ZonePods::Insecure,
            },
            namespaces: namespaces.iter().map(|name| Arc::from(&**name)).collect(),
            namespace_labels: namespace_labels.clone(),
            labels: labels.clone(),
            endpoint_pod_names: *endpoint_pod_names,
            ignore_empty_services: *ignore_empty_services,
            hosts: self.zone_hosts(),
            // Those that are no rules were refused when the file was read.
            rewrites: self
                .rewrite
                .iter()
                .flat_map(|rule| rule.rule())
                .collect::<Vec<Rewrite>>(),
            digest: 0,
        };
        Options {
            digest: digest(&options, self.other_ttl()),
            ..options
        }
    }

    /// Another TTL than the one that nobody has to say.
    fn other_ttl(&self) -> Option<u32> {
        let ttl = self.cluster.ttl.map(|ttl| ttl.get());
        ttl.filter(|ttl| *ttl != crate::agent::desired::TTL)
    }

    fn zone_hosts(&self) -> Hosts {
        let Some(hosts) = &self.hosts else {
            return Hosts::default();
        };
        let entries = hosts
            .entries
            .iter()
            .map(|entry| (entry.address, entry.names.clone()));
        Hosts::new(
            &entries.collect::<Vec<_>>(),
            hosts.zones.clone().unwrap_or_else(|| vec![Name::default()]),
            hosts.fallthrough.clone(),
            hosts.ttl.map_or(3600, |ttl| ttl.get()),
            !hosts.no_reverse,
        )
    }
}

/// Of what is meant, however it is written: the same in every process of this version.
fn digest(options: &Options, ttl: Option<u32>) -> u64 {
    if ttl.is_none() && *options == Options::default() {
        return 0;
    }
    fnv::hash(format!("{options:?} {ttl:?}").into_bytes())
}
