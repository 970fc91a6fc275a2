//! What signpost cannot do yet. Each entry has to be there for a reason: where every look that it names agrees with what
//! is expected, the suite fails, so that the entry is taken off the list.

use crate::{
    place::{Client, Node},
    run::Look,
    scenario::At,
    table::changes::{LABELS_OF_SERVICES, LABELS_OF_SLICES},
    world::Provider,
};

/// Something that is missing.
pub(crate) struct NotYet {
    pub(crate) what: &'static str,
    /// Whether a look shows it.
    pub(crate) shows: fn(&Look<'_>) -> bool,
}

/// The list.
pub(crate) const NOT_YET: &[NotYet] = &[
    NotYet {
        what: "clients from outside reach no Services, nor do those of another node its NodePorts",
        shows: |look| {
            matches!(look.case.client, Client::Outside(_))
                || look.case.target.at == At::NodePort(Node::Two)
        },
    },
    NotYet {
        what: "pods reach no NodePorts",
        shows: |look| look.case.client.is_pod() && matches!(look.case.target.at, At::NodePort(_)),
    },
    NotYet {
        what: "everybody is let in at ingress addresses of load balancers",
        shows: |look| {
            let mut services = look.scenario.steps.iter().flat_map(|step| &step.services);
            look.case.target.at == At::Ingress && services.any(|s| !s.ranges.is_empty())
        },
    },
    NotYet {
        what: "there is no session affinity",
        shows: |look| {
            let mut services = look.scenario.steps.iter().flat_map(|step| &step.services);
            services.any(|service| service.affinity.is_some())
        },
    },
    NotYet {
        what: "ports and addresses of the ranges of ClusterIPs that no Service has are left to the network",
        shows: |look| look.case.target.at != At::ExternalIp && look.has_left(Provider::Signpost),
    },
    NotYet {
        what: "labels that leave an object to others are heeded where kube-proxy does not",
        shows: |look| [LABELS_OF_SERVICES, LABELS_OF_SLICES].contains(&look.scenario.name.as_str()),
    },
];
