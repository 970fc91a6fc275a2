//! The rules beside IPVS where the kernel has no nftables: chains of iptables that ask sets of ipset, all with names of
//! our own. A table of iptables is written as a whole, and so is a set; between two of them others see one that is new
//! beside one that is old.

#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use nix::net::if_::if_indextoname;

use super::rules::{Element, Frame, Set};
use crate::{
    dataplane::netfilter::{
        ipset,
        iptables::{Form, Owned, families},
        nat_chains,
    },
    model::Family,
};

use self::text::{CHAINS, SETS};

/// Writes the rules, and knows what it wrote.
#[derive(Clone, Debug)]
pub(super) struct Iptables {
    form: Form,
    /// What packets are marked with that are masqueraded.
    mark: u32,
    /// The lines of ours that `iptables-save` has shown.
    written: BTreeMap<Family, Vec<String>>,
    sets: BTreeSet<String>,
}

impl Iptables {
    /// With the number of the bit of packets' marks that says that one is to be masqueraded.
    ///
    /// # Errors
    /// Where there is no iptables.
    pub(super) fn new(masquerade_bit: u8) -> anyhow::Result<Self> {
        let form = Form::first().context(
            "neither iptables-legacy-restore nor iptables-restore is there: install iptables",
        )?;
        Ok(Self {
            form,
            mark: 1 << masquerade_bit,
            written: BTreeMap::new(),
            sets: BTreeSet::new(),
        })
    }

    /// The program that rules are written with.
    pub(super) fn program(&self) -> String {
        self.form.program(Family::V4, "-restore")
    }

    /// Makes everything anew, with these elements.
    pub(super) fn make(
        &mut self,
        frame: &Frame,
        elements: &BTreeSet<Element>,
    ) -> anyhow::Result<()> {
        if let Err(error) = self.write(frame, elements) {
            if remains().is_none() {
                return Err(error);
            }
            // Sets of these names that are of another kind can only go with the rules that ask them.
            tracing::info!("rules and sets are removed first: {error:#}");
            remove()?;
            self.write(frame, elements)?;
        }
        Ok(())
    }

    /// Lets elements of sets come and go; a set of interfaces is none of ipset's, and needs [`Self::make`].
    pub(super) fn change(&self, come: &[Element], go: &[Element]) -> anyhow::Result<()> {
        ipset::restore(&text::changes(come, go))
    }

    /// Whether everything is there as it was written.
    pub(super) fn is_there(&self) -> bool {
        let rules = self.written.iter().all(|(family, lines)| {
            // What cannot be read now is read later.
            let saved = self.form.save(*family);
            saved.is_none_or(|saved| ours(&saved) == *lines)
        });
        rules && ipset::names(SETS).is_superset(&self.sets)
    }

    fn write(&mut self, frame: &Frame, elements: &BTreeSet<Element>) -> anyhow::Result<()> {
        let families: Vec<Family> = families().collect();
        ipset::restore(&text::sets(&families, frame, elements, &ipset::names(SETS)))?;
        self.sets = ipset::names(SETS);
        self.written.clear();
        for family in families {
            let interfaces = interfaces(elements);
            let saved = self.form.save(family).unwrap_or_default();
            let before = Owned::find(&saved, CHAINS);
            let script = text::rules(family, frame, &interfaces, self.mark, &before);
            self.form.restore(family, &script)?;
            let saved = self.form.save(family).unwrap_or_default();
            self.written.insert(family, ours(&saved));
        }
        Ok(())
    }
}

/// What is left of it: chains, and sets. `None` where nothing is.
pub(super) fn remains() -> Option<(usize, usize)> {
    let forms = forms().into_iter();
    let chains = forms
        .flat_map(|form| families().filter_map(move |family| form.save(family)))
        .map(|saved| Owned::find(&saved, CHAINS).count())
        .sum();
    let sets = ipset::names(SETS).len();
    (chains > 0 || sets > 0).then_some((chains, sets))
}

/// Removes all of it.
///
/// # Errors
/// Where a part is there and cannot be removed.
pub(super) fn remove() -> anyhow::Result<()> {
    for form in forms() {
        for family in families() {
            let saved = form.save(family).unwrap_or_default();
            let owned = Owned::find(&saved, CHAINS);
            if owned.count() > 0 {
                form.restore(family, &owned.removal())?;
            }
        }
    }
    ipset::destroy(&ipset::names(SETS)).context("sets are not removed")
}

/// Tries in a network namespace that is of no use to anybody whether rules and sets can be made; says with what.
///
/// # Errors
/// Where they cannot.
pub(super) fn try_out() -> anyhow::Result<String> {
    let networks = ["192.0.2.0/24", "2001:db8::/64"];
    let frame = Frame {
        cluster_ranges: networks.iter().filter_map(|net| net.parse().ok()).collect(),
        service_ranges: networks.iter().filter_map(|net| net.parse().ok()).collect(),
        ..Frame::default()
    };
    let mut iptables = Iptables::new(0)?;
    iptables.make(&frame, &BTreeSet::new())?;
    if iptables.written.values().any(Vec::is_empty) {
        bail!("{} writes what is not there", iptables.program());
    }
    Ok(iptables.program())
}

/// The forms that may have rules of ours. Those that have none are not asked: a program that is would load modules.
fn forms() -> Vec<Form> {
    let legacy = ["ip", "ip6"].iter().any(|family| {
        let tables = format!("/proc/thread-self/net/{family}_tables_names");
        std::fs::read_to_string(tables).is_ok_and(|tables| tables.contains("mangle"))
    });
    let of_nftables = families()
        .any(|family| nat_chains::has_chain(family, "mangle", text::OUTPUT).unwrap_or(false));
    if !legacy && !of_nftables {
        return Vec::new();
    }
    Form::there()
}

fn ours(saved: &str) -> Vec<String> {
    let owned = Owned::find(saved, CHAINS);
    owned.lines.into_iter().map(str::to_owned).collect()
}

/// Names of the interfaces that clients outside come by. One that is gone has none.
fn interfaces(elements: &BTreeSet<Element>) -> BTreeSet<String> {
    elements
        .iter()
        .filter(|element| element.set == Set::Outside)
        .filter_map(|element| {
            let index = u32::from_ne_bytes(element.key.as_slice().try_into().ok()?);
            if_indextoname(index).ok()?.into_string().ok()
        })
        .collect()
}
