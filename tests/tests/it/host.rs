//! Processes of the host: through a ClusterIP to a backend and back, without an interface of ours in between.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use signpost::dataplane::ebpf::sys::{delete_batch, keys, open_pinned};
use signpost_common::{
    layout::{LAYOUT_VERSION, map},
    socket::SocketKey,
};
use signpost_tests::lab::{Agent, Lab, Sockets, wait};

use crate::small::{CNIS, PATIENCE, PROGRAMMED, Small, Vip, answering};

/// The addresses of a Service as processes may give them: of both families, and IPv4 on a socket of IPv6.
pub(crate) fn forms(vip: Vip) -> [SocketAddr; 3] {
    [vip.v4, vip.v6, mapped(vip.v4)]
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), address.port()).into(),
        IpAddr::V6(_) => address,
    }
}

/// What programs at sockets can refuse with on this kernel, by what `signpost doctor` says of it.
pub(crate) fn refusal(small: &Small) -> anyhow::Result<ErrorKind> {
    let said = small.agents[0]
        .command("doctor")?
        .args(["-o", "json"])
        .text()?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    let mut features = said["features"].as_array().into_iter().flatten();
    let chosen = features.find(|row| row["feature"] == "set_retval");
    let chosen = chosen.context("no such feature")?;
    Ok(if chosen["there"] == true {
        ErrorKind::ConnectionRefused
    } else {
        ErrorKind::PermissionDenied
    })
}

/// Waits until a Service answers a process at its sockets.
pub(crate) fn answering_at_sockets(host: &Sockets, vip: Vip) -> anyhow::Result<()> {
    for address in vip.both() {
        wait::until(&format!("an answer of {address}"), PROGRAMMED, || {
            host.converse(address, Duration::from_millis(300))?.say("x")
        })?;
    }
    Ok(())
}

/// What went wrong in a call.
pub(crate) fn kind<T: std::fmt::Debug>(result: anyhow::Result<T>) -> anyhow::Result<ErrorKind> {
    let error = result.err().context("it went well")?;
    let error = error.downcast::<std::io::Error>()?;
    Ok(error.kind())
}

