//! What the programs know: the tables of a small cluster, in a few words.

use std::{
    net::{IpAddr, SocketAddr},
    ops::{Deref, DerefMut},
};

use signpost_common::{
    Address, Port,
    device::DeviceValue,
    dns::{AnswerHead, Config, LargeAnswer, NameValue, Network, SmallAnswer, qtype},
    name::{HashKeys, NameKey, hash},
    service::{
        AddressValue, FrontendKey, FrontendValue, MemberKey, MemberValue, RangeKey, SlotKey,
        SlotValue,
    },
};
use signpost_ebpf::host::Memory;

use crate::packets::{Family, Protocol};

/// A second in nanoseconds.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// TTL of every record.
pub(crate) const TTL: u32 = 30;
/// The zone's serial, and the rest of its SOA record.
pub(crate) const SOA: [u32; 5] = [1_700_000_000, 7200, 1800, 86_400, TTL];

/// The tables, with what makes it easy to fill them.
#[derive(Debug, Default)]
pub(crate) struct World {
    tables: Memory,
    services: u32,
}

impl Deref for World {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.tables
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Memory {
        &mut self.tables
    }
}

/// An endpoint that serves and is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    socket: SocketAddr,
    local: bool,
}

/// A backend on this node.
pub(crate) fn local(address: IpAddr, port: u16) -> Backend {
    Backend {
        socket: (address, port).into(),
        local: true,
    }
}

/// A backend on another node.
pub(crate) fn remote(address: IpAddr, port: u16) -> Backend {
    Backend {
        socket: (address, port).into(),
        local: false,
    }
}

impl World {
    /// A cluster without Services, in sync, with the zone `cluster.local`.
    pub(crate) fn new() -> Self {
        let mut world = Self::default();
        world.now = 1000 * SECOND;
        world.in_sync_at = world.now;
        world.config = Some(config(&keys()));
        world
    }

    /// A service port at a virtual address. Returns its id.
    pub(crate) fn service(
        &mut self,
        protocol: Protocol,
        frontend: SocketAddr,
        backends: &[Backend],
    ) -> u32 {
        self.services += 1;
        let service = self.services;
        let address = Address::from(frontend.ip());
        self.addresses.insert(
            address,
            AddressValue {
                flags: AddressValue::SERVICE,
            },
        );
        let key = frontend_key(protocol, frontend);
        self.frontends.insert(
            key,
            FrontendValue {
                check: key.check(),
                service,
                ..FrontendValue::ZERO
            },
        );
        self.backends(protocol, frontend, backends);
        service
    }

    /// Gives a service port other backends, as the agent does: under a new generation, the old slots gone.
    pub(crate) fn backends(
        &mut self,
        protocol: Protocol,
        frontend: SocketAddr,
        backends: &[Backend],
    ) {
        let key = frontend_key(protocol, frontend);
        let mut value = self.frontends[&key];
        self.slots.retain(|slot, _| slot.service != value.service);
        self.members
            .retain(|member, _| member.service != value.service);
        value.generation += 1;
        value.cluster = backends.len() as u32;
        value.local = 0;
        for (index, backend) in backends.iter().enumerate() {
            self.slot(&value, index as u32, backend);
            let mut flags = MemberValue::SERVING | MemberValue::CHOSEN | MemberValue::CLUSTER;
            if backend.local {
                self.slot(&value, SlotKey::LOCAL + value.local, backend);
                value.local += 1;
                flags |= MemberValue::LOCAL;
            }
            self.members
                .insert(member(value.service, backend.socket), MemberValue { flags });
        }
        self.frontends.insert(key, value);
    }

    fn slot(&mut self, frontend: &FrontendValue, index: u32, backend: &Backend) {
        let key = SlotKey {
            service: frontend.service,
            generation: frontend.generation,
            index,
        };
        let value = SlotValue {
            service: key.service,
            generation: key.generation,
            address: backend.socket.ip().into(),
            port: Port::new(backend.socket.port()),
            flags: if backend.local { SlotValue::LOCAL } else { 0 },
        };
        self.slots.insert(key, value);
    }

    /// A NodePort of a family, for clients everywhere. Returns where [`World::frontend`] and [`World::backends`] find it.
    pub(crate) fn node_port(
        &mut self,
        protocol: Protocol,
        family: Family,
        port: u16,
        backends: &[Backend],
    ) -> SocketAddr {
        let unspecified = SocketAddr::new(family.unspecified(), port);
        self.service(protocol, unspecified, backends);
        self.addresses.remove(&unspecified.ip().into());
        self.frontend(protocol, unspecified).flags |= FrontendValue::EXTERNAL;
        unspecified
    }

    /// What an address is, beside what it is already.
    pub(crate) fn address(&mut self, address: IpAddr, flags: u32) {
        self.addresses.entry(address.into()).or_default().flags |= flags;
    }

    /// All Services' addresses are in a range that is known.
    pub(crate) fn service_range(&mut self, family: Family) {
        let address = Address::from(family.service(0));
        let mask = match address.is_v4() {
            true => Address::v6_words([u32::MAX, u32::MAX, u32::MAX, 0xffff_ff00_u32.to_be()]),
            false => Address::v6_words([u32::MAX, u32::MAX, u32::MAX, 0]),
        };
        let config = self.config.as_mut().expect("it is written");
        config.service_ranges = [Network { address, mask }; 4];
        config.flags |= Config::SERVICE_RANGES;
    }

    /// A network of a service port, or of the cluster.
    pub(crate) fn range(&mut self, service: u32, network: IpAddr, bits: u32) {
        let address = Address::from(network);
        let mapped = if network.is_ipv4() { 96 } else { 0 };
        let key = RangeKey {
            bits: 32 + mapped + bits,
            service,
            address,
        };
        self.source_ranges.insert(key, 1);
    }

