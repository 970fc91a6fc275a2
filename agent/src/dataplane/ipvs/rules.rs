//! What netfilter does beside IPVS: rules that stand still while elements of sets come and go. Pure.
//!
//! IPVS would let a packet to a Service's address that it has no virtual server for go on to the host's own sockets, and
//! it knows neither REJECT nor source ranges nor masquerade. Here the rules are a table of nftables in each family, which
//! needs no mark of packets: what a connection was made to is asked of connection tracking. `iptables`
//! writes the same rules where there is no nftables.

mod sets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use self::sets::{HAIRPIN, ORIGINAL, PLACE, octets, place};
use super::server::ServerKey;
use crate::{
    dataplane::netfilter::nftables::{self as nft, Change, Fate, Field, Place, Step, Verdict},
    model::Family,
};

pub use sets::{Element, Set, change};

/// The table.
pub const TABLE: &str = "signpost-ipvs";

/// The map from places to the chain of who may use them.
const RANGES: &str = "source-ranges";
/// Bits of the state of a connection (`NFT_CT_STATE_BIT`): established, related, untracked. What is not tracked is
/// neighbours' talk, or is left alone by somebody's wish.
const KNOWN: u32 = (1 << 1) | (1 << 2) | (1 << 6);

/// Input, after the host's own filters have had no say yet; before IPVS, which is at 98.
const INPUT: Place = Place {
    kind: "filter",
    hook: 1,
    priority: -10,
};
const FORWARD: Place = Place {
    kind: "filter",
    hook: 2,
    priority: -10,
};
/// IPVS is at -98 here.
const OUTPUT: Place = Place {
    kind: "filter",
    hook: 3,
    priority: -150,
};
const POSTROUTING: Place = Place {
    kind: "nat",
    hook: 4,
    priority: 100,
};

/// What the rules are made of: where it changes, the table is made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The networks that pods have their addresses from.
    pub cluster_ranges: Vec<IpNet>,
    /// All that goes to ClusterIPs is masqueraded.
    pub masquerade_all: bool,
    /// The networks that ClusterIPs are given out of.
    pub service_ranges: BTreeSet<IpNet>,
    /// Who may use a place; all may use others.
    pub source_ranges: BTreeMap<ServerKey, Vec<IpNet>>,
}

/// Makes the tables anew, with these elements.
pub fn whole(frame: &Frame, elements: &BTreeSet<Element>) -> Vec<Change> {
    let mut changes = Vec::new();
    for family in [Family::V4, Family::V6] {
        changes.extend(gone(family));
        changes.push(nft::table(family, TABLE));
        for (number, set) in (1..).zip(Set::ALL) {
            let made = nft::set(family, TABLE, set.name(), set.fields(), number, false);
            changes.push(made);
        }
        let number = Set::ALL.len() as u32 + 1;
        changes.push(nft::set(family, TABLE, RANGES, &PLACE, number, true));
        changes.extend(source_ranges(family, frame));
        for (name, at, rules) in [
            ("input", INPUT, [guard(), turn_away(family, frame)].concat()),
            ("forward", FORWARD, unallocated(family, frame)),
            (
                "output",
                OUTPUT,
                [guard(), unallocated(family, frame)].concat(),
            ),
            (
                "postrouting",
                POSTROUTING,
                [masquerade(family, frame), vec![hairpin()]].concat(),
            ),
        ] {
            changes.push(nft::chain(family, TABLE, name, Some(at)));
            changes.extend(
                rules
                    .iter()
                    .map(|steps| nft::rule(family, TABLE, name, steps)),
            );
        }
    }
    changes.extend(change(Fate::Come, elements));
    changes
}

/// Removes the table of a family, whether it is there or not.
pub fn gone(family: Family) -> [Change; 2] {
    [nft::table(family, TABLE), nft::delete_table(family, TABLE)]
}

/// What is done with packets to the node itself, and with those of its own processes, before IPVS sees them.
pub(super) fn guard() -> Vec<Vec<Step>> {
    vec![
        known(),
        vec![load(&PLACE), within(Set::Dropped), to(Verdict::Drop)],
        vec![load(&PLACE), Step::Map(RANGES.to_owned())],
    ]
}

/// What is refused and what clients outside may not have, of packets to the node itself.
///
/// Those of its own processes come by here too: what was rejected where they leave would fail with `EPERM`.
pub(super) fn turn_away(family: Family, frame: &Frame) -> Vec<Vec<Step>> {
    let mut rules = vec![vec![load(&PLACE), within(Set::Rejected), Step::Reject]];
    let mut steps = vec![load(&[Field::Interface]), within(Set::Outside)];
    steps.extend(outside(family, frame));
    steps.extend([load(&PLACE), within(Set::DroppedOutside), to(Verdict::Drop)]);
    rules.push(steps);
    // Whatever else asks an address of a Service is told so, as in kube-proxy's nftables mode: ping and ports of the node.
    rules.push(vec![
        load(&[Field::Destination]),
        within(Set::Vips),
        load(&PLACE),
        without(Set::Served),
        Step::Reject,
    ]);
    rules
}

