//! `internalTrafficPolicy`: which endpoints of a ClusterIP get connections, by the node that the client is on.

use crate::{
    place::{
        Backend::{A1, A2, B1, C1},
        Client::{Host, Pod},
        Node::{One, Two},
    },
    scenario::{Scenario, VIP, denied, reaches, refused, silence},
    service::{cluster_ip, ready, serving, terminating, unready},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a local policy keeps connections on the client's node")
            .step([cluster_ip()
                .internal_local()
                .slice([ready(A1), ready(A2), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1, A2]))
            .sees(Pod(Two), VIP, reaches(&[B1]))
            .sees(Host(One), VIP, reaches(&[A1, A2]))
            .sees(Host(Two), VIP, reaches(&[B1])),
        Scenario::new("a local policy drops where all endpoints are elsewhere")
            .step([cluster_ip().internal_local().slice([ready(B1), ready(C1)])])
            .sees(Pod(One), VIP, silence())
            .sees(Pod(Two), VIP, reaches(&[B1]))
            .sees(Host(One), VIP, silence())
            .tcp()
            .sees(Host(One), VIP, denied())
            .udp(),
        Scenario::new("a local policy refuses where there is no endpoint anywhere")
            .step([cluster_ip().internal_local().slice([unready(B1)])])
            .sees(Pod(One), VIP, refused())
            .sees(Pod(Two), VIP, refused())
            .sees(Host(One), VIP, refused())
            .tcp()
            .sees(Host(One), VIP, denied())
            .udp(),
        Scenario::new(
            "a local policy falls back to local endpoints that terminate, and no further",
        )
        .step([cluster_ip()
            .internal_local()
            .slice([serving(A1), ready(B1)])])
        .sees(Pod(One), VIP, reaches(&[A1]))
        .sees(Pod(Two), VIP, reaches(&[B1])),
        Scenario::new(
            "a local policy prefers a local endpoint that is ready to one that terminates",
        )
        .step([cluster_ip()
            .internal_local()
            .slice([serving(A1), ready(A2)])])
        .sees(Pod(One), VIP, reaches(&[A2])),
        Scenario::new(
            "a local policy drops where only the others' endpoints serve while they terminate",
        )
        .step([cluster_ip()
            .internal_local()
            .slice([terminating(A1), serving(B1)])])
        .sees(Pod(One), VIP, silence())
        .sees(Pod(Two), VIP, reaches(&[B1])),
        Scenario::new("a policy becomes local and the cluster's again")
            .step([cluster_ip().slice([ready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1]))
            .step([cluster_ip().internal_local().slice([ready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .sees(Pod(Two), VIP, reaches(&[B1]))
            .step([cluster_ip().slice([ready(A1), ready(B1)])])
            .sees(Pod(Two), VIP, reaches(&[A1, B1])),
        Scenario::new("the last local endpoint of a local policy goes and comes back")
            .step([cluster_ip().internal_local().slice([ready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([cluster_ip().internal_local().slice([ready(B1)])])
            .sees(Pod(One), VIP, silence())
            .step([cluster_ip().internal_local().slice([ready(A2), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A2])),
    ]
}
