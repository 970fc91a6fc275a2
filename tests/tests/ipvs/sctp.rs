//! Associations of SCTP, whose port the virtual server changes, and whose source masquerade does.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
    listen, socket,
};
use serde_json::json;
use signpost_tests::lab::{Outside, Pod, wait};

use crate::{
    small::{MOMENT, PROGRAMMED},
    world,
};

const NODE_PORT: u16 = 30_132;

/// A socket of this address alone: an association tells all that its socket has, and those of a pod in the other family
/// are not what the client has asked.
fn bound(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Sctp,
    )?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// Answers every association with a word.
fn serve(pod: &Pod, address: SocketAddr) -> anyhow::Result<()> {
    let listener = pod.run(|| -> io::Result<TcpListener> {
        let socket = bound(address)?;
        listen(&socket, Backlog::new(16)?)?;
        Ok(TcpListener::from(socket))
    })??;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"here");
        }
    });
    Ok(())
}

/// The word, heard by an association from one address to another.
fn heard(from: IpAddr, to: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::from(bound(SocketAddr::new(from, 0))?);
    // Connecting takes no longer than sending may.
    stream.set_write_timeout(Some(MOMENT))?;
    stream.set_read_timeout(Some(MOMENT))?;
    connect(stream.as_raw_fd(), &SockaddrStorage::from(to))?;
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    Ok(String::from_utf8_lossy(&word).into_owned())
}

#[test]
#[ignore = "needs root: cargo xtask vm --suite ipvs"]
fn associations_reach_a_backend_at_another_port_and_from_outside() -> anyhow::Result<()> {
    if world::obstacle().is_some() {
        return Ok(());
    }
    let mut small = world::one(&[])?;
    let client = small.client("one", "client")?;
    let server = small.deaf_server("assoc", "one", "server")?;
    for address in [server.v4(), server.v6()] {
        serve(&server, SocketAddr::new(address, 3868))?;
    }
    small.kubelet.write(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "assoc"},
        "spec": {
            "type": "NodePort",
            "clusterIP": "10.96.2.1", "clusterIPs": ["10.96.2.1", "fd00:96::2:1"],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": "assoc"},
            "ports": [{
                "name": "sctp", "protocol": "SCTP",
                "port": 80, "targetPort": 3868, "nodePort": NODE_PORT,
            }],
        },
    }))?;
    for (from, to) in [
        (client.v4(), "10.96.2.1:80"),
        (client.v6(), "[fd00:96::2:1]:80"),
    ] {
        let to = to.parse()?;
        let word = wait::until(&format!("an answer of {to}"), PROGRAMMED, || {
            client.run(|| heard(from, to))?
        })?;
        assert_eq!(word, "here");
    }
    let outside = Outside::new(&small.lab, 200)?;
    let node = small.lab.node("one")?;
    for (from, to) in outside.addresses().into_iter().zip(node.addresses()) {
        let to = SocketAddr::new(to, NODE_PORT);
        let word = wait::until(&format!("an answer of {to}"), PROGRAMMED, || {
            outside.namespace().run(|| heard(from, to))?
        })?;
        assert_eq!(word, "here");
    }
    Ok(())
}
