//! What each address is to the programs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
};

use signpost_common::{
    Address,
    service::{AddressValue, FrontendKey},
};

use super::{
    super::{
        Pressure,
        tables::{Addresses, Table, Tables},
    },
    batch::{Batch, delete},
};
use crate::dataplane::Report;

/// The addresses.
#[derive(Debug, Default)]
pub(super) struct AddressTable {
    written: HashMap<Address, u32>,
    dns: BTreeSet<Address>,
    node: BTreeSet<Address>,
    /// Addresses that are not as they must be, and why.
    unsettled: BTreeMap<Address, String>,
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
            if value.flags & AddressValue::DNS != 0 {
                self.dns.insert(*address);
            }
            if value.flags & AddressValue::NODE != 0 {
                self.node.insert(*address);
            }
        })
    }

    /// Takes in this node's addresses; [`AddressTable::settle`] carries it out.
    pub(super) fn set_node(&mut self, node: &[IpAddr]) {
        let node: BTreeSet<Address> = node.iter().map(|a| Address::from(*a)).collect();
        for changed in self.node.symmetric_difference(&node) {
            self.unsettled.insert(*changed, String::new());
        }
        self.node = node;
    }

    /// Takes in the cluster DNS addresses, likewise.
    pub(super) fn set_dns(&mut self, dns: &[IpAddr]) {
        let dns: BTreeSet<Address> = dns.iter().map(|a| Address::from(*a)).collect();
        for changed in self.dns.symmetric_difference(&dns) {
            self.unsettled.insert(*changed, String::new());
        }
        self.dns = dns;
    }

    /// Asks for every address to be looked at: those that are written, and those that must be.
    pub(super) fn unsettle_all<'a>(&mut self, services: impl Iterator<Item = &'a Address>) {
        let own = self
            .written
            .keys()
            .chain(&self.dns)
            .chain(&self.node)
            .copied();
        let all = own.chain(services.copied());
        self.unsettled
            .extend(all.map(|address| (address, String::new())));
    }

    /// Makes addresses what they must be: those that were touched, and those that are not yet settled.
    ///
    /// # Errors
    /// Where the map cannot be changed at all.
    pub(super) fn settle(
        &mut self,
        tables: &mut impl Tables,
        mut touched: BTreeSet<Address>,
        is_service: impl Fn(&Address) -> bool,
        report: &mut Report,
    ) -> io::Result<()> {
        touched.extend(std::mem::take(&mut self.unsettled).into_keys());
        let mut batch = Batch::<Addresses>::new();
        let mut gone = Vec::new();
        for address in touched {
            let flag = |set: bool, flag: u32| if set { flag } else { 0 };
            let flags = flag(is_service(&address), AddressValue::SERVICE)
                | flag(self.dns.contains(&address), AddressValue::DNS)
                | flag(self.node.contains(&address), AddressValue::NODE);
            if flags == 0 {
                gone.extend(self.written.remove(&address).map(|_| address));
            } else if self.written.insert(address, flags) != Some(flags) {
                batch.push(0, address, AddressValue { flags });
            }
        }
        for (_, address, failed) in batch.write(tables, report) {
            self.written.remove(&address);
            self.unsettled.insert(address, failed.to_string());
        }
        delete::<Addresses>(tables, &gone, report)
    }

    /// Why the addresses of frontends are not all as they must be.
    pub(super) fn why_unsettled(&self, frontends: &[FrontendKey]) -> Option<String> {
        frontends
            .iter()
            .find_map(|key| self.unsettled.get(&key.address).cloned())
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
