//! What the kernel counts, for metrics, in each mode.

use std::{path::PathBuf, sync::Arc};

use signpost_common::{Cause, tally::DnsCounts};

use super::AgentConfig;
use crate::{
    admin::kernel::{Kernel, MapFill, ServiceTraffic},
    dataplane::{ebpf::view::View, ipvs::view},
    model::Family,
};

/// Who reads it; `None` where nothing is counted.
pub(super) fn kernel(config: &AgentConfig, by_programs: bool) -> Option<Arc<dyn Kernel>> {
    if by_programs {
        Some(Arc::new(Pinned(config.instance.bpffs_root.clone())))
    } else if config.count_services {
        Some(Arc::new(Counting(config.instance.state_folder.clone())))
    } else {
        None
    }
}

/// What the programs count. Opened anew for each scrape, so that it is the instance's current maps.
#[derive(Debug)]
struct Pinned(PathBuf);

impl Kernel for Pinned {
    fn counters(&self) -> anyhow::Result<Vec<(Cause, u64)>> {
        Ok(View::open(&self.0)?.counters()?)
    }

    fn answers(&self) -> anyhow::Result<Option<Box<DnsCounts>>> {
        Ok(Some(Box::new(View::open(&self.0)?.answer_counts()?)))
    }

    fn maps(&self) -> anyhow::Result<Vec<MapFill>> {
        let fill = View::open(&self.0)?.fill()?;
        let fill = fill.into_iter().map(|f| MapFill {
            map: f.map.to_owned(),
            entries: f.elements as u64,
            capacity: f.size.into(),
            memory: f.memory,
        });
        Ok(fill.collect())
    }

    fn services(&self) -> anyhow::Result<Vec<ServiceTraffic>> {
        let counts = View::open(&self.0)?.service_counts()?.into_iter();
        let counts = counts.map(|(service, count)| {
            let [namespace, name, port] = service.names().unwrap_or_default().map(str::to_owned);
            ServiceTraffic {
                namespace,
                name,
                port,
                family: if service.family == 4 {
                    Family::V4
                } else {
                    Family::V6
                },
                count,
            }
        });
        Ok(counts.collect())
    }
}

/// What the virtual servers count, of what is served by the state folder.
#[derive(Debug)]
struct Counting(PathBuf);

impl Kernel for Counting {
    fn counters(&self) -> anyhow::Result<Vec<(Cause, u64)>> {
        Ok(Vec::new())
    }

    fn answers(&self) -> anyhow::Result<Option<Box<DnsCounts>>> {
        Ok(None)
    }

    fn maps(&self) -> anyhow::Result<Vec<MapFill>> {
        Ok(Vec::new())
    }

    fn services(&self) -> anyhow::Result<Vec<ServiceTraffic>> {
        let counts = view::traffic(&self.0)?.into_iter();
        let counts = counts.map(|(port, count)| ServiceTraffic {
            namespace: port.namespace,
            name: port.name,
            port: port.port,
            family: port.family,
            count,
        });
        Ok(counts.collect())
    }
}
