//! What must be in the kernel of a name.

use signpost_common::{
    dns::{LargeAnswer, NameValue, SmallAnswer},
    name::NameKey,
};

use super::records::RecordSet;
use crate::zone::{Name, NameEntry};

/// The elements of a name, and why they are not all that the zone asks for.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// The name.
    pub(super) name: &'a Name,
    /// What the zone says of it.
    pub(super) entry: &'a NameEntry,
    /// Its key, without type.
    pub(super) key: NameKey,
    /// Element of `names`.
    pub(super) value: NameValue,
    /// Whether the name stands in `name_texts`: not where another name has the key.
    pub(super) text: bool,
    /// Elements of `answers_small`, by type.
    pub(super) small: Vec<(NameKey, SmallAnswer)>,
    /// Elements of `answers_large`, by type.
    pub(super) large: Vec<(NameKey, LargeAnswer)>,
    /// Why some of it is left to user space.
    pub(super) refused: Option<String>,
}

impl<'a> Wanted<'a> {
    /// All that the zone asks for. Sets that fit nowhere are left to user space, which is not a refusal.
    pub(super) fn new(name: &'a Name, entry: &'a NameEntry, key: NameKey) -> Self {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let mut want = Self {
            name,
            entry,
            key,
            value: NameValue {
                check: key.check(),
                flags: flag(entry.complete, NameValue::COMPLETE)
                    | flag(entry.namespace, NameValue::NAMESPACE)
                    | flag(entry.service, NameValue::SERVICE)
                    | flag(entry.listed, NameValue::LISTED)
                    | flag(entry.absent, NameValue::ABSENT)
                    | flag(entry.apex, NameValue::APEX)
                    | flag(entry.pods, NameValue::PODS),
                large: 0,
                user: entry
                    .user
                    .iter()
                    .fold(0, |bits, qtype| bits | NameValue::type_bit(*qtype)),
            },
            text: true,
            small: Vec::new(),
            large: Vec::new(),
            refused: None,
        };
        let mut sets = vec![
            RecordSet::a(&entry.a, entry.ttl),
            RecordSet::aaaa(&entry.aaaa, entry.ttl),
        ];
        for (qtype, records) in &entry.records {
            match RecordSet::fixed(name, *qtype, records) {
                Some(set) => sets.push(set),
                None => want.value.user |= NameValue::type_bit(*qtype),
            }
        }
        for set in sets {
            let bit = NameValue::type_bit(set.qtype);
            if set.is_empty() || want.value.user & bit != 0 {
                continue;
            }
            if let Some(answer) = set.small(key) {
                want.small.push(answer);
            } else if let Some(answer) = set.large(key) {
                want.large.push(answer);
                want.value.large |= bit;
            } else {
                want.value.user |= bit;
            }
        }
        want
    }

    /// The name exists, and no more is said of it.
    pub(super) fn leave_to_user_space(&mut self, why: String) {
        self.value.flags &= !(NameValue::COMPLETE | NameValue::LISTED);
        self.value.user = u32::MAX;
        self.value.large = 0;
        self.small.clear();
        self.large.clear();
        self.refused = Some(why);
    }

    /// Another name has the same key: nothing may be said of either.
    pub(super) fn share(&mut self) {
        self.leave_to_user_space(
            "its hash is that of another name; signpost dns answers for both".to_owned(),
        );
        self.value.flags = 0;
        self.text = false;
    }

    /// An answer found no room.
    pub(super) fn without_answer(&mut self, qtype: u16, why: String) {
        let bit = NameValue::type_bit(qtype);
        self.value.user |= bit;
        self.value.large &= !bit;
        self.small.retain(|(key, _)| key.qtype != qtype);
        self.large.retain(|(key, _)| key.qtype != qtype);
        self.refused = Some(why);
    }
}
