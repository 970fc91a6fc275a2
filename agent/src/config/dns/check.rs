//! What a single value does not show.

use super::{DnsConfig, Forward, UpstreamAddress};
use crate::source::convert::is_dns_label;

/// The most upstreams of one zone (CoreDNS).
const MOST_UPSTREAMS: usize = 15;

impl DnsConfig {
    /// Looks for what does not go together.
    ///
    /// # Errors
    /// The way to the key that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        for (index, namespace) in self.cluster.namespaces.iter().enumerate() {
            if !is_dns_label(namespace) {
                return wrong(
                    format!("cluster.namespaces[{index}]"),
                    format!("{namespace:?} is no namespace"),
                );
            }
        }
        if !self.cluster.namespaces.is_empty() && !self.cluster.namespace_labels.is_empty() {
            return wrong("cluster.namespaceLabels", "cannot go with namespaces");
        }
        if let Some(domain) = &self.cluster.domain {
            if domain.wire().is_empty() {
                return wrong("cluster.domain", "\".\" cannot be the cluster's domain");
            }
            if self.cluster.other_domains.contains(domain) {
                return wrong(
                    "cluster.otherDomains",
                    format!("{domain} is the cluster's domain"),
                );
            }
        }
        for (index, rule) in self.rewrite.iter().enumerate() {
            rule.rule()
                .map_err(|(key, why)| (format!("rewrite[{index}].{key}"), why))?;
        }
        check_forward("forward", &self.forward)?;
        let mut known = Vec::new();
        for (index, stub) in self.stub_domains.iter().enumerate() {
            let key = format!("stubDomains[{index}]");
            if stub.domains.is_empty() {
                return wrong(format!("{key}.domains"), "names no zone");
            }
            if stub.forward.upstreams.is_empty() {
                return wrong(
                    format!("{key}.forward.upstreams"),
                    "names nobody who has the zone",
                );
            }
            for domain in &stub.domains {
                if domain.wire().is_empty() {
                    return wrong(
                        format!("{key}.domains"),
                        "\".\" is all names: write it as forward",
                    );
                }
                if known.contains(&domain) {
                    return wrong(format!("{key}.domains"), format!("{domain} is there twice"));
                }
                known.push(domain);
            }
            check_forward(&format!("{key}.forward"), &stub.forward)?;
        }
        Ok(())
    }
}

fn check_forward(key: &str, forward: &Forward) -> Result<(), (String, String)> {
    let count = forward.upstreams.len();
    if count > MOST_UPSTREAMS {
        return wrong(
            format!("{key}.upstreams"),
            format!("{count} are more than {MOST_UPSTREAMS}"),
        );
    }
    if forward.force_tcp && forward.prefer_udp {
        return wrong(format!("{key}.preferUdp"), "cannot go with forceTcp");
    }
    let is_tls = |upstream: &UpstreamAddress| matches!(upstream, UpstreamAddress::Tls(..));
    if forward.tls.server_name.is_some() && !forward.upstreams.iter().any(is_tls) {
        return wrong(
            format!("{key}.tls"),
            "is said, and no upstream begins with tls://",
        );
    }
    if forward
        .health_check
        .as_ref()
        .is_some_and(|check| check.interval.get().is_zero())
    {
        return wrong(format!("{key}.healthCheck.interval"), "0s is too often");
    }
    if forward
        .read_timeout
        .is_some_and(|timeout| timeout.get().is_zero())
    {
        return wrong(
            format!("{key}.readTimeout"),
            "0s is too short for any answer",
        );
    }
    Ok(())
}

fn wrong(key: impl Into<String>, why: impl Into<String>) -> Result<(), (String, String)> {
    Err((key.into(), why.into()))
}
