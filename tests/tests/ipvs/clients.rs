//! What pods and processes of the node get.

use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::json;
use signpost_tests::lab::{Cni, client, wait};

use crate::{
    small::{CNIS, MOMENT, PATIENCE, PORT, PROGRAMMED, answering, ask, get},
    world::{self, ipvsadm, of_node, refusal, soon},
};

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn pods_and_the_node_reach_backends_here_and_elsewhere() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    for cni in CNIS {
        for there in ["one", "two"] {
            let mut small = world::two(cni, &[])?;
            let client = small.client("one", "client")?;
            let server = small.server("web", there, "server")?;
            let vip = small.service("web")?;
            answering(&client, vip)?;
            for address in vip.both() {
                assert_eq!(get(&client, address)?, "default/server");
                assert_eq!(ask(&client, address, b"hello")?, "default/server");
                // A bridge forgets how long the fragments of IPv6 were (docs/ipvs.md).
                if address.is_ipv4() || cni == Cni::Routed {
                    assert_eq!(ask(&client, address, &[7; 4000])?, "default/server");
                }
                let node = small.lab.node("one")?;
                assert_eq!(of_node(node, address)?, "default/server", "{cni:?} {there}");
            }
            let lines = ipvsadm(small.lab.node("one")?)?;
            for (protocol, scheduler) in [("-t", "-s rr"), ("-u", "-s rr")] {
                for (address, to) in [(vip.v4, server.v4()), (vip.v6, server.v6())] {
                    let to = SocketAddr::new(to, 8080);
                    let made = format!("-A {protocol} {address} {scheduler}");
                    assert!(
                        lines.iter().any(|l| l.starts_with(&made)),
                        "{made}: {lines:?}"
                    );
                    let led = format!("-a {protocol} {address} -r {to} -m -w 1");
                    assert!(lines.contains(&led), "{led}: {lines:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn a_pod_and_a_process_of_the_node_reach_themselves() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    for cni in CNIS {
        let mut small = world::two(cni, &[])?;
        let server = small.server("web", "one", "server")?;
        let vip = small.service("web")?;
        let node = small.lab.node("one")?;
        // With br_netfilter the answer would have to leave by the port that it came by.
        if let (Cni::Bridged, Some(port)) = (cni, server.interface()) {
            let hairpin = ["link", "set", port, "type", "bridge_slave", "hairpin", "on"];
            node.command("ip")?.args(hairpin).text()?;
        }
        answering(&server, vip).with_context(|| world::seen(node))?;
        for address in vip.both() {
            assert_eq!(get(&server, address)?, "default/server");
            assert_eq!(ask(&server, address, b"me")?, "default/server");
        }
    }
    let mut small = world::one(&[])?;
    let client = small.client("one", "client")?;
    small.host_server("host", "one", "host")?;
    let vip = small.service("host")?;
    answering(&client, vip)?;
    for address in vip.both() {
        assert_eq!(of_node(small.lab.node("one")?, address)?, "default/host");
    }
    Ok(())
}

/// kubernetes/kubernetes#72236, #84322: what listens on the node must not be reached through a Service's address; nor does
/// anybody wait for a Service without endpoints.
#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn what_is_not_served_is_refused_at_once() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let mut small = world::one(&[])?;
    let client = small.client("one", "client")?;
    small.host_server("nobody", "one", "host")?;
    small.server("web", "one", "server")?;
    let vip = small.service("web")?;
    let empty = small.service("empty")?;
    answering(&client, vip)?;
    let node = small.lab.node("one")?;
    // The host's own server listens on every address of the node.
    for address in node.addresses() {
        let address = SocketAddr::new(address, 8080);
        assert_eq!(of_node(node, address)?, "default/host");
    }
    for address in vip.both() {
        let other = SocketAddr::new(address.ip(), 8080);
        for said in [
            refusal(client.run(|| client::get(other, MOMENT))?),
            refusal(of_node(node, other)),
        ] {
            assert!(said.contains("refused"), "{other}: {said}");
        }
        let datagram = client.run(|| client::Datagrams::to(other, MOMENT)?.ask(b"x"))?;
        let said = refusal(datagram);
        assert!(said.contains("refused"), "{other} over UDP: {said}");
    }
    for address in empty.both() {
        let mut said = String::new();
        wait::until("a refusal", PROGRAMMED, || {
            said = refusal(client.run(|| client::get(address, MOMENT))?);
            anyhow::ensure!(said.contains("refused"), "{address}: {said}");
            Ok(())
        })?;
        let said = refusal(of_node(node, address));
        assert!(said.contains("refused"), "{address} of the node: {said}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn affinity_keeps_a_client_with_its_backend_until_that_goes() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let mut small = world::one(&[])?;
    let client = small.client("one", "client")?;
    for name in ["a", "b", "c"] {
        small.server("sticky", "one", name)?;
    }
    small.kubelet.write(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "sticky"},
        "spec": {
            "clusterIP": "10.96.2.9", "selector": {"app": "sticky"},
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100}},
            "ports": [{"protocol": "TCP", "port": PORT, "targetPort": 8080}],
        },
    }))?;
    let address: SocketAddr = "10.96.2.9:80".parse()?;
    let first = wait::until("an answer", PROGRAMMED, || {
        client.run(|| client::get(address, MOMENT))?
    })?;
    for _ in 0..20 {
        assert_eq!(get(&client, address)?, first);
    }
    let node = small.lab.node("one")?.clone();
    assert!(ipvsadm(&node)?.contains(&format!("-A -t {address} -s rr -p 100 -b flag-3")));
    small
        .kubelet
        .set_ready("default", first.trim_start_matches("default/"), false)?;
    soon("another backend", || Ok(get(&client, address)? != first))?;
    let second = get(&client, address)?;
    for _ in 0..20 {
        assert_eq!(get(&client, address)?, second);
    }
    Ok(())
}

/// kubernetes/kubernetes#81775: a client that comes again from the same port waited for a second, or was reset.
#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn a_client_port_that_comes_back_is_served_at_once() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let mut small = world::one(&[])?;
    let client = small.client("one", "client")?;
    for name in ["a", "b"] {
        small.server("web", "one", name)?;
    }
    let vip = small.service("web")?;
    answering(&client, vip)?;
    for address in vip.both() {
        for _ in 0..10 {
            // What waits for a second is a packet that was dropped and is sent again.
            let said = client.run(|| -> anyhow::Result<(String, u32)> {
                let mut conversation = client::Conversation::from_port(40_000, address, PATIENCE)?;
                let said = conversation.say("again")?;
                let again = retransmitted(conversation.stream())?;
                nix::sys::socket::setsockopt(
                    conversation.stream(),
                    nix::sys::socket::sockopt::Linger,
                    &libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    },
                )?;
                Ok((said, again))
            })??;
            assert!(said.0.starts_with("default/"), "{said:?}");
            assert_eq!(said.1, 0, "segments to {address} were sent again");
        }
    }
    Ok(())
}

/// How many segments a connection has sent again, `tcpi_total_retrans` of `TCP_INFO`.
fn retransmitted(stream: &std::net::TcpStream) -> anyhow::Result<u32> {
    use std::os::fd::AsRawFd as _;
    const AT: usize = 100;
    let mut info = [0_u8; 104];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer is as long as said, and the socket lives.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    anyhow::ensure!(done == 0 && length as usize == info.len(), "no TCP_INFO");
    Ok(u32::from_ne_bytes(info[AT..].try_into()?))
}
