//! What the programs do with a socket of the host: where a pod has its interface, a process of the host has its cgroup.
//!
//! An address is translated before a packet is made, so nothing has to be done to packets. The `sockets` map remembers
//! what the process gave, so that it never learns of the backend: not by `getpeername`, nor as the source of a datagram.
//! Only sockets in the host's network namespace are looked at: pods are served at their interfaces.

use signpost_common::{
    Address, Cause, Port,
    dns::Config,
    socket::{SocketKey, SocketValue},
};

use crate::{headers::protocol, tables::Tables};

mod backend;
mod frontend;
#[cfg(test)]
mod tests;

use backend::Asked;

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
    let Some(config) = host(socket, tables) else {
        return Verdict::Continue;
    };
    let mut asked = Asked::of(socket, tcp);
    let Some(found) = frontend::find(tables, &mut asked.frontend) else {
        asked.forget_backend(tables);
        // A datagram socket is connected without a packet, to learn the source address that there would be.
        if !tcp {
            return Verdict::Continue;
        }
        return match frontend::why_none(tables, config, &asked.address) {
            Some(cause) => conclude(tables, Err(cause), tcp),
            None => Verdict::Continue,
        };
    };
    let translated = backend::translate(socket, tables, config, &asked, &found);
    conclude(tables, translated.map(|()| Cause::SocketConnected), tcp)
}

/// A process sends a datagram to an address.
#[inline(always)]
pub fn sendmsg(socket: &mut impl Socket, tables: &impl Tables) -> Verdict {
    if socket.protocol() != UDP {
        return Verdict::Continue;
    }
    let Some(config) = host(socket, tables) else {
        return Verdict::Continue;
    };
    let mut asked = Asked::of(socket, false);
    let Some(found) = frontend::find(tables, &mut asked.frontend) else {
        return match frontend::why_none(tables, config, &asked.address) {
            Some(cause) => conclude(tables, Err(cause), false),
            None => Verdict::Continue,
        };
    };
    let translated = backend::translate(socket, tables, config, &asked, &found);
    conclude(tables, translated.map(|()| Cause::SocketSent), false)
}

/// A process gets a datagram, and learns whose it is.
#[inline(always)]
pub fn recvmsg(socket: &mut impl Socket, tables: &impl Tables) {
    if socket.protocol() == UDP && host(socket, tables).is_some() && put_back(socket, tables) {
        tables.count(Cause::SocketReceived);
    }
}

/// A process asks whom its socket is connected to.
#[inline(always)]
pub fn getpeername(socket: &mut impl Socket, tables: &impl Tables) {
    if host(socket, tables).is_some() {
        put_back(socket, tables);
    }
}

const TCP: u32 = protocol::TCP as u32;
const UDP: u32 = protocol::UDP as u32;
/// `IPPROTO_MPTCP`: TCP for who does not know the difference.
const MPTCP: u32 = 262;

/// The configuration, where the socket is one of the host's.
#[inline(always)]
fn host<'a>(socket: &impl Socket, tables: &'a impl Tables) -> Option<&'a Config> {
    let config = tables.config()?;
    let host = (config.host[1] as u64) << 32 | config.host[0] as u64;
    (host != 0 && host == socket.namespace()).then_some(config)
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
