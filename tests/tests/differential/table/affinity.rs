//! Session affinity by client address.

use crate::{
    place::{
        Backend::{A1, A2, B1},
        Client::{Host, Outside, Pod},
        Node::{One, Two},
    },
    scenario::{NODE_PORT, Scenario, VIP, one_of, reaches, reaches_as, refused},
    service::{cluster_ip, node_port, ready, serving},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let both = || [ready(A1), ready(B1)];
    vec![
        Scenario::new("a client stays with its endpoint")
            .step([cluster_ip().sticky(10_800).slice(both())])
            .sees(Pod(One), VIP, one_of(&[A1, B1]))
            .sees(Pod(Two), VIP, one_of(&[A1, B1]))
            .sees(Host(One), VIP, one_of(&[A1, B1])),
        Scenario::new("affinity is switched on and off")
            .step([cluster_ip().slice(both())])
            .sees(Pod(One), VIP, reaches(&[A1, B1]))
            .step([cluster_ip().sticky(10_800).slice(both())])
            .sees(Pod(One), VIP, one_of(&[A1, B1]))
            .step([cluster_ip().slice(both())])
            .sees(Pod(One), VIP, reaches(&[A1, B1])),
        Scenario::new("a client leaves an endpoint that is gone")
            .step([cluster_ip().sticky(10_800).slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([cluster_ip().sticky(10_800).slice([ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[B1]))
            .step([cluster_ip().sticky(10_800).slice([])])
            .sees(Pod(One), VIP, refused()),
        Scenario::new("a client stays with its endpoint when others come")
            .step([cluster_ip().sticky(10_800).slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([cluster_ip()
                .sticky(10_800)
                .slice([ready(A1), ready(A2), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1])),
        Scenario::new("a client leaves an endpoint that terminates")
            .step([cluster_ip().sticky(10_800).slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([cluster_ip().sticky(10_800).slice([serving(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[B1])),
        Scenario::new("affinity stays within the local set")
            .step([cluster_ip().sticky(10_800).internal_local().slice([
                ready(A1),
                ready(A2),
                ready(B1),
            ])])
            .sees(Pod(One), VIP, one_of(&[A1, A2]))
            .sees(Pod(Two), VIP, reaches(&[B1])),
        Scenario::new("a client from outside stays with its endpoint")
            .step([node_port().sticky(10_800).external_local().slice([
                ready(A1),
                ready(A2),
                ready(B1),
            ])])
            .sees(Outside(One), NODE_PORT, one_of(&[A1, A2])),
        Scenario::new("a client that had its endpoint at the ClusterIP has it at the NodePort")
            .step([node_port().sticky(10_800).slice([ready(A1)])])
            .sees(Host(One), VIP, reaches(&[A1]))
            .step([node_port().sticky(10_800).slice([ready(A1), ready(A2)])])
            .sees(
                Host(One),
                NODE_PORT,
                reaches_as(&crate::scenario::Source::Own, &[A1]),
            ),
    ]
}