    /// The addresses that masqueraded packets get.
    pub(crate) fn masquerades_as(&mut self, v4: IpAddr, v6: IpAddr) {
        let device = DeviceValue {
            v4: v4.into(),
            v6: v6.into(),
        };
        self.devices.insert(DeviceValue::ANY, device);
    }

    /// The value of a frontend.
    pub(crate) fn frontend(
        &mut self,
        protocol: Protocol,
        frontend: SocketAddr,
    ) -> &mut FrontendValue {
        self.frontends
            .get_mut(&frontend_key(protocol, frontend))
            .expect("the frontend exists")
    }

    /// The flags of an endpoint.
    pub(crate) fn member(&mut self, service: u32, endpoint: SocketAddr) -> &mut u32 {
        &mut self
            .members
            .get_mut(&member(service, endpoint))
            .expect("the member exists")
            .flags
    }

    /// The cluster's DNS at a Service address: questions are answered, and the backend on this node is preferred.
    pub(crate) fn dns(&mut self, frontend: SocketAddr, backends: &[Backend]) -> u32 {
        let service = self.service(Protocol::Udp, frontend, backends);
        self.frontend(Protocol::Udp, frontend).flags |= FrontendValue::DNS;
        self.addresses
            .get_mut(&frontend.ip().into())
            .expect("written above")
            .flags |= AddressValue::DNS;
        if let Some(config) = &mut self.config {
            config.dns = [frontend.ip().into(); 4];
        }
        service
    }

    /// What exists at a name, apart from its answers.
    pub(crate) fn name(&mut self, name: &str, flags: u32) -> &mut NameValue {
        let key = name_key(name);
        let value = NameValue {
            check: key.check(),
            flags,
            ..NameValue::default()
        };
        self.names.entry(key).or_insert(value)
    }

    /// The records of a name that exists: addresses of one family.
    pub(crate) fn records(&mut self, name: &str, addresses: &[IpAddr]) {
        let kind = if addresses[0].is_ipv4() {
            qtype::A
        } else {
            qtype::AAAA
        };
        let key = name_key(name).with_type(kind);
        let once: Vec<u8> = addresses.iter().flat_map(|a| record(kind, *a)).collect();
        let rotated = addresses.len() > 1;
        let stored = if rotated {
            once.repeat(2)
        } else {
            once.clone()
        };
        let head = AnswerHead {
            check: key.check(),
            count: addresses.len() as u16,
            length: once.len() as u16,
            stride: if rotated {
                (once.len() / addresses.len()) as u8
            } else {
                0
            },
            flags: 0,
            additional: 0,
            sum: once
                .chunks(2)
                .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])))
                .sum(),
        };
        if let Some(records) = filled_up(&stored) {
            self.answers_small
                .insert(key, SmallAnswer { head, records });
        } else {
            let records = filled_up(&stored).expect("a set that fits");
            self.answers_large
                .insert(key, LargeAnswer { head, records });
            self.name(name, 0).large |= NameValue::type_bit(kind);
        }
    }
}

/// The key of a name written with dots.
pub(crate) fn name_key(name: &str) -> NameKey {
    hash(&wire(name), &keys()).expect("a name that is hashed")
}

/// A name written with dots, in wire form with its final zero.
pub(crate) fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut wire: Vec<u8> = labels
        .flat_map(|label| std::iter::once(label.len() as u8).chain(label.bytes()))
        .collect();
    wire.push(0);
    wire
}

/// Keys of the name hash, the same in every test.
pub(crate) fn keys() -> HashKeys {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    HashKeys {
        words: std::array::from_fn(|_| {
            // xorshift64 (Marsaglia, 2003)
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }),
    }
}

fn frontend_key(protocol: Protocol, frontend: SocketAddr) -> FrontendKey {
    FrontendKey {
        address: frontend.ip().into(),
        port: Port::new(frontend.port()),
        protocol: protocol.number().0,
        pad: 0,
    }
}

fn member(service: u32, endpoint: SocketAddr) -> MemberKey {
    MemberKey {
        service,
        address: endpoint.ip().into(),
        port: Port::new(endpoint.port()),
        pad: 0,
    }
}

fn record(kind: u16, address: IpAddr) -> Vec<u8> {
    let data = match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let mut record = vec![0xc0, 0x0c];
    record.extend(kind.to_be_bytes());
    record.extend(1_u16.to_be_bytes());
    record.extend(TTL.to_be_bytes());
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    record
}

fn filled_up<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let mut filled = [0; N];
    filled.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(filled)
}

fn config(keys: &HashKeys) -> Config {
    let mut data = wire("ns.dns");
    data.pop();
    data.extend([0xc0, 0]);
    data.extend(wire("hostmaster"));
    data.pop();
    data.extend([0xc0, 0]);
    data.extend(SOA.into_iter().flat_map(u32::to_be_bytes));
    let mut soa = vec![0xc0, 0];
    soa.extend(qtype::SOA.to_be_bytes());
    soa.extend(1_u16.to_be_bytes());
    soa.extend(TTL.to_be_bytes());
    soa.extend((data.len() as u16).to_be_bytes());
    soa.extend(data);
    Config {
        flags: Config::DNS,
        negative_grace: 300,
        zone: name_key("cluster.local"),
        services: name_key("svc.cluster.local"),
        soa: filled_up(&soa).expect("54 bytes"),
        hash: *keys,
        host: [0; 2],
        service_ranges: Default::default(),
        dns: Default::default(),
        external_ports: [30_000, 32_767],
        pad: 0,
    }
}
