//! Which backend a socket gets, and how it is remembered.

use signpost_common::{
    Address, Cause, Port,
    device::DeviceValue,
    dns::Config,
    service::{
        AddressValue, FrontendKey, FrontendValue, MemberKey, MemberValue, RangeKey, SlotValue,
    },
    socket::{SocketKey, SocketValue},
};

use super::{Client, MPTCP, Socket};
use crate::{
    affinity,
    choose::{self, Set, dns_pod_alive},
    count,
    headers::protocol,
    tables::{Tables, opaque},
};

/// How often a backend is chosen: again where the slots change meanwhile, this node's DNS pod is silent, or the socket
/// asks the backend already under another address.
const TURNS: u32 = 4;

/// What a process gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) cookie: u64,
    pub(super) address: Address,
    pub(super) port: Port,
    /// As in [`SocketValue::flags`].
    flags: u16,
    /// As in [`Client`].
    pod: bool,
    /// As in [`Client`].
    client: Address,
    /// Where that leads to.
    pub(super) frontend: FrontendKey,
}

impl Asked {
    #[inline(always)]
    pub(super) fn of(socket: &impl Socket, client: &Client<'_>, tcp: bool) -> Self {
        let (address, port) = (socket.address(), socket.port());
        Self {
            cookie: socket.cookie(),
            address,
            port,
            // Of the protocols that get here only this one has the bit: no branch for the verifier to follow.
            flags: (socket.protocol() >> MPTCP.ilog2()) as u16 & SocketValue::UNLISTED,
            pod: client.pod,
            client: client.address,
            frontend: FrontendKey {
                address,
                port,
                protocol: if tcp { protocol::TCP } else { protocol::UDP },
                pad: 0,
            },
        }
    }

    /// The process talks to this address itself from now on.
    #[inline(always)]
    pub(super) fn forget_backend(&self, tables: &impl Tables) {
        let key = self.key(&self.address, self.port, SocketKey::FROM_BACKEND);
        if tables.socket(&key).is_some() {
            tables.remove_socket(&key);
        }
    }

    #[inline(always)]
    const fn is_udp(&self) -> bool {
        self.frontend.protocol == protocol::UDP
    }

    #[inline(always)]
    const fn key(&self, address: &Address, port: Port, direction: u16) -> SocketKey {
        SocketKey {
            cookie: self.cookie,
            address: *address,
            port,
            direction,
            pad: [0; 2],
        }
    }

    /// Whether replies of a backend are known to be those to this address. `None`: nothing is known of it.
    #[inline(always)]
    fn is_of(&self, tables: &impl Tables, address: &Address, port: Port) -> Option<bool> {
        let there = tables.socket(&self.key(address, port, SocketKey::FROM_BACKEND))?;
        Some(there.address.same(&self.address) && there.port == self.port)
    }

    /// Whether the Service's source ranges have the address in them that the process will be seen with: the pod's, or
    /// the one that packets of the node by the default route get. What the node sends to an address of its own has that
    /// very address as its source, and is let in there where the node's own one is.
    #[inline(always)]
    fn is_let_in(&self, tables: &impl Tables, frontend: &FrontendValue) -> bool {
        let mut address = self.address;
        if self.pod {
            address = self.client;
        } else if tables.address(&self.address) & AddressValue::NODE == 0 {
            let Some(device) = tables.device(DeviceValue::ANY) else {
                return false;
            };
            address = if self.address.is_v4() {
                device.v4
            } else {
                device.v6
            };
        }
        tables.in_range(&RangeKey {
            bits: RangeKey::ALL_BITS,
            service: frontend.service,
            address,
        })
    }

    #[inline(always)]
    fn record(
        &self,
        tables: &impl Tables,
        key: &SocketKey,
        address: &Address,
        port: Port,
        service: u32,
    ) -> Result<(), Cause> {
        let value = SocketValue {
            check: key.check(),
            address: *address,
            port,
            flags: self.flags,
            service,
        };
        if tables.insert_socket(key, &value) {
            Ok(())
        } else {
            Err(Cause::FlowNotRecorded)
        }
    }
}

