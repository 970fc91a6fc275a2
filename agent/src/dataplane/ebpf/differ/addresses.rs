//! What each address is to the programs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
};

use signpost_common::{
    Address,
    dns::Network,
    service::{AddressValue, FrontendKey},
};

use super::{
    super::{
        Pressure,
        tables::{Addresses, Table, Tables},
    },
    batch::{Batch, delete},
    destinations::DestinationFilter,
};
use crate::dataplane::{NodeAddresses, Report, Update};

/// The addresses.
#[derive(Debug, Default)]
pub(super) struct AddressTable {
    written: HashMap<Address, u32>,
    dns: BTreeSet<Address>,
    node: BTreeSet<Address>,
    node_ports: BTreeSet<Address>,
    foreign: BTreeSet<Address>,
    /// Addresses that are not as they must be, and why.
    unsettled: BTreeMap<Address, String>,
    destinations: DestinationFilter,
}

impl AddressTable {
    /// Takes in what is in the kernel.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn recover(&mut self, tables: &impl Tables) -> io::Result<()> {
        tables.for_each::<Addresses>(&mut |address, value| {
            self.written.insert(*address, value.flags);
            // What these are is told anew where it changed.
            for (flag, set) in [
                (AddressValue::DNS, &mut self.dns),
                (AddressValue::NODE, &mut self.node),
                (AddressValue::NODE_PORT, &mut self.node_ports),
                (AddressValue::FOREIGN, &mut self.foreign),
            ] {
                if value.flags & flag != 0 {
                    set.insert(*address);
                }
            }
        })
    }

    /// Makes sure that the programs look at packets to an address, whatever it is.
    ///
    /// # Errors
    /// Where the map cannot be read or written.
    pub(super) fn cover(&mut self, tables: &mut impl Tables, address: &Address) -> io::Result<()> {
        self.destinations.cover(tables, [address])
    }

    /// The same for all addresses of these networks.
    ///
    /// # Errors
    /// As [`AddressTable::cover`].
    pub(super) fn cover_networks(
        &mut self,
        tables: &mut impl Tables,
        networks: &[Network],
    ) -> io::Result<()> {
        self.destinations.cover_networks(tables, networks)
    }

    /// Takes in what an update says of addresses; [`AddressTable::settle`] carries it out.
    pub(super) fn set(&mut self, update: &Update) {
        let unsettled = &mut self.unsettled;
        let mut replace = |set: &mut BTreeSet<Address>, new: &BTreeSet<IpAddr>| {
            let new: BTreeSet<Address> = new.iter().map(|a| Address::from(*a)).collect();
            for changed in set.symmetric_difference(&new) {
                unsettled.insert(*changed, String::new());
            }
            *set = new;
        };
        if let Some(NodeAddresses { all, node_ports }) = &update.node_addresses {
            replace(&mut self.node, all);
            replace(&mut self.node_ports, node_ports);
        }
        if let Some(dns) = &update.dns_addresses {
            replace(&mut self.dns, &dns.iter().copied().collect());
        }
        if let Some(foreign) = &update.foreign_addresses {
            replace(&mut self.foreign, foreign);
        }
    }

    /// Asks for every address to be looked at: those that are written, and those that must be.
    pub(super) fn unsettle_all<'a>(&mut self, services: impl Iterator<Item = &'a Address>) {
        let own = self
            .written
            .keys()
            .chain(&self.dns)
            .chain(&self.node)
            .chain(&self.node_ports)
            .chain(&self.foreign)
            .copied();
        let all = own.chain(services.copied());
        self.unsettled
            .extend(all.map(|address| (address, String::new())));
    }

    /// Makes addresses what they must be: those that were touched, and those that are not yet settled. `of_services`
    /// says what an address is to Services.
    ///
    /// # Errors
    /// Where the map cannot be changed at all.
    pub(super) fn settle(
        &mut self,
        tables: &mut impl Tables,
        mut touched: BTreeSet<Address>,
        of_services: impl Fn(&Address) -> u32,
        report: &mut Report,
    ) -> io::Result<()> {
        touched.extend(std::mem::take(&mut self.unsettled).into_keys());
        let mut batch = Batch::<Addresses>::new();
        let mut gone = Vec::new();
        for address in touched {
            let flag = |set: bool, flag: u32| if set { flag } else { 0 };
            let flags = of_services(&address)
                | flag(self.dns.contains(&address), AddressValue::DNS)
                | flag(self.node.contains(&address), AddressValue::NODE)
                | flag(self.node_ports.contains(&address), AddressValue::NODE_PORT)
                | flag(self.foreign.contains(&address), AddressValue::FOREIGN);
            if flags == 0 {
                gone.extend(self.written.remove(&address).map(|_| address));
            } else if self.written.insert(address, flags) != Some(flags) {
                batch.push(0, address, AddressValue { flags });
            }
        }
        self.destinations.cover(tables, batch.keys())?;
        for (_, address, failed) in batch.write(tables, report) {
            self.written.remove(&address);
            self.unsettled.insert(address, failed.to_string());
        }
        delete::<Addresses>(tables, &gone, report)
    }

    /// Why the addresses of frontends are not all as they must be.
    pub(super) fn why_unsettled<'a>(
        &self,
        mut frontends: impl Iterator<Item = &'a FrontendKey>,
    ) -> Option<String> {
        frontends.find_map(|key| self.unsettled.get(&key.address).cloned())
    }

    /// How full the map is.
    pub(super) fn pressure(&self) -> Pressure {
        Pressure {
            map: Addresses::NAME,
            elements: self.written.len(),
            size: Addresses::SIZE,
        }
    }
}
