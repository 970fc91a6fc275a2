//! The name hash: how the kernel and the agent turn a DNS name into a map key.
//!
//! A name in wire form is cut into 8-byte words, label by label from the right (the root's side); the length byte is
//! part of the first word of its label, letters are lower-cased, and the last word of a label is filled up with
//! zeros. Two lanes of NH (Black et al., UMAC, 1999; the second one is shifted by one key) sum up the words. NH has
//! no chain: the partial sums at a label's border are the hashes of the suffix that begins there, so one pass gives
//! the hashes of zone, namespace, service and whole name, and for keys that the asker does not know two different
//! names of equal shape meet in both lanes with a chance of at most 2⁻⁶⁴.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::check::mix;

/// The longest name in wire form, the root's zero byte included (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 255;
/// The longest label (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;
/// A name with more labels is left to user space. As many as reverse IPv6 names have.
pub const MAX_LABELS: usize = 34;
/// Words that a name of [`MAX_LABELS`] labels and [`MAX_NAME`] bytes can have: 254/8, and seven eighths more for each
/// label.
pub const MAX_WORDS: usize = 62;

/// Bytes of a name in one element of the map `name_texts`. Few names have more.
pub const TEXT_PART: usize = 64;

/// A name in wire form as elements of the map `name_texts`: numbers from 0 on, which stand as `qtype` in the key, and
/// bytes, filled up with zeros. How many there are is said by the name's length: see [`NameKey::text_parts`].
pub fn text_parts(name: &[u8]) -> impl Iterator<Item = (u16, [u8; TEXT_PART])> {
    let part = |(number, bytes): (u16, &[u8])| {
        let mut part = [0; TEXT_PART];
        part[..bytes.len()].copy_from_slice(bytes);
        (number, part)
    };
    (0..).zip(name.chunks(TEXT_PART)).map(part)
}

/// Key of the maps `names` (with `qtype` 0) and `answers`: which name, and which type of record.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, NoUninit, AnyBitPattern,
)]
pub struct NameKey {
    /// First lane of the hash.
    pub first: u64,
    /// Second lane of the hash.
    pub second: u64,
    /// Bytes of the name in wire form, without the root's zero byte. Host byte order.
    pub length: u16,
    /// Labels of the name. Host byte order.
    pub labels: u16,
    /// Type of record (RFC 1035 §3.2.2) in host byte order; 0 in the map `names`.
    pub qtype: u16,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<NameKey>() == 24);

impl NameKey {
    /// The root's key.
    pub const ZERO: Self = Self {
        first: 0,
        second: 0,
        length: 0,
        labels: 0,
        qtype: 0,
        pad: 0,
    };

    /// A number that tells keys apart: the `check` of the values under them.
    #[inline(always)]
    pub fn check(&self) -> u32 {
        mix(&[
            self.first,
            self.second,
            (self.length as u64) << 32 | (self.labels as u64) << 16 | self.qtype as u64,
        ])
    }

    /// The keys of the name's elements in the map `name_texts`.
    pub fn text_parts(self) -> impl Iterator<Item = Self> {
        let count = self.length.div_ceil(TEXT_PART as u16);
        (0..count).map(move |number| self.with_type(number))
    }

    /// The same name with a type of record.
    #[inline(always)]
    pub const fn with_type(self, qtype: u16) -> Self {
        Self { qtype, ..self }
    }
}

/// The keys of the hash, drawn at random for each life of the maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct HashKeys {
    /// One key a word, one more for the second lane's shift, and room so that a masked index is always inside.
    pub words: [u64; 72],
}

/// The state of one pass over a name, from its last label to its first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hasher {
    key: NameKey,
    words: u32,
}

impl Hasher {
    /// Adds one word: 8 bytes as they lie in memory, lower-cased, filled up with zeros. `keys` are
    /// `words[n]` and `words[n + 1]` of [`HashKeys`] for the n-th word ([`Hasher::words`]).
    #[inline(always)]
    pub fn word(&mut self, word: u64, keys: [u64; 2]) {
        self.key.first = self.key.first.wrapping_add(nh(word, keys[0]));
        self.key.second = self.key.second.wrapping_add(nh(word, keys[1]));
        self.words += 1;
    }

    /// Ends a label. `length` and `labels` are those of the name made of the labels so far, whose key this is then.
    #[inline(always)]
    pub fn end_label(&mut self, length: u16, labels: u16) -> NameKey {
        self.key.length = length;
        self.key.labels = labels;
        self.key
    }

    /// How many words were added.
    #[inline(always)]
    pub const fn words(&self) -> u32 {
        self.words
    }

    /// The key of the name made of the labels so far.
    #[inline(always)]
    pub const fn key(&self) -> NameKey {
        self.key
    }
}

/// Lower-cases the ASCII letters among eight bytes, whatever the other bytes are.
#[inline(always)]
pub const fn lower(word: u64) -> u64 {
    const LOW7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const AFTER_Z: u64 = 0x2525_2525_2525_2525; // 0x80 - ('Z' + 1)
    const FROM_A: u64 = 0x3f3f_3f3f_3f3f_3f3f; // 0x80 - 'A'
    let low = word & LOW7;
    let upper = (low + FROM_A) & !(low + AFTER_Z) & !word & HIGH;
    word | (upper >> 2)
}

/// The first `bytes` (0 to 8) of a word, the others zero. Memory order is little-endian, as on every machine that
/// the programs are built for.
#[inline(always)]
pub const fn keep(word: u64, bytes: u32) -> u64 {
    if bytes >= 8 {
        word
    } else {
        word & ((1u64 << (bytes * 8)) - 1)
    }
}

