//! What operators read: the pinned maps of an instance, opened for reading, with its agent down or not.

use std::{collections::BTreeMap, io, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, ensure};
use signpost_common::{Cause, count::ServiceCount, service::ServiceValue, tally::DnsCounts};

use super::{
    counts, pins, sys,
    tables::{self, AnswerCounts, Counters, KernelTables, Services, Table, Tables as _},
};

/// The maps.
#[derive(Debug)]
pub struct View {
    pub(super) tables: KernelTables,
    interfaces: Vec<u32>,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Name of the map.
    pub map: &'static str,
    /// Elements in it.
    pub elements: usize,
    /// Most elements.
    pub size: u32,
    /// Bytes of kernel memory.
    pub memory: u64,
}

impl View {
    /// Opens the maps of an instance.
    ///
    /// # Errors
    /// Where nothing is pinned, or nobody may read it.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let folder = pins::folder(root);
        ensure!(
            folder.exists(),
            "nothing is pinned under {}: has an agent of this version ever run with this --bpffs-root?",
            root.display()
        );
        let mut maps = BTreeMap::new();
        for (name, _) in tables::pinned() {
            let path = pins::maps_folder(&folder).join(name);
            let map = sys::open_pinned_for_reading(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            maps.insert(name, map);
        }
        let links = pins::links(&folder).context("cannot read the pinned links")?;
        let mut interfaces: Vec<u32> = links.into_iter().map(|pin| pin.ifindex).collect();
        interfaces.dedup();
        Ok(Self {
            tables: KernelTables::new(maps),
            interfaces,
        })
    }

    /// Every element of a map, in no order.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn all<T: Table>(&self) -> io::Result<Vec<(T::Key, T::Value)>> {
        let mut all = Vec::new();
        self.tables
            .for_each::<T>(&mut |key, value| all.push((*key, *value)))?;
        Ok(all)
    }

    /// One element.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn get<T: Table>(&self, key: &T::Key) -> io::Result<Option<T::Value>> {
        self.tables.get::<T>(key)
    }

    /// Packets by cause, summed over the CPUs.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn counters(&self) -> io::Result<Vec<(Cause, u64)>> {
        let cpus = sys::possible_cpus()?;
        let map = self.tables.map::<Counters>()?;
        let answers = self.answer_counts()?;
        let sum = |&cause: &Cause| {
            let packets: Vec<u64> = sys::lookup_per_cpu(map, cause.index(), cpus)?;
            let answers = answers.of(cause);
            Ok((cause, packets.iter().sum::<u64>() + answers))
        };
        Cause::ALL.iter().map(sum).collect()
    }

    /// Answers to DNS questions, summed over the CPUs.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn answer_counts(&self) -> io::Result<DnsCounts> {
        let map = self.tables.map::<AnswerCounts>()?;
        let of_cpus = sys::lookup_per_cpu(map, 0, sys::possible_cpus()?)?;
        Ok(DnsCounts::sum(&of_cpus))
    }

    /// What went through each service port since it came. Empty where nothing is counted.
    ///
    /// # Errors
    /// Where the maps cannot be read.
    pub fn service_counts(&self) -> io::Result<Vec<(ServiceValue, ServiceCount)>> {
        let mut all = Vec::new();
        for (id, count) in counts::read(&self.tables)? {
            // What is gone since has no name any more.
            if let Some(service) = self.get::<Services>(&id)? {
                all.push((service, count));
            }
        }
        Ok(all)
    }

    /// How full the maps are that can be.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn fill(&self) -> io::Result<Vec<Fill>> {
        use tables::{
            Addresses, Flows, Fragments, Frontends, LargeAnswers, Members, NameTexts, Names, Slots,
            SmallAnswers, Sockets,
        };
        Ok(vec![
            self.fill_of::<Addresses>()?,
            self.fill_of::<Frontends>()?,
            self.fill_of::<Slots>()?,
            self.fill_of::<Members>()?,
            self.fill_of::<Services>()?,
            self.fill_of::<Flows>()?,
            self.fill_of::<Fragments>()?,
            self.fill_of::<Sockets>()?,
            self.fill_of::<Names>()?,
            self.fill_of::<NameTexts>()?,
            self.fill_of::<SmallAnswers>()?,
            self.fill_of::<LargeAnswers>()?,
        ])
    }

    /// Indexes of the interfaces that the programs are pinned to.
    pub fn interfaces(&self) -> &[u32] {
        &self.interfaces
    }

    fn fill_of<T: Table>(&self) -> io::Result<Fill> {
        let mut elements = 0;
        self.tables.for_each::<T>(&mut |_, _| elements += 1)?;
        Ok(Fill {
            map: T::NAME,
            elements,
            size: T::SIZE,
            memory: sys::map_memory(self.tables.map::<T>()?.as_fd())?,
        })
    }
}
