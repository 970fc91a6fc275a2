//! Maps in memory, with the rules that hold after every single write.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use bytemuck::{NoUninit, bytes_of, pod_read_unaligned};
use signpost_common::{
    dns::NameValue,
    filter,
    name::NameKey,
    service::{FrontendKey, FrontendValue, MemberKey, RangeKey, SlotKey, SlotValue},
};

use crate::dataplane::ebpf::tables::{
    Addresses, Configs, Destinations, Frontends, LargeAnswers, Members, NameTexts, Names,
    NotWritten, Services, Slots, SmallAnswers, SourceRanges, Table, Tables,
};

type Elements = BTreeMap<Vec<u8>, Vec<u8>>;

/// The maps.
#[derive(Clone, Default)]
pub(super) struct Model {
    maps: BTreeMap<&'static str, Elements>,
    /// Sizes of maps that are smaller than the kernel's.
    pub(super) sizes: BTreeMap<&'static str, usize>,
    /// How many writes are left before the agent is killed.
    pub(super) lives: Option<usize>,
    /// Maps and whether an element was put, in the order of the writes.
    pub(super) log: Vec<(&'static str, bool)>,
    /// Names that existed before and after what is being applied: they may not be denied at any moment.
    pub(super) constant: BTreeSet<(NameKey, u16)>,
}

impl Tables for Model {
    fn put<T: Table>(&mut self, elements: &[(T::Key, T::Value)]) -> Vec<NotWritten> {
        let mut failed = Vec::new();
        for (index, (key, value)) in elements.iter().enumerate() {
            let size = self.sizes.get(T::NAME).copied().unwrap_or(T::SIZE as usize);
            let map = self.maps.entry(T::NAME).or_default();
            if map.len() >= size && !map.contains_key(bytes_of(key)) {
                let error = io::Error::from_raw_os_error(libc::E2BIG);
                failed.push(NotWritten {
                    index,
                    map: T::NAME,
                    size: T::SIZE,
                    error,
                });
            } else if lives(&mut self.lives) {
                map.insert(bytes_of(key).to_vec(), bytes_of(value).to_vec());
                self.log.push((T::NAME, true));
                self.check();
            }
        }
        failed
    }

    fn delete<T: Table>(&mut self, keys: &[T::Key]) -> io::Result<()> {
        for key in keys {
            if lives(&mut self.lives) {
                self.maps.entry(T::NAME).or_default().remove(bytes_of(key));
                self.log.push((T::NAME, false));
                self.check();
            }
        }
        Ok(())
    }

    fn for_each<T: Table>(&self, visit: &mut dyn FnMut(&T::Key, &T::Value)) -> io::Result<()> {
        self.all::<T>()
            .iter()
            .for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn get<T: Table>(&self, key: &T::Key) -> io::Result<Option<T::Value>> {
        Ok(self.find::<T>(key))
    }
}

impl Model {
    /// Every element, by key.
    pub(super) fn all<T: Table>(&self) -> Vec<(T::Key, T::Value)> {
        let read = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            (pod_read_unaligned(key), pod_read_unaligned(value))
        };
        self.maps
            .get(T::NAME)
            .into_iter()
            .flatten()
            .map(read)
            .collect()
    }

    /// One element.
    pub(super) fn find<T: Table>(&self, key: &T::Key) -> Option<T::Value> {
        let value = self.maps.get(T::NAME)?.get(bytes_of(key))?;
        Some(pod_read_unaligned(value))
    }

    /// How many elements there are.
    pub(super) fn len<T: Table>(&self) -> usize {
        self.maps.get(T::NAME).map_or(0, BTreeMap::len)
    }

