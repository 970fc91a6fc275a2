//! Carries updates out: what is written is compared with what is wanted, and the difference is written in an order in
//! which no program ever acts on half a change.
//!
//! Ports that come, names that come, names that go, ports that go: a name never leads to a Service that is not there
//! yet, or not any more. Another zone begins with no names at all, and nothing is answered until they are there: names outside
//! of both zones lead into one of them.

use anyhow::Context;
use signpost_common::{Address, name::HashKeys, service::MemberKey};

use self::{
    addresses::AddressTable, config::ConfigElement, names::NameTable, ports::PortTable,
    ranges::ClusterRanges,
};
use super::{EbpfConfig, Pressure, tables::Tables};
use crate::{
    dataplane::{Handover, Report, Update},
    model::ObjectName,
    plan::PortName,
    zone::Name,
};

mod addresses;
mod batch;
mod change;
mod config;
mod destinations;
mod ids;
mod names;
mod port;
mod ports;
mod ranges;
mod records;
mod recover;
#[cfg(test)]
mod tests;
mod wanted_name;
pub(super) mod wire;

/// What is written, and what it is compared with.
#[derive(Debug)]
pub struct Differ {
    domain: Name,
    config: ConfigElement,
    addresses: AddressTable,
    ports: PortTable,
    names: NameTable,
    cluster: ClusterRanges,
    /// The zone's names are all there is.
    deniable: bool,
    serial: u32,
    started: bool,
}

impl Differ {
    /// The name hash's keys.
    pub fn keys(&self) -> &HashKeys {
        self.config.keys()
    }

    /// Makes sure that the name hash has its keys. What else is in the maps is looked at by the first update.
    ///
    /// # Errors
    /// Where the domain is not one that the kernel can hash, or the configuration cannot be read or written.
    pub fn open(config: EbpfConfig, tables: &mut impl Tables) -> anyhow::Result<Self> {
        Ok(Self {
            config: ConfigElement::open(&config, tables)?,
            addresses: AddressTable::default(),
            cluster: ClusterRanges::new(&config.cluster_ranges),
            domain: config.domain,
            ports: PortTable::new(config.count_services),
            names: NameTable::default(),
            deniable: true,
            serial: 0,
            started: false,
        })
    }

    /// Carries out an update; the first one is the whole state.
    ///
    /// # Errors
    /// Where a map cannot be read or changed at all.
    pub fn apply(&mut self, tables: &mut impl Tables, update: &Update) -> anyhow::Result<Report> {
        const FAILED: &str = "cannot change the maps in the kernel";
        let mut report = Report::default();
        let first = !self.started;
        if first {
            self.recover(tables)
                .context("cannot read the maps in the kernel")?;
        }
        self.addresses.set(update);
        if let Some(addresses) = &update.dns_addresses {
            self.config.set_dns_addresses(addresses);
        }
        if let Some(terms) = &update.zone {
            self.deniable = terms.deniable;
            self.config.set_ttl(terms.ttl);
        }
        if let Some(ranges) = &update.service_ranges {
            self.config.set_service_ranges(ranges);
            self.addresses
                .cover_networks(tables, self.config.service_ranges())
                .context(FAILED)?;
        }
        // Whoever finds the flag that they are known must find them.
        self.cluster.write(tables, &mut report).context(FAILED)?;

        let Self {
            domain,
            addresses,
            ports,
            names,
            config,
            ..
        } = self;
        ports
            .come(tables, addresses, &update.ports, first, &mut report)
            .context(FAILED)?;

        let unserved = ports.unserved();
        let why = |name: &Name| {
            let service = if unserved.is_empty() {
                None
            } else {
                service_of(name, domain)
            };
            let service = service.filter(|service| unserved.contains(service))?;
            Some(format!(
                "Service {service} is not served in the kernel; signpost dns answers for it"
            ))
        };
        if config.is_another_zone() {
            config.fall_silent(tables)?;
            let all = std::iter::empty();
            names
                .go(tables, config.keys(), all, true, &mut report)
                .context(FAILED)?;
        }
        names
            .come(tables, config.keys(), &update.names, why, &mut report)
            .context(FAILED)?;

        let gone = update
            .names
            .iter()
            .filter(|(_, entry)| entry.is_none())
            .map(|(name, _)| name);
        names
            .go(tables, config.keys(), gone, first, &mut report)
            .context(FAILED)?;

        let gone: Vec<PortName> = if first {
            let stays = |name: &PortName| matches!(update.ports.get(name), Some(Some(_)));
            ports
                .written
                .keys()
                .filter(|name| !stays(name))
                .cloned()
                .collect()
        } else {
            let gone = update.ports.iter().filter(|(_, plan)| plan.is_none());
            gone.map(|(name, _)| name.clone()).collect()
        };
        ports
            .go(tables, addresses, gone.iter(), first, &mut report)
            .context(FAILED)?;

        if update.serial != 0 {
            self.serial = update.serial;
        }
        config.set_external_ports(ports.owners.external_ports());
        report.written += usize::from(self.config.write(tables, self.serial)?);
        self.started = true;
        Ok(report)
    }

