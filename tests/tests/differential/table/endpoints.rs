//! Which endpoints of a ClusterIP get connections from pods, by their conditions.

use crate::{
    place::{
        Backend::{A1, B1, C1, H1, H2},
        Client::Pod,
        Node::One,
    },
    scenario::{Scenario, VIP, reaches, refused},
    service::{cluster_ip, published, ready, serving, terminating, unknown, unready},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let of = |name: &str, endpoints, expect| {
        Scenario::new(name)
            .step([cluster_ip().slice(endpoints)])
            .sees(Pod(One), VIP, expect)
    };
    vec![
        of(
            "an endpoint of the pod's own node is reached, and sees the pod's own address",
            vec![ready(A1)],
            reaches(&[A1]),
        ),
        of(
            "an endpoint of another node is reached, and sees the pod's own address",
            vec![ready(B1)],
            reaches(&[B1]),
        ),
        of(
            "all ready endpoints are reached",
            vec![ready(A1), ready(B1), ready(C1)],
            reaches(&[A1, B1, C1]),
        ),
        of(
            "endpoints in the hosts' network are reached",
            vec![ready(H1), ready(H2)],
            reaches(&[H1, H2]),
        ),
        of(
            "an endpoint without conditions is ready",
            vec![unknown(A1)],
            reaches(&[A1]),
        ),
        of(
            "an endpoint that is not ready gets nothing while another is",
            vec![unready(A1), ready(B1)],
            reaches(&[B1]),
        ),
        of(
            "an endpoint that terminates and serves gets nothing while another is ready",
            vec![serving(A1), ready(B1)],
            reaches(&[B1]),
        ),
        of(
            "endpoints that terminate and serve are the last resort",
            vec![serving(A1), serving(B1), unready(C1)],
            reaches(&[A1, B1]),
        ),
        of(
            "an endpoint that terminates and no longer serves is none",
            vec![terminating(A1)],
            refused(),
        ),
        of(
            "an endpoint that is not ready is none",
            vec![unready(A1)],
            refused(),
        ),
        of(
            "an endpoint that is published although it terminates is ready",
            vec![published(A1), serving(B1)],
            reaches(&[A1]),
        ),
        of("a Service without endpoints refuses", vec![], refused()),
    ]
}
