//! Finds out what an agent before this one has written of service ports, also where it was killed in the middle.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use signpost_common::{
    Address, Port,
    service::{RangeKey, ServiceValue, SlotKey, SlotValue},
};

use super::{
    super::tables::{Flows, Frontends, Members, Services, Slots, SourceRanges, Tables},
    port::{Place, Sets, Written},
    ports::{PortTable, Retired},
    ranges::ClusterRanges,
};
use crate::{
    model::{Family, ObjectName, Protocol},
    plan::PortName,
};

type Generations = BTreeMap<u32, Vec<(u32, SlotValue)>>;

impl PortTable {
    /// Takes in what is in the kernel. What belongs to no port is kept apart, to be removed once the ports that exist
    /// are written.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub(super) fn recover(
        &mut self,
        tables: &impl Tables,
        cluster: &mut ClusterRanges,
    ) -> io::Result<()> {
        let mut found: HashMap<u32, (PortName, Written)> = HashMap::new();
        let mut taken: BTreeMap<PortName, u32> = BTreeMap::new();
        tables.for_each::<Services>(&mut |id, value| {
            self.ids.skip(*id);
            match port_name(value) {
                Some(name) if !taken.contains_key(&name) => {
                    taken.insert(name.clone(), *id);
                    let generation = value.generation;
                    let written = Written {
                        id: *id,
                        generation,
                        newest: generation,
                        named: true,
                        ..Written::default()
                    };
                    found.insert(*id, (name, written));
                }
                _ => self.strays.services.push(*id),
            }
        })?;

        tables.for_each::<Frontends>(&mut |key, value| {
            self.ids.skip(value.service);
            match found.get_mut(&value.service) {
                Some((name, written)) => {
                    written.frontends.push((*key, *value));
                    self.owners.claim(*key, value, name);
                }
                None => self.strays.frontends.push(*key),
            }
        })?;

        let mut slots: HashMap<u32, Generations> = HashMap::new();
        tables.for_each::<Slots>(&mut |key, value| {
            let generations = slots.entry(key.service).or_default();
            generations
                .entry(key.generation)
                .or_default()
                .push((key.index, *value));
        })?;
        for (id, generations) in slots {
            self.ids.skip(id);
            let written = found.get_mut(&id).map(|(_, written)| written);
            self.recover_slots(id, generations, written);
        }

        tables.for_each::<Members>(&mut |key, value| {
            self.ids.skip(key.service);
            match found.get_mut(&key.service) {
                Some((_, written)) => {
                    written.members.push(((key.address, key.port), value.flags));
                }
                None => self.strays.members.push(*key),
            }
        })?;

        tables.for_each::<SourceRanges>(&mut |key, _| {
            let range = (key.bits, key.address);
            if key.service == RangeKey::CLUSTER {
                cluster.found(range);
                return;
            }
            self.ids.skip(key.service);
            match found.get_mut(&key.service) {
                Some((_, written)) => written.ranges.push(range),
                None => self.strays.ranges.push(*key),
            }
        })?;

        // A flow that outlives its Service must not find another one under the Service's number.
        tables.for_each::<Flows>(&mut |_, value| self.ids.skip(value.service))?;

        for (id, (name, mut written)) in found {
            written
                .members
                .sort_unstable_by_key(|(at, _): &((Address, Port), u32)| *at);
            written.ranges.sort_unstable();
            self.ids.take(id);
            self.written.insert(name, written);
        }
        Ok(())
    }

    /// The current generation's slots are the sets; all others may still be read for a moment.
    fn recover_slots(&mut self, id: u32, generations: Generations, written: Option<&mut Written>) {
        let mut rest: Vec<(u32, Vec<u32>)> = Vec::new();
        let newest = generations.keys().next_back().copied().unwrap_or(0);
        let current = written.as_ref().map(|written| written.generation);
        let mut sets = Sets::default();
        for (generation, slots) in generations {
            let mut slots: BTreeMap<u32, SlotValue> = slots.into_iter().collect();
            if current == Some(generation) {
                sets.cluster = take_run(&mut slots, 0);
                sets.local = take_run(&mut slots, SlotKey::LOCAL);
            }
            rest.push((generation, slots.into_keys().collect()));
        }
        if let Some(written) = written {
            written.sets = sets;
            written.newest = written.newest.max(newest);
        }
        for (generation, indexes) in rest.into_iter().filter(|(_, indexes)| !indexes.is_empty()) {
            let key = |index| SlotKey {
                service: id,
                generation,
                index,
            };
            self.retired
                .push(Retired::new(indexes.into_iter().map(key).collect()));
        }
    }
}

/// The places from an index on, as far as they go without a gap.
fn take_run(slots: &mut BTreeMap<u32, SlotValue>, first: u32) -> Vec<Place> {
    let mut places = Vec::new();
    while let Some(slot) = slots.remove(&(first + places.len() as u32)) {
        places.push(Place {
            address: slot.address,
            port: slot.port,
            flags: slot.flags,
        });
    }
    places
}

fn port_name(value: &ServiceValue) -> Option<PortName> {
    let [namespace, name, port] = value.names()?;
    Some(PortName {
        service: ObjectName::new(namespace, name),
        port: port.into(),
        protocol: Protocol::from_number(value.protocol)?,
        family: match value.family {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        },
    })
}
