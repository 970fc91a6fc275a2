//! The rules of netfilter, kept as they are wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Context as _;
use ipnet::IpNet;

use super::{
    desired::Desired,
    iptables::Iptables,
    remains,
    rules::{self, Element, Frame, Set},
    server::ServerKey,
};
use crate::{
    dataplane::netfilter::{
        nat_chains,
        nftables::{self, Fate},
    },
    model::Family,
    probe::Netfilter,
};

/// What somebody else may have changed is looked at every so many sweeps, where that takes another program.
const LOOK: u64 = 10;

/// What the rules are written with.
#[derive(Debug)]
pub(super) enum Writer {
    /// Tables of nftables.
    Nftables,
    /// Chains of iptables, and sets of ipset.
    Iptables(Iptables),
}

/// What they are made of, and what is in them.
#[derive(Debug)]
pub(super) struct Tables {
    writer: Writer,
    frame: Frame,
    /// What the other writer has left is gone.
    alone: bool,
    looks: u64,
    /// They are as `written` and `frame` say.
    are_right: bool,
    written: BTreeSet<Element>,
    /// Elements that are not of plans: addresses that are there, interfaces, addresses that others serve.
    own: BTreeSet<Element>,
}

impl Tables {
    /// Of which none is there yet, and what they are to be made of.
    pub(super) const fn new(writer: Writer, frame: Frame) -> Self {
        Self {
            writer,
            frame,
            alone: false,
            looks: 0,
            are_right: false,
            written: BTreeSet::new(),
            own: BTreeSet::new(),
        }
    }

    /// Says which networks ClusterIPs are given out of.
    pub(super) fn set_service_ranges(&mut self, ranges: &BTreeSet<IpNet>) {
        if *ranges != self.frame.service_ranges {
            self.frame.service_ranges.clone_from(ranges);
            self.are_right = false;
        }
    }

    /// Says who may use which places.
    pub(super) fn set_source_ranges(&mut self, ranges: BTreeMap<ServerKey, Vec<IpNet>>) {
        if ranges != self.frame.source_ranges {
            self.frame.source_ranges = ranges;
            self.are_right = false;
        }
    }

    /// Says that the node has an address of a Service.
    pub(super) fn hold(&mut self, address: IpAddr) -> Element {
        let element = Element::address(Set::Vips, address);
        self.own.insert(element.clone());
        element
    }

    /// Says that it has it no more.
    pub(super) fn let_go(&mut self, address: IpAddr) -> Element {
        let element = Element::address(Set::Vips, address);
        self.own.remove(&element);
        element
    }

    /// Replaces what is in one of the sets that are not of plans; returns what changed.
    pub(super) fn replace(&mut self, set: Set, elements: BTreeSet<Element>) -> BTreeSet<Element> {
        let before: BTreeSet<Element> = self.own.extract_if(.., |e| e.set == set).collect();
        let touched = before.symmetric_difference(&elements).cloned().collect();
        self.own.extend(elements);
        touched
    }

    /// Makes them right as far as these elements go; returns how many were written.
    pub(super) fn write(
        &mut self,
        touched: &BTreeSet<Element>,
        desired: &Desired,
    ) -> anyhow::Result<usize> {
        if !self.are_right {
            return self.make(desired);
        }
        let wants = |e: &&Element| desired.has_element(e) || self.own.contains(*e);
        let (wanted, unwanted): (Vec<&Element>, Vec<&Element>) = touched.iter().partition(wants);
        let new: Vec<Element> = wanted
            .into_iter()
            .filter(|e| !self.written.contains(*e))
            .cloned()
            .collect();
        let gone: Vec<Element> = unwanted
            .into_iter()
            .filter(|e| self.written.contains(*e))
            .cloned()
            .collect();
        if !self.writer.has_sets_for(new.iter().chain(&gone)) {
            return self.make(desired);
        }
        if let Err(error) = self.writer.change(&new, &gone) {
            let what = self.writer.text();
            tracing::warn!("somebody has changed {what}, which are made anew: {error:#}");
            return self.make(desired);
        }
        for element in &gone {
            self.written.remove(element);
        }
        let count = new.len() + gone.len();
        self.written.extend(new);
        Ok(count)
    }

