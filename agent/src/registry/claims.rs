//! Which Service may use a ClusterIP that several claim.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::model::{ObjectName, Problem};

/// Every claim of a Service to a ClusterIP.
#[derive(Debug, Default)]
pub(super) struct Claims {
    addresses: BTreeMap<IpAddr, Claim>,
    /// Addresses with more than one claimant.
    contested: BTreeSet<IpAddr>,
    /// Who owns an address keeps it when an older claimant shows up.
    settled: bool,
}

#[derive(Debug)]
struct Claim {
    owner: ObjectName,
    /// By age and name, the owner included.
    claimants: BTreeSet<(i64, ObjectName)>,
}

impl Claims {
    /// Adds a claim, or renews one that was made with age `renewed`. Returns the Service that lost the address by it.
    pub(super) fn add(
        &mut self,
        address: IpAddr,
        renewed: Option<i64>,
        created: i64,
        service: &ObjectName,
    ) -> Option<ObjectName> {
        let claim = self.addresses.entry(address).or_insert_with(|| Claim {
            owner: service.clone(),
            claimants: BTreeSet::new(),
        });
        if let Some(renewed) = renewed {
            claim.claimants.remove(&(renewed, service.clone()));
        }
        claim.claimants.insert((created, service.clone()));
        if claim.claimants.len() > 1 {
            self.contested.insert(address);
        }
        let first = claim.claimants.first().map(|(_, name)| name)?;
        if self.settled || *first == claim.owner {
            return None;
        }
        Some(std::mem::replace(&mut claim.owner, first.clone()))
    }

    /// Takes a claim back. Returns the Service that won the address by it.
    pub(super) fn remove(
        &mut self,
        address: IpAddr,
        created: i64,
        service: &ObjectName,
    ) -> Option<ObjectName> {
        let claim = self.addresses.get_mut(&address)?;
        claim.claimants.remove(&(created, service.clone()));
        if claim.claimants.len() < 2 {
            self.contested.remove(&address);
        }
        let Some((_, first)) = claim.claimants.first() else {
            self.addresses.remove(&address);
            return None;
        };
        if claim.owner != *service {
            return None;
        }
        claim.owner.clone_from(first);
        Some(first.clone())
    }

    /// From now on an owner is not displaced. Until the first full list is there, the order of arrival says nothing
    /// about age, and the oldest claim wins.
    pub(super) const fn settle(&mut self) {
        self.settled = true;
    }

    /// The owner of an address.
    pub(super) fn owner(&self, address: IpAddr) -> Option<&ObjectName> {
        Some(&self.addresses.get(&address)?.owner)
    }

    /// One problem for each claim that is in vain.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.contested
            .iter()
            .filter_map(|address| Some((address, self.addresses.get(address)?)))
            .flat_map(|(address, claim)| {
                let losers = claim
                    .claimants
                    .iter()
                    .filter(|(_, name)| *name != claim.owner);
                losers.map(move |(_, name)| Problem {
                    kind: "Service".to_owned(),
                    object: name.clone(),
                    field: "spec.clusterIPs".to_owned(),
                    reason: format!(
                        "{address} already belongs to Service {}; give one of the two another address",
                        claim.owner
                    ),
                })
            })
    }
}
