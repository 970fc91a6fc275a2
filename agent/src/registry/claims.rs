//! Which Service may use an address or port that several claim.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::model::{ObjectName, Protocol};

/// Something that one Service alone can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// A ClusterIP, with all its ports.
    ClusterIp(IpAddr),
    /// A port of an external IP or of a load balancer's IP.
    External(IpAddr, u16, Protocol),
    /// A NodePort.
    NodePort(u16, Protocol),
}

/// Every claim of a Service.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claimed: BTreeMap<Claim, Claimed>,
    /// What has more than one claimant.
    contested: BTreeSet<Claim>,
    /// Who owns something keeps it when an older claimant shows up.
    settled: bool,
}

#[derive(Debug)]
struct Claimed {
    owner: ObjectName,
    /// By age and name, the owner included. Nearly always one.
    claimants: Vec<(i64, ObjectName)>,
}

impl Claimed {
    fn forget(&mut self, created: i64, service: &ObjectName) {
        let claimant = (created, service.clone());
        if let Ok(place) = self.claimants.binary_search(&claimant) {
            self.claimants.remove(place);
        }
    }
}

impl Claims {
    /// Adds a claim, or renews one that was made with age `renewed`. Returns the Service that lost by it.
    pub(super) fn add(
        &mut self,
        claim: Claim,
        renewed: Option<i64>,
        created: i64,
        service: &ObjectName,
    ) -> Option<ObjectName> {
        let claimed = self.claimed.entry(claim).or_insert_with(|| Claimed {
            owner: service.clone(),
            claimants: Vec::with_capacity(1),
        });
        if let Some(renewed) = renewed {
            claimed.forget(renewed, service);
        }
        let claimant = (created, service.clone());
        if let Err(place) = claimed.claimants.binary_search(&claimant) {
            claimed.claimants.insert(place, claimant);
        }
        if claimed.claimants.len() > 1 {
            self.contested.insert(claim);
        }
        let first = claimed.claimants.first().map(|(_, name)| name)?;
        if self.settled || *first == claimed.owner {
            return None;
        }
        Some(std::mem::replace(&mut claimed.owner, first.clone()))
    }

    /// Takes a claim back. Returns the Service that won by it.
    pub(super) fn remove(
        &mut self,
        claim: Claim,
        created: i64,
        service: &ObjectName,
    ) -> Option<ObjectName> {
        let claimed = self.claimed.get_mut(&claim)?;
        claimed.forget(created, service);
        if claimed.claimants.len() < 2 {
            self.contested.remove(&claim);
        }
        let Some((_, first)) = claimed.claimants.first() else {
            self.claimed.remove(&claim);
            return None;
        };
        if claimed.owner != *service {
            return None;
        }
        claimed.owner.clone_from(first);
        Some(first.clone())
    }

    /// From now on an owner is not displaced. Until the first full list is there, the order of arrival says nothing
    /// about age, and the oldest claim wins.
    pub(super) const fn settle(&mut self) {
        self.settled = true;
    }

    /// Who has it.
    pub(super) fn owner(&self, claim: Claim) -> Option<&ObjectName> {
        Some(&self.claimed.get(&claim)?.owner)
    }

    /// The ports of an external address that are claimed, and by whom.
    pub(super) fn external_at(
        &self,
        address: IpAddr,
    ) -> impl Iterator<Item = (Claim, &ObjectName)> {
        let first = Claim::External(address, 0, Protocol::Tcp);
        let last = Claim::External(address, u16::MAX, Protocol::Sctp);
        self.claimed
            .range(first..=last)
            .flat_map(|(claim, claimed)| claimed.claimants.iter().map(|(_, name)| (*claim, name)))
    }

    /// Each claim that is in vain: what is claimed, by whom, and who has it.
    pub(super) fn in_vain(&self) -> impl Iterator<Item = (Claim, &ObjectName, &ObjectName)> {
        self.contested
            .iter()
            .filter_map(|claim| Some((*claim, self.claimed.get(claim)?)))
            .flat_map(|(claim, claimed)| {
                let losers = claimed
                    .claimants
                    .iter()
                    .map(|(_, name)| name)
                    .filter(|name| **name != claimed.owner);
                losers.map(move |name| (claim, name, &claimed.owner))
            })
    }
}
