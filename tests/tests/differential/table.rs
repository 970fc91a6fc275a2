//! The scenarios.

use crate::scenario::Scenario;

mod affinity;
mod balancers;
mod changes;
mod endpoints;
mod generated;
mod hairpin;
mod node_ports;
mod policies;
mod ports;
mod topology;

/// Every scenario.
pub(crate) fn all() -> Vec<Scenario> {
    [
        endpoints::scenarios(),
        policies::scenarios(),
        topology::scenarios(),
        ports::scenarios(),
        changes::scenarios(),
        affinity::scenarios(),
        hairpin::scenarios(),
        node_ports::scenarios(),
        balancers::scenarios(),
        generated::scenarios(),
    ]
    .concat()
}
