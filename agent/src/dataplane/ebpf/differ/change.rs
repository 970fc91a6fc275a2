//! The steps of writing service ports that come or change, in their order. Each step is one batch over all ports.

use std::{collections::BTreeSet, io};

use signpost_common::{
    Address,
    service::{MemberKey, MemberValue, RangeKey, SlotKey},
};

use super::{
    super::tables::{Frontends, Members, NotWritten, Services, Slots, SourceRanges, Tables},
    batch::{Batch, delete},
    port::{Elements, Written, member_key, serves, service_value},
    ports::Owners,
    ranges::{PRESENT, Range, range_key},
};
use crate::{dataplane::Report, plan::PortName};

/// A port that is being written.
#[derive(Debug)]
pub(super) struct Change {
    /// The port.
    pub(super) name: PortName,
    /// What it becomes.
    pub(super) elements: Elements,
    /// Why it does not become all that is wanted.
    pub(super) refused: Option<String>,
    before: Option<Written>,
    after: Written,
}

impl Change {
    /// Of a port with what is written of it. `new_id` is asked where that is nothing.
    pub(super) fn new(
        name: PortName,
        before: Option<Written>,
        new_id: impl FnOnce() -> u32,
        elements: Elements,
        refused: Option<String>,
    ) -> Self {
        let mut after = before.clone().unwrap_or_else(|| Written {
            id: new_id(),
            ..Written::default()
        });
        if before.is_some() && after.sets != elements.sets {
            after.newest = after.newest.wrapping_add(1);
            after.generation = after.newest;
        }
        Self {
            name,
            elements,
            refused,
            before,
            after,
        }
    }

    /// The slots of the generation that was replaced.
    pub(super) fn retired_slots(&self) -> Option<Vec<SlotKey>> {
        let before = self.before.as_ref()?;
        let keys = || {
            before
                .sets
                .slots(before.id, before.generation)
                .map(|(key, _)| key)
        };
        if before.generation != self.after.generation {
            return Some(keys().collect());
        }
        // Backends may have left their places without others to take them.
        let new = &self.elements.sets;
        let kept = |key: &SlotKey| match key.index.checked_sub(SlotKey::LOCAL) {
            Some(index) => (index as usize) < new.local.len(),
            None => (key.index as usize) < new.cluster.len(),
        };
        let left: Vec<SlotKey> = keys().filter(|key| !kept(key)).collect();
        (!left.is_empty()).then_some(left)
    }

    /// The endpoints that served and do not any more.
    pub(super) fn stopped(&self) -> impl Iterator<Item = MemberKey> {
        let members = self.before.iter().flat_map(|before| &before.members);
        members
            .filter(|(at, flags)| serves(*flags) && !self.elements.member(*at).is_some_and(serves))
            .map(|(at, _)| member_key(self.after.id, *at))
    }

    /// What is written of the port now; its id where that is nothing.
    pub(super) fn into_written(self) -> Result<(PortName, Written), u32> {
        let Self {
            name,
            elements,
            refused: _,
            before,
            after,
        } = self;
        if before.is_none() && !after.named {
            return Err(after.id);
        }
        Ok((
            name,
            Written {
                sets: elements.sets,
                members: elements.members,
                ranges: elements.ranges,
                ..after
            },
        ))
    }

    /// The networks that were not there before.
    fn new_ranges(&self) -> impl Iterator<Item = &Range> {
        let before = self.before.as_ref().map_or(&[][..], |b| &b.ranges);
        self.elements.ranges.iter().filter(|r| !before.contains(r))
    }

    fn brings_slots(&self) -> bool {
        self.before
            .as_ref()
            .is_none_or(|before| before.generation != self.after.generation)
    }

    fn refuse(&mut self, failed: &NotWritten) {
        self.refused = Some(failed.to_string());
    }
}

