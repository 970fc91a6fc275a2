//! Names of the zone as elements of the maps `names`, `name_texts` and `answers_*`.
//!
//! The programs look for a short answer first, then for the name, then for a long answer. So a name is written after
//! its answers and removed before them, and an answer that moves is written at its new place, then the name, and only
//! then removed at its old place: whoever misses the answer sees a name that says where it is.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
    io,
    num::NonZeroU64,
};

use bytemuck::NoUninit;
use signpost_common::{
    dns::NameValue,
    name::{HashKeys, NameKey, TEXT_PART, hash, text_parts},
};

use super::{
    super::{
        Pressure,
        tables::{LargeAnswers, NameTexts, Names, SmallAnswers, Table, Tables},
    },
    batch::{Batch, delete},
    wanted_name::Wanted,
};
use crate::{
    dataplane::{Refusal, Report},
    zone::{Name, NameEntry},
};

/// Names that are turned into elements together: these take a kilobyte each.
const AT_ONCE: usize = 1024;

/// What is written of the zone.
#[derive(Debug, Default)]
pub(super) struct NameTable {
    written: BTreeMap<NameKey, Written>,
    /// Names that wait for room, for their service, or for a name of the same key to go.
    waiting: BTreeMap<Name, NameEntry>,
    /// Names that exist and that the kernel would deny.
    missing: BTreeSet<Name>,
}

/// What is in the kernel of one name. Of long values there is a digest.
#[derive(Debug, Default)]
struct Written {
    value: Option<NameValue>,
    text: Option<Digest>,
    /// The short answers, by type.
    small: Answers,
    /// The long answers, by type.
    large: Answers,
    /// The digest of the name that this process has written here: none where it was found at start.
    holder: Option<Digest>,
    /// Two names have this key. That is so improbable that it is not undone before the next start.
    shared: bool,
}

/// Stands for a long value; never 0, so that having none takes no room.
type Digest = NonZeroU64;

/// Types and digests of answers, in order.
type Answers = Box<[(u16, Digest)]>;

