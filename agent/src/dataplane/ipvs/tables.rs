//! The tables of nftables, kept as they are wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Context as _;
use ipnet::IpNet;

use super::{
    desired::Desired,
    rules::{self, Element, Frame, Set},
    server::ServerKey,
};
use crate::{
    dataplane::netfilter::{
        nat_chains,
        nftables::{self, Fate},
    },
    model::Family,
};

/// What they are made of, and what is in them.
#[derive(Debug, Default)]
pub(super) struct Tables {
    frame: Frame,
    /// They are as `written` and `frame` say.
    are_right: bool,
    written: BTreeSet<Element>,
    /// Elements that are not of plans: addresses that are there, interfaces, addresses that others serve.
    own: BTreeSet<Element>,
}

impl Tables {
    /// Of which none is there yet, and what they are to be made of.
    pub(super) fn new(frame: Frame) -> Self {
        Self {
            frame,
            ..Self::default()
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
        let mut changes = rules::change(Fate::Come, &new);
        changes.extend(rules::change(Fate::Go, &gone));
        if let Err(error) = nftables::carry_out(&changes) {
            tracing::warn!(%error, "somebody has changed tables {}; they are made anew", rules::TABLE);
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
        let are_there = [Family::V4, Family::V6]
            .into_iter()
            .all(|family| nat_chains::has_table(family, rules::TABLE).unwrap_or(true));
        if !are_there {
            tracing::warn!(
                "somebody has removed tables {}; they are made anew",
                rules::TABLE
            );
            self.make(desired)?;
        }
        Ok(())
    }

    fn make(&mut self, desired: &Desired) -> anyhow::Result<usize> {
        let mut elements = desired.elements();
        elements.extend(self.own.iter().cloned());
        self.are_right = false;
        nftables::carry_out(&rules::whole(&self.frame, &elements))
            .with_context(|| format!("tables {} of nftables cannot be made", rules::TABLE))?;
        self.are_right = true;
        let count = elements.len();
        self.written = elements;
        Ok(count)
    }
}