    /// Makes them anew where somebody has removed one.
    pub(super) fn look(&mut self, desired: &Desired) -> anyhow::Result<()> {
        self.looks += 1;
        if !self.writer.is_there(self.looks) {
            let what = self.writer.text();
            tracing::warn!("somebody has removed {what}, which are made anew");
            self.make(desired)?;
        }
        Ok(())
    }

    fn make(&mut self, desired: &Desired) -> anyhow::Result<usize> {
        let mut elements = desired.elements();
        elements.extend(self.own.iter().cloned());
        self.are_right = false;
        self.writer
            .make(&self.frame, &elements)
            .with_context(|| format!("{} cannot be made", self.writer.text()))?;
        if !self.alone {
            self.writer.remove_others()?;
            self.alone = true;
        }
        self.are_right = true;
        let count = elements.len();
        self.written = elements;
        Ok(count)
    }
}

impl Writer {
    /// One of this kind; `masquerade_bit` is for the one that needs a mark.
    ///
    /// # Errors
    /// Where the kernel or a program is missing.
    pub(super) fn open(kind: Netfilter, masquerade_bit: u8) -> anyhow::Result<Self> {
        match kind {
            Netfilter::Nftables => {
                for family in [Family::V4, Family::V6] {
                    nat_chains::has_table(family, rules::TABLE)
                        .context("the kernel has no nftables; load module nf_tables")?;
                }
                Ok(Self::Nftables)
            }
            Netfilter::Iptables => {
                let iptables = Iptables::new(masquerade_bit)?;
                tracing::info!(
                    program = iptables.program(),
                    "rules of iptables are written"
                );
                Ok(Self::Iptables(iptables))
            }
        }
    }

    /// What it writes, for people.
    const fn text(&self) -> &'static str {
        match self {
            Self::Nftables => "tables signpost-ipvs of nftables",
            Self::Iptables(_) => "chains SIGNPOST-… of iptables and sets signpost-… of ipset",
        }
    }

    fn make(&mut self, frame: &Frame, elements: &BTreeSet<Element>) -> anyhow::Result<()> {
        match self {
            Self::Nftables => Ok(nftables::carry_out(&rules::whole(frame, elements))?),
            Self::Iptables(iptables) => iptables.make(frame, elements),
        }
    }

    /// Whether these can come and go by themselves.
    fn has_sets_for<'a>(&self, mut elements: impl Iterator<Item = &'a Element>) -> bool {
        match self {
            Self::Nftables => true,
            Self::Iptables(_) => elements.all(|element| element.set != Set::Outside),
        }
    }

    fn change(&self, come: &[Element], go: &[Element]) -> anyhow::Result<()> {
        match self {
            Self::Nftables => {
                let mut changes = rules::change(Fate::Come, come);
                changes.extend(rules::change(Fate::Go, go));
                Ok(nftables::carry_out(&changes)?)
            }
            Self::Iptables(iptables) => iptables.change(come, go),
        }
    }

    fn is_there(&self, looks: u64) -> bool {
        match self {
            Self::Nftables => [Family::V4, Family::V6]
                .into_iter()
                .all(|family| nat_chains::has_table(family, rules::TABLE).unwrap_or(true)),
            Self::Iptables(iptables) => !looks.is_multiple_of(LOOK) || iptables.is_there(),
        }
    }

    /// Removes what a writer of the other kind has left: an agent before this one was told otherwise.
    fn remove_others(&self) -> anyhow::Result<()> {
        match self {
            Self::Nftables => remains::remove_chains(),
            Self::Iptables(_) => Ok(remains::remove_tables()?),
        }
    }
}