/// Endpoints that are new or that more is true of than before. What is not true any more goes last.
pub(super) fn write_members(tables: &mut impl Tables, changes: &mut [Change], report: &mut Report) {
    let mut batch = Batch::<Members>::new();
    for (index, change) in going_on(changes) {
        for (at, flags) in &change.elements.members {
            let before = change.before.as_ref().and_then(|before| before.member(*at));
            let flags = before.unwrap_or(0) | flags;
            if before != Some(flags) {
                batch.push(
                    index,
                    member_key(change.after.id, *at),
                    MemberValue { flags },
                );
            }
        }
    }
    for (index, _, failed) in batch.write(tables, report) {
        changes[index].refuse(&failed);
    }
}

/// All slots of new generations.
pub(super) fn write_slots(tables: &mut impl Tables, changes: &mut [Change], report: &mut Report) {
    let mut batch = Batch::<Slots>::new();
    for (index, change) in going_on(changes).filter(|(_, change)| change.brings_slots()) {
        for (key, value) in change
            .elements
            .sets
            .slots(change.after.id, change.after.generation)
        {
            batch.push(index, key, value);
        }
    }
    for (index, _, failed) in batch.write(tables, report) {
        changes[index].refuse(&failed);
    }
}

/// Networks that are new: they must be there before the frontends that ask for them.
pub(super) fn write_ranges(tables: &mut impl Tables, changes: &mut [Change], report: &mut Report) {
    let mut batch = Batch::<SourceRanges>::new();
    for (index, change) in going_on(changes) {
        for range in change.new_ranges() {
            batch.push(index, range_key(change.after.id, *range), PRESENT);
        }
    }
    for (index, _, failed) in batch.write(tables, report) {
        changes[index].refuse(&failed);
    }
}

/// The elements that say which generation is the current one.
pub(super) fn write_services(
    tables: &mut impl Tables,
    changes: &mut [Change],
    report: &mut Report,
) {
    let mut batch = Batch::<Services>::new();
    for (index, change) in going_on(changes) {
        let value = service_value(&change.name, change.after.generation);
        if let Some(value) = value.filter(|_| change.brings_slots() || !change.after.named) {
            batch.push(index, change.after.id, value);
        }
    }
    for (index, _, failed) in batch.write(tables, report) {
        changes[index].refuse(&failed);
    }
    for change in changes.iter_mut().filter(|change| change.refused.is_none()) {
        change.after.named = true;
    }
}