/// Gives a socket the address of a backend.
///
/// # Errors
/// [`Cause::NoEndpointsRejected`], [`Cause::NoEndpointsDropped`] and [`Cause::SourceRefused`] say what the process gets;
/// for the others the address stays as it is.
#[inline(always)]
pub(super) fn translate(
    socket: &mut impl Socket,
    tables: &impl Tables,
    config: &Config,
    asked: &Asked,
    frontend: &FrontendValue,
) -> Result<(), Cause> {
    let to = asked.key(&asked.address, asked.port, SocketKey::TO_BACKEND);
    if asked.is_udp()
        && let Some((address, port)) = known(tables, &to, frontend)
    {
        if asked.is_of(tables, &address, port) != Some(true) {
            let from = asked.key(&address, port, SocketKey::FROM_BACKEND);
            asked.record(tables, &from, &asked.address, asked.port, frontend.service)?;
        }
        socket.set(&address, port);
        return Ok(());
    }
    if config.flags & Config::DRAIN != 0 {
        return Err(Cause::Draining);
    }
    if frontend.flags & FrontendValue::SOURCE_RANGES != 0 && !asked.is_let_in(tables, frontend) {
        return Err(Cause::SourceRefused);
    }
    let slot = choose(tables, asked, frontend)?;
    let from = asked.key(&slot.address, slot.port, SocketKey::FROM_BACKEND);
    asked.record(tables, &from, &asked.address, asked.port, slot.service)?;
    if asked.is_udp() {
        asked.record(tables, &to, &slot.address, slot.port, slot.service)?;
    }
    count::connection(tables, &slot.service);
    socket.set(&slot.address, slot.port);
    Ok(())
}

/// The backend that the socket's datagrams go to already, as long as it serves.
#[inline(always)]
fn known(
    tables: &impl Tables,
    to: &SocketKey,
    frontend: &FrontendValue,
) -> Option<(Address, Port)> {
    let SocketValue {
        address,
        port,
        service,
        ..
    } = tables.socket(to)?;
    let member = tables.member(&MemberKey {
        service,
        address,
        port,
        pad: 0,
    });
    if service != frontend.service || member & MemberValue::SERVING == 0 {
        return None;
    }
    let silent = frontend.flags & FrontendValue::DNS != 0
        && member & MemberValue::LOCAL != 0
        && dns_pod_alive(tables) == Some(false);
    if silent {
        return None;
    }
    Some((address, port))
}

/// A backend for a socket that has none.
#[inline(always)]
fn choose(
    tables: &impl Tables,
    asked: &Asked,
    frontend: &FrontendValue,
) -> Result<SlotValue, Cause> {
    let client = &asked.client;
    let mut frontend = *frontend;
    let random = tables.random();
    let mut set = set_of(tables, &frontend, random)?;
    if let Some(slot) = affinity::of_socket(tables, client, &frontend, &set) {
        affinity::remember_of_socket(tables, client, &frontend, &slot);
        return Ok(slot);
    }
    let mut chosen = choose::slot(tables, &frontend, &set, random, 0);
    if chosen.is_none() {
        frontend = tables.frontend(&asked.frontend).ok_or(Cause::NoFrontend)?;
        set = set_of(tables, &frontend, random)?;
        chosen = choose::slot(tables, &frontend, &set, random, 0);
    }
    let mut slot = chosen.ok_or(Cause::SlotsChanging)?;
    for turn in 1..TURNS {
        let silent = set.avoid_local & slot.flags as u32 & SlotValue::LOCAL as u32 != 0;
        let taken = asked.is_udp() && asked.is_of(tables, &slot.address, slot.port) == Some(false);
        if !silent && !taken {
            break;
        }
        if let Some(next) = choose::slot(tables, &frontend, &set, random, turn) {
            slot = next;
        }
    }
    affinity::remember_of_socket(tables, client, &frontend, &slot);
    Ok(slot)
}

/// The set that processes use.
///
/// # Errors
/// What becomes of them where it is empty.
#[inline(always)]
fn set_of(tables: &impl Tables, frontend: &FrontendValue, random: u32) -> Result<Set, Cause> {
    let set = choose::set(tables, frontend, false);
    if set.count == 0 {
        let any = frontend.flags & FrontendValue::ANY_ENDPOINTS != 0;
        return Err(if any {
            Cause::NoEndpointsDropped
        } else {
            Cause::NoEndpointsRejected
        });
    }
    Ok(Set {
        first: blurred(set.first, random),
        count: blurred(set.count, random),
        avoid_local: blurred(set.avoid_local, random),
    })
}

/// The same number, of which the verifier knows nothing: it then takes paths that differ only in it for one. `unknown`
/// is a number that it knows nothing of.
#[inline(always)]
fn blurred(number: u32, unknown: u32) -> u32 {
    let unknown = || opaque(unknown.into()) as u32;
    number ^ unknown() ^ unknown()
}
