//! Servers that say who they are and whom they see.

use std::{
    io::{BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _},
    net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
};

use anyhow::Context as _;
use nix::{
    cmsg_space, libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
        sockopt,
    },
};

/// Listens on every port, at every address of both families, for good.
pub(crate) fn run(name: &str, ports: &[u16]) -> anyhow::Result<()> {
    let mut threads = Vec::new();
    for port in ports {
        let place = (Ipv6Addr::UNSPECIFIED, *port);
        let listener = TcpListener::bind(place)
            .with_context(|| format!("cannot listen on TCP port {port}"))?;
        let socket =
            UdpSocket::bind(place).with_context(|| format!("cannot listen on UDP port {port}"))?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        let of_tcp = name.to_owned();
        threads.push(thread::spawn(move || accept(&listener, &of_tcp)));
        let of_udp = name.to_owned();
        threads.push(thread::spawn(move || {
            loop {
                let _ = report(&socket, &of_udp);
            }
        }));
    }
    println!("{name} listens");
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn accept(listener: &TcpListener, name: &str) {
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        thread::spawn(move || converse(&stream, &name));
    }
}

/// Each line is answered with one.
fn converse(mut stream: &TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = answer(name, stream.peer_addr()?.ip());
    for line in BufReader::new(stream).lines() {
        line?;
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Answers one datagram, from the address that it was for.
fn report(socket: &UdpSocket, name: &str) -> nix::Result<()> {
    let mut payload = [0; 512];
    let mut control = cmsg_space!(libc::in6_pktinfo);
    let (client, asked) = {
        let mut parts = [IoSliceMut::new(&mut payload)];
        let message = recvmsg::<SockaddrIn6>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let asked = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
            _ => None,
        });
        (message.address, asked)
    };
    let (Some(client), Some(mut asked)) = (client, asked) else {
        return Ok(());
    };
    // By the way that the routes say, whichever it came by.
    asked.ipi6_ifindex = 0;
    let answer = answer(name, IpAddr::V6(client.ip()));
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(answer.as_bytes())],
        &[ControlMessage::Ipv6PacketInfo(&asked)],
        MsgFlags::empty(),
        Some(&client),
    )?;
    Ok(())
}

fn answer(name: &str, client: IpAddr) -> String {
    format!("{name} {}\n", client.to_canonical())
}
