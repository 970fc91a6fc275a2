//! What an operator says of the zone. Agent and server must be told the same.

use std::{collections::BTreeSet, sync::Arc};

use super::{Hosts, Name, Rewrite, Selector};

/// Options of the zone, those of CoreDNS's plugin `kubernetes` and of what stands before it. The default is kubeadm's
/// Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Further names of the whole zone.
    pub aliases: Vec<Name>,
    /// Zones in which addresses of Services and endpoints are looked up.
    pub reverse: Vec<Name>,
    /// Of names at or below these, what the zone does not have is asked for upstream.
    pub fallthrough: Vec<Name>,
    /// These names and all below them are somebody else's, whatever zone they are in.
    pub elsewhere: Vec<Name>,
    /// What is said of names of Pods.
    pub pods: Pods,
    /// The only namespaces that there are; all where it is empty.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Namespaces whose labels it does not match are as if they were not there; addresses lead back to names in them all
    /// the same (CoreDNS).
    pub namespace_labels: Selector,
    /// Services, EndpointSlices and Pods whose labels it does not match are as if they were not there.
    pub labels: Selector,
    /// Endpoints without a host name are named like their Pods.
    pub endpoint_pod_names: bool,
    /// A Service with ClusterIPs and without ready endpoints does not exist.
    pub ignore_empty_services: bool,
    /// Names that are looked up before the zone.
    pub hosts: Hosts,
    /// Names that stand for others.
    pub rewrites: Vec<Rewrite>,
    /// A number for what the operator's file says of the zone, 0 where that is nothing: who compares it knows whether two
    /// go by the same.
    pub digest: u64,
}

/// What is said of names of Pods, `a-b-c-d.<namespace>.pod.<zone>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pods {
    /// There are none.
    Disabled,
    /// They are the addresses that they spell, whether there is such a Pod or not.
    #[default]
    Insecure,
    /// They are the addresses that they spell where a Pod of the namespace has that address.
    Verified,
}

impl Default for Options {
    fn default() -> Self {
        let reverse = || {
            let arpa = Name::default().child("arpa");
            let zones = ["in-addr", "ip6"].map(|zone| arpa.as_ref()?.child(zone));
            zones.into_iter().flatten().collect()
        };
        Self {
            aliases: Vec::new(),
            reverse: reverse(),
            fallthrough: reverse(),
            elsewhere: Vec::new(),
            pods: Pods::default(),
            namespaces: BTreeSet::new(),
            namespace_labels: Selector::default(),
            labels: Selector::default(),
            endpoint_pod_names: false,
            ignore_empty_services: false,
            hosts: Hosts::default(),
            rewrites: Vec::new(),
            digest: 0,
        }
    }
}

impl Options {
    /// Whether a name that the zone does not have is asked for upstream.
    pub fn falls_through(&self, name: &Name) -> bool {
        name.is_in(&self.fallthrough)
    }

    /// Whether a namespace has names.
    pub(super) fn exposes(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }
}

/// The longest of these that a name is at or below.
pub(super) fn longest<'a>(name: &Name, zones: &'a [Name]) -> Option<&'a Name> {
    let around = zones.iter().filter(|zone| name.below(zone).is_some());
    around.max_by_key(|zone| zone.wire().len())
}
