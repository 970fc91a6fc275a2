//! Pods that are served at their sockets: those that no interface with programs leads to, and for TCP all where the
//! operator says so.

use std::{io::ErrorKind, net::IpAddr, time::Duration};

use anyhow::{Context as _, ensure};
use signpost_tests::lab::{Agent, Cni, Lab, Sockets, links, wait};

use crate::{
    host::{all_kinds_reach, answering_at_sockets, forms, kind, refusal},
    small::{CNIS, PATIENCE, PROGRAMMED, Small, Vip, answering},
};

/// Names no interface of a laboratory: to the agent they are all somebody else's.
const NOT_OURS: [&str; 2] = ["--pod-interfaces", "ours*"];

/// Two nodes, of which the first one's agent has more flags.
fn two(cni: Cni, flags: &[&str]) -> anyhow::Result<Small> {
    let lab = Lab::builder().node("one", cni).node("two", cni).start()?;
    let mut agents = Vec::new();
    for node in lab.nodes() {
        let more = if node.name() == "one" { flags } else { &[] };
        agents.push(Agent::with_flags(node, more)?);
    }
    Ok(Small::over(lab, agents))
}

/// Waits until the Service answers a pod, at whose sockets nothing was served before.
fn until_at_sockets(agent: &Agent, sockets: &Sockets, vip: Vip) -> anyhow::Result<()> {
    wait::until("service at its sockets", PROGRAMMED, || {
        sockets
            .converse(vip.v4, Duration::from_millis(300))?
            .say("x")?;
        ensure!(agent.counter("socket_connected")? > 0, "not at its sockets");
        Ok(())
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_no_interface_with_programs_leads_to_is_served_at_its_sockets() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = two(cni, &NOT_OURS)?;
        small.dns_service()?;
        let client = small.client("one", "client")?;
        let sockets = Sockets::of_pod(&client)?;
        small.server("local", "one", "local")?;
        small.server("remote", "two", "remote")?;
        small.host_server("host", "one", "host")?;
        for name in ["local", "remote", "host"] {
            let vip = small.service(name)?;
            answering_at_sockets(&sockets, vip)?;
            all_kinds_reach(&sockets, vip, &format!("default/{name}"))
                .with_context(|| format!("{cni:?} {name}"))?;
        }
        let vip = small.service("nobody")?;
        let refusal = refusal(&small)?;
        for address in forms(vip) {
            wait::until("the refusal", PROGRAMMED, || {
                let kind = kind(sockets.converse(address, Duration::from_millis(300)))?;
                ensure!(kind == refusal, "{kind}");
                Ok(())
            })?;
        }
        let agent = &small.agents[0];
        for cause in ["socket_connected", "socket_sent", "socket_received"] {
            assert!(agent.counter(cause)? > 0, "{cause}");
        }
        assert_eq!(agent.counter("flow_created")?, 0, "{cni:?}");
        wait::until("the status", PROGRAMMED, || {
            let status = agent.command("status")?.text()?;
            let says = "no interface with programs leads to cni-client";
            ensure!(status.contains(says), "{status}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_that_gets_a_macvlan_interface_goes_over_to_its_sockets() -> anyhow::Result<()> {
    let mut small = two(Cni::Routed, &[])?;
    let client = small.client("one", "client")?;
    small.server("remote", "two", "remote")?;
    let vip = small.service("remote")?;
    answering(&client, vip)?;
    let agent = &small.agents[0];
    assert_eq!(agent.counter("socket_connected")?, 0);

    let (node, other) = (small.lab.node("one")?, small.lab.node("two")?);
    let interface = client.interface().context("an interface")?;
    links::remove(node.namespace(), interface)?;
    let inside = client.namespace();
    links::macvlan((node.namespace(), "eth0"), (inside, "net0"), 1500)?;
    let own: [IpAddr; 2] = ["192.168.50.200".parse()?, "fd00:50::200".parse()?];
    links::add_addresses(inside, "net0", &[(own[0], 24), (own[1], 64)])?;
    for (network, gateway) in other.pod_networks().into_iter().zip(other.addresses()) {
        links::add_route(inside, network, Some(gateway), "net0")?;
    }
    // Whoever has an address asks somebody for the Service's, but no packet to it is ever sent.
    for (service, gateway) in vip.both().into_iter().zip(other.addresses()) {
        links::add_route(inside, links::alone(service.ip()), Some(gateway), "net0")?;
    }
    let sockets = Sockets::of_pod(&client)?;
    until_at_sockets(agent, &sockets, vip)?;
    all_kinds_reach(&sockets, vip, "default/remote")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn with_all_pods_at_their_sockets_tcp_is_served_there_and_datagrams_at_the_interface()
-> anyhow::Result<()> {
    let mut small = two(Cni::Routed, &["--pod-sockets", "all"])?;
    let client = small.client("one", "client")?;
    let sockets = Sockets::of_pod(&client)?;
    small.server("web", "two", "web")?;
    let vip = small.service("web")?;
    let agent = &small.agents[0];
    until_at_sockets(agent, &sockets, vip)?;
    let before = agent.counters()?;
    all_kinds_reach(&sockets, vip, "default/web")?;
    let after = agent.counters()?;
    let more = |cause: &str| after[cause] - before[cause];
    // A connection for each form of the address; a flow for each of the two sockets of UDP that ask it.
    assert_eq!(more("socket_connected"), 3);
    assert_eq!(more("socket_sent"), 0);
    assert_eq!(more("flow_created"), 6);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn datagrams_of_such_a_pod_leave_a_backend_that_serves_no_more_also_after_a_restart_of_the_agent()
-> anyhow::Result<()> {
    let mut small = two(Cni::Routed, &NOT_OURS)?;
    let client = small.client("one", "client")?;
    let sockets = Sockets::of_pod(&client)?;
    for name in ["a", "b"] {
        small.server("web", "two", name)?;
    }
    let vip = small.service("web")?;
    answering_at_sockets(&sockets, vip)?;
    let udp = sockets.connected(vip.v4, PATIENCE)?;
    let first = udp.ask(b"x")?;
    small.agents[0].kill();
    assert_eq!(udp.ask(b"down")?, first);
    small.agents[0].restart()?;
    assert_eq!(udp.ask(b"up")?, first);
    assert_eq!(udp.socket().peer_addr()?, vip.v4);

    let dead = first.strip_prefix("default/").context("a name")?.to_owned();
    small.kubelet.set_ready("default", &dead, false)?;
    wait::until("the end of the socket", PROGRAMMED, || {
        ensure!(udp.socket().peer_addr().is_err());
        Ok(())
    })?;
    let told = udp.socket().recv(&mut [0]).map_err(|error| error.kind());
    assert_eq!(told, Err(ErrorKind::ConnectionAborted));
    udp.connect(vip.v4)?;
    assert_ne!(udp.ask(b"y")?, first);
    Ok(())
}
