//! The element of map `config`.

use std::{collections::BTreeSet, io, net::IpAddr};

use anyhow::Context;
use ipnet::IpNet;
use rand::Rng;
use signpost_common::{
    Address,
    dns::{Config, Network, SOA_LENGTH, qtype},
    name::{HashKeys, NameKey, hash},
};

use super::super::{
    EbpfConfig,
    tables::{Clocks, Configs, NotWritten, Table, Tables},
};
use super::ranges::network;
use crate::dataplane::Handover;

/// The longest TTL of the SOA record (semantics of CoreDNS: `min(ttl, 300)`).
const SOA_TTL: u32 = 300;
const REFRESH: u32 = 7200;
const RETRY: u32 = 1800;
const EXPIRE: u32 = 86_400;

/// The configuration that the programs have, and what it is made from.
#[derive(Debug)]
pub(super) struct ConfigElement {
    written: Config,
    /// The zone that the names are of, and the name above its namespaces.
    zone: NameKey,
    services: NameKey,
    negative_grace: u32,
    flags: u32,
    service_ranges: [Network; 4],
    dns: [Address; 4],
    external_ports: [u16; 2],
    ttl: u32,
    host: [u32; 2],
}

impl ConfigElement {
    /// Finds the name hash's keys in the map, or draws them. Programs that are attached go on as they are, with another
    /// zone too.
    ///
    /// # Errors
    /// Where the domain is not one that the kernel can hash, or the map cannot be read or written.
    pub(super) fn open(config: &EbpfConfig, tables: &mut impl Tables) -> anyhow::Result<Self> {
        let found = tables
            .get::<Configs>(&0)
            .context("cannot read the configuration in the kernel")?;
        let keys = found.map(|c| c.hash).filter(|keys| keys.words != [0; 72]);
        let keys = keys.unwrap_or_else(|| HashKeys {
            words: rand::rng().random(),
        });
        let mut services = b"\x03svc".to_vec();
        services.extend(config.domain.wire());
        let (zone, services) = hash(config.domain.wire(), &keys)
            .zip(hash(&services, &keys))
            .context("the cluster domain has too many labels, or is too long")?;
        let blank = Config {
            flags: 0,
            negative_grace: 0,
            zone,
            services,
            soa: [0; 56],
            hash: keys,
            host: [0; 2],
            service_ranges: Default::default(),
            dns: Default::default(),
            external_ports: Config::NO_PORTS,
            pad: 0,
        };
        let known = found.filter(|found| found.hash == keys);
        // Programs that are attached must leave another proxy's connections alone before more interfaces get them.
        let mut written = known.unwrap_or(blank);
        written.flags = with_handover(written.flags, config.handover);
        if found != Some(written) {
            put::<Configs>(tables, written)?;
        }
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        Ok(Self {
            written,
            zone,
            services,
            negative_grace: config
                .negative_grace
                .as_secs()
                .try_into()
                .unwrap_or(u32::MAX),
            flags: flag(config.dns, Config::DNS)
                | written.flags & (Config::SERVICE_RANGES | HANDOVER)
                | flag(config.masquerade_all, Config::MASQUERADE_ALL)
                | flag(config.fast_path, Config::FAST_PATH)
                | flag(!config.cluster_ranges.is_empty(), Config::CLUSTER_RANGES),
            service_ranges: written.service_ranges,
            dns: written.dns,
            external_ports: written.external_ports,
            ttl: config.ttl,
            host: [0; 2],
        })
    }

    /// Whether the programs know another zone than the one that is to be written.
    pub(super) fn is_another_zone(&self) -> bool {
        (self.written.zone, self.written.services) != (self.zone, self.services)
    }

