//! Tables of nftables: sets, chains and rules as messages (linux/netfilter/nf_tables.h), carried out all or none.

mod attribute;
mod rule;

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::NfTablesMessage;

use self::attribute::{data, nested, text, word};
use super::batch;
use crate::model::Family;

pub use rule::{Field, Step, Verdict};

/// A verdict as the data of a set's elements (`NFT_DATA_VERDICT`).
const VERDICTS: u32 = 0xffff_ff00;
/// Elements in one message: an attribute has at most 64 KiB.
const ELEMENTS: usize = 500;

/// A change of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    family: Family,
    kind: u8,
    flags: u16,
    attributes: Vec<DefaultNla>,
}

/// Where a base chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Type of the chain: `filter` or `nat`.
    pub kind: &'static str,
    /// Number of the hook: 1 for input, 2 for forward, 3 for output, 4 for postrouting.
    pub hook: u32,
    /// Priority; lower ones are first.
    pub priority: i32,
}

/// What becomes of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They come; those that are there stay.
    Come,
    /// They go. They must be there.
    Go,
}

/// Makes a table.
pub fn table(family: Family, name: &str) -> Change {
    change(family, 0, NLM_F_CREATE, vec![text(1, name)])
}

/// Deletes a table with all that is in it. It must be there.
pub fn delete_table(family: Family, name: &str) -> Change {
    change(family, 2, 0, vec![text(1, name)])
}

/// Makes a chain; one without a place is only jumped to.
pub fn chain(family: Family, table: &str, name: &str, place: Option<Place>) -> Change {
    let mut attributes = vec![text(1, table), text(3, name)];
    if let Some(place) = place {
        let hook = vec![word(1, place.hook), word(2, place.priority.cast_unsigned())];
        attributes.extend([nested(4, &hook), text(7, place.kind)]);
    }
    change(family, 3, NLM_F_CREATE, attributes)
}

/// Adds a rule at the end of a chain.
pub fn rule(family: Family, table: &str, chain: &str, steps: &[Step]) -> Change {
    let expressions: Vec<DefaultNla> = steps
        .iter()
        .flat_map(|step| rule::expressions(family, step))
        .collect();
    let attributes = vec![text(1, table), text(2, chain), nested(4, &expressions)];
    change(family, 6, NLM_F_CREATE | NLM_F_APPEND, attributes)
}

/// Makes a set; `number` tells it from the others of one transaction. A map leads to verdicts.
pub fn set(
    family: Family,
    table: &str,
    name: &str,
    fields: &[Field],
    number: u32,
    map: bool,
) -> Change {
    let width: usize = fields.iter().map(|field| field.width(family)).sum();
    let kind = fields
        .iter()
        .fold(0, |kind, field| kind << 6 | field.kind(family));
    let mut attributes = vec![
        text(1, table),
        text(2, name),
        word(3, if map { 0x8 } else { 0 }),
        word(4, kind),
        word(5, width as u32),
        word(10, number),
    ];
    if map {
        attributes.extend([word(6, VERDICTS), word(7, 0)]);
    }
    change(family, 9, NLM_F_CREATE, attributes)
}

/// Changes the elements of a set: each as it is in the registers.
pub fn elements<'a>(
    family: Family,
    table: &str,
    set: &str,
    fate: Fate,
    keys: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Change> {
    let elements = keys.into_iter().map(|key| vec![data(1, key)]).collect();
    change_elements(family, table, set, fate, elements)
}

/// Adds elements to a map: each leads to a chain.
pub fn add_to_map<'a>(
    family: Family,
    table: &str,
    map: &str,
    keys: impl IntoIterator<Item = (&'a [u8], &'a str)>,
) -> Vec<Change> {
    let element = |(key, chain): (&[u8], &str)| {
        let to = rule::verdict(&Verdict::Jump(chain.to_owned()));
        vec![data(1, key), nested(2, &[to])]
    };
    let elements = keys.into_iter().map(element).collect();
    change_elements(family, table, map, Fate::Come, elements)
}

/// Carries out all changes or none.
///
/// # Errors
/// What the kernel says of the first change that it refuses.
pub fn carry_out(changes: &[Change]) -> io::Result<()> {
    batch::carry_out(changes.iter().map(|change| {
        let message = NfTablesMessage::Other {
            message_type: change.kind,
            attributes: change.attributes.clone(),
        };
        (change.family, change.flags, message)
    }))
}

const fn change(family: Family, kind: u8, flags: u16, attributes: Vec<DefaultNla>) -> Change {
    Change {
        family,
        kind,
        flags,
        attributes,
    }
}

fn change_elements(
    family: Family,
    table: &str,
    set: &str,
    fate: Fate,
    elements: Vec<Vec<DefaultNla>>,
) -> Vec<Change> {
    let (kind, flags) = match fate {
        Fate::Come => (12, NLM_F_CREATE),
        Fate::Go => (14, 0),
    };
    elements
        .chunks(ELEMENTS)
        .map(|some| {
            let some: Vec<DefaultNla> = some.iter().map(|element| nested(1, element)).collect();
            let attributes = vec![text(1, table), text(2, set), nested(3, &some)];
            change(family, kind, flags, attributes)
        })
        .collect()
}
