//! Hints of EndpointSlices. The first node is in `zone-a`, the second in `zone-b`.

use crate::{
    place::{
        Backend::{A1, A2, B1, B2, C1},
        Client::{Host, Pod},
        Node::{One, Two},
    },
    scenario::{Scenario, VIP, reaches},
    service::{cluster_ip, ready, serving, unready},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let a = ["zone-a"].as_slice();
    let b = ["zone-b"].as_slice();
    let of = |name: &str, endpoints, one: &[_], two: &[_]| {
        Scenario::new(name)
            .step([cluster_ip().slice(endpoints)])
            .sees(Pod(One), VIP, reaches(one))
            .sees(Pod(Two), VIP, reaches(two))
    };
    vec![
        of(
            "hints keep connections in their zone",
            vec![ready(A1).zones(a), ready(B1).zones(b), ready(C1).zones(a)],
            &[A1, C1],
            &[B1],
        ),
        of(
            "one endpoint without hints makes all hints void",
            vec![ready(A1).zones(a), ready(B1).zones(b), ready(C1)],
            &[A1, B1, C1],
            &[A1, B1, C1],
        ),
        of(
            "hints that name a zone of nobody leave the others to all",
            vec![ready(A1).zones(a), ready(C1).zones(a)],
            &[A1, C1],
            &[A1, C1],
        ),
        of(
            "an endpoint may be for two zones",
            vec![ready(A1).zones(&["zone-a", "zone-b"]), ready(B1).zones(b)],
            &[A1],
            &[A1, B1],
        ),
        of(
            "hints may lead to another zone",
            vec![ready(A1).zones(b), ready(B1).zones(a)],
            &[B1],
            &[A1],
        ),
        of(
            "hints to nodes keep connections on them",
            vec![
                ready(A1).nodes(&["node-1"]),
                ready(A2).nodes(&["node-1"]),
                ready(B1).nodes(&["node-2"]),
            ],
            &[A1, A2],
            &[B1],
        ),
        of(
            "hints to nodes come before hints to zones",
            vec![
                ready(A1).zones(a).nodes(&["node-1"]),
                ready(C1).zones(a).nodes(&["node-3"]),
                ready(B1).zones(b).nodes(&["node-2"]),
            ],
            &[A1],
            &[B1],
        ),
        of(
            "hints to zones stand in where no endpoint is for the node",
            vec![
                ready(C1).zones(a).nodes(&["node-3"]),
                ready(B1).zones(b).nodes(&["node-2"]),
                ready(B2).zones(b).nodes(&["node-3"]),
            ],
            &[C1],
            &[B1],
        ),
        of(
            "one endpoint without a hint to nodes makes those to nodes void",
            vec![
                ready(A1).zones(a).nodes(&["node-1"]),
                ready(C1).zones(a),
                ready(B1).zones(b).nodes(&["node-2"]),
            ],
            &[A1, C1],
            &[B1],
        ),
        of(
            "an endpoint that is not ready may lack hints",
            vec![ready(A1).zones(a), ready(B1).zones(b), unready(C1)],
            &[A1],
            &[B1],
        ),
        of(
            "the last resort knows no hints",
            vec![serving(A1).zones(a), serving(B1).zones(b)],
            &[A1, B1],
            &[A1, B1],
        ),
        of(
            "an endpoint that terminates is no reason to stay in the zone",
            vec![serving(A1).zones(a), ready(B1).zones(b)],
            &[B1],
            &[B1],
        ),
        Scenario::new("hints are nothing to a local policy")
            .step([cluster_ip()
                .internal_local()
                .slice([ready(A1).zones(b), ready(B1).zones(a)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .sees(Pod(Two), VIP, reaches(&[B1])),
        Scenario::new("hints come and go")
            .step([cluster_ip().slice([ready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1]))
            .step([cluster_ip().slice([ready(A1).zones(a), ready(B1).zones(b)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([cluster_ip().slice([ready(A1).zones(a), ready(B1).zones(b), ready(B2)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1, B2]))
            .step([cluster_ip().slice([ready(A1).zones(b), ready(B1).zones(a)])])
            .sees(Pod(One), VIP, reaches(&[B1])),
        Scenario::new("hints hold for processes of the host")
            .step([cluster_ip().slice([ready(A1).zones(a), ready(B1).zones(b)])])
            .sees(Host(One), VIP, reaches(&[A1]))
            .sees(Host(Two), VIP, reaches(&[B1])),
    ]
}
