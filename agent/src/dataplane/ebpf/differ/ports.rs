//! Service ports: what is written of them, and how a change is written without a torn or empty moment.
//!
//! A port that comes or changes: endpoints that are new, all slots of a new generation, the element of `services`, the
//! frontends (one write each, which is the moment of the change), the addresses, and then what the old state had and
//! the new one has not. The slots of the old generation go in a later sweep, when no program can still be reading
//! them. A port that goes: frontends, addresses, endpoints, slots, `services`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
};

use signpost_common::{
    Address,
    dns::Config,
    service::{AddressValue, FrontendKey, FrontendValue, MemberKey, RangeKey, SlotKey},
};

use super::{
    super::{
        Pressure,
        tables::{Frontends, Members, ServiceCounts, Services, Slots, SourceRanges, Table, Tables},
    },
    addresses::AddressTable,
    batch::delete,
    change::{self, Change},
    ids::Ids,
    port::{Elements, Written, member_key, serves, service_value},
    ranges::range_key,
};
use crate::{
    dataplane::{Refusal, Report},
    model::{ObjectName, Protocol},
    plan::{PortName, PortPlan},
};

/// Programs that read a frontend before it changed are through with its slots after this time, in nanoseconds.
const RETIRED_FOR: u64 = 1_000_000_000;

/// All service ports.
#[derive(Debug, Default)]
pub(super) struct PortTable {
    pub(super) written: BTreeMap<PortName, Written>,
    pub(super) owners: Owners,
    pub(super) ids: Ids,
    pub(super) retired: Vec<Retired>,
    pub(super) strays: Strays,
    /// Endpoints of UDP that served and do not any more.
    pub(super) stopped: Vec<MemberKey>,
    /// What goes through service ports is counted.
    pub(super) counts: bool,
    /// Ports that were refused.
    waiting: BTreeMap<PortName, PortPlan>,
}

/// Slots of a generation that is not in use any more.
#[derive(Debug)]
pub(super) struct Retired {
    /// When a sweep saw them first.
    since: Option<u64>,
    keys: Vec<SlotKey>,
}

impl Retired {
    /// From now on.
    pub(super) fn new(keys: Vec<SlotKey>) -> Self {
        Self { since: None, keys }
    }
}

/// Elements found at start that belong to no service port.
#[derive(Debug, Default)]
pub(super) struct Strays {
    pub(super) frontends: Vec<FrontendKey>,
    pub(super) members: Vec<MemberKey>,
    pub(super) ranges: Vec<RangeKey>,
    pub(super) services: Vec<u32>,
}

/// Whose each frontend is.
#[derive(Debug, Default)]
pub(super) struct Owners {
    by_key: HashMap<FrontendKey, Owner>,
    /// The UDP ports that clients outside the cluster use, each with how many frontends have it.
    external_ports: BTreeMap<u16, usize>,
    at: HashMap<Address, Count>,
}

#[derive(Debug)]
struct Owner {
    name: PortName,
    external: bool,
}

/// How many frontends there are at an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    all: usize,
    /// Those for which it is a ClusterIP.
    cluster_ip: usize,
}

impl Owners {
    /// The frontend is this port's from now on.
    pub(super) fn claim(&mut self, key: FrontendKey, value: &FrontendValue, name: &PortName) {
        let external = value.flags & FrontendValue::EXTERNAL != 0;
        let owner = Owner {
            name: name.clone(),
            external,
        };
        let before = self.by_key.insert(key, owner);
        if let Some(before) = &before {
            self.count_port(&key, before.external, false);
        }
        self.count_port(&key, external, true);
        if is_node_port(&key.address) {
            return;
        }
        let count = self.at.entry(key.address).or_default();
        count.all += usize::from(before.is_none());
        count.cluster_ip -= usize::from(before.is_some_and(|before| !before.external));
        count.cluster_ip += usize::from(!external);
    }

