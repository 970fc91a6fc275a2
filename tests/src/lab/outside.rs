//! Machines on the wire that are no nodes: clients from outside, and the world that a packet reaches which no node took.

use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{
    Lab, WIRE, address,
    cgroup::Cgroup,
    links::{self, End, Prefix, add_addresses, add_route, anywhere},
    namespace::{Namespace, Spec},
    node::{self, MTU, Node},
    process::Command,
};

/// A machine on the wire.
#[derive(Debug)]
pub struct Outside {
    namespace: Arc<Namespace>,
    cgroup: Cgroup,
    addresses: [IpAddr; 2],
}

impl Outside {
    /// Puts a machine on the wire, with 192.168.50.NUMBER and fd00:50::NUMBER; the wire is its way to everywhere.
    ///
    /// # Errors
    /// Where the number is taken.
    pub fn new(lab: &Lab, number: u8) -> anyhow::Result<Self> {
        let shared = &lab.shared;
        let namespace = Namespace::new(Spec::default())?;
        node::prepare(&namespace)?;
        let port = format!("outside{number}");
        let uplink = End {
            namespace: &namespace,
            name: "eth0",
            mac: None,
        };
        let other = End {
            namespace: &shared.wire,
            name: &port,
            mac: None,
        };
        links::veth(&uplink, &other, MTU)?;
        links::enslave(&shared.wire, &port, "wire")?;
        let addresses = [
            IpAddr::V4(Ipv4Addr::new(192, 168, 50, number)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, number.into())),
        ];
        let [v4, v6] = addresses;
        add_addresses(&namespace, "eth0", &[(v4, 24), (v6, 64)])?;
        for gateway in WIRE.map(address) {
            add_route(&namespace, anywhere(gateway), Some(gateway), "eth0")?;
        }
        Ok(Self {
            namespace: Arc::new(namespace),
            cgroup: shared.workplace.cgroup.child(&port)?,
            addresses,
        })
    }

    /// Sends what is for these networks to a node.
    ///
    /// # Errors
    /// Where there are such routes already.
    pub fn route_over(&self, node: &Node, networks: &[Prefix]) -> anyhow::Result<()> {
        for network in networks {
            let mut gateways = node.addresses().into_iter();
            let gateway = gateways.find(|gateway| gateway.is_ipv4() == network.0.is_ipv4());
            add_route(&self.namespace, *network, gateway, "eth0")?;
        }
        Ok(())
    }

    /// Takes every packet for these networks that the wire cannot bring to anybody else as its own.
    ///
    /// # Errors
    /// Where another machine does already.
    pub fn stand_in_for(&self, lab: &Lab, networks: &[Prefix]) -> anyhow::Result<()> {
        for network in networks {
            links::add_local_route(&self.namespace, *network)?;
            let mut own = self.addresses.into_iter();
            let gateway = own.find(|own| own.is_ipv4() == network.0.is_ipv4());
            add_route(lab.wire(), *network, gateway, "wire")?;
        }
        Ok(())
    }

    /// Its addresses, IPv4 and IPv6.
    pub const fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }

    /// Its network.
    pub const fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// A program on it.
    ///
    /// # Errors
    /// Where its cgroup is gone.
    pub fn command(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        Command::new(program, Arc::clone(&self.namespace), &self.cgroup)
    }
}