    /// Deletes old generations of slots.
    ///
    /// # Errors
    /// Where the map cannot be changed at all.
    pub fn sweep(&mut self, tables: &mut impl Tables, now: u64) -> anyhow::Result<Report> {
        let mut report = Report::default();
        self.ports
            .sweep(tables, now, &mut report)
            .context("cannot sweep the slots")?;
        Ok(report)
    }

    /// Says which network namespace's processes are the host's, by its cookie. The next update carries it out.
    pub fn set_host(&mut self, cookie: u64) {
        self.config.set_host(cookie);
    }

    /// Lets the programs of sockets look at pods' sockets.
    ///
    /// # Errors
    /// Where the configuration cannot be written.
    pub fn look_at_pods_sockets(&mut self, tables: &mut impl Tables) -> anyhow::Result<()> {
        self.config.look_at_pods_sockets(tables)
    }

    /// Makes sure that the programs look at packets to an address of this node.
    ///
    /// # Errors
    /// Where the map cannot be read or written.
    pub fn cover(&mut self, tables: &mut impl Tables, address: &Address) -> std::io::Result<()> {
        self.addresses.cover(tables, address)
    }

    /// Says how this node stands to another proxy.
    ///
    /// # Errors
    /// Where the configuration cannot be written.
    pub fn set_handover(
        &mut self,
        tables: &mut impl Tables,
        handover: Handover,
    ) -> anyhow::Result<()> {
        self.config.set_handover(tables, handover)
    }

    /// Endpoints of UDP that served and do not any more, since this was asked last.
    pub fn take_stopped(&mut self) -> Vec<MemberKey> {
        std::mem::take(&mut self.ports.stopped)
    }

    /// Whether the kernel knows every name that exists or may exist, so that it may deny others.
    pub fn may_deny(&self) -> bool {
        self.deniable && self.names.may_deny()
    }

    /// How full each map is.
    pub fn pressure(&self) -> Vec<Pressure> {
        let mut pressure = vec![self.addresses.pressure()];
        pressure.extend(self.ports.pressure());
        pressure.extend(self.names.pressure());
        pressure
    }

    fn recover(&mut self, tables: &mut impl Tables) -> std::io::Result<()> {
        // After a first update that failed half-way, everything is looked at again.
        self.ports = PortTable::new(self.ports.counts);
        self.names = NameTable::default();
        self.addresses.recover(tables)?;
        self.ports.recover(tables, &mut self.cluster)?;
        self.addresses.unsettle_all(self.ports.owners.addresses());
        self.names.recover(tables)
    }
}

/// The Service that a name under `svc.<domain>` belongs to.
fn service_of(name: &Name, domain: &Name) -> Option<ObjectName> {
    let below = name
        .wire()
        .strip_suffix(domain.wire())?
        .strip_suffix(b"\x03svc")?;
    let mut labels = Vec::new();
    let mut rest = below;
    while let Some((&length, tail)) = rest.split_first() {
        let (label, tail) = tail.split_at_checked(length.into())?;
        labels.push(std::str::from_utf8(label).ok()?);
        rest = tail;
    }
    let [.., service, namespace] = labels[..] else {
        return None;
    };
    Some(ObjectName::new(namespace, service))
}
