//! What IPVS mode leaves in a network namespace, for who takes it over or cleans it up.

use std::io;

use super::{
    iptables,
    kernel::Kernel,
    link::Link,
    rules::{self, TABLE},
    server::Operation,
};
use crate::{
    dataplane::netfilter::{nat_chains, nftables},
    model::Family,
};

/// What is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Virtual servers of ours.
    pub servers: usize,
    /// Connections that they remember.
    pub connections: u64,
    /// The interface with the addresses of Services.
    pub interface: bool,
    /// Tables of nftables.
    pub tables: usize,
    /// Chains of iptables.
    pub chains: usize,
    /// Sets of ipset.
    pub sets: usize,
}

impl Remains {
    /// Whether there is anything.
    pub const fn is_any(&self) -> bool {
        self.servers > 0 || self.interface || self.tables > 0 || self.chains > 0 || self.sets > 0
    }
}

/// Looks at what is there. A kernel that lacks a part has nothing of it.
///
/// # Errors
/// Where the virtual servers cannot be listed.
pub fn look() -> io::Result<Remains> {
    let (chains, sets) = iptables::remains().unwrap_or_default();
    let mut remains = Remains {
        chains,
        sets,
        interface: Link::exists(),
        tables: families().filter(|family| has_table(*family)).count(),
        ..Remains::default()
    };
    if let Ok(kernel) = Kernel::open() {
        for (_, server) in kernel.all()? {
            if server.terms.is_ours() {
                remains.servers += 1;
                let counts = server.destinations.values();
                remains.connections += counts.map(|d| u64::from(d.connections)).sum::<u64>();
            }
        }
    }
    Ok(remains)
}

/// Removes it; returns what was there. Connections through it break. Virtual servers of others stay.
///
/// # Errors
/// Where something is there and cannot be removed.
pub fn remove() -> anyhow::Result<Remains> {
    let remains = look()?;
    if remains.servers > 0 {
        let kernel = Kernel::open()?;
        let ours = kernel.servers()?.into_iter();
        let operations: Vec<Operation> = ours
            .filter(|(_, terms)| terms.is_ours())
            .map(|(key, _)| Operation::DeleteServer(key))
            .collect();
        if let Some((_, error)) = kernel.carry_out(&operations)?.into_iter().next() {
            return Err(error.into());
        }
    }
    Link::remove()?;
    remove_tables()?;
    if remains.chains > 0 || remains.sets > 0 {
        iptables::remove()?;
    }
    Ok(remains)
}

/// Removes the tables of nftables.
pub(super) fn remove_tables() -> io::Result<()> {
    for family in families().filter(|family| has_table(*family)) {
        nftables::carry_out(&rules::gone(family))?;
    }
    Ok(())
}

/// Removes the chains of iptables and the sets of ipset.
pub(super) fn remove_chains() -> anyhow::Result<()> {
    if iptables::remains().is_some() {
        iptables::remove()?;
        tracing::info!("what iptables and ipset had of this mode is removed");
    }
    Ok(())
}

fn families() -> impl Iterator<Item = Family> {
    [Family::V4, Family::V6].into_iter()
}

fn has_table(family: Family) -> bool {
    nat_chains::has_table(family, TABLE).unwrap_or(false)
}
