//! Numbers of the server, under the names that dashboards for CoreDNS know.

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

use super::{forward::Forward, state::State};

/// CoreDNS's buckets, in seconds.
const BUCKETS: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024,
    2.048, 4.096, 8.192,
];

/// The numbers.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    responses: Family<ResponseLabels, Counter>,
    duration: Histogram,
    pub(super) cache_hits: Counter,
    pub(super) cache_misses: Counter,
    pub(super) rejects: Counter,
    pub(super) served_stale: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    family: &'static str,
    proto: &'static str,
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    rcode: String,
}

/// What is read when it is asked for.
#[derive(Debug)]
struct Live {
    state: Arc<State>,
    forward: Arc<Forward>,
}

impl Metrics {
    pub(super) fn new(state: Arc<State>, forward: Arc<Forward>) -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let responses = Family::default();
        let duration = Histogram::new(BUCKETS);
        let [cache_hits, cache_misses, rejects, served_stale] =
            std::array::from_fn(|_| Counter::default());
        registry.register(
            "coredns_dns_requests",
            "Questions, by family, transport and type",
            Family::clone(&requests),
        );
        registry.register(
            "coredns_dns_responses",
            "Answers, by code",
            Family::clone(&responses),
        );
        registry.register(
            "coredns_dns_request_duration_seconds",
            "Time from a question to its answer",
            duration.clone(),
        );
        for (name, help, counter) in [
            (
                "coredns_cache_hits",
                "Forwarded questions that the cache answered",
                &cache_hits,
            ),
            (
                "coredns_cache_misses",
                "Forwarded questions that the cache did not answer",
                &cache_misses,
            ),
            (
                "coredns_forward_max_concurrent_rejects",
                "Questions that were refused because too many were under way or there is no upstream",
                &rejects,
            ),
            (
                "coredns_cache_served_stale",
                "Answers that were given after their time because no upstream answered",
                &served_stale,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register_collector(Box::new(Live { state, forward }));
        Self {
            registry,
            requests,
            responses,
            duration,
            cache_hits,
            cache_misses,
            rejects,
            served_stale,
        }
    }

    pub(super) fn answered(
        &self,
        ipv4: bool,
        udp: bool,
        qtype: Option<RecordType>,
        code: ResponseCode,
        took: Duration,
    ) {
        let r#type = match qtype {
            // Anybody can make up types; their number must not.
            None | Some(RecordType::Unknown(_)) => "other".to_owned(),
            Some(known) => known.to_string(),
        };
        self.requests
            .get_or_create(&RequestLabels {
                family: if ipv4 { "1" } else { "2" },
                proto: if udp { "udp" } else { "tcp" },
                r#type,
            })
            .inc();
        let rcode = match code {
            ResponseCode::NoError => "NOERROR".to_owned(),
            ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
            ResponseCode::ServFail => "SERVFAIL".to_owned(),
            ResponseCode::FormErr => "FORMERR".to_owned(),
            ResponseCode::NotImp => "NOTIMP".to_owned(),
            ResponseCode::Refused => "REFUSED".to_owned(),
            ResponseCode::BADVERS => "BADVERS".to_owned(),
            other => u16::from(other).to_string(),
        };
        self.responses
            .get_or_create(&ResponseLabels { rcode })
            .inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// The text that Prometheus reads.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (synced, names) = {
            let inner = self.state.read();
            (inner.synced, inner.zone.entries().len())
        };
        for (name, help, value) in [
            (
                "coredns_cache_entries",
                "Answers in the cache",
                self.forward.cache.len() as i64,
            ),
            (
                "signpost_dns_synced",
                "Whether the zone is complete",
                i64::from(synced),
            ),
            ("signpost_dns_names", "Names of the zone", names as i64),
        ] {
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(encoder)?;
        }
        let prefetched = ConstCounter::new(self.forward.prefetched.load(Ordering::Relaxed));
        let encoder_of = encoder.encode_descriptor(
            "coredns_cache_prefetch",
            "Answers that were fetched again before they ran out",
            None,
            prefetched.metric_type(),
        )?;
        prefetched.encode(encoder_of)?;
        let mut failures = encoder.encode_descriptor(
            "coredns_proxy_healthcheck_failures",
            "Questions and probes that an upstream left without an answer",
            None,
            MetricType::Counter,
        )?;
        for (address, count) in self.forward.failures() {
            let labels = [
                ("proxy_name", "forward".to_owned()),
                ("to", address.to_string()),
            ];
            let counter = ConstCounter::new(count);
            counter.encode(failures.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
