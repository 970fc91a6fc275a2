//! Virtual servers and their destinations, as they are wanted and as the kernel has them.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use signpost_common::count::ServiceCount;

use super::message::{
    Attribute, Command, DestinationAttribute, IpvsMessage, ServiceAttribute, TrafficAttribute,
};
use crate::model::{Family, Protocol};

/// Clients stay with their destination (`IP_VS_SVC_F_PERSISTENT`).
const PERSISTENT: u32 = 0x1;
/// The kernel says so of every virtual server that it uses (`IP_VS_SVC_F_HASHED`).
const HASHED: u32 = 0x2;
/// Flag 2 of the schedulers (`IP_VS_SVC_F_SCHED2`): `mh` takes the client's port into its hash, as kube-proxy has it.
pub(super) const WITH_PORT: u32 = 0x10;
/// Flag 3 of the schedulers (`IP_VS_SVC_F_SCHED3`), which means nothing to any of them: `ipvsadm` prints `flag-3`. It is
/// how an agent knows the virtual servers of the agents before it, and leaves alone those of anybody else.
pub(super) const OURS: u32 = 0x20;

/// What names a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey {
    /// The protocol.
    pub protocol: Protocol,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// How a virtual server treats new connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Name of the scheduler.
    pub scheduler: Arc<str>,
    /// Flags of the scheduler, and whose it is.
    pub flags: u32,
    /// Seconds for which a client stays with its destination.
    pub persistence: Option<u32>,
}

/// A virtual server as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// How it treats new connections.
    pub terms: Terms,
    /// Where they go to, in order and without duplicates.
    pub destinations: Vec<SocketAddr>,
}

/// A virtual server as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownServer {
    /// How it treats new connections.
    pub terms: Terms,
    /// All of its destinations.
    pub destinations: BTreeMap<SocketAddr, KnownDestination>,
}

/// A destination as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownDestination {
    /// The weight; 0 is for no new connections.
    pub weight: u32,
    /// Connections that are remembered.
    pub connections: u32,
}

/// One change of the kernel's virtual servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes a virtual server.
    AddServer(ServerKey, Terms),
    /// Changes how one treats new connections.
    SetServer(ServerKey, Terms),
    /// Deletes one, with its destinations.
    DeleteServer(ServerKey),
    /// Makes a destination of this weight.
    AddDestination(ServerKey, SocketAddr, u32),
    /// Changes the weight of one.
    SetDestination(ServerKey, SocketAddr, u32),
    /// Deletes one.
    DeleteDestination(ServerKey, SocketAddr),
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            address,
            port,
        } = *self;
        write!(f, "{protocol} {}", SocketAddr::new(address, port))
    }
}

impl Terms {
    /// Whether the virtual server was made by signpost.
    pub const fn is_ours(&self) -> bool {
        self.flags & OURS != 0
    }
}

impl Operation {
    /// The virtual server that is changed.
    pub const fn server(&self) -> &ServerKey {
        match self {
            Self::AddServer(key, _)
            | Self::SetServer(key, _)
            | Self::DeleteServer(key)
            | Self::AddDestination(key, ..)
            | Self::SetDestination(key, ..)
            | Self::DeleteDestination(key, _) => key,
        }
    }

    /// The message that asks the kernel for it.
    pub(super) fn message(&self) -> IpvsMessage {
        let (command, attributes) = match self {
            Self::AddServer(key, terms) => (Command::NewService, vec![whole(key, terms)]),
            Self::SetServer(key, terms) => (Command::SetService, vec![whole(key, terms)]),
            Self::DeleteServer(key) => (Command::DeleteService, vec![name(key)]),
            Self::AddDestination(key, to, weight) => (
                Command::NewDestination,
                vec![name(key), destination(*to, Some(*weight))],
            ),
            Self::SetDestination(key, to, weight) => (
                Command::SetDestination,
                vec![name(key), destination(*to, Some(*weight))],
            ),
            Self::DeleteDestination(key, to) => (
                Command::DeleteDestination,
                vec![name(key), destination(*to, None)],
            ),
        };
        IpvsMessage {
            command,
            attributes,
        }
    }
}

/// The virtual server that a message of a list is about; `None` for one that is not known by address and port.
pub(super) fn known_server(message: &IpvsMessage) -> Option<(ServerKey, Terms)> {
    let parts = service(message)?;
    let (mut family, mut protocol, mut address, mut port) = (None, None, None, None);
    let (mut scheduler, mut flags, mut timeout) = (Arc::from(""), 0, 0);
    for part in parts {
        match part {
            ServiceAttribute::Family(number) => family = Some(*number),
            ServiceAttribute::Protocol(number) => protocol = u8::try_from(*number).ok(),
            ServiceAttribute::Address(bytes) => address = Some(bytes),
            ServiceAttribute::Port(number) => port = Some(*number),
            ServiceAttribute::Scheduler(name) => scheduler = Arc::from(name.as_str()),
            ServiceAttribute::Flags(of_server, _) => flags = *of_server,
            ServiceAttribute::Timeout(seconds) => timeout = *seconds,
            _ => {}
        }
    }
    let key = ServerKey {
        protocol: Protocol::from_number(protocol?)?,
        address: of_family(family?, address?)?,
        port: port?,
    };
    let terms = Terms {
        scheduler,
        flags: flags & !(HASHED | PERSISTENT),
        persistence: (flags & PERSISTENT != 0).then_some(timeout),
    };
    Some((key, terms))
}