/// The key of a whole name. `name` is in wire form, letters in any case, with or without the root's zero byte.
/// `None` for a name that is malformed or that the kernel does not hash: see [`MAX_LABELS`], [`MAX_NAME`].
pub fn hash(name: &[u8], keys: &HashKeys) -> Option<NameKey> {
    let mut starts = [0usize; MAX_LABELS];
    let mut labels = 0;
    let mut at = 0;
    while at < name.len() && name[at] != 0 {
        let length = usize::from(name[at]);
        if length > MAX_LABEL || labels == MAX_LABELS {
            return None;
        }
        starts[labels] = at;
        labels += 1;
        at += length + 1;
    }
    if at >= MAX_NAME || at > name.len() || (at < name.len() && at + 1 != name.len()) {
        return None;
    }
    let mut hasher = Hasher::default();
    for &start in starts[..labels].iter().rev() {
        let length = usize::from(name[start]);
        for chunk in name[start..=start + length].chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            let n = hasher.words() as usize;
            hasher.word(
                lower(u64::from_le_bytes(bytes)),
                [keys.words[n], keys.words[n + 1]],
            );
        }
    }
    Some(hasher.end_label(at as u16, labels as u16))
}

#[inline(always)]
const fn nh(word: u64, key: u64) -> u64 {
    let low = (word as u32).wrapping_add(key as u32);
    let high = ((word >> 32) as u32).wrapping_add((key >> 32) as u32);
    (low as u64).wrapping_mul(high as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> HashKeys {
        let mut words = [0; 72];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for word in &mut words {
            state = state
                .wrapping_mul(0xd129_8a61_6d7e_1f2b)
                .wrapping_add(0x1405_7b7e_f767_814f);
            *word = state ^ (state >> 29);
        }
        HashKeys { words }
    }

    fn wire(name: &str) -> Vec<u8> {
        name.split('.')
            .flat_map(|l| std::iter::once(l.len() as u8).chain(l.bytes()))
            .collect()
    }

    #[test]
    fn letter_case_and_the_final_zero_do_not_matter() {
        let lower = hash(&wire("ent.prod.svc.cluster.local"), &keys()).unwrap();
        let mut upper = wire("eNT.Prod.sVc.CLUSTER.loCAL");
        upper.push(0);
        assert_eq!(hash(&upper, &keys()), Some(lower));
        assert_eq!((lower.labels, lower.length), (5, 27));
    }

    #[test]
    fn label_borders_count() {
        let a = hash(&wire("ab.c.cluster.local"), &keys()).unwrap();
        let b = hash(&wire("a.bc.cluster.local"), &keys()).unwrap();
        assert_eq!((a.length, a.labels), (b.length, b.labels));
        assert_ne!((a.first, a.second), (b.first, b.second));
    }

    #[test]
    fn a_name_has_as_many_parts_as_its_key_says() {
        for name in [
            "a",
            &"a".repeat(62),
            &"a".repeat(63),
            "abcdefg.".repeat(20).trim_end_matches('.'),
        ] {
            let name = wire(name);
            let key = hash(&name, &keys()).unwrap();
            let (numbers, parts): (Vec<u16>, Vec<_>) = text_parts(&name).unzip();
            let keys: Vec<u16> = key.text_parts().map(|key| key.qtype).collect();
            assert_eq!(keys, numbers);
            let mut whole = parts.concat();
            assert!(whole[name.len()..].iter().all(|byte| *byte == 0));
            whole.truncate(name.len());
            assert_eq!(whole, name);
        }
    }

    #[test]
    fn what_is_too_long_or_malformed_has_no_key() {
        assert_eq!(hash(&wire(&vec!["a"; 35].join(".")), &keys()), None);
        assert_eq!(
            hash(
                &wire(
                    &[
                        "a".repeat(63),
                        "b".repeat(63),
                        "c".repeat(63),
                        "d".repeat(63)
                    ]
                    .join(".")
                ),
                &keys()
            ),
            None
        );
        assert_eq!(hash(&[5, b'a'], &keys()), None);
        assert_eq!(hash(&[0xc0, 0x0c], &keys()), None);
        assert_eq!(hash(&[1, b'a', 0, 1, b'b'], &keys()), None);
    }

    #[test]
    fn no_name_that_is_hashed_needs_more_words_than_there_are() {
        // A label of 8 bytes and its length need two words, the second of which is nearly empty.
        let labels: Vec<String> = std::iter::repeat_n("a".repeat(8), 27)
            .chain(std::iter::repeat_n("b".to_owned(), 5))
            .collect();
        let name = wire(&labels.join("."));
        assert!(name.len() <= MAX_NAME && hash(&name, &keys()).is_some());
        let words = |wire: usize| wire.div_ceil(8);
        let needed: usize = labels.iter().map(|label| words(label.len() + 1)).sum();
        assert!(needed <= MAX_WORDS && MAX_WORDS < keys().words.len());
        // In general: no label has more than seven bytes of its last word empty.
        const { assert!((MAX_NAME - 1 + 7 * MAX_LABELS) / 8 <= MAX_WORDS) };
    }

    proptest! {
        #[test]
        fn lower_is_ascii_lower_case(bytes: [u8; 8]) {
            prop_assert_eq!(lower(u64::from_le_bytes(bytes)).to_le_bytes(), bytes.map(|b| b.to_ascii_lowercase()));
        }

        #[test]
        fn different_names_have_different_keys(a in "[a-c]{1,9}(\\.[a-c]{1,9}){0,4}", b in "[a-c]{1,9}(\\.[a-c]{1,9}){0,4}") {
            let (x, y) = (hash(&wire(&a), &keys()), hash(&wire(&b), &keys()));
            prop_assert_eq!(a == b, x == y);
        }
    }
}
