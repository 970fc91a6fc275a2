//! What changes while clients look on.

use crate::{
    place::{
        Backend::{A1, A2, B1, B2, C1},
        Client::Pod,
        Node::{One, Two},
    },
    scenario::{Scenario, VIP, reaches, refused, silence},
    service::{
        cluster_ip, external_name, headless, node_port, ready, serving, terminating, unready,
    },
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    [endpoints(), services(), flows()].concat()
}

fn endpoints() -> Vec<Scenario> {
    vec![
        Scenario::new("endpoints come and go")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([cluster_ip().slice([ready(A1), ready(B1), ready(C1)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1, C1]))
            .step([cluster_ip().slice([ready(C1)])])
            .sees(Pod(One), VIP, reaches(&[C1]))
            .step([cluster_ip().slice([])])
            .sees(Pod(One), VIP, refused()),
        Scenario::new("all endpoints are replaced at once")
            .step([cluster_ip().slice([ready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1]))
            .step([cluster_ip().slice([ready(A2), ready(B2)])])
            .sees(Pod(One), VIP, reaches(&[A2, B2])),
        Scenario::new("an endpoint becomes ready, terminates and goes")
            .step([cluster_ip().slice([unready(A1)])])
            .sees(Pod(One), VIP, refused())
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([cluster_ip().slice([serving(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([cluster_ip().slice([terminating(A1)])])
            .sees(Pod(One), VIP, refused()),
        Scenario::new("a rolling update moves every connection")
            .step([cluster_ip().slice([ready(A1), ready(B1)])])
            .sees(Pod(Two), VIP, reaches(&[A1, B1]))
            .step([cluster_ip().slice([serving(A1), ready(B1), ready(A2)])])
            .sees(Pod(Two), VIP, reaches(&[A2, B1]))
            .step([cluster_ip().slice([serving(B1), ready(A2), ready(B2)])])
            .sees(Pod(Two), VIP, reaches(&[A2, B2])),
    ]
}

fn services() -> Vec<Scenario> {
    let here = || cluster_ip().slice([ready(A1)]);
    vec![
        Scenario::new("a Service goes and comes back")
            .step([here()])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([])
            .sees(Pod(One), VIP, silence())
            .step([cluster_ip().slice([ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[B1])),
        Scenario::new("two Services share their endpoints")
            .step([here(), here().second()])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .sees(Pod(One), VIP.second(), reaches(&[A1]))
            .step([here().second()])
            .sees(Pod(One), VIP, silence())
            .sees(Pod(One), VIP.second(), reaches(&[A1])),
        Scenario::new("another proxy's Service is left alone, as long as it is that")
            .step([here().label("service.kubernetes.io/service-proxy-name", "other")])
            .sees(Pod(One), VIP, silence())
            .step([here()])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([here().label("service.kubernetes.io/service-proxy-name", "other")])
            .sees(Pod(One), VIP, silence()),
        Scenario::new("the label of headless Services means nothing at a Service")
            .step([here().label("service.kubernetes.io/headless", "")])
            .sees(Pod(One), VIP, reaches(&[A1])),
        Scenario::new(
            "slices with the label of headless Services are nobody's, as long as they have it",
        )
        .step([here().label_of_slices("service.kubernetes.io/headless", "")])
        .sees(Pod(One), VIP, refused())
        .step([here()])
        .sees(Pod(One), VIP, reaches(&[A1]))
        .step([here().label_of_slices("service.kubernetes.io/headless", "")])
        .sees(Pod(One), VIP, refused()),
        Scenario::new("the label of another proxy means nothing at slices")
            .step([here().label_of_slices("service.kubernetes.io/service-proxy-name", "other")])
            .sees(Pod(One), VIP, reaches(&[A1])),
        Scenario::new("a Service becomes an external name and a Service again")
            .step([here()])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([external_name().slice([ready(A1)])])
            .sees(Pod(One), VIP, silence())
            .step([here()])
            .sees(Pod(One), VIP, reaches(&[A1])),
        Scenario::new("an external name becomes a Service")
            .step([external_name()])
            .sees(Pod(One), VIP, silence())
            .step([node_port().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1])),
        Scenario::new("a Service with a NodePort keeps its ClusterIP when it loses that")
            .step([node_port().slice([ready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1]))
            .step([cluster_ip().slice([ready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1])),
        Scenario::new("a headless Service has no address")
            .step([headless().slice([ready(A1)])])
            .sees(Pod(One), VIP, silence()),
    ]
}

fn flows() -> Vec<Scenario> {
    vec![
        Scenario::new("a TCP connection keeps its endpoint when that is ready no longer")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .tcp()
            .over("one")
            .step([cluster_ip().slice([unready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .tcp()
            .over("one")
            .sees(Pod(One), VIP, reaches(&[B1])),
        Scenario::new("a TCP connection keeps its endpoint when that is gone from the list")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .tcp()
            .over("one")
            .step([cluster_ip().slice([ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .tcp()
            .over("one")
            .step([cluster_ip().slice([])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .tcp()
            .over("one"),
        Scenario::new("a UDP flow leaves an endpoint that is gone")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .udp()
            .over("one")
            .step([cluster_ip().slice([ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[B1]))
            .udp()
            .over("one"),
        Scenario::new("a UDP flow leaves an endpoint that no longer serves")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .udp()
            .over("one")
            .step([cluster_ip().slice([terminating(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[B1]))
            .udp()
            .over("one"),
        Scenario::new("a UDP flow stays with an endpoint that terminates and serves")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .udp()
            .over("one")
            // Once more: connection tracking forgets what was answered once after thirty seconds.
            .sees(Pod(One), VIP, reaches(&[A1]))
            .udp()
            .over("one")
            .step([cluster_ip().slice([serving(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .udp()
            .over("one")
            .sees(Pod(One), VIP, reaches(&[B1])),
        Scenario::new("a UDP socket that was refused gets through once there is an endpoint")
            .step([cluster_ip().slice([])])
            .sees(Pod(One), VIP, refused())
            .udp()
            .over("one")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .udp()
            .over("one"),
        Scenario::new("a UDP flow of an endpoint that was not ready gets through once another is")
            .step([cluster_ip().slice([unready(A1)])])
            .sees(Pod(One), VIP, refused())
            .udp()
            .over("one")
            .step([cluster_ip().slice([unready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[B1]))
            .udp()
            .over("one"),
    ]
}