    /// The frontend goes, if it is this port's. Says whether it was.
    pub(super) fn give_up(&mut self, key: &FrontendKey, name: &PortName) -> bool {
        if self.name(key) != Some(name) {
            return false;
        }
        let owner = self.by_key.remove(key);
        if let Some(owner) = &owner {
            self.count_port(key, owner.external, false);
        }
        if let Some(count) = self.at.get_mut(&key.address) {
            count.all -= 1;
            count.cluster_ip -= usize::from(owner.is_some_and(|owner| !owner.external));
            if *count == Count::default() {
                self.at.remove(&key.address);
            }
        }
        true
    }

    /// The lowest and the highest UDP port that clients outside the cluster use, as in [`Config::external_ports`].
    pub(super) fn external_ports(&self) -> [u16; 2] {
        let lowest = self.external_ports.first_key_value();
        let highest = self.external_ports.last_key_value();
        match (lowest, highest) {
            (Some((lowest, _)), Some((highest, _))) => [*lowest, *highest],
            _ => Config::NO_PORTS,
        }
    }

    fn count_port(&mut self, key: &FrontendKey, external: bool, more: bool) {
        if !external || key.protocol != Protocol::Udp.number() {
            return;
        }
        let count = self.external_ports.entry(key.port.get()).or_default();
        *count = if more { *count + 1 } else { *count - 1 };
        if *count == 0 {
            self.external_ports.remove(&key.port.get());
        }
    }

    /// The addresses of all frontends.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.at.keys()
    }

    /// What the address is by its frontends: flags of [`AddressValue`].
    fn flags(&self, address: &Address) -> u32 {
        match self.at.get(address) {
            None => 0,
            Some(Count { cluster_ip: 0, .. }) => AddressValue::SERVICE,
            Some(_) => AddressValue::SERVICE | AddressValue::CLUSTER_IP,
        }
    }

    fn name(&self, key: &FrontendKey) -> Option<&PortName> {
        self.by_key.get(key).map(|owner| &owner.name)
    }
}

impl PortTable {
    /// Nothing is known yet. `counts` as in [`super::super::EbpfConfig::count_services`].
    pub(super) fn new(counts: bool) -> Self {
        Self {
            counts,
            ..Self::default()
        }
    }

