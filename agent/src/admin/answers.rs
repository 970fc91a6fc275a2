//! What the programs answer to DNS questions, under the names and labels of CoreDNS's metrics: those of `signpost dns` say
//! the same of what it answers, and the sum of both is what the node's pods were told.

use std::{collections::BTreeMap, fmt, sync::Arc};

use hickory_proto::rr::RecordType;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};
use signpost_common::tally::Tally;

use super::kernel::Kernel;
use crate::dns::labels;

/// Labels of a series, and what was counted.
type Series<const N: usize> = BTreeMap<[(&'static str, String); N], u64>;

/// Turns what a [`Kernel`] has counted of answers into metrics. What cannot be read is left out: the log has it from
/// [`super::kernel::KernelCollector`].
#[derive(Debug)]
pub struct AnswersCollector(pub Arc<dyn Kernel>);

impl Collector for AnswersCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(Some(counts)) = self.0.answers() else {
            return Ok(());
        };
        let cached = || counts.each().filter(|(tally, _)| tally.is_cached());
        let help = "Questions that the programs answered";
        let series = summed(counts.each(), request);
        encode(&mut encoder, "coredns_dns_requests", help, &series)?;

        let help = "Answers of the programs";
        let series = summed(counts.each(), response);
        encode(&mut encoder, "coredns_dns_responses", help, &series)?;

        let help = "Questions that the programs answered out of the DNS server's cache";
        let series = summed(cached(), hit);
        encode(&mut encoder, "coredns_cache_hits", help, &series)?;
        let series = summed(cached(), |_| of_cache());
        encode(&mut encoder, "coredns_cache_requests", help, &series)
    }
}