/// What the virtual server has counted that a message of a list is about.
pub(super) fn known_traffic(message: &IpvsMessage) -> Option<(ServerKey, ServiceCount)> {
    let (key, _) = known_server(message)?;
    let traffic = service(message)?.iter().find_map(|part| match part {
        ServiceAttribute::Traffic(traffic) => Some(traffic),
        _ => None,
    })?;
    let mut count = ServiceCount::ZERO;
    for part in traffic {
        match part {
            TrafficAttribute::Connections(number) => count.connections = *number,
            TrafficAttribute::PacketsIn(number) => count.packets_in = *number,
            TrafficAttribute::PacketsOut(number) => count.packets_out = *number,
            TrafficAttribute::BytesIn(number) => count.bytes_in = *number,
            TrafficAttribute::BytesOut(number) => count.bytes_out = *number,
            TrafficAttribute::Other(_) => {}
        }
    }
    Some((key, count))
}

fn service(message: &IpvsMessage) -> Option<&Vec<ServiceAttribute>> {
    message.attributes.iter().find_map(|a| match a {
        Attribute::Service(parts) => Some(parts),
        _ => None,
    })
}

/// The destination that a message of a list is about, of a virtual server of this family.
pub(super) fn known_destination(
    message: &IpvsMessage,
    of: Family,
) -> Option<(SocketAddr, KnownDestination)> {
    let parts = message.attributes.iter().find_map(|a| match a {
        Attribute::Destination(parts) => Some(parts),
        _ => None,
    })?;
    let (mut family, mut address, mut port) = (number(of), None, None);
    let mut known = KnownDestination {
        weight: 0,
        connections: 0,
    };
    for part in parts {
        match part {
            DestinationAttribute::Family(number) => family = *number,
            DestinationAttribute::Address(bytes) => address = Some(bytes),
            DestinationAttribute::Port(number) => port = Some(*number),
            DestinationAttribute::Weight(weight) => known.weight = *weight,
            DestinationAttribute::ActiveConnections(count)
            | DestinationAttribute::InactiveConnections(count) => {
                known.connections = known.connections.saturating_add(*count);
            }
            _ => {}
        }
    }
    let address = of_family(family, address?)?;
    Some((SocketAddr::new(address, port?), known))
}

/// The attribute that names a virtual server.
pub(super) fn name(key: &ServerKey) -> Attribute {
    Attribute::Service(identity(key))
}

fn identity(key: &ServerKey) -> Vec<ServiceAttribute> {
    vec![
        ServiceAttribute::Family(number(Family::of(key.address))),
        ServiceAttribute::Protocol(key.protocol.number().into()),
        ServiceAttribute::Address(bytes(key.address)),
        ServiceAttribute::Port(key.port),
    ]
}

fn whole(key: &ServerKey, terms: &Terms) -> Attribute {
    let mut flags = terms.flags;
    if terms.persistence.is_some() {
        flags |= PERSISTENT;
    }
    let netmask = match key.address {
        IpAddr::V4(_) => u32::MAX,
        IpAddr::V6(_) => 128,
    };
    let mut parts = identity(key);
    parts.extend([
        ServiceAttribute::Scheduler(terms.scheduler.to_string()),
        ServiceAttribute::Flags(flags, u32::MAX),
        ServiceAttribute::Timeout(terms.persistence.unwrap_or(0)),
        ServiceAttribute::Netmask(netmask),
    ]);
    Attribute::Service(parts)
}

/// Packets get there by translation, and there is no limit of connections.
fn destination(to: SocketAddr, weight: Option<u32>) -> Attribute {
    let mut parts = vec![
        DestinationAttribute::Family(number(Family::of(to.ip()))),
        DestinationAttribute::Address(bytes(to.ip())),
        DestinationAttribute::Port(to.port()),
    ];
    if let Some(weight) = weight {
        parts.extend([
            DestinationAttribute::Forwarding(0),
            DestinationAttribute::Weight(weight),
            DestinationAttribute::UpperThreshold(0),
            DestinationAttribute::LowerThreshold(0),
        ]);
    }
    Attribute::Destination(parts)
}

const fn number(family: Family) -> u16 {
    match family {
        Family::V4 => libc::AF_INET as u16,
        Family::V6 => libc::AF_INET6 as u16,
    }
}

fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn of_family(family: u16, bytes: &[u8; 16]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(*bytes).into()),
        _ => None,
    }
}
