//! What signpost cannot do yet. Each entry has to be there for a reason: where every look that it names agrees with what
//! is expected, the suite fails, so that the entry is taken off the list.

use crate::{
    place::{Client, Node},
    run::Look,
    scenario::At,
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
        what: "ports and addresses of the ranges of ClusterIPs that no Service has are left to the network",
        shows: |look| look.case.target.at != At::ExternalIp && look.has_left(Provider::Signpost),
    },
];
