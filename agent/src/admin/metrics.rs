//! The agent's metrics: its own under the prefix `signpost_`, and those that kube-proxy has too under `kubeproxy_`.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

use super::{
    answers::AnswersCollector,
    kernel::{Kernel, KernelCollector},
    proxy_metrics::ProxyMetrics,
};
use crate::{
    agent::other_proxy::OtherProxy,
    model::{Event, Kind},
    probe::Row,
};

/// What the agent counts. Cheap to update from the loop; what the kernel counts is read at each scrape.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    proxy: ProxyMetrics,
    events: Family<EventLabels, Counter>,
    objects: Family<KindLabels, Gauge>,
    problems: Family<KindLabels, Gauge>,
    problems_seen: Counter,
    refusals: Gauge,
    refusals_seen: Counter,
    applies: Family<OutcomeLabels, Counter>,
    apply_seconds: Histogram,
    written: Counter,
    deleted: Counter,
    swept: Counter,
    interfaces: Gauge,
    in_sync: Gauge,
    other_connections: Gauge,
    draining: Gauge,
    features: Family<FeatureLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FeatureLabels {
    feature: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    kind: String,
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl Metrics {
    /// Nothing counted yet. Without `kernel` there are no metrics of the data path.
    pub fn new(kernel: Option<Arc<dyn Kernel>>) -> Self {
        let mut all = Registry::default();
        let proxy = ProxyMetrics::new(&mut all);
        if let Some(kernel) = &kernel {
            all.register_collector(Box::new(AnswersCollector(Arc::clone(kernel))));
        }
        let registry = all.sub_registry_with_prefix("signpost");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The agent that runs", build);
        if let Some(kernel) = kernel {
            registry.register_collector(Box::new(KernelCollector(kernel)));
        }
        // Half a millisecond (one changed Service) to 16 s.
        let apply_seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
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
            events: registered!("events", "Events received from the source"),
            objects: registered!("objects", "Objects known"),
            problems: registered!("problems", "Fields of objects that cannot be used, now"),
            problems_seen: registered!("problems_seen", "Problems of objects that appeared"),
            refusals: registered!("refusals", "Objects that the kernel does not serve, now"),
            refusals_seen: registered!(
                "refusals_seen",
                "Objects that the kernel began not to serve"
            ),
            applies: registered!("applies", "Updates carried out, by outcome"),
            apply_seconds: registered!(
                "apply_duration_seconds",
                "Time that one update of the kernel took",
                apply_seconds
            ),
            written: registered!("elements_written", "Map elements written"),
            deleted: registered!("elements_deleted", "Map elements deleted"),
            swept: registered!(
                "elements_swept",
                "Map elements removed because they expired"
            ),
            interfaces: registered!("interfaces", "Interfaces that the programs are attached to"),
            in_sync: registered!(
                "in_sync",
                "1 while the agent is in sync with its source, else 0"
            ),
            other_connections: registered!(
                "other_proxy_connections",
                "Connections of another proxy that are alive"
            ),
            draining: registered!(
                "draining",
                "1 while new connections are left to another proxy, else 0"
            ),
            features: registered!(
                "kernel_feature",
                "1 where the kernel has it, else 0; `signpost doctor` says what follows"
            ),
            registry: all,
            proxy,
        }
    }

    /// What kube-proxy counts too.
    pub const fn proxy(&self) -> &ProxyMetrics {
        &self.proxy
    }

    /// Everything, in the OpenMetrics text format.
    ///
    /// # Errors
    /// Where a metric cannot be written as text.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// An event came from the source.
    pub fn event(&self, event: &Event) {
        let (kind, event) = match event {
            Event::Begin(kind) => (kind.to_string(), "begin"),
            Event::Apply(object, _) => (object.kind().to_string(), "apply"),
            Event::Delete(kind, _) => (kind.to_string(), "delete"),
            Event::End(kind) => (kind.to_string(), "end"),
            Event::Problems { kind, .. } => (kind.clone(), "problems"),
        };
        self.events
            .get_or_create(&EventLabels { kind, event })
            .inc();
    }

    /// How many objects of a kind are known.
    pub fn objects(&self, kind: Kind, count: usize) {
        set(&self.objects, kind.to_string(), count);
    }

    /// The kinds of the objects that have problems now, one for each problem, and how many of them are new.
    pub fn problems<'a>(&self, kinds: impl Iterator<Item = &'a str>, new: usize) {
        let mut counts = std::collections::BTreeMap::<&str, usize>::new();
        for kind in kinds {
            *counts.entry(kind).or_default() += 1;
        }
        self.problems.clear();
        for (kind, count) in counts {
            set(&self.problems, kind.to_owned(), count);
        }
        self.problems_seen.inc_by(new as u64);
    }

    /// How many objects are refused now, and how many of them are new.
    pub fn refusals(&self, now: usize, new: usize) {
        self.refusals.set(gauge(now));
        self.refusals_seen.inc_by(new as u64);
    }

    /// An update of the kernel took so long; `None` where it failed, else elements written and deleted.
    pub fn apply(&self, took: Duration, done: Option<(usize, usize)>) {
        let outcome = if done.is_some() { "done" } else { "failed" };
        self.applies.get_or_create(&OutcomeLabels { outcome }).inc();
        self.apply_seconds.observe(took.as_secs_f64());
        if let Some((written, deleted)) = done {
            self.written.inc_by(written as u64);
            self.deleted.inc_by(deleted as u64);
        }
    }

    /// So many elements had expired.
    pub fn swept(&self, elements: usize) {
        self.swept.inc_by(elements as u64);
    }

    /// The programs are attached to so many interfaces.
    pub fn interfaces(&self, count: usize) {
        self.interfaces.set(gauge(count));
    }

    /// How this node stands to another proxy.
    pub fn other_proxy(&self, other: &OtherProxy) {
        let connections = i64::try_from(other.connections).unwrap_or(i64::MAX);
        self.other_connections.set(connections);
        self.draining.set(other.drain.into());
    }

    /// What the kernel was found to have.
    pub fn features(&self, rows: &[Row]) {
        for row in rows {
            let feature = row.feature.name();
            let gauge = self.features.get_or_create(&FeatureLabels { feature });
            gauge.set(row.there.into());
        }
    }

    /// Whether the agent is in sync with its source.
    pub fn in_sync(&self, in_sync: bool) {
        self.in_sync.set(in_sync.into());
    }
}

