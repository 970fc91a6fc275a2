//! Metrics of what the programs count and how full the maps are, read from the kernel at each scrape.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use signpost_common::{Cause, count::ServiceCount, tally::DnsCounts};

use super::proxy_health::family_name;
use crate::model::Family;

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Name of the map.
    pub map: String,
    /// Elements in it.
    pub entries: u64,
    /// Most elements that it can have.
    pub capacity: u64,
    /// Bytes of kernel memory that it takes now.
    pub memory: u64,
}

/// What went through a service port of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port, empty for an unnamed one.
    pub port: String,
    /// The family.
    pub family: Family,
    /// What was counted.
    pub count: ServiceCount,
}

/// What can be read from the kernel.
pub trait Kernel: fmt::Debug + Send + Sync {
    /// Packets by cause, summed over the CPUs; empty where there are no programs.
    ///
    /// # Errors
    /// Where the map cannot be read.
    fn counters(&self) -> anyhow::Result<Vec<(Cause, u64)>>;

    /// Answers to DNS questions, summed over the CPUs; `None` where there are no programs.
    ///
    /// # Errors
    /// Where the map cannot be read.
    fn answers(&self) -> anyhow::Result<Option<Box<DnsCounts>>>;

    /// How full the maps are; empty where there are none.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    fn maps(&self) -> anyhow::Result<Vec<MapFill>>;

    /// What went through each service port; empty where nothing is counted.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    fn services(&self) -> anyhow::Result<Vec<ServiceTraffic>>;
}

/// Turns what a [`Kernel`] says into metrics. What cannot be read is left out, with a line in the log.
#[derive(Debug)]
pub struct KernelCollector(pub Arc<dyn Kernel>);

impl Collector for KernelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        match self.0.counters() {
            Ok(counters) if counters.is_empty() => {}
            Ok(counters) => {
                let mut family = encoder.encode_descriptor(
                    "packets",
                    "Packets that the programs did something with, by cause",
                    None,
                    MetricType::Counter,
                )?;
                for (cause, packets) in counters {
                    let labels = [("cause", cause.label())];
                    ConstCounter::new(packets).encode(family.encode_family(&labels)?)?;
                }
            }
            Err(error) => tracing::warn!("the counters cannot be read: {error:#}"),
        }
        let maps = self.0.maps().unwrap_or_else(|error| {
            tracing::warn!("the maps' fill cannot be read: {error:#}");
            Vec::new()
        });
        type Get = fn(&MapFill) -> u64;
        let gauges: [(&str, &str, Get); 3] = [
            ("map_entries", "Elements in a map", |m| m.entries),
            ("map_capacity", "Most elements that a map can have", |m| {
                m.capacity
            }),
            ("map_memory_bytes", "Kernel memory that a map takes", |m| {
                m.memory
            }),
        ];
        for (name, help, get) in gauges.into_iter().filter(|_| !maps.is_empty()) {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for map in &maps {
                let labels = [("map", map.map.as_str())];
                ConstGauge::new(get(map)).encode(family.encode_family(&labels)?)?;
            }
        }
        match self.0.services() {
            Ok(services) if services.is_empty() => Ok(()),
            Ok(services) => encode_services(&mut encoder, &services),
            Err(error) => {
                tracing::warn!("what Services are used cannot be read: {error:#}");
                Ok(())
            }
        }
    }
}

fn encode_services(
    encoder: &mut DescriptorEncoder<'_>,
    services: &[ServiceTraffic],
) -> fmt::Result {
    type Get = fn(&ServiceCount) -> u64;
    let metrics: [(&str, &str, Get); 5] = [
        (
            "service_connections",
            "Connections and flows of datagrams that were opened to a service port",
            |count| count.connections,
        ),
        (
            "service_packets_in",
            "Packets of clients to a service port, but those of the node's own processes",
            |count| count.packets_in,
        ),
        (
            "service_bytes_in",
            "Bytes of these packets, from the IP header on",
            |count| count.bytes_in,
        ),
        (
            "service_packets_out",
            "Packets of a service port's backends to its clients, but to the node's own processes",
            |count| count.packets_out,
        ),
        (
            "service_bytes_out",
            "Bytes of these packets, from the IP header on",
            |count| count.bytes_out,
        ),
    ];
    for (name, help, get) in metrics {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for service in services {
            let labels = [
                ("namespace", service.namespace.as_str()),
                ("service", service.name.as_str()),
                ("port", service.port.as_str()),
                ("ip_family", family_name(service.family)),
            ];
            ConstCounter::new(get(&service.count)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Metrics;

    #[derive(Debug)]
    struct Fake(bool);

    impl Kernel for Fake {
        fn counters(&self) -> anyhow::Result<Vec<(Cause, u64)>> {
            anyhow::ensure!(self.0, "no map");
            Ok(vec![(Cause::DnsAnswered, 7), (Cause::Translated, 9)])
        }

        fn answers(&self) -> anyhow::Result<Option<Box<DnsCounts>>> {
            Ok(None)
        }

        fn maps(&self) -> anyhow::Result<Vec<MapFill>> {
            Ok(vec![MapFill {
                map: "flows".to_owned(),
                entries: 3,
                capacity: 100,
                memory: 4096,
            }])
        }

        fn services(&self) -> anyhow::Result<Vec<ServiceTraffic>> {
            let count = ServiceCount {
                connections: 2,
                packets_in: 10,
                bytes_in: 1000,
                packets_out: 8,
                bytes_out: 5000,
            };
            Ok(vec![ServiceTraffic {
                namespace: "shop".to_owned(),
                name: "cart".to_owned(),
                port: "http".to_owned(),
                family: Family::V6,
                count,
            }])
        }
    }

    #[test]
    fn every_cause_and_map_is_a_metric() {
        let text = Metrics::new(Some(Arc::new(Fake(true)))).text().unwrap();
        for line in [
            "# TYPE signpost_packets counter",
            "signpost_packets_total{cause=\"dns_answered\"} 7",
            "signpost_packets_total{cause=\"translated\"} 9",
            "signpost_map_entries{map=\"flows\"} 3",
            "signpost_map_capacity{map=\"flows\"} 100",
            "signpost_map_memory_bytes{map=\"flows\"} 4096",
            "signpost_service_connections_total{namespace=\"shop\",service=\"cart\",port=\"http\",ip_family=\"IPv6\"} 2",
            "signpost_service_packets_in_total{namespace=\"shop\",service=\"cart\",port=\"http\",ip_family=\"IPv6\"} 10",
            "signpost_service_bytes_in_total{namespace=\"shop\",service=\"cart\",port=\"http\",ip_family=\"IPv6\"} 1000",
            "signpost_service_packets_out_total{namespace=\"shop\",service=\"cart\",port=\"http\",ip_family=\"IPv6\"} 8",
            "signpost_service_bytes_out_total{namespace=\"shop\",service=\"cart\",port=\"http\",ip_family=\"IPv6\"} 5000",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn counters_that_cannot_be_read_leave_the_other_metrics_alone() {
        let text = Metrics::new(Some(Arc::new(Fake(false)))).text().unwrap();
        assert!(!text.contains("signpost_packets"));
        assert!(text.contains("signpost_map_entries"));
        assert!(text.contains("signpost_build_info"));
    }
}
