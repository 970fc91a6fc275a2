//! What was told of the zone, so that only changes are told.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    hash::{BuildHasher as _, RandomState},
};

use super::{Name, NameEntry};

/// The names that were told of, with digests of their entries. The entries are several hundred bytes each, and whoever was
/// told has them. Nobody can choose entries of the same digest, because its key is drawn at random.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) digests: BTreeMap<Name, u64>,
    key: RandomState,
}

impl Told {
    /// Whether nothing was told yet.
    pub(super) fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Takes in what is told of a name from now on (`None`: it is gone), and says whether that is another thing than
    /// before.
    pub(super) fn tell(&mut self, name: &Name, entry: Option<&NameEntry>) -> bool {
        let Some(entry) = entry else {
            return self.digests.remove(name).is_some();
        };
        let digest = self.key.hash_one(entry);
        match self.digests.entry(name.clone()) {
            Entry::Vacant(place) => {
                place.insert(digest);
                true
            }
            Entry::Occupied(mut place) => place.insert(digest) != digest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let (mut told, name) = (Told::default(), Name::from_text("ent.dev").unwrap());
        let entry = |ttl| NameEntry {
            ttl,
            ..NameEntry::default()
        };
        assert!(!told.tell(&name, None), "it was never there");
        assert!(told.tell(&name, Some(&entry(30))));
        assert!(!told.tell(&name, Some(&entry(30))));
        assert!(told.tell(&name, Some(&entry(5))));
        assert!(told.tell(&name, None));
        assert!(told.tell(&name, Some(&entry(5))));
    }
}