    /// All elements, ids replaced by the port's names and generations left out: what does not depend on how the state
    /// came about.
    pub(super) fn canonical(&self) -> BTreeSet<String> {
        let named = |id: u32| {
            let value = self.find::<Services>(&id).expect("every id has a name");
            let [namespace, name, port] = value.names().expect("every name is a text");
            format!("{namespace}/{name}:{port}")
        };
        let mut all = BTreeSet::new();
        let mut add = |map: &str, line: String| assert!(all.insert(format!("{map} {line}")));
        for (id, value) in self.all::<Services>() {
            add(
                "services",
                format!("{} {} {}", named(id), value.protocol, value.family),
            );
        }
        for (key, value) in self.all::<Frontends>() {
            let value = FrontendValue {
                service: 0,
                generation: 0,
                ..value
            };
            add(
                "frontends",
                format!("{} {key:?} {value:?}", named(self.service_of(&key))),
            );
        }
        for (key, value) in self.all::<Slots>() {
            let value = SlotValue {
                service: 0,
                generation: 0,
                ..value
            };
            add(
                "slots",
                format!("{} {} {value:?}", named(key.service), key.index),
            );
        }
        for (key, value) in self.all::<Members>() {
            let named = named(key.service);
            let key = MemberKey { service: 0, ..key };
            add("members", format!("{named} {key:?} {value:?}"));
        }
        for (key, _) in self.all::<SourceRanges>() {
            let service = match key.service {
                RangeKey::CLUSTER => "cluster".to_owned(),
                id => named(id),
            };
            add(
                "ranges",
                format!("{service} {} {:?}", key.bits, key.address),
            );
        }
        self.add_rest::<Addresses>(&mut add);
        self.add_rest::<Names>(&mut add);
        self.add_rest::<NameTexts>(&mut add);
        self.add_rest::<SmallAnswers>(&mut add);
        self.add_rest::<LargeAnswers>(&mut add);
        all
    }

    fn add_rest<T: Table>(&self, add: &mut impl FnMut(&str, String)) {
        for (key, value) in self.maps.get(T::NAME).into_iter().flatten() {
            add(T::NAME, format!("{key:?} {value:?}"));
        }
    }

    fn service_of(&self, key: &FrontendKey) -> u32 {
        self.find::<Frontends>(key).expect("it was listed").service
    }

    /// What must hold at every moment.
    fn check(&self) {
        for (key, value) in self.all::<Frontends>() {
            assert_eq!(value.check, key.check());
            let cluster = 0..value.cluster;
            let local = SlotKey::LOCAL..SlotKey::LOCAL + value.local;
            for index in cluster.chain(local) {
                let slot = SlotKey {
                    service: value.service,
                    generation: value.generation,
                    index,
                };
                let found = self.find::<Slots>(&slot);
                let found = found.unwrap_or_else(|| panic!("{key:?} {value:?} has no {slot:?}"));
                assert_eq!(
                    (found.service, found.generation),
                    (slot.service, slot.generation)
                );
            }
            assert!(
                self.find::<Services>(&value.service).is_some(),
                "{key:?} has no name"
            );
        }
        for (address, _) in self.all::<Addresses>() {
            let (index, bit) = filter::destination(&address);
            let word = self.find::<Destinations>(&index).unwrap_or_default();
            assert!(word & bit != 0, "{address:?} is filtered out");
        }
        for (key, qtype) in &self.constant {
            assert!(
                self.answers_or_passes(*key, *qtype),
                "{key:?} {qtype} is denied"
            );
        }
    }

    /// The decision of the programs (`signpost_ebpf::dns`), without its packets.
    fn answers_or_passes(&self, key: NameKey, qtype: u16) -> bool {
        if self.find::<SmallAnswers>(&key.with_type(qtype)).is_some() {
            return true;
        }
        let Some(value) = self.find::<Names>(&key) else {
            return false;
        };
        let bit = NameValue::type_bit(qtype);
        (value.user | value.large) & bit != 0 || value.flags & NameValue::COMPLETE == 0
    }

    /// The name hash's keys.
    pub(super) fn hash(&self, name: &crate::zone::Name) -> NameKey {
        let config = self.find::<Configs>(&0).expect("the differ was opened");
        signpost_common::name::hash(name.wire(), &config.hash).expect("the name is short")
    }

    /// Maps with nothing but the same name hash.
    pub(super) fn empty(&self) -> Self {
        let config = self.maps.get(Configs::NAME).cloned().into_iter();
        Self {
            maps: config.map(|config| (Configs::NAME, config)).collect(),
            ..Self::default()
        }
    }

    /// Gives the name hash keys under which names are easily confused.
    pub(super) fn weaken_hash(&mut self, mut config: signpost_common::dns::Config) {
        config.hash.words = [0; 72];
        config.hash.words[71] = 1;
        put_raw::<Configs>(self, &0, &config);
    }
}

fn put_raw<T: Table>(model: &mut Model, key: &impl NoUninit, value: &impl NoUninit) {
    let map = model.maps.entry(T::NAME).or_default();
    map.insert(bytes_of(key).to_vec(), bytes_of(value).to_vec());
}

fn lives(left: &mut Option<usize>) -> bool {
    match left {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}