    /// Lets no program answer a question until [`ConfigElement::write`], nor deny anything until the agent says again that it
    /// is in sync. None is under way with an answer when this returns.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub(super) fn fall_silent(&mut self, tables: &mut impl Tables) -> anyhow::Result<()> {
        self.write_flags(tables, self.written.flags & !Config::DNS)?;
        put::<Clocks>(tables, 0)?;
        tables.wait_for_programs();
        Ok(())
    }

    /// The cookie of the network namespace whose processes are the host's.
    pub(super) fn set_host(&mut self, cookie: u64) {
        self.host = [cookie as u32, (cookie >> 32) as u32];
    }

    /// Lets the programs of sockets look at pods' sockets, until the next agent: what a socket has got stays with it.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn look_at_pods_sockets(&mut self, tables: &mut impl Tables) -> anyhow::Result<()> {
        self.flags |= Config::SOCKET_PODS;
        let flags = self.written.flags | Config::SOCKET_PODS;
        self.write_flags(tables, flags)
    }

    /// Tells the programs how this node stands to another proxy.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn set_handover(
        &mut self,
        tables: &mut impl Tables,
        handover: Handover,
    ) -> anyhow::Result<()> {
        self.flags = with_handover(self.flags, handover);
        let flags = with_handover(self.written.flags, handover);
        self.write_flags(tables, flags)
    }

    /// The name hash's keys.
    pub(super) fn keys(&self) -> &HashKeys {
        &self.written.hash
    }

    /// Takes in the networks that ClusterIPs are given out of; [`ConfigElement::write`] carries it out. Of more than the
    /// programs have room for, none: then unallocated addresses are left to the stack.
    pub(super) fn set_service_ranges(&mut self, ranges: &BTreeSet<IpNet>) {
        let ranges: Vec<Network> = ranges.iter().map(network).collect();
        self.flags &= !Config::SERVICE_RANGES;
        self.service_ranges = Default::default();
        if let Some(first) = ranges.first()
            && ranges.len() <= self.service_ranges.len()
        {
            self.flags |= Config::SERVICE_RANGES;
            self.service_ranges = [*first; 4];
            self.service_ranges[..ranges.len()].copy_from_slice(&ranges);
        }
    }

    /// Takes in the cluster's DNS addresses; [`ConfigElement::write`] carries it out. Questions to those that there is no
    /// room for go to the DNS pods.
    pub(super) fn set_dns_addresses(&mut self, addresses: &[IpAddr]) {
        let first = addresses.first().copied().map(Address::from);
        self.dns = [first.unwrap_or_default(); 4];
        for (place, address) in self.dns.iter_mut().zip(addresses) {
            *place = (*address).into();
        }
    }

    /// Takes in for how many seconds negative answers may be kept; [`ConfigElement::write`] carries it out.
    pub(super) const fn set_ttl(&mut self, ttl: u32) {
        self.ttl = ttl;
    }

    /// The networks that ClusterIPs are given out of, as the programs are to know them.
    pub(super) fn service_ranges(&self) -> &[Network] {
        if self.flags & Config::SERVICE_RANGES == 0 {
            return &[];
        }
        &self.service_ranges
    }

    /// Takes in the UDP ports that clients outside the cluster use; [`ConfigElement::write`] carries it out.
    pub(super) fn set_external_ports(&mut self, ports: [u16; 2]) {
        self.external_ports = ports;
    }

    fn write_flags(&mut self, tables: &mut impl Tables, flags: u32) -> anyhow::Result<()> {
        if flags != self.written.flags {
            let config = Config {
                flags,
                ..self.written
            };
            put::<Configs>(tables, config)?;
            self.written = config;
        }
        Ok(())
    }

    /// Writes the configuration where it changed, and says whether it did: the maps are filled.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub(super) fn write(&mut self, tables: &mut impl Tables, serial: u32) -> anyhow::Result<bool> {
        let config = Config {
            flags: self.flags,
            zone: self.zone,
            services: self.services,
            negative_grace: self.negative_grace,
            soa: soa(serial, self.ttl),
            service_ranges: self.service_ranges,
            dns: self.dns,
            external_ports: self.external_ports,
            host: self.host,
            ..self.written
        };
        if config == self.written {
            return Ok(false);
        }
        if self.is_another_zone() {
            // An element is not written in one step: who sees that questions are answered must see the whole zone.
            let silent = Config {
                flags: config.flags & !Config::DNS,
                ..config
            };
            put::<Configs>(tables, silent)?;
            self.written = silent;
            tables.wait_for_programs();
        }
        put::<Configs>(tables, config)?;
        self.written = config;
        Ok(true)
    }
}

/// The flags that say how this node stands to another proxy.
const HANDOVER: u32 = Config::TAKEOVER | Config::DRAIN;

/// Flags with what they say of another proxy replaced.
pub(in super::super) const fn with_handover(flags: u32, handover: Handover) -> u32 {
    let mut flags = flags & !HANDOVER;
    if handover.takeover {
        flags |= Config::TAKEOVER;
    }
    if handover.drain {
        flags |= Config::DRAIN;
    }
    flags
}

/// Writes the one element of a map.
fn put<T: Table<Key = u32>>(tables: &mut impl Tables, value: T::Value) -> anyhow::Result<()> {
    let failed = tables.put::<T>(&[(0, value)]).pop();
    let result: io::Result<()> = failed.map_or(Ok(()), |NotWritten { error, .. }| Err(error));
    result.context("cannot write the configuration in the kernel")
}

/// `<zone> SOA ns.dns.<zone> hostmaster.<zone> serial 7200 1800 86400 <ttl>` as CoreDNS has it, with two zero bytes
/// for each pointer to the zone.
fn soa(serial: u32, ttl: u32) -> [u8; 56] {
    const POINTER: [u8; 2] = [0, 0];
    let mut data = b"\x02ns\x03dns".to_vec();
    data.extend(POINTER);
    data.extend(b"\x0ahostmaster");
    data.extend(POINTER);
    for number in [serial, REFRESH, RETRY, EXPIRE, ttl] {
        data.extend(number.to_be_bytes());
    }
    let mut record = POINTER.to_vec();
    record.extend(qtype::SOA.to_be_bytes());
    record.extend(1_u16.to_be_bytes());
    record.extend(ttl.min(SOA_TTL).to_be_bytes());
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    let mut soa = [0; 56];
    soa[..SOA_LENGTH].copy_from_slice(&record);
    soa
}

#[cfg(test)]
mod tests {
    use hickory_proto::{op::Message, rr::RData};
    use signpost_common::dns::SOA_POINTERS;

    use super::*;

    #[test]
    fn the_soa_record_is_the_one_of_coredns() {
        let mut soa = soa(1_790_000_000, 600);
        for at in SOA_POINTERS {
            soa[at..at + 2].copy_from_slice(&[0xc0, 12 + 4]);
        }
        let mut message = vec![0, 1, 0x84, 3, 0, 1, 0, 0, 0, 1, 0, 0];
        message.extend(b"\x03ent\x07cluster\x05local\0\0\x01\0\x01");
        message.extend(&soa[..SOA_LENGTH]);
        let message = Message::from_vec(&message).unwrap();
        let record = &message.authorities[0];
        assert_eq!(
            (record.name.to_string().as_str(), record.ttl),
            ("cluster.local.", 300)
        );
        let RData::SOA(soa) = &record.data else {
            panic!("{record:?}")
        };
        assert_eq!(soa.mname.to_string(), "ns.dns.cluster.local.");
        assert_eq!(soa.rname.to_string(), "hostmaster.cluster.local.");
        assert_eq!(
            (soa.serial, soa.refresh, soa.retry),
            (1_790_000_000, 7200, 1800)
        );
        assert_eq!((soa.expire, soa.minimum), (86_400, 600));
    }
}