    /// Writes the ports that come or change, and those that still wait. With `whole`, ports that are not among them
    /// are going.
    ///
    /// # Errors
    /// Where a map cannot be changed at all.
    pub(super) fn come(
        &mut self,
        tables: &mut impl Tables,
        addresses: &mut AddressTable,
        ports: &BTreeMap<PortName, Option<PortPlan>>,
        whole: bool,
        report: &mut Report,
    ) -> io::Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|name, _| !ports.contains_key(name));
        let mut wanted: BTreeMap<&PortName, &PortPlan> = waiting.iter().collect();
        wanted.extend(
            ports
                .iter()
                .filter_map(|(name, plan)| Some((name, plan.as_ref()?))),
        );
        let going = |name: &PortName| ports.get(name).map_or(whole, Option::is_none);
        let mut changes = self.changes(&wanted, going, |name| waiting.contains_key(name));

        change::write_members(tables, &mut changes, report);
        change::write_slots(tables, &mut changes, report);
        change::write_ranges(tables, &mut changes, report);
        change::write_services(tables, &mut changes, report);
        change::take_back(tables, &mut changes, report)?;
        let touched = change::write_frontends(tables, &mut changes, &mut self.owners, report)?;
        addresses.settle(
            tables,
            touched,
            |address| self.owners.flags(address),
            report,
        )?;
        change::remove_leftovers(tables, &mut changes, report)?;

        for mut change in changes {
            let unsettled = addresses.why_unsettled(change.elements.keys());
            if let Some(reason) = change.refused.take().or(unsettled) {
                report.refused.push(Refusal {
                    object: text(&change.name),
                    reason,
                });
                if let Some(plan) = wanted.get(&change.name) {
                    self.waiting.insert(change.name.clone(), (*plan).clone());
                }
            }
            self.retired
                .extend(change.retired_slots().map(Retired::new));
            if change.name.protocol == Protocol::Udp {
                self.stopped.extend(change.stopped());
            }
            match change.into_written() {
                Ok((name, written)) => drop(self.written.insert(name, written)),
                Err(id) => self.ids.release(id),
            }
        }
        Ok(())
    }

    /// Removes ports, and with `strays` what was found at start and belongs to none.
    ///
    /// # Errors
    /// Where a map cannot be changed at all.
    pub(super) fn go<'a>(
        &mut self,
        tables: &mut impl Tables,
        addresses: &mut AddressTable,
        ports: impl Iterator<Item = &'a PortName>,
        strays: bool,
        report: &mut Report,
    ) -> io::Result<()> {
        let mut gone = Strays::default();
        let mut slots = Vec::new();
        for name in ports {
            self.waiting.remove(name);
            let Some(written) = self.written.remove(name) else {
                continue;
            };
            let keys = written.frontends.iter().map(|(key, _)| *key);
            gone.frontends
                .extend(keys.filter(|key| self.owners.give_up(key, name)));
            let members = || written.members.iter();
            gone.members
                .extend(members().map(|(at, _)| member_key(written.id, *at)));
            if name.protocol == Protocol::Udp {
                let stopped = members().filter(|(_, flags)| serves(*flags));
                self.stopped
                    .extend(stopped.map(|(at, _)| member_key(written.id, *at)));
            }
            slots.extend(
                written
                    .sets
                    .slots(written.id, written.generation)
                    .map(|(key, _)| key),
            );
            let ranges = written.ranges.iter();
            gone.ranges
                .extend(ranges.map(|range| range_key(written.id, *range)));
            gone.services.push(written.id);
            self.ids.release(written.id);
        }
        if strays {
            let strays = std::mem::take(&mut self.strays);
            let taken = |key: &FrontendKey| self.owners.by_key.contains_key(key);
            gone.frontends
                .extend(strays.frontends.into_iter().filter(|key| !taken(key)));
            gone.members.extend(strays.members);
            gone.ranges.extend(strays.ranges);
            gone.services.extend(strays.services);
            addresses.unsettle_all(self.owners.addresses());
        }
        delete::<Frontends>(tables, &gone.frontends, report)?;
        let touched = gone.frontends.iter().map(|key| key.address).collect();
        addresses.settle(
            tables,
            touched,
            |address| self.owners.flags(address),
            report,
        )?;
        delete::<Members>(tables, &gone.members, report)?;
        delete::<SourceRanges>(tables, &gone.ranges, report)?;
        delete::<Slots>(tables, &slots, report)?;
        if self.counts {
            // An id is given to another service port in time, which begins anew.
            tables.delete::<ServiceCounts>(&gone.services)?;
        }
        delete::<Services>(tables, &gone.services, report)
    }

    /// Deletes the slots of generations that nobody can be reading any more.
    ///
    /// # Errors
    /// Where the map cannot be changed at all.
    pub(super) fn sweep(
        &mut self,
        tables: &mut impl Tables,
        now: u64,
        report: &mut Report,
    ) -> io::Result<()> {
        if self.retired.is_empty() {
            return Ok(());
        }
        let mut used: HashMap<(u32, u32), [u32; 2]> = HashMap::new();
        for written in self.written.values() {
            for (generation, [cluster, local]) in written.used() {
                let most = used.entry((written.id, generation)).or_default();
                *most = [most[0].max(cluster), most[1].max(local)];
            }
        }
        let is_used = |key: &SlotKey| {
            let of_generation = used.get(&(key.service, key.generation));
            of_generation.is_some_and(|[cluster, local]| {
                match key.index.checked_sub(SlotKey::LOCAL) {
                    Some(index) => index < *local,
                    None => key.index < *cluster,
                }
            })
        };
        let mut due = Vec::new();
        self.retired.retain_mut(|retired| {
            let since = *retired.since.get_or_insert(now);
            let in_use = retired.keys.iter().any(is_used);
            let stays = in_use || now.saturating_sub(since) < RETIRED_FOR;
            if !stays {
                due.append(&mut retired.keys);
            }
            stays
        });
        delete::<Slots>(tables, &due, report)
    }

    /// Services with a port that waits and that the kernel does not serve.
    pub(super) fn unserved(&self) -> BTreeSet<ObjectName> {
        let is_served = |name: &PortName| {
            self.written
                .get(name)
                .is_some_and(|written| !written.frontends.is_empty())
        };
        let unserved = self.waiting.keys().filter(|name| !is_served(name));
        unserved.map(|name| name.service.clone()).collect()
    }

    /// How full the maps are.
    pub(super) fn pressure(&self) -> [Pressure; 5] {
        let sum = |of: fn(&Written) -> usize| -> usize { self.written.values().map(of).sum() };
        let retired: usize = self.retired.iter().map(|retired| retired.keys.len()).sum();
        let of = |map, elements, size| Pressure {
            map,
            elements,
            size,
        };
        [
            of(Frontends::NAME, self.owners.by_key.len(), Frontends::SIZE),
            of(Slots::NAME, sum(|w| w.sets.len()) + retired, Slots::SIZE),
            of(Members::NAME, sum(|w| w.members.len()), Members::SIZE),
            of(Services::NAME, self.written.len(), Services::SIZE),
            of(
                SourceRanges::NAME,
                sum(|w| w.ranges.len()),
                SourceRanges::SIZE,
            ),
        ]
    }

    /// The ports that are not as they are wanted, and those that waited.
    fn changes(
        &mut self,
        wanted: &BTreeMap<&PortName, &PortPlan>,
        going: impl Fn(&PortName) -> bool,
        waited: impl Fn(&PortName) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut claimed: HashMap<FrontendKey, &PortName> = HashMap::new();
        for (&name, &plan) in wanted {
            let elements = Elements::of(name, plan);
            let owner = |key: &FrontendKey| {
                let other = self.owners.name(key).filter(|other| *other != name)?;
                let keeps = |plan: &&PortPlan| Elements::of(other, plan).keys().any(|k| k == key);
                (!going(other) && wanted.get(other).is_none_or(keeps)).then_some(other)
            };
            let mut refused = None;
            for key in elements.keys() {
                let claimant = || Some(*claimed.entry(*key).or_insert(name));
                let other = owner(key).or_else(claimant).filter(|other| *other != name);
                refused = other.map(|other| already_served(key, other)).or(refused);
            }
            if service_value(name, 0).is_none() {
                refused = Some("a name in it is longer than a DNS label may be".to_owned());
            }
            let before = self.written.get(name).cloned();
            let unchanged = before.as_ref().is_some_and(|before| before.is(&elements));
            if !unchanged || refused.is_some() || waited(name) {
                let new_id = || self.ids.next();
                changes.push(Change::new(name.clone(), before, new_id, elements, refused));
            }
        }
        changes
    }
}

/// A service port for people.
pub(super) fn text(name: &PortName) -> String {
    let PortName {
        service,
        port,
        protocol,
        family,
    } = name;
    let port = if port.is_empty() { "(unnamed)" } else { port };
    format!("Service {service} port {port} {protocol} {family:?}")
}

/// NodePorts stand under the unspecified address of their family.
fn is_node_port(address: &Address) -> bool {
    IpAddr::from(*address).is_unspecified()
}

fn already_served(key: &FrontendKey, other: &PortName) -> String {
    format!(
        "{} port {} is already served for {}; give one of them another address or port",
        IpAddr::from(key.address),
        key.port.get(),
        text(other)
    )
}
