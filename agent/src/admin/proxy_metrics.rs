//! Metrics under kube-proxy's names, where they mean the same: dashboards and Kubernetes' own performance tests go on.
//!
//! kube-proxy counts for each family, for it runs once for each; one round of the agent is one of both.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::{Family as Labelled, MetricConstructor},
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::proxy_health::family_name;
use crate::{
    model::{Family, Kind},
    registry::Trigger,
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

type Seconds = Gauge<f64, AtomicU64>;

/// What kube-proxy counts.
#[derive(Debug)]
pub struct ProxyMetrics {
    sync: Labelled<OfFamily, Histogram, Durations>,
    full: Labelled<OfFamily, Histogram, Durations>,
    partial: Labelled<OfFamily, Histogram, Durations>,
    programming: Labelled<OfFamily, Histogram, Latencies>,
    names: Labelled<OfServiceKind, Histogram, NameLatencies>,
    last: Labelled<OfFamily, Seconds>,
    last_queued: Labelled<OfFamily, Seconds>,
    endpoint_changes: Counter,
    endpoint_changes_pending: Gauge,
    service_changes: Counter,
    service_changes_pending: Gauge,
    no_local: Labelled<OfPolicy, Gauge>,
    healthz: Labelled<OfCode, Counter>,
    livez: Labelled<OfCode, Counter>,
    reconcile: Labelled<OfFamily, Histogram, Durations>,
    reconciled: Labelled<OfFamily, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFamily {
    ip_family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfServiceKind {
    service_kind: &'static str,
}

/// The one kind whose changes have a trigger in the API, in CoreDNS's words.
const HEADLESS: OfServiceKind = OfServiceKind {
    service_kind: "headless_with_selector",
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    ip_family: &'static str,
    traffic_policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    code: u16,
}

/// A millisecond to 16 s.
#[derive(Clone, Debug)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.001, 2.0, 15))
    }
}

/// The buckets that the service-level objective of network programming is measured with.
#[derive(Clone, Debug)]
struct Latencies;

impl MetricConstructor<Histogram> for Latencies {
    fn new_metric(&self) -> Histogram {
        let seconds = (1..60)
            .chain((60..120).step_by(5))
            .chain((120..=300).step_by(30));
        Histogram::new([0.25, 0.5].into_iter().chain(seconds.map(f64::from)))
    }
}

/// CoreDNS's buckets: a millisecond to nine minutes.
#[derive(Clone, Debug)]
struct NameLatencies;

impl MetricConstructor<Histogram> for NameLatencies {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.001, 2.0, 20))
    }
}

