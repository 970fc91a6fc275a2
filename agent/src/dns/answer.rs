//! From what the zone says to records on the wire.

use hickory_proto::rr::{
    Name as WireName, RData, Record as WireRecord,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};
use std::net::IpAddr;

use crate::zone::{Name, Record, RecordData, Zone};

/// CoreDNS's SOA: refresh, retry, expire, in seconds.
const SOA_TIMES: (i32, i32, i32) = (7200, 1800, 86_400);

/// The question's name, in the letter case of its asker.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) wire: WireName,
    /// In the cluster's own domain, where it was asked for in another one.
    pub(super) name: Name,
    /// The zone as the asker wrote it: one of the cluster's domains, or a zone of reverse names. Empty where the name is
    /// in none.
    domain: Vec<u8>,
}

impl Asked {
    /// `None` where the name cannot be had in wire form.
    pub(super) fn new(wire: &WireName, zone: &Zone) -> Option<Self> {
        let bytes: Vec<u8> = wire
            .iter()
            .flat_map(|label| std::iter::once(label.len() as u8).chain(label.iter().copied()))
            .collect();
        let name = Name::from_wire(&bytes)?;
        let own = &zone.config().domain;
        let domain = zone.domain_of(&name);
        let around = domain.unwrap_or_else(|| zone.zone_of(&name));
        let inside = name.below(around).is_some();
        let start = bytes.len() - around.wire().len().min(bytes.len());
        let written = if inside {
            bytes[start..].to_vec()
        } else {
            Vec::new()
        };
        let name = match domain {
            Some(domain) if domain != own && !zone.is_elsewhere(&name) => {
                Name::from_wire(&[&name.wire()[..start], own.wire()].concat())?
            }
            _ => name,
        };
        // An escaped or relative form must not come back as another name.
        let mut wire = wire.clone();
        wire.set_fqdn(true);
        Some(Self {
            wire,
            name,
            domain: written,
        })
    }

    /// A name on the wire, with the letter case of the asker in the zone part, as CoreDNS writes servers' names. Aliases
    /// lead to what they were told, in its own letters.
    fn write(&self, name: &Name, zone: &Name) -> WireName {
        let bytes = name.wire();
        if self.domain.is_empty() || name.below(zone).is_none() {
            return to_wire(bytes);
        }
        let start = bytes.len() - zone.wire().len();
        to_wire(&[&bytes[..start], &self.domain].concat())
    }

    /// Records of a section.
    pub(super) fn records(&self, zone: &Zone, records: &[Record]) -> Vec<WireRecord> {
        // Pointers lead to names of the cluster's own domain, as they are.
        let domain = zone.zone_of(&self.name);
        let is_alias = |record: &Record| matches!(record.data, RecordData::Cname(_));
        let aliases = records.iter().any(is_alias);
        records
            .iter()
            .map(|record| {
                let owner = match &record.owner {
                    Some(owner) if aliases => to_wire(owner.wire()),
                    Some(owner) => self.write(owner, domain),
                    None => self.wire.clone(),
                };
                let data = match &record.data {
                    RecordData::Address(IpAddr::V4(a)) => RData::A(A(*a)),
                    RecordData::Address(IpAddr::V6(a)) => RData::AAAA(AAAA(*a)),
                    RecordData::Cname(name) => RData::CNAME(CNAME(to_wire(name.wire()))),
                    RecordData::Ptr(name) => RData::PTR(PTR(self.write(name, domain))),
                    RecordData::Ns(name) => RData::NS(NS(self.write(name, domain))),
                    RecordData::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
                    RecordData::Srv {
                        priority,
                        weight,
                        port,
                        target,
                    } => RData::SRV(SRV::new(
                        *priority,
                        *weight,
                        *port,
                        self.write(target, domain),
                    )),
                    RecordData::Soa => return self.soa(zone),
                };
                WireRecord::from_rdata(owner, record.ttl, data)
            })
            .collect()
    }

    /// The zone's SOA record, for answers and for the authority section of negative ones.
    pub(super) fn soa(&self, zone: &Zone) -> WireRecord {
        let config = zone.config();
        let apex = zone.zone_of(&self.name);
        let below = |labels: &[&str]| {
            let mut labels = labels.iter().rev();
            let name = labels.try_fold(apex.clone(), |name, label| name.child(label));
            name.map_or_else(WireName::root, |name| self.write(&name, apex))
        };
        let (refresh, retry, expire) = SOA_TIMES;
        let data = SOA::new(
            below(&["ns", "dns"]),
            below(&["hostmaster"]),
            zone.serial(),
            refresh,
            retry,
            expire,
            config.ttl,
        );
        let owner = self.write(apex, apex);
        WireRecord::from_rdata(owner, config.ttl.min(300), RData::SOA(data))
    }
}

/// A name on the wire.
pub(super) fn to_wire(bytes: &[u8]) -> WireName {
    let mut labels: Vec<&[u8]> = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first() {
        let (label, after) = after.split_at(usize::from(*length).min(after.len()));
        labels.push(label);
        rest = after;
    }
    WireName::from_labels(labels).unwrap_or_else(|_| WireName::root())
}
