//! What clients are told when something is wrong.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use signpost_tests::lab::{
    Pod,
    client::{Conversation, Datagrams},
    links, wait,
};

use crate::small::{CNIS, PATIENCE, PROGRAMMED, Small, Vip, answering, get};

/// A refusal must not wait for a timeout. Linux as client of TCP over IPv6 holds the error back until it sends its SYN
/// again, after a second, whoever refuses (seen with `reject` of nftables on 6.18).
const fn at_once(address: SocketAddr) -> Duration {
    Duration::from_millis(if address.is_ipv6() { 1500 } else { 500 })
}

/// Connects over TCP and gives the error and how long it took.
fn connect(client: &Pod, address: SocketAddr) -> anyhow::Result<(Option<io::ErrorKind>, Duration)> {
    client.run(|| {
        let start = Instant::now();
        let result = TcpStream::connect_timeout(&address, PATIENCE);
        (result.err().map(|error| error.kind()), start.elapsed())
    })
}

/// Sends a datagram on a connected socket and gives the error that comes back.
fn send(client: &Pod, address: SocketAddr) -> anyhow::Result<Option<io::ErrorKind>> {
    client.run(|| {
        let datagrams = Datagrams::to(address, PATIENCE)?;
        datagrams.socket().send(b"x")?;
        let error = datagrams.socket().recv(&mut [0; 16]).err();
        Ok(error.map(|error| error.kind()))
    })?
}

fn refused(client: &Pod, vip: Vip) -> anyhow::Result<()> {
    for address in vip.both() {
        wait::until("a refusal", PROGRAMMED, || {
            let (error, _) = connect(client, address)?;
            anyhow::ensure!(error == Some(io::ErrorKind::ConnectionRefused), "{error:?}");
            Ok(())
        })?;
        let (error, time) = connect(client, address)?;
        assert_eq!(error, Some(io::ErrorKind::ConnectionRefused), "{address}");
        assert!(time < at_once(address), "{address}: {time:?}");
        let error = send(client, address)?;
        assert_eq!(error, Some(io::ErrorKind::ConnectionRefused), "{address}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_service_without_endpoints_refuses_at_once() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::one(cni)?;
        let client = small.client("one", "client")?;
        let vip = small.service("empty")?;
        refused(&client, vip)?;
        assert!(small.agents[0].counter("no_endpoints_rejected")? > 0);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_backend_without_a_listener_refuses_through_the_service() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::two(cni)?;
        let client = small.client("one", "client")?;
        for (service, node) in [("local", "one"), ("remote", "two")] {
            small.deaf_server(service, node, service)?;
            let vip = small.service(service)?;
            refused(&client, vip)?;
        }
        assert!(small.agents[0].counter("icmp_translated")? > 0, "{cni:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_client_learns_the_mtu_of_the_path_to_its_backend() -> anyhow::Result<()> {
    for cni in CNIS {
        let mut small = Small::two(cni)?;
        let client = small.client("one", "client")?;
        small.server("web", "two", "server")?;
        let vip = small.service("web")?;
        answering(&client, vip)?;
        links::set_mtu(small.lab.node("one")?.namespace(), "eth0", 1300)?;
        for address in vip.both() {
            let line = "x".repeat(20_000);
            let answer = client.run(|| Conversation::start(address, PATIENCE)?.say(&line))??;
            assert_eq!(answer, "default/server", "{cni:?} {address}");
            let mtu = client.run(|| path_mtu(address))??;
            assert_eq!(mtu, 1300, "{cni:?} {address}");
        }
    }
    Ok(())
}

/// Sends a datagram that may not be fragmented and is too large, and gives what the socket then says of the path.
pub(crate) fn path_mtu(address: SocketAddr) -> anyhow::Result<i32> {
    use std::os::fd::AsRawFd as _;
    let datagrams = Datagrams::to(address, PATIENCE)?;
    let (level, discover, mtu) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_MTU),
    };
    let fd = datagrams.socket().as_raw_fd();
    let always = libc::IP_PMTUDISC_DO;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is an int that lives over the call.
    let set = unsafe { libc::setsockopt(fd, level, discover, (&raw const always).cast(), size) };
    nix::errno::Errno::result(set)?;
    // The route may know already; then the kernel says so at once.
    let _ = datagrams.socket().send(&[0; 1400]);
    wait::until("the path's MTU", PATIENCE, || {
        let mut value: libc::c_int = 0;
        let mut size = size;
        // SAFETY: the option's value is an int that lives over the call, and so does its length.
        let got =
            unsafe { libc::getsockopt(fd, level, mtu, (&raw mut value).cast(), &raw mut size) };
        nix::errno::Errno::result(got)?;
        anyhow::ensure!(value < 1500, "still {value}");
        Ok(value)
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_malformed_object_harms_nothing_else() -> anyhow::Result<()> {
    let mut small = Small::one(CNIS[0])?;
    let client = small.client("one", "client")?;
    small.server("web", "one", "server")?;
    let vip = small.service("web")?;
    answering(&client, vip)?;
    let manifests = small.lab.manifests();
    std::fs::write(manifests.join("not-yaml.yaml"), "kind: [Service\n\t{")?;
    for (number, spec) in [
        serde_json::json!({"clusterIP": "10.96.1.999", "ports": [{"port": 80}]}),
        serde_json::json!({"clusterIP": "10.96.1.1", "ports": [{"port": 0}, {"port": 81}]}),
        serde_json::json!({"clusterIP": "10.96.9.2", "ports": [{"port": 80, "protocol": "HTTP"}]}),
        serde_json::json!({"clusterIP": 7, "ports": "none"}),
    ]
    .into_iter()
    .enumerate()
    {
        small.kubelet.write(&serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": format!("bad-{number}")},
            "spec": spec,
        }))?;
    }
    // What comes after them is still taken in.
    small.server("late", "one", "late")?;
    let late = small.service("late")?;
    answering(&client, late)?;
    for _ in 0..10 {
        assert_eq!(get(&client, vip.v4)?, "default/server");
    }
    for said in [
        "not-yaml.yaml",
        "default/bad-0",
        "default/bad-1",
        "default/bad-2",
    ] {
        assert!(small.agents[0].log().contains(said), "nothing about {said}");
    }
    Ok(())
}