impl ProxyMetrics {
    /// Nothing counted yet.
    pub(super) fn new(all: &mut Registry) -> Self {
        let names = Labelled::new_with_constructor(NameLatencies);
        all.register(
            "coredns_kubernetes_dns_programming_duration_seconds",
            "Time from the trigger of a change of endpoints until names led to them",
            Clone::clone(&names),
        );
        let registry = all.sub_registry_with_prefix("kubeproxy");
        macro_rules! registered {
            ($name:literal, $help:literal) => {
                registered!($name, $help, Default::default())
            };
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, Clone::clone(&metric));
                metric
            }};
        }
        Self {
            names,
            sync: registered!(
                "sync_proxy_rules_duration_seconds",
                "Time that carrying out a change took",
                Labelled::new_with_constructor(Durations)
            ),
            full: registered!(
                "sync_full_proxy_rules_duration_seconds",
                "Time that writing the whole state took",
                Labelled::new_with_constructor(Durations)
            ),
            partial: registered!(
                "sync_partial_proxy_rules_duration_seconds",
                "Time that writing a difference took",
                Labelled::new_with_constructor(Durations)
            ),
            programming: registered!(
                "network_programming_duration_seconds",
                "Time from the trigger of a change of endpoints until it was carried out",
                Labelled::new_with_constructor(Latencies)
            ),
            last: registered!(
                "sync_proxy_rules_last_timestamp_seconds",
                "When a change was carried out last"
            ),
            last_queued: registered!(
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "When a change was heard of last"
            ),
            endpoint_changes: registered!(
                "sync_proxy_rules_endpoint_changes",
                "Changes of EndpointSlices"
            ),
            endpoint_changes_pending: registered!(
                "sync_proxy_rules_endpoint_changes_pending",
                "Changes of EndpointSlices that are not carried out yet"
            ),
            service_changes: registered!("sync_proxy_rules_service_changes", "Changes of Services"),
            service_changes_pending: registered!(
                "sync_proxy_rules_service_changes_pending",
                "Changes of Services that are not carried out yet"
            ),
            // A gauge all the same in kube-proxy, whatever its name says.
            no_local: registered!(
                "sync_proxy_rules_no_local_endpoints_total",
                "Service ports whose policy asks for endpoints on this node and that have none here"
            ),
            healthz: registered!("proxy_healthz", "Answers of /healthz"),
            livez: registered!("proxy_livez", "Answers of /livez"),
            reconcile: registered!(
                "conntrack_reconciler_sync_duration_seconds",
                "Time that a look at connection tracking took",
                Labelled::new_with_constructor(Durations)
            ),
            reconciled: registered!(
                "conntrack_reconciler_deleted_entries",
                "Entries of connection tracking that were deleted because their backend serves no more"
            ),
        }
    }

    /// `/healthz` was answered.
    pub fn healthz(&self, code: u16) {
        self.healthz.get_or_create(&OfCode { code }).inc();
    }

    /// `/livez` was answered.
    pub fn livez(&self, code: u16) {
        self.livez.get_or_create(&OfCode { code }).inc();
    }

    /// A change was heard of.
    pub fn queued(&self, kind: Kind) {
        match kind {
            Kind::Service => {
                self.service_changes.inc();
                self.service_changes_pending.inc();
            }
            Kind::EndpointSlice => {
                self.endpoint_changes.inc();
                self.endpoint_changes_pending.inc();
            }
            Kind::Namespace | Kind::Node | Kind::ServiceCidr | Kind::Pod => return,
        }
        for family in FAMILIES {
            self.last_queued.get_or_create(&of(family)).set(now());
        }
    }

    /// All changes that were heard of are carried out; it took so long. `triggered` is when changes of endpoints were
    /// triggered, in milliseconds since 1970.
    pub fn synced(&self, took: Duration, whole: bool, triggered: &[Trigger]) {
        self.service_changes_pending.set(0);
        self.endpoint_changes_pending.set(0);
        let duration = if whole { &self.full } else { &self.partial };
        for family in FAMILIES {
            let labels = of(family);
            self.sync.get_or_create(&labels).observe(took.as_secs_f64());
            duration.get_or_create(&labels).observe(took.as_secs_f64());
            self.last.get_or_create(&labels).set(now());
        }
        for trigger in triggered {
            let since = now() - trigger.at as f64 / 1000.0;
            if trigger.headless {
                self.names.get_or_create(&HEADLESS).observe(since.max(0.0));
            }
            self.programming
                .get_or_create(&of(trigger.family))
                .observe(since.max(0.0));
        }
    }

    /// A look at connection tracking took so long, and deleted so many entries of IPv4 and IPv6.
    pub fn reconciled(&self, took: Duration, deleted: [u64; 2]) {
        for (family, deleted) in FAMILIES.into_iter().zip(deleted) {
            let labels = of(family);
            self.reconcile
                .get_or_create(&labels)
                .observe(took.as_secs_f64());
            self.reconciled.get_or_create(&labels).inc_by(deleted);
        }
    }

    /// So many service ports lack endpoints on this node, for clients inside the cluster and outside.
    pub fn no_local(&self, family: Family, (inside, outside): (usize, usize)) {
        for (traffic_policy, count) in [("internal", inside), ("external", outside)] {
            let labels = OfPolicy {
                ip_family: family_name(family),
                traffic_policy,
            };
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.no_local.get_or_create(&labels).set(count);
        }
    }
}

const fn of(family: Family) -> OfFamily {
    OfFamily {
        ip_family: family_name(family),
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Metrics;

    #[test]
    fn what_kube_proxy_counts_shows_under_its_names() {
        let metrics = Metrics::new(None);
        let proxy = metrics.proxy();
        proxy.queued(Kind::Service);
        proxy.queued(Kind::EndpointSlice);
        let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending 1";
        assert!(metrics.text().unwrap().lines().any(|l| l == pending));
        proxy.synced(Duration::from_millis(3), true, &[]);
        let just_now = (now() * 1000.0) as i64 - 700;
        let trigger = |headless| Trigger {
            family: Family::V4,
            at: just_now,
            headless,
        };
        proxy.synced(Duration::from_millis(3), false, &[trigger(false)]);
        // What never happened does not show (CoreDNS).
        assert!(!metrics.text().unwrap().contains("service_kind"));
        proxy.synced(Duration::from_millis(3), false, &[trigger(true)]);
        proxy.no_local(Family::V6, (1, 2));
        proxy.reconciled(Duration::from_millis(3), [0, 2]);
        let text = metrics.text().unwrap();
        for line in [
            "# TYPE kubeproxy_network_programming_duration_seconds histogram",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.5\",ip_family=\"IPv4\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"300.0\",ip_family=\"IPv4\"} 2",
            "coredns_kubernetes_dns_programming_duration_seconds_bucket{le=\"0.512\",service_kind=\"headless_with_selector\"} 0",
            "coredns_kubernetes_dns_programming_duration_seconds_count{service_kind=\"headless_with_selector\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 3",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 1",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_service_changes_pending 0",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"internal\"} 1",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"external\"} 2",
            "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv6\"} 2",
            "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        let last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1";
        assert!(text.contains(last), "{text}");
    }
}
