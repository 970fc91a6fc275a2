//! External IPs, ingress addresses of load balancers, and the ranges that may use those.

use crate::{
    place::{
        Backend::{A1, B1},
        Client::{Host, Outside, Pod},
        Family::{V4, V6},
        Node::{One, Two},
    },
    scenario::{
        EXTERNAL_IP, Expect, INGRESS, NODE_PORT, Scenario, Source, Target, VIP, denied, reaches,
        reaches_as, refused, silence, the_world,
    },
    service::{IpMode, Service, cluster_ip, load_balancer, node_port, ready, serving, unready},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let external = |name| format!("an external IP {name}");
    let ingress = |name| format!("an ingress address {name}");
    [
        every_kind(external, EXTERNAL_IP, || cluster_ip().external_ip()),
        every_kind(ingress, INGRESS, load_balancer),
        modes(),
        ranges(),
        changes(),
    ]
    .concat()
}

/// What external IPs and ingress addresses have in common.
fn every_kind(
    name: impl Fn(&'static str) -> String,
    target: Target,
    service: impl Fn() -> Service,
) -> Vec<Scenario> {
    let node = Source::Of(One);
    let both = || [ready(A1), ready(B1)];
    vec![
        Scenario::new(name("leads clients from outside to every endpoint"))
            .step([service().slice(both())])
            .sees(Outside(One), target, reaches_as(&node, &[A1, B1])),
        Scenario::new(name("leads pods to every endpoint"))
            .step([service().slice(both())])
            .sees(Pod(One), target, reaches_as(&node, &[A1, B1])),
        Scenario::new(name("leads processes of the host to every endpoint"))
            .step([service().slice(both())])
            .sees(Host(One), target, reaches(&[A1, B1])),
        Scenario::new(name("without endpoints refuses"))
            .step([service().slice([unready(A1)])])
            .sees(Outside(One), target, refused())
            .sees(Pod(One), target, refused())
            .sees(Host(One), target, refused())
            .tcp()
            .sees(Host(One), target, denied())
            .udp(),
        Scenario::new(name(
            "of a local policy leads to local endpoints, which see the client",
        ))
        .step([service().external_local().slice(both())])
        .sees(Outside(One), target, reaches(&[A1]))
        .sees(Outside(Two), target, reaches(&[B1])),
        Scenario::new(name(
            "of a local policy drops where all endpoints are elsewhere",
        ))
        .step([service().external_local().slice([ready(B1)])])
        .sees(Outside(One), target, silence())
        .sees(Pod(One), target, reaches(&[B1]))
        .sees(Host(One), target, reaches(&[B1])),
        Scenario::new(name(
            "of a local policy falls back to local endpoints that terminate",
        ))
        .step([service().external_local().slice([serving(A1), ready(B1)])])
        .sees(Outside(One), target, reaches(&[A1]))
        .sees(Pod(One), target, reaches(&[B1])),
        Scenario::new(name("leaves other ports to the network"))
            .step([service().slice(both())])
            .sees(Pod(One), target.port(82), the_world())
            .sees(Outside(One), target.port(82), the_world()),
        Scenario::new(name("comes without harm to the ClusterIP"))
            .step([service().slice(both())])
            .sees(Pod(One), VIP, reaches(&[A1, B1])),
    ]
}

fn modes() -> Vec<Scenario> {
    let node = Source::Of(One);
    vec![
        Scenario::new("an ingress address of mode VIP is like one without a mode")
            .step([load_balancer().ingress(IpMode::Vip).slice([ready(A1)])])
            .sees(Outside(One), INGRESS, reaches_as(&node, &[A1]))
            .sees(Host(One), INGRESS, reaches(&[A1])),
        Scenario::new("an ingress address of mode Proxy is the balancer's own matter")
            .step([load_balancer().ingress(IpMode::Proxy).slice([ready(A1)])])
            .sees(Pod(One), INGRESS, the_world())
            .sees(Host(One), INGRESS, the_world())
            .sees(Outside(One), INGRESS, the_world())
            .sees(Outside(One), NODE_PORT, reaches_as(&Source::Asked, &[A1])),
        Scenario::new("an ingress address changes its mode")
            .step([load_balancer().ingress(IpMode::Proxy).slice([ready(A1)])])
            .sees(Host(One), INGRESS, the_world())
            .step([load_balancer().ingress(IpMode::Vip).slice([ready(A1)])])
            .sees(Host(One), INGRESS, reaches(&[A1]))
            .step([load_balancer().ingress(IpMode::Proxy).slice([ready(A1)])])
            .sees(Host(One), INGRESS, the_world()),
    ]
}

/// The clients outside have 192.168.50.100 and .101, the nodes .12 and .13.
fn ranges() -> Vec<Scenario> {
    let node = Source::Of(One);
    let of_one = ["192.168.50.100/32", "fd00:50::64/128"];
    let two = Source::Of(Two);
    vec![
        Scenario::new("an ingress address lets only its ranges in")
            .step([load_balancer().from(&of_one).slice([ready(A1), ready(B1)])])
            .sees(Outside(One), INGRESS, reaches_as(&node, &[A1, B1]))
            .sees(Outside(Two), INGRESS, silence())
            .sees(Pod(One), INGRESS, silence())
            .sees(Host(One), INGRESS, silence())
            .tcp()
            .sees(Host(One), INGRESS, denied())
            .udp(),
        Scenario::new("ranges are nothing to NodePorts and ClusterIPs")
            .step([load_balancer().from(&of_one).slice([ready(A1)])])
            .sees(Outside(Two), NODE_PORT, reaches_as(&Source::Asked, &[A1]))
            .sees(Pod(One), VIP, reaches(&[A1])),
        Scenario::new("ranges are nothing to external IPs")
            .step([load_balancer()
                .external_ip()
                .from(&of_one)
                .slice([ready(A1)])])
            .sees(Outside(Two), EXTERNAL_IP, reaches_as(&two, &[A1])),
        Scenario::new("ranges of one family leave the other open")
            .step([load_balancer()
                .from(&["192.168.50.100/32"])
                .slice([ready(A1)])])
            .sees(Outside(Two), INGRESS, silence())
            .only(V4)
            .sees(Outside(Two), INGRESS, reaches_as(&two, &[A1]))
            .only(V6),
        Scenario::new("pods are let in by ranges of pods")
            .step([load_balancer()
                .from(&["10.244.0.0/16", "fd00:244::/32"])
                .slice([ready(A1)])])
            .sees(Outside(One), INGRESS, silence())
            .sees(Pod(One), INGRESS, reaches_as(&node, &[A1])),
        Scenario::new("the host is let in by ranges that have its address")
            .step([load_balancer()
                .from(&["192.168.50.12/32", "fd00:50::c/128"])
                .slice([ready(A1)])])
            .sees(Host(One), INGRESS, reaches(&[A1]))
            .sees(Outside(One), INGRESS, silence()),
        Scenario::new("ranges come and go")
            .step([load_balancer().slice([ready(A1)])])
            .sees(Outside(Two), INGRESS, reaches_as(&two, &[A1]))
            .step([load_balancer().from(&of_one).slice([ready(A1)])])
            .sees(Outside(Two), INGRESS, silence())
            .step([load_balancer().slice([ready(A1)])])
            .sees(Outside(Two), INGRESS, reaches_as(&two, &[A1])),
        Scenario::new("ranges of a local policy")
            .step([load_balancer()
                .external_local()
                .from(&of_one)
                .slice([ready(A1), ready(B1)])])
            .sees(Outside(One), INGRESS, reaches(&[A1]))
            .sees(Outside(Two), INGRESS, silence()),
    ]
}

fn changes() -> Vec<Scenario> {
    let node = Source::Of(One);
    let reached = || -> Expect { reaches_as(&node, &[A1]) };
    vec![
        Scenario::new("external IPs come and go")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Outside(One), EXTERNAL_IP, the_world())
            .step([cluster_ip().external_ip().slice([ready(A1)])])
            .sees(Outside(One), EXTERNAL_IP, reached())
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Outside(One), EXTERNAL_IP, the_world()),
        Scenario::new("a load balancer becomes a NodePort and nothing but a ClusterIP")
            .step([load_balancer().slice([ready(A1)])])
            .sees(Outside(One), INGRESS, reached())
            .sees(Outside(One), NODE_PORT, reaches_as(&Source::Asked, &[A1]))
            .step([node_port().slice([ready(A1)])])
            .sees(Outside(One), INGRESS, the_world())
            .sees(Outside(One), NODE_PORT, reaches_as(&Source::Asked, &[A1]))
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Outside(One), INGRESS, the_world())
            .sees(Outside(One), NODE_PORT, refused()),
        Scenario::new("an external IP and an ingress address stand side by side")
            .step([load_balancer().external_ip().slice([ready(A1)])])
            .sees(Outside(One), INGRESS, reached())
            .sees(Outside(One), EXTERNAL_IP, reached()),
    ]
}
