//! All that is known here of a name: hosts first, then the zone.

use super::{HostsAnswer, Lookup, Name, Zone, rewrite::Rewritten};

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// What the zone says, or records that an operator wrote down.
    Lookup(Lookup),
    /// The name exists, the type does not, and there is no SOA record to it.
    NoData,
    /// SERVFAIL.
    Failure,
}

impl Zone {
    /// Answers a question that is not rewritten any more.
    pub fn resolve(&self, name: &Name, qtype: u16) -> Resolved {
        if self.is_elsewhere(name) {
            return Resolved::Lookup(Lookup::Outside);
        }
        match self.config.options.hosts.lookup(name, qtype) {
            HostsAnswer::Next => Resolved::Lookup(self.lookup(name, qtype)),
            HostsAnswer::Records(answers) => Resolved::Lookup(Lookup::Answer {
                answers,
                additional: Vec::new(),
            }),
            HostsAnswer::NoData => Resolved::NoData,
            HostsAnswer::Failure => Resolved::Failure,
        }
    }

    /// Whether a name is left to upstreams as it is: it is in none of the zone's domains, and no operator has written
    /// anything down about it. Whose upstreams they are, an operator may well have said.
    pub fn is_nobodys(&self, name: &Name) -> bool {
        let options = &self.config.options;
        if name.below(&self.config.domain).is_some() {
            return false;
        }
        self.is_elsewhere(name)
            || self.domain_of(name).is_none()
                && self.own_zone(name).is_none()
                && !options.hosts.concerns(name)
                && Rewritten::of(name, &options.rewrites).is_none()
    }

    /// The cluster domain that a name is in: its own, or another name of it; the longest counts.
    pub fn domain_of(&self, name: &Name) -> Option<&Name> {
        let alias = super::options::longest(name, &self.config.options.aliases);
        let own = name.below(&self.config.domain).map(|_| &self.config.domain);
        own.into_iter()
            .chain(alias)
            .max_by_key(|zone| zone.wire().len())
    }

    /// The zone that a name is in: whose SOA record comes with its negative answers.
    pub fn zone_of(&self, name: &Name) -> &Name {
        self.own_zone(name).unwrap_or(&self.config.domain)
    }

    /// Which of the zone's own zones a name is in: that of the domain, or a reverse one.
    pub(super) fn own_zone(&self, name: &Name) -> Option<&Name> {
        match name.below(&self.config.domain) {
            Some(_) => Some(&self.config.domain),
            None => super::options::longest(name, &self.config.options.reverse),
        }
    }
}