impl NameTable {
    /// Takes in what is in the kernel.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub(super) fn recover(&mut self, tables: &impl Tables) -> io::Result<()> {
        let written = &mut self.written;
        tables.for_each::<Names>(&mut |key, value| {
            written.entry(*key).or_default().value = Some(*value);
        })?;
        tables.for_each::<NameTexts>(&mut |key, text| {
            let entry = written.entry(key.with_type(0)).or_default();
            entry.text = Some(joined(entry.text, digest_of_part(key.qtype, text)));
        })?;
        tables.for_each::<SmallAnswers>(&mut |key, answer| {
            let entry = written.entry(key.with_type(0)).or_default();
            add(&mut entry.small, (key.qtype, digest(answer)));
        })?;
        tables.for_each::<LargeAnswers>(&mut |key, answer| {
            let entry = written.entry(key.with_type(0)).or_default();
            add(&mut entry.large, (key.qtype, digest(answer)));
        })
    }

    /// Whether the kernel knows every name that exists, so that it may deny others.
    pub(super) fn may_deny(&self) -> bool {
        self.missing.is_empty()
    }

    /// Writes the names that come or change, and those that still wait. `unserved` says why the service of a name is
    /// not served by the kernel: its questions are left to user space then.
    ///
    /// # Errors
    /// Where a map cannot be changed at all.
    pub(super) fn come(
        &mut self,
        tables: &mut impl Tables,
        keys: &HashKeys,
        names: &BTreeMap<Name, Option<NameEntry>>,
        unserved: impl Fn(&Name) -> Option<String>,
        report: &mut Report,
    ) -> io::Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|name, _| !names.contains_key(name));
        let coming = names
            .iter()
            .filter_map(|(name, entry)| Some((name, entry.as_ref()?)));
        // What the kernel does not hash it leaves to user space.
        let mut coming: Vec<(NameKey, &Name, &NameEntry)> = waiting
            .iter()
            .chain(coming)
            .filter_map(|(name, entry)| Some((hash(name.wire(), keys)?, name, entry)))
            .collect();
        for (key, name, _) in &coming {
            let entry = self.written.entry(*key).or_default();
            let own = digest_of_text(name);
            entry.shared |= *entry.holder.get_or_insert(own) != own;
        }
        // A Service whose names are all listed must not deny one that is written later.
        coming.sort_by_key(|(key, ..)| Reverse(key.labels));
        for part in coming.chunks(AT_ONCE) {
            let mut wanted = Vec::with_capacity(part.len());
            for (key, name, entry) in part {
                let mut want = Wanted::new(name, entry, *key);
                let written = self.written.get(key);
                if written.is_some_and(|written| written.shared) {
                    want.share();
                } else if let Some(why) = unserved(name) {
                    want.leave_to_user_space(why);
                }
                if want.refused.is_some() || written.is_none_or(|w| w.differs(&want)) {
                    wanted.push(want);
                }
            }
            self.write(tables, &mut wanted, report)?;
            self.keep_refused(wanted, report);
        }
        Ok(())
    }

    fn keep_refused(&mut self, wanted: Vec<Wanted<'_>>, report: &mut Report) {
        for want in wanted {
            if let Some(reason) = want.refused {
                let object = format!("name {}", want.name);
                report.refused.push(Refusal { object, reason });
                self.waiting.insert(want.name.clone(), want.entry.clone());
            }
        }
    }

    /// Removes names, and with `unclaimed` all that was found at start and that no name came for.
    ///
    /// # Errors
    /// Where a map cannot be changed at all.
    pub(super) fn go<'a>(
        &mut self,
        tables: &mut impl Tables,
        keys: &HashKeys,
        names: impl Iterator<Item = &'a Name>,
        unclaimed: bool,
        report: &mut Report,
    ) -> io::Result<()> {
        let mut going = Vec::new();
        for name in names {
            self.waiting.remove(name);
            self.missing.remove(name);
            let Some(key) = hash(name.wire(), keys) else {
                continue;
            };
            let own = Some(digest_of_text(name));
            if self
                .written
                .get(&key)
                .is_some_and(|w| w.holder == own && !w.shared)
            {
                going.extend(self.written.remove_entry(&key));
            }
        }
        if unclaimed {
            going.extend(
                self.written
                    .extract_if(.., |_, written| written.holder.is_none()),
            );
        }
        let all: Vec<NameKey> = going.iter().map(|(key, _)| *key).collect();
        let with_value = going
            .iter()
            .filter(|(_, w)| w.value.is_some())
            .map(|(key, _)| *key);
        delete::<Names>(tables, &with_value.collect::<Vec<_>>(), report)?;
        let answers = |of: fn(&Written) -> &Answers| -> Vec<NameKey> {
            let types = |(key, written): &(NameKey, Written)| {
                let key = *key;
                of(written)
                    .iter()
                    .map(move |(qtype, _)| key.with_type(*qtype))
                    .collect::<Vec<_>>()
            };
            going.iter().flat_map(types).collect()
        };
        delete::<SmallAnswers>(tables, &answers(|w| &w.small), report)?;
        delete::<LargeAnswers>(tables, &answers(|w| &w.large), report)?;
        let texts: Vec<NameKey> = all.into_iter().flat_map(NameKey::text_parts).collect();
        delete::<NameTexts>(tables, &texts, report)
    }

    /// How full the maps are.
    pub(super) fn pressure(&self) -> [Pressure; 4] {
        let sum = |of: fn(&Written) -> usize| self.written.values().map(of).sum();
        let of = |map, elements, size| Pressure {
            map,
            elements,
            size,
        };
        [
            of(Names::NAME, sum(|w| w.value.is_some().into()), Names::SIZE),
            of(
                NameTexts::NAME,
                self.written
                    .iter()
                    .filter(|(_, written)| written.text.is_some())
                    .map(|(key, _)| key.text_parts().count())
                    .sum(),
                NameTexts::SIZE,
            ),
            of(
                SmallAnswers::NAME,
                sum(|w| w.small.len()),
                SmallAnswers::SIZE,
            ),
            of(
                LargeAnswers::NAME,
                sum(|w| w.large.len()),
                LargeAnswers::SIZE,
            ),
        ]
    }

    fn write(
        &mut self,
        tables: &mut impl Tables,
        wanted: &mut [Wanted<'_>],
        report: &mut Report,
    ) -> io::Result<()> {
        self.write_texts_and_answers(tables, wanted, report);

        let mut values = Batch::<Names>::new();
        for (index, want) in wanted.iter().enumerate() {
            if self.written.get(&want.key).and_then(|w| w.value) != Some(want.value) {
                values.push(index, want.key, want.value);
            }
        }
        let mut unwritten = BTreeSet::new();
        for (index, _, failed) in values.write(tables, report) {
            wanted[index].refused = Some(failed.to_string());
            unwritten.insert(index);
        }

        let (mut small, mut large) = (Vec::new(), Vec::new());
        for (index, want) in wanted.iter().enumerate() {
            let written = self.written.entry(want.key).or_default();
            if unwritten.contains(&index) {
                // The kernel may still go by what the name was: its answers stay, and nothing is denied.
                self.missing.insert(want.name.clone());
                written.keep_and_add(want);
                continue;
            }
            self.missing.remove(want.name);
            let gone = |of: &Answers, has: &dyn Fn(u16) -> bool| -> Vec<NameKey> {
                let types = of
                    .iter()
                    .map(|(qtype, _)| *qtype)
                    .filter(|qtype| !has(*qtype));
                types.map(|qtype| want.key.with_type(qtype)).collect()
            };
            small.extend(gone(&written.small, &|t| {
                want.small.iter().any(|(k, _)| k.qtype == t)
            }));
            large.extend(gone(&written.large, &|t| {
                want.large.iter().any(|(k, _)| k.qtype == t)
            }));
            written.become_what_is_wanted(want);
        }
        delete::<SmallAnswers>(tables, &small, report)?;
        delete::<LargeAnswers>(tables, &large, report)
    }

    /// An answer that finds no room is left to user space.
    fn write_texts_and_answers(
        &self,
        tables: &mut impl Tables,
        wanted: &mut [Wanted<'_>],
        report: &mut Report,
    ) {
        let mut texts = Batch::<NameTexts>::new();
        let mut large = Batch::<LargeAnswers>::new();
        let mut small = Batch::<SmallAnswers>::new();
        let nothing = Written::default();
        for (index, want) in wanted.iter().enumerate() {
            let written = self.written.get(&want.key).unwrap_or(&nothing);
            if want.text && written.text != Some(digest_of_text(want.name)) {
                for (number, part) in text_parts(want.name.wire()) {
                    texts.push(index, want.key.with_type(number), part);
                }
            }
            for (key, answer) in &want.large {
                if !written.large.contains(&(key.qtype, digest(answer))) {
                    large.push(index, *key, *answer);
                }
            }
            for (key, answer) in &want.small {
                if !written.small.contains(&(key.qtype, digest(answer))) {
                    small.push(index, *key, *answer);
                }
            }
        }
        for (index, _, failed) in texts.write(tables, report) {
            wanted[index].text = false;
            wanted[index].refused = Some(failed.to_string());
        }
        for (index, key, failed) in large.write(tables, report) {
            wanted[index].without_answer(key.qtype, failed.to_string());
        }
        for (index, key, failed) in small.write(tables, report) {
            wanted[index].without_answer(key.qtype, failed.to_string());
        }
    }
}

impl Written {
    fn differs(&self, want: &Wanted<'_>) -> bool {
        self.value != Some(want.value)
            || (want.text && self.text != Some(digest_of_text(want.name)))
            || self.small != digests(&want.small)
            || self.large != digests(&want.large)
    }

    fn become_what_is_wanted(&mut self, want: &Wanted<'_>) {
        self.value = Some(want.value);
        self.text = want.text.then(|| digest_of_text(want.name)).or(self.text);
        self.small = digests(&want.small);
        self.large = digests(&want.large);
    }

    fn keep_and_add(&mut self, want: &Wanted<'_>) {
        self.text = want.text.then(|| digest_of_text(want.name)).or(self.text);
        for (old, new) in [
            (&mut self.small, digests(&want.small)),
            (&mut self.large, digests(&want.large)),
        ] {
            for answer in new {
                add(old, answer);
            }
        }
    }
}

/// Adds an answer, in the place of another one of its type.
fn add(answers: &mut Answers, (qtype, digest): (u16, Digest)) {
    match answers.binary_search_by_key(&qtype, |(of, _)| *of) {
        Ok(place) => answers[place].1 = digest,
        Err(place) => {
            let mut all = std::mem::take(answers).into_vec();
            all.reserve_exact(1);
            all.insert(place, (qtype, digest));
            *answers = all.into();
        }
    }
}

fn digests<V: NoUninit>(answers: &[(NameKey, V)]) -> Answers {
    let mut digests: Answers = answers
        .iter()
        .map(|(key, answer)| (key.qtype, digest(answer)))
        .collect();
    digests.sort_unstable();
    digests
}

/// Of a whole name, whatever the order in which its parts are found.
fn digest_of_text(name: &Name) -> Digest {
    let parts = text_parts(name.wire());
    let digests = parts.map(|(number, part)| digest_of_part(number, &part));
    let digest = digests.fold(None, |sum, digest| Some(joined(sum, digest)));
    digest.unwrap_or(Digest::MIN)
}

fn joined(sum: Option<Digest>, digest: Digest) -> Digest {
    let sum = sum.map_or(0, Digest::get);
    Digest::new(sum ^ digest.get()).unwrap_or(Digest::MIN)
}

fn digest_of_part(number: u16, part: &[u8; TEXT_PART]) -> Digest {
    let mut hasher = DefaultHasher::new();
    hasher.write_u16(number);
    hasher.write(part);
    Digest::new(hasher.finish()).unwrap_or(Digest::MIN)
}

fn digest(value: &impl NoUninit) -> Digest {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytemuck::bytes_of(value));
    Digest::new(hasher.finish()).unwrap_or(Digest::MIN)
}
