//! The addresses that a Service of a scenario has, by its slot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a Service's addresses come from: no two Services of a run have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(u16);

/// Services of a scenario.
const OF_SCENARIO: u16 = 2;

/// NodePorts of a Service, the last for health checks.
const NODE_PORTS: u16 = 4;

impl Slot {
    /// The slot of a Service in a scenario.
    pub(crate) fn new(scenario: usize, service: &str) -> Self {
        let scenario = u16::try_from(scenario).expect("fewer scenarios");
        let slot = Self(scenario * OF_SCENARIO + u16::from(service != "s"));
        assert!(
            slot.node_port_base() + NODE_PORTS <= 32768,
            "more Services than there are NodePorts"
        );
        slot
    }

    pub(crate) const fn cluster_ips(self) -> [IpAddr; 2] {
        self.pair([10, 96], [0xfd96, 0, 0])
    }

    /// Within the range of ClusterIPs, and never a Service's.
    pub(crate) const fn unallocated(self) -> [IpAddr; 2] {
        Self(self.0 + 0x2000).cluster_ips()
    }

    pub(crate) const fn external_ips(self) -> [IpAddr; 2] {
        self.pair([198, 18], [0x2001, 0xdb8, 0x18])
    }

    pub(crate) const fn ingress(self) -> [IpAddr; 2] {
        self.pair([198, 19], [0x2001, 0xdb8, 0x19])
    }

    /// The NodePort of a port: those from 80 on have one each.
    pub(crate) const fn node_port(self, port: u16) -> u16 {
        self.node_port_base() + (port - 80)
    }

    pub(crate) const fn health_check_node_port(self) -> u16 {
        self.node_port_base() + NODE_PORTS - 1
    }

    const fn node_port_base(self) -> u16 {
        30000 + self.0 * NODE_PORTS
    }

    const fn pair(self, v4: [u8; 2], v6: [u16; 3]) -> [IpAddr; 2] {
        let number = self.0 + 0x100;
        let [high, low] = number.to_be_bytes();
        [
            IpAddr::V4(Ipv4Addr::new(v4[0], v4[1], high, low)),
            IpAddr::V6(Ipv6Addr::new(v6[0], v6[1], v6[2], 0, 0, 0, 0, number)),
        ]
    }
}