/// Takes back what was written of refused ports, and lets those that were there go on with the backends that stay.
///
/// # Errors
/// Where a map cannot be changed at all.
pub(super) fn take_back(
    tables: &mut impl Tables,
    changes: &mut [Change],
    report: &mut Report,
) -> io::Result<()> {
    let (mut members, mut slots, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
    let mut in_place = Batch::<Slots>::new();
    for (index, change) in changes.iter_mut().enumerate() {
        if change.refused.is_none() {
            continue;
        }
        let is_new = |at| {
            change
                .before
                .as_ref()
                .is_none_or(|before| before.member(at).is_none())
        };
        let new = change
            .elements
            .members
            .iter()
            .map(|(at, _)| *at)
            .filter(|at| is_new(*at));
        members.extend(new.map(|at| member_key(change.after.id, at)));
        ranges.extend(change.new_ranges().map(|r| range_key(change.after.id, *r)));
        if change.brings_slots() {
            let new = change
                .elements
                .sets
                .slots(change.after.id, change.after.generation);
            slots.extend(new.map(|(key, _)| key));
        }
        let Some(before) = &change.before else {
            change.elements = Elements::default();
            continue;
        };
        change.elements = Elements::without_room(&change.elements, before);
        change.after = before.clone();
        let old: Vec<_> = before.sets.slots(before.id, before.generation).collect();
        let new = change.elements.sets.slots(before.id, before.generation);
        for (key, value) in new.filter(|element| !old.contains(element)) {
            in_place.push(index, key, value);
        }
    }
    delete::<Members>(tables, &members, report)?;
    delete::<Slots>(tables, &slots, report)?;
    delete::<SourceRanges>(tables, &ranges, report)?;
    for (index, _, failed) in in_place.write(tables, report) {
        // The place has a backend that is gone: better none at all.
        changes[index].elements.sets = Default::default();
        changes[index].refuse(&failed);
    }
    Ok(())
}

/// The frontends, and the removal of those that a port has no more. Returns the addresses that this is about.
///
/// # Errors
/// Where a map cannot be changed at all.
pub(super) fn write_frontends(
    tables: &mut impl Tables,
    changes: &mut [Change],
    owners: &mut Owners,
    report: &mut Report,
) -> io::Result<BTreeSet<Address>> {
    let mut batch = Batch::<Frontends>::new();
    let mut touched = BTreeSet::new();
    for (
        index,
        Change {
            elements,
            before,
            after,
            ..
        },
    ) in changes.iter_mut().enumerate()
    {
        after.frontends = Vec::with_capacity(elements.frontends.len());
        for way in &elements.frontends {
            let key = &way.0;
            let value = elements.frontend(way, after.id, after.generation);
            if before.as_ref().and_then(|before| before.frontend(key)) != Some(&value) {
                batch.push(index, *key, value);
                touched.insert(key.address);
            }
            after.frontends.push((*key, value));
        }
    }
    for (index, key, failed) in batch.write(tables, report) {
        let Change { before, after, .. } = &mut changes[index];
        after.frontends.retain(|(other, _)| *other != key);
        let old = before.as_ref().and_then(|before| before.frontend(&key));
        after.frontends.extend(old.map(|old| (key, *old)));
        changes[index].refuse(&failed);
    }
    for Change { name, after, .. } in changes.iter() {
        after
            .frontends
            .iter()
            .for_each(|(key, value)| owners.claim(*key, value, name));
    }
    let mut gone = Vec::new();
    for Change {
        name,
        before,
        after,
        ..
    } in changes.iter()
    {
        for (key, _) in before.iter().flat_map(|before| &before.frontends) {
            if after.frontend(key).is_none() && owners.give_up(key, name) {
                gone.push(*key);
                touched.insert(key.address);
            }
        }
    }
    delete::<Frontends>(tables, &gone, report)?;
    Ok(touched)
}

/// Endpoints that are gone, and what is no longer true of those that are there.
///
/// # Errors
/// Where a map cannot be changed at all.
pub(super) fn remove_leftovers(
    tables: &mut impl Tables,
    changes: &mut [Change],
    report: &mut Report,
) -> io::Result<()> {
    let mut batch = Batch::<Members>::new();
    let mut gone = Vec::new();
    let mut ranges: Vec<RangeKey> = Vec::new();
    for (
        index,
        Change {
            elements,
            before,
            after,
            refused,
            ..
        },
    ) in changes.iter().enumerate()
    {
        let Some(before) = before else { continue };
        for (at, flags) in &elements.members {
            // Of a refused port it is not known what the first step wrote.
            let differs = |old| old | flags != *flags || (refused.is_some() && old != *flags);
            if before.member(*at).is_some_and(differs) {
                batch.push(
                    index,
                    member_key(after.id, *at),
                    MemberValue { flags: *flags },
                );
            }
        }
        let old = before.ranges.iter();
        let gone_ranges = old.filter(|range| !elements.ranges.contains(range));
        ranges.extend(gone_ranges.map(|range| range_key(after.id, *range)));
        let old = before.members.iter().map(|(at, _)| *at);
        gone.extend(
            old.filter(|at| !elements.has_member(*at))
                .map(|at| member_key(after.id, at)),
        );
    }
    // An endpoint that cannot be changed is deleted: no flow may stay where it does not serve.
    for (index, key, failed) in batch.write(tables, report) {
        changes[index]
            .elements
            .members
            .retain(|(at, _)| *at != (key.address, key.port));
        changes[index].refuse(&failed);
        gone.push(key);
    }
    delete::<SourceRanges>(tables, &ranges, report)?;
    delete::<Members>(tables, &gone, report)
}

fn going_on(changes: &[Change]) -> impl Iterator<Item = (usize, &Change)> {
    changes
        .iter()
        .enumerate()
        .filter(|(_, change)| change.refused.is_none())
}
