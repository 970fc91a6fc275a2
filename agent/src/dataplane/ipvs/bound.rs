//! The addresses of Services that the node has on its own interface.

use std::{collections::BTreeSet, io, net::IpAddr};

use anyhow::Context as _;

use super::link::{Link, NAME};

/// The interface, and what is known to be on it.
#[derive(Debug)]
pub(super) struct Bound {
    link: Link,
    addresses: BTreeSet<IpAddr>,
}

impl Bound {
    /// Of an interface of which nothing is known yet.
    pub(super) const fn new(link: Link) -> Self {
        Self {
            link,
            addresses: BTreeSet::new(),
        }
    }

    /// The addresses that are on it.
    pub(super) const fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// Reads what is on it, and makes the interface anew where somebody has removed it. Returns what is not as it was.
    pub(super) fn look(&mut self) -> anyhow::Result<BTreeSet<IpAddr>> {
        if !self.link.is_there() {
            tracing::warn!("somebody has removed interface {NAME}; it is made anew");
            self.link = Link::open()?;
        }
        let there = self.link.addresses().context("cannot list the addresses")?;
        let changed = self
            .addresses
            .symmetric_difference(&there)
            .copied()
            .collect();
        self.addresses = there;
        Ok(changed)
    }

    /// Gives it addresses; returns those that the kernel refused.
    pub(super) fn add(&mut self, addresses: &[IpAddr]) -> anyhow::Result<Vec<(IpAddr, io::Error)>> {
        let refused = self
            .link
            .add(addresses)
            .with_context(|| format!("interface {NAME} cannot be given addresses"))?;
        self.addresses.extend(addresses);
        let refused: Vec<(IpAddr, io::Error)> = refused
            .into_iter()
            .map(|(number, error)| (addresses[number], error))
            .collect();
        for (address, _) in &refused {
            self.addresses.remove(address);
        }
        Ok(refused)
    }

    /// Takes addresses from it.
    pub(super) fn remove(&mut self, addresses: &[IpAddr]) -> anyhow::Result<()> {
        let refused = self
            .link
            .delete(addresses)
            .context("addresses cannot be removed")?;
        for (number, error) in refused {
            tracing::warn!(address = %addresses[number], %error, "stays on interface {NAME}");
        }
        for address in addresses {
            self.addresses.remove(address);
        }
        Ok(())
    }
}