fn set(family: &Family<KindLabels, Gauge>, kind: String, count: usize) {
    family.get_or_create(&KindLabels { kind }).set(gauge(count));
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::ObjectName,
        probe::{Feature, Mode, Probes},
    };

    #[test]
    fn what_is_counted_shows_under_its_name() {
        let metrics = Metrics::new(None);
        metrics.event(&Event::Begin(Kind::Service));
        metrics.event(&Event::Delete(Kind::Service, ObjectName::new("dev", "ent")));
        metrics.objects(Kind::Namespace, 3);
        metrics.problems(["Service", "Pod", "Service"].into_iter(), 3);
        metrics.problems(["Service"].into_iter(), 0);
        metrics.refusals(2, 2);
        metrics.apply(Duration::from_millis(3), Some((10, 4)));
        metrics.apply(Duration::from_millis(3), None);
        metrics.interfaces(5);
        metrics.in_sync(true);
        metrics.other_proxy(&OtherProxy {
            connections: 7,
            drain: true,
            ..OtherProxy::default()
        });
        let text = metrics.text().unwrap();
        for line in [
            "signpost_events_total{kind=\"Service\",event=\"begin\"} 1",
            "signpost_events_total{kind=\"Service\",event=\"delete\"} 1",
            "signpost_objects{kind=\"Namespace\"} 3",
            "signpost_problems{kind=\"Service\"} 1",
            "signpost_problems_seen_total 3",
            "signpost_refusals 2",
            "signpost_applies_total{outcome=\"done\"} 1",
            "signpost_applies_total{outcome=\"failed\"} 1",
            "signpost_apply_duration_seconds_count 2",
            "signpost_elements_written_total 10",
            "signpost_interfaces 5",
            "signpost_in_sync 1",
            "signpost_other_proxy_connections 7",
            "signpost_draining 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("kind=\"Pod\""), "{text}");
    }

    #[test]
    fn what_the_kernel_has_is_one_and_what_it_lacks_zero() {
        let metrics = Metrics::new(None);
        let there = (Feature::IpVs, Ok("there".to_owned()));
        let missing = (Feature::Nftables, Err("not there".to_owned()));
        let probes = Probes {
            features: [there, missing].into(),
            ..Probes::default()
        };
        metrics.features(&probes.table(Some(Mode::Ipvs)));
        let text = metrics.text().unwrap();
        for line in [
            "signpost_kernel_feature{feature=\"ip_vs\"} 1",
            "signpost_kernel_feature{feature=\"nftables\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        let features = text.matches("signpost_kernel_feature{").count();
        assert_eq!(features, Feature::ALL.len());
    }
}