/// Sockets of every kind reach the Service's only backend, and never learn of its address.
pub(crate) fn all_kinds_reach(from: &Sockets, vip: Vip, expected: &str) -> anyhow::Result<()> {
    for address in forms(vip) {
        let what = || format!("{address}");
        let mut tcp = from.converse(address, PATIENCE).with_context(what)?;
        assert_eq!(tcp.say("x")?, expected, "{address}");
        assert_eq!(tcp.stream().peer_addr()?, address);

        let udp = from.connected(address, PATIENCE).with_context(what)?;
        assert_eq!(udp.ask(b"x")?, expected, "{address}");
        assert_eq!(udp.socket().peer_addr()?, address);
        let (name, of) = udp.ask_of(address, b"y").with_context(what)?;
        assert_eq!((name.as_str(), of), (expected, address));

        let udp = from.datagrams(address, PATIENCE)?;
        for payload in [b"1", b"2"] {
            let (name, of) = udp.ask_of(address, payload).with_context(what)?;
            assert_eq!((name.as_str(), of), (expected, address));
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn processes_of_the_host_reach_backends_and_see_only_the_service() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::two(cni)?;
        let host = Sockets::of_node(small.lab.node("one")?)?;
        small.server("local", "one", "local")?;
        small.server("remote", "two", "remote")?;
        small.host_server("host", "one", "host")?;
        small.host_server("remote-host", "two", "remote-host")?;
        for name in ["local", "remote", "host", "remote-host"] {
            let vip = small.service(name)?;
            answering_at_sockets(&host, vip)?;
            let expected = format!("default/{name}");
            all_kinds_reach(&host, vip, &expected).with_context(|| format!("{cni:?} {name}"))?;
        }
        let agent = &small.agents[0];
        for cause in ["socket_connected", "socket_sent", "socket_received"] {
            assert!(agent.counter(cause)? > 0, "{cause}");
        }
        assert_eq!(agent.counter("flow_created")?, 0, "{cni:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_service_without_endpoints_refuses_processes_of_the_host() -> anyhow::Result<()> {
    let mut small = Small::one(CNIS[0])?;
    let host = Sockets::of_node(small.lab.node("one")?)?;
    let vip = small.service("web")?;
    let refusal = refusal(&small)?;
    for address in forms(vip) {
        wait::until("the refusal", PROGRAMMED, || {
            let kind = kind(host.converse(address, Duration::from_millis(300)))?;
            ensure!(kind == refusal, "{kind}");
            Ok(())
        })?;
        let connected = kind(host.connected(address, PATIENCE))?;
        assert_eq!(connected, refusal, "{address}");
        let sent = host.datagrams(address, PATIENCE)?.ask_of(address, b"x");
        assert_eq!(kind(sent)?, refusal, "{address}");
    }
    assert!(small.agents[0].counter("socket_refused")? > 0);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn datagrams_of_a_host_process_stay_with_a_backend_until_it_dies() -> anyhow::Result<()> {
    let mut small = Small::one(CNIS[0])?;
    let host = Sockets::of_node(small.lab.node("one")?)?;
    for name in ["a", "b"] {
        small.server("web", "one", name)?;
    }
    let vip = small.service("web")?;
    answering_at_sockets(&host, vip)?;
    for address in forms(vip) {
        let socket = host.datagrams(address, PATIENCE)?;
        let (first, _) = socket.ask_of(address, b"x")?;
        for n in 0..20_u8 {
            assert_eq!(socket.ask_of(address, &[n])?.0, first);
        }
    }
    let socket = host.datagrams(vip.v4, Duration::from_millis(100))?;
    let (first, _) = socket.ask_of(vip.v4, b"x")?;
    let dead = first.strip_prefix("default/").context("a name")?.to_owned();
    small.kubelet.delete("default", &dead)?;
    let (second, from) = wait::until("the other backend", PROGRAMMED, || {
        socket.ask_of(vip.v4, b"y")
    })?;
    assert_ne!(second, first);
    assert_eq!(from, vip.v4);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_agent_may_die_without_harm_to_processes_of_the_host() -> anyhow::Result<()> {
    let mut small = Small::two(CNIS[0])?;
    let host = Sockets::of_node(small.lab.node("one")?)?;
    small.server("web", "two", "web")?;
    let vip = small.service("web")?;
    answering_at_sockets(&host, vip)?;
    let mut kept = host.converse(vip.v6, PATIENCE)?;
    let udp = host.connected(mapped(vip.v4), PATIENCE)?;
    for round in 0..2 {
        small.agents[0].kill();
        for address in forms(vip) {
            let answer = host.converse(address, PATIENCE)?.say("down")?;
            assert_eq!(answer, "default/web", "{address}");
        }
        assert_eq!(kept.say("down")?, "default/web", "{round}");
        small.agents[0].restart()?;
        assert_eq!(kept.say("up")?, "default/web", "{round}");
        assert_eq!(kept.stream().peer_addr()?, vip.v6);
        assert_eq!(udp.ask(b"up")?, "default/web", "{round}");
        assert_eq!(udp.socket().peer_addr()?, mapped(vip.v4));
    }
    Ok(())
}

/// Where the map is full, the entry that was not used for the longest time goes.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn sockets_whose_entries_are_evicted_go_on_with_the_service() -> anyhow::Result<()> {
    let mut small = Small::one(CNIS[0])?;
    let node = small.lab.node("one")?.clone();
    let host = Sockets::of_node(&node)?;
    for name in ["a", "b"] {
        small.server("web", "one", name)?;
    }
    small.server("other", "one", "other")?;
    let (vip, other) = (small.service("web")?, small.service("other")?);
    answering_at_sockets(&host, vip)?;
    answering_at_sockets(&host, other)?;
    let sockets = node
        .bpffs()
        .join(format!("v{LAYOUT_VERSION}/maps"))
        .join(map::SOCKETS);
    let sockets = open_pinned(&sockets)?;
    let evict_all = || {
        let all: Vec<SocketKey> = keys(sockets.as_fd())?;
        ensure!(!all.is_empty(), "there is nothing to evict");
        delete_batch(sockets.as_fd(), &all)?;
        Ok(())
    };
    let of_web = ["default/a", "default/b"];
    for address in forms(vip) {
        let mut tcp = host.converse(address, PATIENCE)?;
        let connected = host.connected(address, PATIENCE)?;
        let datagrams = host.datagrams(address, PATIENCE)?;
        let (of_tcp, of_connected) = (tcp.say("x")?, connected.ask(b"x")?);
        datagrams.ask_of(address, b"x")?;
        for payload in [b"1", b"2"] {
            evict_all()?;
            // These have the backend in the socket itself.
            assert_eq!(tcp.say("y")?, of_tcp, "{address}");
            assert_eq!(connected.ask(payload)?, of_connected, "{address}");
            let (name, from) = datagrams.ask_of(address, payload)?;
            assert_eq!(from, address);
            assert!(of_web.contains(&name.as_str()), "{address}: {name}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn sockets_of_pods_are_left_to_their_interface() -> anyhow::Result<()> {
    let mut small = Small::one(CNIS[0])?;
    let pod = small.client("one", "client")?;
    small.server("web", "one", "web")?;
    let vip = small.service("web")?;
    answering(&pod, vip)?;
    let sockets = Sockets::of_pod(&pod)?;
    let created = small.agents[0].counter("flow_created")?;
    for address in vip.both() {
        let mut tcp = sockets.converse(address, PATIENCE)?;
        assert_eq!(tcp.say("x")?, "default/web");
        let udp = sockets.datagrams(address, PATIENCE)?;
        assert_eq!(udp.ask_of(address, b"x")?.1, address);
    }
    assert_eq!(small.agents[0].counter("flow_created")?, created + 4);
    assert_eq!(small.agents[0].counter("socket_connected")?, 0);
    assert_eq!(small.agents[0].counter("socket_sent")?, 0);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_node_without_cgroup2_still_serves_its_pods() -> anyhow::Result<()> {
    let lab = Lab::builder().node("one", CNIS[0]).start()?;
    let node = lab.node("one")?;
    let agent = Agent::with_flags(node, &["--cgroup-root", "/proc"])?;
    let mut small = Small::over(lab, vec![agent]);
    small.dns_service()?;
    let client = small.client("one", "client")?;
    small.server("web", "one", "web")?;
    let vip = small.service("web")?;
    answering(&client, vip)?;
    let status = wait::until("the status", PROGRAMMED, || {
        let status = small.agents[0].command("status")?.text()?;
        ensure!(
            status.contains("not served: cgroup /proc refuses"),
            "{status}"
        );
        Ok(status)
    })?;
    assert!(status.contains("all is well"), "{status}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn cleanup_leaves_processes_of_the_host_as_they_were() -> anyhow::Result<()> {
    let mut small = Small::one(CNIS[0])?;
    small.dns_service()?;
    let host = Sockets::of_node(small.lab.node("one")?)?;
    let vip = small.service("web")?;
    let refusal = refusal(&small)?;
    let refused = || {
        let kind = kind(host.converse(vip.v4, Duration::from_millis(300)))?;
        ensure!(kind == refusal, "{kind}");
        Ok(())
    };
    wait::until("the refusal", PROGRAMMED, refused)?;
    wait::until("the status", PROGRAMMED, || {
        let status = small.agents[0].command("status")?.text()?;
        let served = format!(
            "served below cgroup {}",
            small.lab.node("one")?.cgroup().path().display()
        );
        ensure!(status.contains(&served), "{status}");
        Ok(())
    })?;
    small.agents[0].terminate();
    refused()?;
    small.agents[0].command("cleanup")?.text()?;
    // The kernel takes a link that is no longer pinned apart a moment later.
    wait::until("the end of the programs", PROGRAMMED, || {
        ensure!(refused().is_err());
        Ok(())
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_connected_socket_whose_backend_dies_is_ended_and_connects_anew() -> anyhow::Result<()> {
    for form in 0..3 {
        let mut small = Small::one(CNIS[0])?;
        let host = Sockets::of_node(small.lab.node("one")?)?;
        for name in ["a", "b"] {
            small.server("web", "one", name)?;
        }
        let vip = small.service("web")?;
        answering_at_sockets(&host, vip)?;
        let address = forms(vip)[form];
        let socket = host.connected(address, PATIENCE)?;
        let first = socket.ask(b"x")?;
        let dead = first.strip_prefix("default/").context("a name")?.to_owned();
        let pod = small.kubelet.pod("default", &dead)?;
        let backend = if address == vip.v6 {
            pod.v6()
        } else {
            pod.v4()
        };
        // This one did not ask for the Service, and is nobody's business.
        let direct = host.connected(mapped((backend, 8080).into()), PATIENCE)?;
        assert_eq!(direct.ask(b"x")?, first);
        // The pod still answers, but serves no more.
        small.kubelet.set_ready("default", &dead, false)?;
        wait::until("the end of the socket", PROGRAMMED, || {
            ensure!(socket.socket().peer_addr().is_err());
            Ok(())
        })?;
        let told = socket.socket().recv(&mut [0]).map_err(|e| e.kind());
        assert_eq!(told, Err(ErrorKind::ConnectionAborted));
        socket.connect(address)?;
        assert_ne!(socket.ask(b"y")?, first);
        assert_eq!(socket.socket().peer_addr()?, address);
        assert_eq!(direct.ask(b"y")?, first);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn node_ports_are_served_to_processes_of_the_host() -> anyhow::Result<()> {
    const NODE_PORT: u16 = 30_080;
    let lab = Lab::builder()
        .node("one", CNIS[0])
        .node("two", CNIS[0])
        .start()?;
    let node = lab.node("one")?;
    let flags = ["--nodeport-addresses", "all,localhost"];
    let agent = Agent::with_flags(node, &flags)?;
    let own = node.addresses();
    let host = Sockets::of_node(node)?;
    let mut small = Small::over(lab, vec![agent]);
    small.server("web", "two", "web")?;
    small.kubelet.write(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "type": "NodePort", "externalTrafficPolicy": "Local",
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": "web"},
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT},
                {"name": "udp", "protocol": "UDP", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT},
            ],
        },
    }))?;
    let loopback: [IpAddr; 2] = ["127.0.0.1".parse()?, "::1".parse()?];
    for ip in own.into_iter().chain(loopback) {
        for address in [
            SocketAddr::new(ip, NODE_PORT),
            mapped((ip, NODE_PORT).into()),
        ] {
            wait::until(&format!("an answer of {address}"), PROGRAMMED, || {
                host.converse(address, Duration::from_millis(300))?.say("x")
            })?;
            let tcp = host.converse(address, PATIENCE)?;
            assert_eq!(tcp.stream().peer_addr()?, address);
            let udp = host.connected(address, PATIENCE)?;
            assert_eq!(udp.ask(b"x")?, "default/web", "{address}");
            let udp = host.datagrams(address, PATIENCE)?;
            assert_eq!(udp.ask_of(address, b"x")?.1, address);
        }
    }
    let other = kind(host.converse((loopback[0], NODE_PORT + 1).into(), PATIENCE))?;
    assert_eq!(other, ErrorKind::ConnectionRefused);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_policy_without_an_endpoint_on_the_node_keeps_its_processes_out() -> anyhow::Result<()> {
    let mut small = Small::two(CNIS[0])?;
    let host = Sockets::of_node(small.lab.node("one")?)?;
    small.server("web", "two", "web")?;
    small.kubelet.write(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "clusterIP": "10.96.2.1", "selector": {"app": "web"}, "internalTrafficPolicy": "Local",
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080},
                {"name": "udp", "protocol": "UDP", "port": 80, "targetPort": 8080},
            ],
        },
    }))?;
    let address = SocketAddr::from(([10, 96, 2, 1], 80));
    wait::until("the policy", PROGRAMMED, || {
        let kind = kind(host.converse(address, Duration::from_millis(300)))?;
        ensure!(small.agents[0].counter("socket_denied")? > 0, "{kind}");
        Ok(())
    })?;
    // Long before a packet that is dropped would have this effect.
    let error = kind(host.converse(address, Duration::from_secs(600)))?;
    assert_eq!(error, ErrorKind::TimedOut);
    let sent = host.datagrams(address, PATIENCE)?.ask_of(address, b"x");
    assert_eq!(kind(sent)?, ErrorKind::PermissionDenied);
    small.server("web", "one", "here")?;
    wait::until("the endpoint here", PROGRAMMED, || {
        let answer = host.converse(address, PATIENCE)?.say("x")?;
        ensure!(answer == "default/here", "{answer}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn all_processes_of_the_host_stay_with_one_backend_by_session_affinity() -> anyhow::Result<()> {
    let mut small = Small::one(CNIS[0])?;
    let node = small.lab.node("one")?.clone();
    for name in ["a", "b", "c"] {
        small.server("web", "one", name)?;
    }
    let service = |affinity: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {
                "clusterIP": "10.96.2.1", "selector": {"app": "web"}, "sessionAffinity": affinity,
                "ports": [
                    {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080},
                ],
            },
        })
    };
    small.kubelet.write(&service("ClientIP"))?;
    let address = SocketAddr::from(([10, 96, 2, 1], 80));
    let first = Sockets::of_node(&node)?;
    let second = Sockets::of_node(&node)?;
    let expected = wait::until("an answer", PROGRAMMED, || {
        first
            .converse(address, Duration::from_millis(300))?
            .say("x")
    })?;
    // Forty in a row are by chance less often than once in 10^18.
    for host in [&first, &second].into_iter().cycle().take(40) {
        assert_eq!(host.converse(address, PATIENCE)?.say("x")?, expected);
    }
    small.kubelet.write(&service("None"))?;
    wait::until("another backend", PROGRAMMED, || {
        let answer = first.converse(address, PATIENCE)?.say("x")?;
        ensure!(answer != expected);
        Ok(())
    })
}
