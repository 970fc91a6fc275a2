//! Numbers of the server, under the names and labels that dashboards for CoreDNS know.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
    },
    registry::Registry,
};

use super::{
    forward::{From, Numbers, Times},
    handler::Live,
    labels::{self, SERVER},
    state::State,
};
use crate::{config::dns::file::Counts, feed::logged::By, zone::Name};

/// CoreDNS's buckets, in seconds.
pub(super) const BUCKETS: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024,
    2.048, 4.096, 8.192,
];
/// CoreDNS's buckets, in bytes.
const SIZES: [f64; 13] = [
    0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16_000.0, 32_000.0,
    64_000.0,
];
/// Times of upstreams' answers, none yet.
pub(super) fn times() -> Times {
    Family::new_with_constructor(|| Histogram::new(BUCKETS))
}

/// The numbers.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    responses: Family<ResponseLabels, Counter>,
    duration: Family<ZoneLabels, Histogram, fn() -> Histogram>,
    size: Family<SizeLabels, Histogram, fn() -> Histogram>,
    answer_size: Family<SizeLabels, Histogram, fn() -> Histogram>,
    cache_hits: Family<CacheLabels, Counter>,
    cache_misses: Family<CacheLabels, Counter>,
    cache_requests: Family<CacheLabels, Counter>,
    served_stale: Family<CacheLabels, Counter>,
    rejects: Counter,
    pub(super) panics: Counter,
    /// Questions beyond a client's rate that got no answer.
    pub(super) dropped: Counter,
    /// TCP connections that were closed because there were too many.
    pub(super) refused: Counter,
}