/// The series of some answers, by the labels that each has.
fn summed<const N: usize>(
    answers: impl Iterator<Item = (Tally, u64)>,
    labels: impl Fn(Tally) -> [(&'static str, String); N],
) -> Series<N> {
    let mut series = Series::new();
    for (tally, count) in answers {
        *series.entry(labels(tally)).or_default() += count;
    }
    series
}

/// Without a single question there is no metric (CoreDNS).
fn encode<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &Series<N>,
) -> fmt::Result {
    if series.is_empty() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in series {
        ConstCounter::new(*count).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

/// The programs do not know which stub domain a name is in: all is the root's.
fn place() -> [(&'static str, String); 3] {
    [
        ("server", labels::SERVER.to_owned()),
        ("zone", ".".to_owned()),
        ("view", String::new()),
    ]
}

fn request(tally: Tally) -> [(&'static str, String); 6] {
    let [server, zone, view] = place();
    let kind = match tally.qtype() {
        0 => None,
        known => Some(RecordType::from(known)),
    };
    [
        server,
        zone,
        view,
        ("proto", "udp".to_owned()),
        ("family", labels::family(tally.is_v4()).to_owned()),
        ("type", labels::kind(kind)),
    ]
}

fn response(tally: Tally) -> [(&'static str, String); 5] {
    let [server, zone, view] = place();
    let code = if tally.is_nxdomain() {
        "NXDOMAIN"
    } else {
        "NOERROR"
    };
    let plugin = if tally.is_cached() {
        labels::CACHE
    } else {
        labels::KUBERNETES
    };
    [
        server,
        zone,
        view,
        ("rcode", code.to_owned()),
        ("plugin", plugin.to_owned()),
    ]
}

fn hit(tally: Tally) -> [(&'static str, String); 4] {
    let [server, zones, view] = of_cache();
    let kind = if tally.is_negative() {
        "denial"
    } else {
        "success"
    };
    [server, ("type", kind.to_owned()), zones, view]
}

fn of_cache() -> [(&'static str, String); 3] {
    let [server, (_, zones), view] = place();
    [server, ("zones", zones), view]
}

#[cfg(test)]
mod tests {
    use signpost_common::{Cause, dns::qtype, tally::DnsCounts};

    use super::*;
    use crate::admin::{
        Metrics,
        kernel::{MapFill, ServiceTraffic},
    };

    #[derive(Debug)]
    struct Fake(Option<Box<DnsCounts>>);

    impl Kernel for Fake {
        fn counters(&self) -> anyhow::Result<Vec<(Cause, u64)>> {
            Ok(Vec::new())
        }

        fn answers(&self) -> anyhow::Result<Option<Box<DnsCounts>>> {
            Ok(self.0.clone())
        }

        fn maps(&self) -> anyhow::Result<Vec<MapFill>> {
            Ok(Vec::new())
        }

        fn services(&self) -> anyhow::Result<Vec<ServiceTraffic>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn answers_of_the_programs_have_coredns_names() {
        let mut counts = Box::new(DnsCounts::ZERO);
        for (cause, flags, authorities, qtype, v4) in [
            (Cause::DnsAnswered, 0x8400, 0, qtype::A, true),
            (Cause::DnsAnswered, 0x8400, 0, qtype::A, true),
            (Cause::DnsNodata, 0x8400, 1, qtype::AAAA, true),
            (Cause::DnsNxdomain, 0x8403, 1, qtype::A, false),
            (Cause::DnsNxdomain, 0x8403, 1, 65, true),
            // LOC, and one that nobody knows.
            (Cause::DnsNxdomain, 0x8403, 1, 29, true),
            (Cause::DnsNxdomain, 0x8403, 1, 4711, true),
            (Cause::DnsCached, 0x8180, 0, qtype::A, true),
            (Cause::DnsCached, 0x8180, 1, qtype::AAAA, true),
            (Cause::DnsCached, 0x8183, 1, qtype::A, true),
        ] {
            counts.add(Tally::new(cause, flags, authorities, qtype, v4));
        }
        let text = Metrics::new(Some(Arc::new(Fake(Some(counts)))))
            .text()
            .unwrap();
        let udp = "server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\"";
        let all = "server=\"dns://:53\",zone=\".\",view=\"\"";
        for line in [
            "# TYPE coredns_dns_requests counter".to_owned(),
            format!("coredns_dns_requests_total{{{udp},family=\"1\",type=\"A\"}} 4"),
            format!("coredns_dns_requests_total{{{udp},family=\"2\",type=\"A\"}} 1"),
            format!("coredns_dns_requests_total{{{udp},family=\"1\",type=\"AAAA\"}} 2"),
            format!("coredns_dns_requests_total{{{udp},family=\"1\",type=\"HTTPS\"}} 1"),
            format!("coredns_dns_requests_total{{{udp},family=\"1\",type=\"other\"}} 2"),
            format!("coredns_dns_responses_total{{{all},rcode=\"NOERROR\",plugin=\"kubernetes\"}} 3"),
            format!("coredns_dns_responses_total{{{all},rcode=\"NXDOMAIN\",plugin=\"kubernetes\"}} 4"),
            format!("coredns_dns_responses_total{{{all},rcode=\"NOERROR\",plugin=\"cache\"}} 2"),
            format!("coredns_dns_responses_total{{{all},rcode=\"NXDOMAIN\",plugin=\"cache\"}} 1"),
            "coredns_cache_hits_total{server=\"dns://:53\",type=\"success\",zones=\".\",view=\"\"} 1".to_owned(),
            "coredns_cache_hits_total{server=\"dns://:53\",type=\"denial\",zones=\".\",view=\"\"} 2".to_owned(),
            "coredns_cache_requests_total{server=\"dns://:53\",zones=\".\",view=\"\"} 3".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn without_questions_there_are_no_metrics_of_answers() {
        for counts in [None, Some(Box::new(DnsCounts::ZERO))] {
            let text = Metrics::new(Some(Arc::new(Fake(counts)))).text().unwrap();
            assert!(!text.contains("coredns_dns"), "{text}");
        }
    }
}
