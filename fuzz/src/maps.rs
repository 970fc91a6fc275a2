//! The maps as the agent writes them, without a kernel.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    io,
};

use bytemuck::{bytes_of, pod_read_unaligned};
use signpost::dataplane::ebpf::tables::{
    Addresses, Configs, Frontends, LargeAnswers, Members, Names, NotWritten, Slots, SmallAnswers,
    SourceRanges, Table, Tables,
};
use signpost_ebpf::host::Memory;

/// Every map by its name, as bytes.
#[derive(Clone, Debug, Default)]
pub struct Maps(BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>);

impl Tables for Maps {
    fn put<T: Table>(&mut self, elements: &[(T::Key, T::Value)]) -> Vec<NotWritten> {
        let map = self.0.entry(T::NAME).or_default();
        for (key, value) in elements {
            map.insert(bytes_of(key).to_vec(), bytes_of(value).to_vec());
        }
        Vec::new()
    }

    fn delete<T: Table>(&mut self, keys: &[T::Key]) -> io::Result<()> {
        let map = self.0.entry(T::NAME).or_default();
        for key in keys {
            map.remove(bytes_of(key));
        }
        Ok(())
    }

    fn for_each<T: Table>(&self, visit: &mut dyn FnMut(&T::Key, &T::Value)) -> io::Result<()> {
        for (key, value) in self.all::<T>() {
            visit(&key, &value);
        }
        Ok(())
    }

    fn get<T: Table>(&self, key: &T::Key) -> io::Result<Option<T::Value>> {
        let found = self.0.get(T::NAME).and_then(|map| map.get(bytes_of(key)));
        Ok(found.map(|value| pod_read_unaligned(value)))
    }
}

impl Maps {
    /// No elements, but names are hashed alike.
    pub fn empty(&self) -> Self {
        let config = self.0.get_key_value(Configs::NAME);
        Self(
            config
                .map(|(name, map)| (*name, map.clone()))
                .into_iter()
                .collect(),
        )
    }

    /// The elements of one map, by the bytes of their keys.
    pub fn all<T: Table>(&self) -> impl Iterator<Item = (T::Key, T::Value)> {
        let elements = self.0.get(T::NAME).into_iter().flatten();
        elements.map(|(key, value)| (pod_read_unaligned(key), pod_read_unaligned(value)))
    }

    /// Gives them to the programs.
    pub fn fill(&self, memory: &mut Memory) {
        memory.addresses = self.hash::<Addresses>();
        memory.frontends = self.hash::<Frontends>();
        memory.slots = self.hash::<Slots>();
        memory.members = self.hash::<Members>();
        memory.source_ranges = self.hash::<SourceRanges>();
        memory.names = self.hash::<Names>();
        memory.answers_small = self.hash::<SmallAnswers>();
        memory.answers_large = self.hash::<LargeAnswers>();
        memory.config = self.all::<Configs>().next().map(|(_, config)| config);
    }

    fn hash<T: Table>(&self) -> HashMap<T::Key, T::Value>
    where
        T::Key: Eq + Hash,
    {
        self.all::<T>().collect()
    }
}