/// A question that was answered.
#[derive(Debug)]
pub(super) struct Answered<'a> {
    pub(super) ipv4: bool,
    pub(super) udp: bool,
    /// The stub domain that it is in.
    pub(super) zone: Option<&'a Name>,
    pub(super) qtype: Option<RecordType>,
    pub(super) code: ResponseCode,
    pub(super) by: By,
    /// Of the question, in bytes.
    pub(super) size: usize,
    /// Of the answer, in bytes.
    pub(super) answer_size: usize,
    pub(super) took: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    server: &'static str,
    zone: String,
    view: &'static str,
    proto: &'static str,
    family: &'static str,
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    server: &'static str,
    zone: String,
    view: &'static str,
    rcode: String,
    plugin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ZoneLabels {
    server: &'static str,
    zone: String,
    view: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SizeLabels {
    server: &'static str,
    zone: String,
    view: &'static str,
    proto: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    server: &'static str,
    r#type: Option<&'static str>,
    zones: &'static str,
    view: &'static str,
}

const fn cache_labels(r#type: Option<&'static str>) -> CacheLabels {
    CacheLabels {
        server: SERVER,
        r#type,
        zones: ".",
        view: "",
    }
}

/// What is read when it is asked for.
#[derive(Debug)]
struct Current {
    state: Arc<State>,
    live: Arc<Live>,
    file: Arc<Counts>,
}

impl Metrics {
    pub(super) fn new(
        state: Arc<State>,
        live: Arc<Live>,
        file: Arc<Counts>,
        times: &Times,
    ) -> Self {
        let mut registry = Registry::default();
        let this = Self {
            registry: Registry::default(),
            requests: Family::default(),
            responses: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            size: Family::new_with_constructor(|| Histogram::new(SIZES)),
            answer_size: Family::new_with_constructor(|| Histogram::new(SIZES)),
            cache_hits: Family::default(),
            cache_misses: Family::default(),
            cache_requests: Family::default(),
            served_stale: Family::default(),
            rejects: Counter::default(),
            panics: Counter::default(),
            dropped: Counter::default(),
            refused: Counter::default(),
        };
        registry.register(
            "coredns_dns_requests",
            "Questions, by zone, transport, family and type",
            this.requests.clone(),
        );
        registry.register(
            "coredns_dns_responses",
            "Answers, by zone, code and plugin",
            this.responses.clone(),
        );
        registry.register(
            "coredns_dns_request_duration_seconds",
            "Time from a question to its answer",
            this.duration.clone(),
        );
        registry.register(
            "coredns_dns_request_size_bytes",
            "Sizes of questions",
            this.size.clone(),
        );
        registry.register(
            "coredns_dns_response_size_bytes",
            "Sizes of answers",
            this.answer_size.clone(),
        );
        registry.register(
            "coredns_proxy_request_duration_seconds",
            "Time from a question to an upstream to its answer",
            times.clone(),
        );
        for (name, help, family) in [
            (
                "coredns_cache_hits",
                "Forwarded questions that the cache answered",
                &this.cache_hits,
            ),
            (
                "coredns_cache_misses",
                "Forwarded questions that the cache did not answer",
                &this.cache_misses,
            ),
            (
                "coredns_cache_requests",
                "Forwarded questions",
                &this.cache_requests,
            ),
            (
                "coredns_cache_served_stale",
                "Answers that were given after their time because no upstream answered",
                &this.served_stale,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        for (name, help, counter) in [
            (
                "coredns_forward_max_concurrent_rejects",
                "Questions that were refused because too many were under way",
                &this.rejects,
            ),
            (
                "coredns_panics",
                "Faults in signpost; please report them",
                &this.panics,
            ),
            (
                "signpost_dns_dropped",
                "Questions beyond a client's rate that got no answer",
                &this.dropped,
            ),
            (
                "signpost_dns_connections_refused",
                "TCP connections that were closed because there were too many",
                &this.refused,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register_collector(Box::new(Current { state, live, file }));
        Self { registry, ..this }
    }

    pub(super) fn answered(&self, answered: &Answered<'_>) {
        let zone = answered
            .zone
            .map_or_else(|| ".".to_owned(), |zone| format!("{zone}."));
        let (server, view) = (SERVER, "");
        let proto = if answered.udp { "udp" } else { "tcp" };
        let requests = self.requests.get_or_create(&RequestLabels {
            server,
            zone: zone.clone(),
            view,
            proto,
            family: labels::family(answered.ipv4),
            r#type: labels::kind(answered.qtype),
        });
        requests.inc();
        drop(requests);
        let responses = self.responses.get_or_create(&ResponseLabels {
            server,
            zone: zone.clone(),
            view,
            rcode: labels::code(answered.code),
            plugin: plugin(answered.by),
        });
        responses.inc();
        drop(responses);
        let duration = self.duration.get_or_create(&ZoneLabels {
            server,
            zone: zone.clone(),
            view,
        });
        duration.observe(answered.took.as_secs_f64());
        drop(duration);
        let labels = SizeLabels {
            server,
            zone,
            view,
            proto,
        };
        let size = self.size.get_or_create(&labels);
        size.observe(answered.size as f64);
        drop(size);
        let size = self.answer_size.get_or_create(&labels);
        size.observe(answered.answer_size as f64);
    }

    /// A question for a name outside was answered in this way.
    pub(super) fn forwarded(&self, from: From) {
        self.cache_requests.get_or_create(&cache_labels(None)).inc();
        match from {
            From::Cache { denial } => {
                let kind = if denial { "denial" } else { "success" };
                self.cache_hits
                    .get_or_create(&cache_labels(Some(kind)))
                    .inc();
            }
            From::Stale => {
                self.served_stale.get_or_create(&cache_labels(None)).inc();
            }
            From::Upstream | From::Nobody => {
                self.cache_misses.get_or_create(&cache_labels(None)).inc();
            }
            From::Rejected => {
                self.cache_misses.get_or_create(&cache_labels(None)).inc();
                self.rejects.inc();
            }
        }
    }

    /// The text that Prometheus reads.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Collector for Current {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (synced, services, hosts, differs) = {
            let inner = self.state.read();
            let options = &inner.zone.config().options;
            let differs = inner.of_agent.is_some_and(|of| of != options.digest);
            let services = inner.zone.services().count();
            (inner.synced, services, options.hosts.len(), differs)
        };
        for (name, help, value) in [
            (
                "signpost_dns_synced",
                "Whether the zone is complete",
                i64::from(synced),
            ),
            (
                "signpost_dns_services",
                "Services of the zone",
                services as i64,
            ),
            (
                "signpost_dns_config_differs",
                "1 while the agent goes by another configuration of the zone, else 0",
                i64::from(differs),
            ),
            (
                "coredns_hosts_entries",
                "Addresses of names that the configuration has",
                hosts as i64,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(encoder)?;
        }
        for (name, help, count) in [
            (
                "coredns_reload_failed",
                "Configurations that were refused",
                &self.file.failures,
            ),
            (
                "signpost_dns_reloads",
                "Configurations that were taken over",
                &self.file.reloads,
            ),
        ] {
            let counter = ConstCounter::new(count.load(Ordering::Relaxed));
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            counter.encode(encoder)?;
        }
        let routes = self.live.routes();
        let all = routes.all();
        let mut entries = encoder.encode_descriptor(
            "coredns_cache_entries",
            "Answers in the cache",
            None,
            MetricType::Gauge,
        )?;
        for (zones, forward) in &all {
            let (success, denial) = forward.cache.len();
            for (kind, count) in [("success", success), ("denial", denial)] {
                let labels = cache_of(zones, Some(kind));
                ConstGauge::new(count as i64).encode(entries.encode_family(&labels)?)?;
            }
        }
        for (name, help, of) in [
            (
                "coredns_cache_prefetch",
                "Answers that were fetched again before they ran out",
                (|forward| forward.prefetched.load(Ordering::Relaxed))
                    as fn(&super::forward::Forward) -> u64,
            ),
            (
                "coredns_cache_evictions",
                "Answers that made room for others",
                |forward| forward.cache.evictions(),
            ),
        ] {
            let mut counters = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (zones, forward) in &all {
                let counter = ConstCounter::new(of(forward));
                counter.encode(counters.encode_family(&cache_of(zones, None))?)?;
            }
        }
        let broken = all
            .iter()
            .map(|(_, forward)| forward.broken.load(Ordering::Relaxed));
        let broken = ConstCounter::new(broken.sum::<u64>());
        broken.encode(encoder.encode_descriptor(
            "coredns_forward_healthcheck_broken",
            "Questions when every upstream was silent",
            None,
            MetricType::Counter,
        )?)?;
        let mut upstreams: Vec<Numbers> = Vec::new();
        for numbers in all.iter().flat_map(|(_, forward)| forward.numbers()) {
            if !upstreams
                .iter()
                .any(|known| known.address == numbers.address)
            {
                upstreams.push(numbers);
            }
        }
        encode_upstreams(&mut encoder, &upstreams)
    }
}

/// The plugin of CoreDNS that would have answered.
const fn plugin(by: By) -> &'static str {
    match by {
        By::Kernel | By::Zone => labels::KUBERNETES,
        By::KernelCache | By::Cache | By::Stale => labels::CACHE,
        By::Upstream => labels::FORWARD,
        By::Server => "",
    }
}

fn cache_of(zones: &str, kind: Option<&'static str>) -> Vec<(&'static str, String)> {
    let mut labels = vec![("server", SERVER.to_owned())];
    labels.extend(kind.map(|kind| ("type", kind.to_owned())));
    labels.extend([("zones", zones.to_owned()), ("view", String::new())]);
    labels
}

fn encode_upstreams(
    encoder: &mut DescriptorEncoder<'_>,
    upstreams: &[Numbers],
) -> Result<(), fmt::Error> {
    for (name, help, of) in [
        (
            "coredns_proxy_healthcheck_failures",
            "Questions and probes that an upstream left without an answer",
            (|numbers| numbers.failures) as fn(&Numbers) -> u64,
        ),
        (
            "coredns_proxy_conn_cache_hits",
            "Questions over a connection that was there already",
            |numbers| numbers.connections.0,
        ),
        (
            "coredns_proxy_conn_cache_misses",
            "Questions over a connection that had to be made",
            |numbers| numbers.connections.1,
        ),
    ] {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for numbers in upstreams {
            let labels = upstream_labels(numbers);
            let counter = ConstCounter::new(of(numbers));
            counter.encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn upstream_labels(numbers: &Numbers) -> [(&'static str, String); 2] {
    [
        ("proxy_name", "forward".to_owned()),
        ("to", numbers.address.to_string()),
    ]
}
