//! What the programs do with a socket: where a pod has its interface, a process of the host has its cgroup.
//!
//! An address is translated before a packet is made, so nothing has to be done to packets. The `sockets` map remembers
//! what the process gave, so that it never learns of the backend: not by `getpeername`, nor as the source of a datagram.
//! Pods are served at their interfaces, so only sockets in the host's network namespace are looked at, and in those of
//! pods whose interface has no programs.

use signpost_common::{
    Address, Cause, Port,
    dns::Config,
    socket::{PodValue, SocketKey, SocketValue},
};

use crate::{headers::protocol, tables::Tables};

mod backend;
mod frontend;
#[cfg(test)]
mod tests;

use backend::Asked;
use frontend::unspecified;

/// A socket at the moment when a process does something with an address.
pub trait Socket {
    /// Cookie of the socket's network namespace.
    fn namespace(&self) -> u64;

    /// Cookie of the socket.
    fn cookie(&self) -> u64;

    /// IP protocol number, as the socket was made with; 262 for Multipath TCP.
    fn protocol(&self) -> u32;

    /// The address that the process gave or gets.
    fn address(&self) -> Address;

    /// The port that belongs to it.
    fn port(&self) -> Port;

    /// Replaces address and port. The address is of the same family.
    fn set(&mut self, address: &Address, port: Port);
}

/// What becomes of a call of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on with the address that the socket has now.
    Continue,
    /// It fails with `ECONNREFUSED`, as after an ICMP port unreachable.
    Refuse,
    /// It fails with `ETIMEDOUT`, as a connection does whose packets are dropped; without the waiting.
    TimeOut,
    /// It fails with `EPERM`, as sending a datagram does that netfilter drops.
    Deny,
}

/// A process connects a socket: TCP, or UDP that sends without an address from then on.
#[inline(always)]
pub fn connect(socket: &mut impl Socket, tables: &impl Tables) -> Verdict {
    let tcp = match socket.protocol() {
        TCP | MPTCP => true,
        UDP => false,
        _ => return Verdict::Continue,
    };
    let Some(client) = Client::of(socket, tables, tcp) else {
        return Verdict::Continue;
    };
    let mut asked = Asked::of(socket, &client, tcp);
    let Some(found) = frontend::find(tables, &mut asked.frontend) else {
        asked.forget_backend(tables);
        // A datagram socket is connected without a packet, to learn the source address that there would be.
        if !tcp {
            return Verdict::Continue;
        }
        return match frontend::why_none(tables, client.config, &asked.address) {
            Some(cause) => conclude(tables, Err(cause), tcp),
            None => Verdict::Continue,
        };
    };
    let translated = backend::translate(socket, tables, client.config, &asked, &found);
    conclude(tables, translated.map(|()| Cause::SocketConnected), tcp)
}

/// A process sends a datagram to an address.
#[inline(always)]
pub fn sendmsg(socket: &mut impl Socket, tables: &impl Tables) -> Verdict {
    if socket.protocol() != UDP {
        return Verdict::Continue;
    }
    let Some(client) = Client::of(socket, tables, false) else {
        return Verdict::Continue;
    };
    let mut asked = Asked::of(socket, &client, false);
    let Some(found) = frontend::find(tables, &mut asked.frontend) else {
        return match frontend::why_none(tables, client.config, &asked.address) {
            Some(cause) => conclude(tables, Err(cause), false),
            None => Verdict::Continue,
        };
    };
    let translated = backend::translate(socket, tables, client.config, &asked, &found);
    conclude(tables, translated.map(|()| Cause::SocketSent), false)
}

/// A process gets a datagram, and learns whose it is.
#[inline(always)]
pub fn recvmsg(socket: &mut impl Socket, tables: &impl Tables) {
    if socket.protocol() == UDP && may_be_ours(socket, tables) && put_back(socket, tables) {
        tables.count(Cause::SocketReceived);
    }
}

/// A process asks whom its socket is connected to.
#[inline(always)]
pub fn getpeername(socket: &mut impl Socket, tables: &impl Tables) {
    if may_be_ours(socket, tables) {
        put_back(socket, tables);
    }
}

const TCP: u32 = protocol::TCP as u32;
const UDP: u32 = protocol::UDP as u32;
/// `IPPROTO_MPTCP`: TCP for who does not know the difference.
const MPTCP: u32 = 262;

/// Whose socket it is that is looked at.
struct Client<'a> {
    config: &'a Config,
    /// A pod's; else the host's.
    pod: bool,
    /// What affinity remembers it under: the pod's address. The unspecified one stands for all processes of the host, as
    /// their packets would have the node's address as their source.
    address: Address,
}

impl<'a> Client<'a> {
    /// `None` where the socket is not looked at, or the process asks its pod itself.
    #[inline(always)]
    fn of(socket: &impl Socket, tables: &'a impl Tables, tcp: bool) -> Option<Self> {
        let config = tables.config()?;
        let asked = socket.address();
        if is_hosts(socket, config) {
            return Some(Self {
                config,
                pod: false,
                address: unspecified(&asked),
            });
        }
        if config.flags & Config::SOCKET_PODS == 0 || frontend::is_loopback(&asked) {
            return None;
        }
        let pod = tables.socket_pod(socket.namespace())?;
        if !tcp && pod.flags & PodValue::TCP_ONLY != 0 {
            return None;
        }
        Some(Self {
            config,
            pod: true,
            address: if asked.is_v4() { pod.v4 } else { pod.v6 },
        })
    }
}

/// Whether the socket is one of the host's.
#[inline(always)]
fn is_hosts(socket: &impl Socket, config: &Config) -> bool {
    let host = (config.host[1] as u64) << 32 | config.host[0] as u64;
    host != 0 && host == socket.namespace()
}

/// Whether the socket may have an address of ours: what a pod's socket got stays, whoever serves the pod by now.
#[inline(always)]
fn may_be_ours(socket: &impl Socket, tables: &impl Tables) -> bool {
    let Some(config) = tables.config() else {
        return false;
    };
    config.flags & Config::SOCKET_PODS != 0 || is_hosts(socket, config)
}

#[inline(always)]
fn conclude(tables: &impl Tables, result: Result<Cause, Cause>, tcp: bool) -> Verdict {
    let (cause, verdict) = match result {
        Err(Cause::NoEndpointsRejected | Cause::PortRejected) => {
            (Cause::SocketRefused, Verdict::Refuse)
        }
        Err(Cause::NoEndpointsDropped | Cause::AddressUnallocated | Cause::SourceRefused) => {
            let verdict = if tcp { Verdict::TimeOut } else { Verdict::Deny };
            (Cause::SocketDenied, verdict)
        }
        Ok(cause) | Err(cause) => (cause, Verdict::Continue),
    };
    tables.count(cause);
    verdict
}

/// Puts what the process gave in the place of the backend.
#[inline(always)]
fn put_back(socket: &mut impl Socket, tables: &impl Tables) -> bool {
    let key = SocketKey {
        cookie: socket.cookie(),
        address: socket.address(),
        port: socket.port(),
        direction: SocketKey::FROM_BACKEND,
        pad: [0; 2],
    };
    let Some(SocketValue { address, port, .. }) = tables.socket(&key) else {
        return false;
    };
    socket.set(&address, port);
    true
}
