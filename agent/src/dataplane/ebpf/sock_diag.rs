//! Sockets of the calling thread's network namespace, listed and destroyed over netlink (`sock_diag(7)`).

use std::{collections::HashSet, io};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, InetResponseHeader, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use signpost_common::{Address, Port};

use crate::dataplane::netlink;

/// A UDP socket that is connected.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    /// Its cookie.
    pub(super) cookie: u64,
    /// The address that it is connected to, as the network sees it.
    pub(super) address: Address,
    /// The port that belongs to it.
    pub(super) port: Port,
    family: u8,
    id: SocketId,
}

impl Connected {
    /// Its own port.
    pub(super) const fn source_port(&self) -> u16 {
        self.id.source_port
    }
}

/// Every UDP socket that is connected.
///
/// # Errors
/// `ENOENT` where the kernel lacks CONFIG_INET_UDP_DIAG.
pub(super) fn connected_udp() -> io::Result<Vec<Connected>> {
    let mut found = Vec::new();
    dump(IPPROTO_UDP, StateFlags::ESTABLISHED, |response| {
        let InetResponseHeader {
            family, socket_id, ..
        } = response.header;
        found.push(Connected {
            cookie: cookie(&socket_id),
            address: socket_id.destination_address.into(),
            port: Port::new(socket_id.destination_port),
            family,
            id: socket_id,
        });
    })?;
    Ok(found)
}

/// The cookies of all sockets of TCP and UDP. Those of Multipath TCP are not among them.
///
/// # Errors
/// `ENOENT` where the kernel lacks CONFIG_INET_TCP_DIAG or CONFIG_INET_UDP_DIAG.
pub(super) fn cookies() -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
        dump(protocol, StateFlags::all(), |response| {
            found.insert(cookie(&response.header.socket_id));
        })?;
    }
    Ok(found)
}

/// Ends a socket: the process gets `ECONNABORTED` and may connect it anew (Linux 4.9).
///
/// # Errors
/// `ENOENT` where the socket is gone, `EOPNOTSUPP` where the kernel lacks CONFIG_INET_DIAG_DESTROY, `EPERM` without
/// CAP_NET_ADMIN.
pub(super) fn destroy(socket: &Connected) -> io::Result<()> {
    let request = request(socket.family, StateFlags::all(), socket.id.clone());
    let netlink = open()?;
    send(
        &netlink,
        NLM_F_REQUEST | NLM_F_ACK,
        SockDiagDestroy::new(SockDiagMessage::InetRequest(request)).into(),
    )?;
    receive(&netlink, |_| {})
}

/// Whether sockets can be listed and destroyed.
///
/// # Errors
/// As [`connected_udp`] and [`destroy`], but that there is no such socket.
pub(super) fn probe() -> io::Result<()> {
    connected_udp()?;
    let nobody = Connected {
        cookie: u64::MAX,
        address: Address::UNSPECIFIED,
        port: Port::new(0),
        family: AF_INET,
        id: SocketId {
            cookie: [0xfe; 8],
            ..SocketId::new_v4()
        },
    };
    match destroy(&nobody) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// The kernel writes it in two words, the low one first.
fn cookie(id: &SocketId) -> u64 {
    let [a, b, c, d, e, f, g, h] = id.cookie;
    let low = u32::from_ne_bytes([a, b, c, d]);
    let high = u32::from_ne_bytes([e, f, g, h]);
    u64::from(high) << 32 | u64::from(low)
}

/// Asks for all sockets of a protocol in these states, of both families.
fn dump(protocol: u8, states: StateFlags, mut visit: impl FnMut(InetResponse)) -> io::Result<()> {
    let socket = open()?;
    for (family, id) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        let request = InetRequest {
            protocol,
            ..request(family, states.clone(), id)
        };
        send(
            &socket,
            NLM_F_REQUEST | NLM_F_DUMP,
            SockDiagMessage::InetRequest(request).into(),
        )?;
        receive(&socket, |message| {
            if let SockDiagMessage::InetResponse(response) = message {
                visit(*response);
            }
        })?;
    }
    Ok(())
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    }
}

fn open() -> io::Result<Socket> {
    netlink::open(NETLINK_SOCK_DIAG)
}

fn send<T: NetlinkSerializable>(
    socket: &Socket,
    flags: u16,
    payload: NetlinkPayload<T>,
) -> io::Result<()> {
    socket.send(&netlink::bytes(flags, payload), 0).map(drop)
}

/// Reads up to the end of the answer.
fn receive(socket: &Socket, mut visit: impl FnMut(SockDiagMessage)) -> io::Result<()> {
    netlink::receive(socket, 1, |_, message| visit(message))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;

    /// Connected UDP sockets, and the cookie of one.
    fn find(socket: &UdpSocket) -> Option<Connected> {
        let peer = socket.peer_addr().unwrap();
        connected_udp().unwrap().into_iter().find(|found| {
            found.address == peer.ip().into()
                && found.port.get() == peer.port()
                && found.id.source_port == socket.local_addr().unwrap().port()
        })
    }

    #[test]
    fn connected_sockets_of_both_families_are_found() {
        for (any, peer) in [
            ("127.0.0.1:0", "127.0.0.1:9"),
            ("[::1]:0", "[::1]:9"),
            ("[::]:0", "[::ffff:127.0.0.1]:9"),
        ] {
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(peer.parse::<SocketAddr>().unwrap()).unwrap();
            let found = find(&socket).unwrap_or_else(|| panic!("{peer} is not there"));
            let mut cookie = 0_u64;
            let mut length = size_of::<u64>() as libc::socklen_t;
            use std::os::fd::AsRawFd as _;
            // SAFETY: the pointers are to a word and to its length.
            let result = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_COOKIE,
                    (&raw mut cookie).cast(),
                    &raw mut length,
                )
            };
            assert_eq!(result, 0);
            assert_eq!(found.cookie, cookie, "{peer}");
        }
    }

    #[test]
    #[ignore = "needs root: cargo xtask test"]
    fn a_socket_that_is_destroyed_can_be_connected_anew() {
        probe().unwrap();
        for (any, peer) in [
            ("127.0.0.1:0", "127.0.0.1:9"),
            ("[::1]:0", "[::1]:9"),
            ("[::]:0", "[::ffff:127.0.0.1]:9"),
        ] {
            let peer: SocketAddr = peer.parse().unwrap();
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(peer).unwrap();
            let found = find(&socket).unwrap_or_else(|| panic!("{peer} is not there"));
            destroy(&found).unwrap();
            let error = socket.recv(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{peer}");
            assert_eq!(
                destroy(&found).unwrap_err().raw_os_error(),
                Some(libc::ENOENT)
            );
            socket.connect(peer).unwrap();
            assert!(find(&socket).is_some());
        }
    }
}
