//! The dataplane of BPF programs, as the agent drives it.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf};

use anyhow::ensure;
use signpost_common::device::DeviceValue;

use super::{super::AtInterfaces, ipvs};
use crate::{
    config::{AgentConfig, DnsAnswers},
    dataplane::{
        Handover, Refusal,
        ebpf::{EbpfConfig, EbpfDataplane, cgroup::find_root, drain, takeover},
    },
    interfaces::{Addresses, Interface, Place},
    namespaces::SocketPod,
    zone::ZoneConfig,
};

pub(super) fn open_programs(
    config: &AgentConfig,
    zone: &ZoneConfig,
) -> anyhow::Result<(EbpfDataplane, Handover)> {
    let root = &config.instance.bpffs_root;
    let found = takeover::at_start(root);
    let handover = Handover {
        takeover: found.takeover || ipvs::has_connections(),
        // Until the maps are filled, those who served the node meanwhile know more.
        drain: drain::is_on(root) || drain::is_handed_over(root),
    };
    let mut dataplane = EbpfDataplane::open(EbpfConfig {
        pin_root: root.clone(),
        domain: zone.domain.clone(),
        ttl: zone.ttl,
        dns: config.dns_answers != DnsAnswers::Pods,
        negative_grace: config.negative_grace(),
        handover,
        cluster_ranges: config.cluster_cidr.clone(),
        masquerade_all: config.masquerade_all,
        fast_path: config.fast_path,
        count_services: config.count_services,
        cgroup_root: config.cgroup_root.clone().or_else(find_cgroup_root),
    })?;
    dataplane.keep_clear(&found)?;
    Ok((dataplane, handover))
}

impl AtInterfaces for EbpfDataplane {
    fn prepare(&mut self, interface: &Interface) -> anyhow::Result<()> {
        let Addresses { v4, v6 } = interface.addresses;
        self.set_device(interface.index, v4, v6)?;
        if interface.place == Place::Bare || interface.ethernet {
            Self::prepare(self, interface.index, &interface.name, interface.place)?;
        }
        Ok(())
    }

    fn attach(&mut self, interface: &Interface) -> anyhow::Result<()> {
        ensure!(
            interface.place == Place::Bare || interface.ethernet,
            "interface {}: its packets begin neither with an Ethernet header nor with the IP header, one of which the \
             programs need; NodePorts and masqueraded Services do not work over it",
            interface.name
        );
        let Addresses { v4, v6 } = interface.addresses;
        self.set_device(interface.index, v4, v6)?;
        Self::attach(self, interface.index, &interface.name, interface.place)
    }

    fn attached(&self) -> Vec<u32> {
        Self::attached(self).keys().copied().collect()
    }

    fn lost(&mut self) -> Vec<u32> {
        self.look_again()
    }

    fn forget(&mut self, index: u32) -> anyhow::Result<()> {
        Self::detach(self, index)
    }

    fn serve_at_sockets(&mut self, pods: &[SocketPod]) -> Vec<Refusal> {
        self.serve_pods(pods)
    }

    fn set_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        let v4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.iter().find_map(|address| match address {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        self.set_device(DeviceValue::ANY, v4, v6)
    }
}

/// Where cgroup2 is mounted, as this process sees it.
fn find_cgroup_root() -> Option<PathBuf> {
    find_root(&std::fs::read_to_string("/proc/self/mountinfo").ok()?)
}
