//! NodePorts, and ClusterIPs from outside.

use crate::{
    place::{
        Backend::{A1, A2, B1, H1},
        Client::{Host, Inside, Outside, Pod},
        Node::{One, Two},
    },
    scenario::{
        LOOPBACK, NODE_PORT, NODE_PORT_OF_TWO, Scenario, Source, VIP, reaches, reaches_as, refused,
        silence,
    },
    service::{Port, cluster_ip, node_port, ready, serving, terminating, unready},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    [of_the_cluster(), local(), changes()].concat()
}

fn of_the_cluster() -> Vec<Scenario> {
    let one = Source::Of(One);
    let asked = Source::Asked;
    vec![
        Scenario::new("a NodePort leads to every endpoint, which sees the node that was asked")
            .step([node_port().slice([ready(A1), ready(B1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1, B1]))
            .sees(
                Outside(One),
                NODE_PORT_OF_TWO,
                reaches_as(&asked, &[A1, B1]),
            ),
        Scenario::new("a NodePort of a node without endpoints leads to another node's")
            .step([node_port().slice([ready(B1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[B1])),
        Scenario::new("a pod reaches the NodePort of its own node")
            .step([node_port().slice([ready(A1), ready(B1)])])
            .sees(Pod(One), NODE_PORT, reaches_as(&asked, &[A1, B1])),
        Scenario::new("a pod reaches the NodePort of another node")
            .step([node_port().slice([ready(B1)])])
            .sees(Pod(One), NODE_PORT_OF_TWO, reaches_as(&asked, &[B1])),
        Scenario::new("a process of the host reaches the NodePort of its own node")
            .step([node_port().slice([ready(A1), ready(B1)])])
            .sees(Host(One), NODE_PORT, reaches(&[A1, B1])),
        Scenario::new("a process of the host reaches the NodePort of another node")
            .step([node_port().slice([ready(A1), ready(B1)])])
            .sees(Host(One), NODE_PORT_OF_TWO, reaches_as(&asked, &[A1, B1])),
        Scenario::new("a NodePort is not open at the loopback address")
            .step([node_port().slice([ready(A1)])])
            .sees(Host(One), LOOPBACK, refused()),
        Scenario::new("a NodePort without endpoints refuses")
            .step([node_port().slice([unready(A1), terminating(B1)])])
            .sees(Outside(One), NODE_PORT, refused())
            .sees(Pod(One), NODE_PORT, refused())
            .sees(Host(One), NODE_PORT, refused()),
        Scenario::new("a NodePort falls back to endpoints that terminate")
            .step([node_port().slice([serving(A1), serving(B1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1, B1])),
        Scenario::new("a NodePort leads to a process of the host")
            .step([node_port().slice([ready(H1)])])
            .sees(Outside(One), NODE_PORT_OF_TWO, reaches_as(&asked, &[H1])),
        Scenario::new("a pod reaches itself through a NodePort")
            .step([node_port().slice([ready(A1)])])
            .sees(Inside(A1), NODE_PORT, reaches_as(&asked, &[A1])),
        Scenario::new("a NodePort with one protocol is not open to the other")
            .step([node_port().ports(&[Port::udp(80)]).slice([ready(A1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1]))
            .udp()
            .sees(Outside(One), NODE_PORT, refused())
            .tcp(),
        Scenario::new("two NodePorts lead to two ports")
            .step([node_port()
                .ports(&[Port::tcp(80), Port::tcp(81).to(8081)])
                .slice([ready(A1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1]))
            .tcp()
            .sees(Outside(One), NODE_PORT.port(81), reaches_as(&asked, &[A1]))
            .tcp(),
        Scenario::new("an internal policy is nothing to a NodePort")
            .step([node_port().internal_local().slice([ready(B1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[B1]))
            .sees(Pod(One), VIP, silence()),
        Scenario::new("hints hold for NodePorts")
            .step([node_port().slice([ready(A1).zones(&["zone-a"]), ready(B1).zones(&["zone-b"])])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1]))
            .sees(Outside(Two), NODE_PORT_OF_TWO, reaches_as(&asked, &[B1])),
        Scenario::new("a ClusterIP from outside shows the node")
            .step([cluster_ip().slice([ready(A1), ready(B1)])])
            .sees(Outside(One), VIP, reaches_as(&one, &[A1, B1])),
        Scenario::new("a ClusterIP from outside heeds the internal policy")
            .step([cluster_ip().internal_local().slice([ready(A1), ready(B1)])])
            .sees(Outside(One), VIP, reaches_as(&one, &[A1]))
            .step([cluster_ip().internal_local().slice([ready(B1)])])
            .sees(Outside(One), VIP, silence())
            .step([cluster_ip().internal_local().slice([])])
            .sees(Outside(One), VIP, refused()),
    ]
}

fn local() -> Vec<Scenario> {
    let asked = Source::Asked;
    vec![
        Scenario::new("a local NodePort leads to local endpoints, which see the client")
            .step([node_port()
                .external_local()
                .slice([ready(A1), ready(A2), ready(B1)])])
            .sees(Outside(One), NODE_PORT, reaches(&[A1, A2]))
            .sees(Outside(Two), NODE_PORT_OF_TWO, reaches(&[B1])),
        Scenario::new("a local NodePort drops where all endpoints are elsewhere")
            .step([node_port().external_local().slice([ready(B1)])])
            .sees(Outside(One), NODE_PORT, silence())
            .sees(Outside(One), NODE_PORT_OF_TWO, reaches(&[B1])),
        Scenario::new("a local NodePort leads pods and the host to every endpoint")
            .step([node_port().external_local().slice([ready(B1)])])
            .sees(Pod(One), NODE_PORT, reaches(&[B1]))
            .sees(Host(One), NODE_PORT, reaches(&[B1])),
        Scenario::new("a local NodePort leads pods of another node to its endpoints")
            .step([node_port().external_local().slice([ready(B1)])])
            .sees(Pod(One), NODE_PORT_OF_TWO, reaches(&[B1])),
        Scenario::new("a local NodePort without any endpoint refuses")
            .step([node_port().external_local().slice([unready(A1)])])
            .sees(Outside(One), NODE_PORT, refused())
            .sees(Pod(One), NODE_PORT, refused()),
        Scenario::new("a local NodePort falls back to local endpoints that terminate")
            .step([node_port().external_local().slice([serving(A1), ready(B1)])])
            .sees(Outside(One), NODE_PORT, reaches(&[A1]))
            .sees(Outside(Two), NODE_PORT_OF_TWO, reaches(&[B1]))
            .sees(Pod(One), NODE_PORT, reaches(&[B1])),
        Scenario::new("both policies local: the ClusterIP drops, and so does the NodePort")
            .step([node_port()
                .internal_local()
                .external_local()
                .slice([ready(B1)])])
            .sees(Pod(One), VIP, silence())
            .sees(Outside(One), NODE_PORT, silence())
            .sees(Outside(Two), NODE_PORT_OF_TWO, reaches(&[B1])),
        Scenario::new("a NodePort becomes local and the cluster's again")
            .step([node_port().slice([ready(A1), ready(B1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1, B1]))
            .step([node_port().external_local().slice([ready(A1), ready(B1)])])
            .sees(Outside(One), NODE_PORT, reaches(&[A1]))
            .step([node_port().slice([ready(A1), ready(B1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1, B1])),
    ]
}

fn changes() -> Vec<Scenario> {
    let asked = Source::Asked;
    vec![
        Scenario::new("a NodePort comes and goes")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Outside(One), NODE_PORT, refused())
            .step([node_port().slice([ready(A1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1]))
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Outside(One), NODE_PORT, refused())
            .sees(Pod(One), VIP, reaches(&[A1])),
        Scenario::new("a NodePort gets a second protocol")
            .step([node_port().ports(&[Port::tcp(80)]).slice([ready(A1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1]))
            .tcp()
            .step([node_port().slice([ready(A1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1])),
        Scenario::new("a connection from outside keeps its endpoint")
            .step([node_port().slice([ready(A1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1]))
            .tcp()
            .over("one")
            .step([node_port().slice([ready(B1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1]))
            .tcp()
            .over("one")
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[B1])),
        Scenario::new("a UDP flow from outside leaves an endpoint that is gone")
            .step([node_port().slice([ready(A1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[A1]))
            .udp()
            .over("one")
            .step([node_port().slice([ready(B1)])])
            .sees(Outside(One), NODE_PORT, reaches_as(&asked, &[B1]))
            .udp()
            .over("one"),
        Scenario::new("a connection of the host keeps its endpoint")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Host(One), VIP, reaches(&[A1]))
            .tcp()
            .over("one")
            .step([cluster_ip().slice([ready(B1)])])
            .sees(Host(One), VIP, reaches(&[A1]))
            .tcp()
            .over("one")
            .sees(Host(One), VIP, reaches(&[B1])),
        Scenario::new("endpoints come and go for the host")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Host(One), VIP, reaches(&[A1]))
            .step([cluster_ip().slice([ready(B1), ready(H1)])])
            .sees(Host(One), VIP, reaches(&[B1, H1]))
            .step([cluster_ip().slice([])])
            .sees(Host(One), VIP, refused())
            .tcp(),
    ]
}
