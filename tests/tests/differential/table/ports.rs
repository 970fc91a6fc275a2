//! Ports and addresses: those that there are, and those that there are not.

use crate::{
    place::{
        Backend::{A1, A2, B1, C1, H1, Nobody},
        Client::{Host, Pod},
        Family::{V4, V6},
        Node::One,
    },
    scenario::{Scenario, UNALLOCATED, VIP, denied, reaches, refused, silence, the_world},
    service::{Port, cluster_ip, ready, serving, unready},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let two_ports = [Port::tcp(80), Port::udp(80), Port::tcp(81), Port::udp(81)];
    vec![
        Scenario::new("a port that the Service does not have is refused")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP.port(82), refused())
            .sees(Host(One), VIP.port(82), refused())
            .tcp()
            .sees(Host(One), VIP.port(82), denied())
            .udp(),
        Scenario::new("a port of the other protocol is refused")
            .step([cluster_ip()
                .ports(&[Port::tcp(80), Port::udp(81)])
                .slice([ready(A1)])])
            .sees(Pod(One), VIP, refused())
            .udp()
            .sees(Pod(One), VIP.port(81), refused())
            .tcp()
            .sees(Pod(One), VIP, reaches(&[A1]))
            .tcp()
            .sees(Pod(One), VIP.port(81), reaches(&[A1]))
            .udp(),
        Scenario::new("an address that no Service has is silent")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), UNALLOCATED, silence())
            .sees(Host(One), UNALLOCATED, silence())
            .tcp()
            .sees(Host(One), UNALLOCATED, denied())
            .udp(),
        Scenario::new("nobody answers a ping to a Service")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, refused())
            .ping()
            .sees(Host(One), VIP, denied())
            .ping()
            .sees(Pod(One), UNALLOCATED, silence())
            .ping()
            // With IPv6 the drop at the device shows as ENOBUFS.
            .sees(Host(One), UNALLOCATED, denied())
            .ping()
            .only(V4),
        Scenario::new("ports of the endpoints may differ from the Service's")
            .step([cluster_ip()
                .ports(&[Port::tcp(80).to(8081), Port::udp(80).to(8082)])
                .slice([ready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1])),
        Scenario::new("two ports lead to two ports")
            .step([cluster_ip()
                .ports(&[Port::tcp(80), Port::tcp(81).to(8081)])
                .slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .tcp()
            .sees(Pod(One), VIP.port(81), reaches(&[A1]))
            .tcp(),
        Scenario::new("two ports may lead to the same one")
            .step([cluster_ip().ports(&two_ports).slice([ready(A1), ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1]))
            .sees(Pod(One), VIP.port(81), reaches(&[A1, B1])),
        Scenario::new("a port that comes is reached, and refused once it is gone")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP.port(81), refused())
            .step([cluster_ip().ports(&two_ports).slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .sees(Pod(One), VIP.port(81), reaches(&[A1]))
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .sees(Pod(One), VIP.port(81), refused()),
        Scenario::new("a port changes its number")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([cluster_ip()
                .ports(&[Port::tcp(81), Port::udp(81)])
                .slice([ready(A1)])])
            .sees(Pod(One), VIP, refused())
            .sees(Pod(One), VIP.port(81), reaches(&[A1])),
        Scenario::new("a port changes its target")
            .step([cluster_ip().slice([ready(A1), ready(H1)])])
            .sees(Pod(One), VIP, reaches(&[A1, H1]))
            .step([cluster_ip()
                .ports(&[Port::tcp(80).to(8081), Port::udp(80).to(8081)])
                .slice([ready(A1), ready(H1)])])
            .sees(Pod(One), VIP, reaches(&[A1, H1])),
        Scenario::new("an endpoint that listens on nothing there is reached, and refuses")
            .step([cluster_ip()
                .ports(&[Port::tcp(80).to(9), Port::udp(80).to(9)])
                .slice([ready(A1)])])
            .sees(Pod(One), VIP, refused()),
        Scenario::new("endpoints may come in many slices")
            .step([cluster_ip()
                .slice([ready(A1)])
                .slice([ready(B1)])
                .slice([ready(C1)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1, C1]))
            .step([cluster_ip().slice([ready(A1)]).slice([ready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1, B1])),
        Scenario::new("an endpoint may be in two slices")
            .step([cluster_ip()
                .slice([ready(A1), ready(B1)])
                .slice([ready(A1), ready(A2)])])
            .sees(Pod(One), VIP, reaches(&[A1, A2, B1]))
            .step([cluster_ip()
                .slice([ready(B1)])
                .slice([ready(A1), ready(A2)])])
            .sees(Pod(One), VIP, reaches(&[A1, A2, B1]))
            .step([cluster_ip().slice([ready(B1)]).slice([ready(A2)])])
            .sees(Pod(One), VIP, reaches(&[A2, B1])),
        Scenario::new("no slice is as good as an empty one")
            .step([cluster_ip()])
            .sees(Pod(One), VIP, refused())
            .sees(Host(One), VIP, refused())
            .tcp()
            .sees(Host(One), VIP, denied())
            .udp(),
        Scenario::new("a pod that is gone without its endpoint is silent")
            .step([cluster_ip().slice([ready(Nobody)])])
            .sees(Pod(One), VIP, silence())
            .udp(),
        Scenario::new("a Service of IPv4 has nothing to do with IPv6")
            .step([cluster_ip().only(V4).slice([ready(A1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .only(V4)
            .sees(Pod(One), VIP, silence())
            .only(V6),
        Scenario::new("a Service of IPv6 has nothing to do with IPv4")
            .step([cluster_ip().only(V6).slice([ready(A1), serving(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .only(V6)
            .sees(Pod(One), VIP, silence())
            .only(V4),
        Scenario::new("a Service loses its second family")
            .step([cluster_ip().slice([ready(A1), unready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .step([cluster_ip().only(V4).slice([ready(A1), unready(B1)])])
            .sees(Pod(One), VIP, reaches(&[A1]))
            .only(V4)
            .sees(Pod(One), VIP, silence())
            .only(V6),
        Scenario::new("an address that no Service claims is the network's matter")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Pod(One), crate::scenario::EXTERNAL_IP, the_world()),
    ]
}