/// What is sent to a ClusterIP that no Service has is dropped.
pub(super) fn unallocated(family: Family, frame: &Frame) -> Vec<Vec<Step>> {
    let ranges = frame.service_ranges.iter();
    let ranges = ranges.filter(|range| Family::of(range.addr()) == family);
    ranges
        .map(|range| {
            vec![
                load(&[Field::Destination]),
                is(range, false),
                // The mask has changed the register.
                load(&[Field::Destination]),
                without(Set::Vips),
                without(Set::Foreign),
                load(&[Field::State]),
                Step::Is {
                    mask: KNOWN.to_ne_bytes().to_vec(),
                    value: vec![0; 4],
                    inverted: false,
                },
                to(Verdict::Drop),
            ]
        })
        .collect()
}

/// What kube-proxy masquerades by what a connection was made to: semantics of its `KUBE-MARK-MASQ`.
pub(super) fn masquerade(family: Family, frame: &Frame) -> Vec<Vec<Step>> {
    let mut rules = vec![vec![
        load(&ORIGINAL),
        within(Set::Masqueraded),
        Step::Masquerade,
    ]];
    if frame.masquerade_all {
        rules.push(vec![
            load(&ORIGINAL),
            within(Set::ClusterIps),
            Step::Masquerade,
        ]);
    } else if has_ranges(family, frame) {
        let mut steps = outside(family, frame);
        steps.extend([load(&ORIGINAL), within(Set::ClusterIps), Step::Masquerade]);
        rules.push(steps);
    }
    // A process of the node that asks an address of its own has that as its source.
    rules.push(vec![
        load(&[Field::Source]),
        within(Set::Vips),
        load(&ORIGINAL),
        within(Set::Served),
        Step::Masquerade,
    ]);
    rules
}

/// Who reaches itself by a Service would answer itself past the node.
fn hairpin() -> Vec<Step> {
    vec![
        load(&HAIRPIN),
        within(Set::Hairpin),
        load(&ORIGINAL),
        within(Set::Served),
        Step::Masquerade,
    ]
}

/// A chain for each list of ranges, and the places that lead there.
fn source_ranges(family: Family, frame: &Frame) -> Vec<Change> {
    let of_family = frame.source_ranges.iter();
    let of_family = of_family.filter(|(key, _)| Family::of(key.address) == family);
    let mut lists: BTreeMap<&[IpNet], Vec<Vec<u8>>> = BTreeMap::new();
    for (key, ranges) in of_family {
        lists.entry(ranges).or_default().push(place(key));
    }
    let mut changes = Vec::new();
    for (number, (ranges, places)) in lists.into_iter().enumerate() {
        let name = format!("{RANGES}-{number}");
        changes.push(nft::chain(family, TABLE, &name, None));
        for range in ranges {
            let steps = [
                load(&[Field::Source]),
                is(range, false),
                to(Verdict::Return),
            ];
            changes.push(nft::rule(family, TABLE, &name, &steps));
        }
        changes.push(nft::rule(family, TABLE, &name, &[to(Verdict::Drop)]));
        let places = places.iter().map(|place| (place.as_slice(), name.as_str()));
        changes.extend(nft::add_to_map(family, TABLE, RANGES, places));
    }
    changes
}

/// What is of a connection that is known goes on.
pub(super) fn known() -> Vec<Step> {
    vec![
        load(&[Field::State]),
        Step::Is {
            mask: KNOWN.to_ne_bytes().to_vec(),
            value: vec![0; 4],
            inverted: true,
        },
        to(Verdict::Accept),
    ]
}

fn has_ranges(family: Family, frame: &Frame) -> bool {
    let mut ranges = frame.cluster_ranges.iter();
    ranges.any(|range| Family::of(range.addr()) == family)
}

/// Matches where the source is in none of the pods' networks.
fn outside(family: Family, frame: &Frame) -> Vec<Step> {
    let ranges = frame.cluster_ranges.iter();
    let ranges = ranges.filter(|range| Family::of(range.addr()) == family);
    ranges
        .flat_map(|range| [load(&[Field::Source]), is(range, true)])
        .collect()
}

fn load(fields: &[Field]) -> Step {
    Step::Load(fields.to_vec())
}

fn within(set: Set) -> Step {
    Step::In {
        set: set.name().to_owned(),
        inverted: false,
    }
}

fn without(set: Set) -> Step {
    Step::In {
        set: set.name().to_owned(),
        inverted: true,
    }
}

const fn to(verdict: Verdict) -> Step {
    Step::Verdict(verdict)
}

fn is(range: &IpNet, inverted: bool) -> Step {
    Step::Is {
        mask: octets(range.netmask()),
        value: octets(range.network()),
        inverted,
    }
}
