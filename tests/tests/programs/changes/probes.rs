//! New connections through the programs, compared with what must become of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::{prelude::*, test_runner::TestCaseError};
use signpost::model::Protocol;
use signpost_common::{Address, Cause, Port, service::AddressValue};
use signpost_ebpf::socket::{Socket, Verdict, connect};

use super::{
    objects::FAMILIES,
    reference::{Client, Fate, HOST, Look, PortId, Reference},
    tables::Maps,
};
use crate::{
    machine::{Action, Machine, Program},
    packets::{self, Family, first},
    world::SECOND,
};

/// Connections to places at which nobody may be, at each look.
const STRAYS: usize = 24;
/// Packets of UDP that are sent again after every change.
const FLOWS: usize = 8;

/// Looks at a node, and remembers what it saw.
pub(crate) struct Prober {
    machine: Machine,
    client_port: u16,
    /// Who stays with which backend, and for how many seconds it has not connected.
    stays: BTreeMap<(PortId, Client), (SocketAddr, u64)>,
    /// Packets of UDP, whose Service they are, and where they went.
    flows: Vec<(Look, u16, PortId, SocketAddr)>,
    asked: BTreeSet<(SocketAddr, Protocol, bool)>,
    number: usize,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Untouched,
    Rejected,
    Dropped,
    Reaches(SocketAddr),
}

impl Prober {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            client_port: 10_000,
            stays: BTreeMap::new(),
            flows: Vec::new(),
            asked: BTreeSet::new(),
            number: 0,
        }
    }

    /// The node's maps have changed, and so many seconds have passed.
    pub(crate) fn after(&mut self, maps: &Maps, seconds: u64) {
        self.machine.change(|world| {
            maps.fill(world);
            world.in_sync_at = world.now;
            world.masquerades_as(Family::V4.node(7), Family::V6.node(7));
        });
        if seconds > 0 {
            self.machine.age_affinity(seconds * SECOND);
        }
        for (_, age) in self.stays.values_mut() {
            *age += seconds;
        }
    }

    /// Sends to every place that leads somewhere, and to some that may not.
    pub(crate) fn look(&mut self, reference: &Reference<'_>) -> Result<(), TestCaseError> {
        let ports = reference.ports();
        // An affinity that was off in between has left nothing behind that is sure.
        self.stays
            .retain(|(port, _), _| ports.get(port).is_some_and(Option::is_some));
        self.flows
            .retain(|(_, _, port, _)| ports.contains_key(port));
        self.send_again(reference)?;
        let frontends = reference.frontends();
        let strays: Vec<_> = self
            .strays()
            .into_iter()
            .filter(|s| !frontends.contains(s))
            .collect();
        self.asked.extend(&frontends);
        for (to, protocol, v6) in frontends.into_iter().chain(strays) {
            if protocol == Protocol::Sctp {
                continue;
            }
            let family = if v6 { Family::V6 } else { Family::V4 };
            for client in [
                Client::Pod(family.pod(1)),
                Client::Pod(family.pod(7)),
                Client::Outside(family.outside(2)),
                Client::Outside(family.outside(4)),
                Client::Host,
            ] {
                let look = Look {
                    client,
                    family,
                    protocol,
                    to,
                };
                self.connect(&look, reference, &ports)?;
            }
        }
        Ok(())
    }

    /// Places that led somewhere once, undefined ports of those, and addresses of the ServiceCIDR.
    fn strays(&mut self) -> Vec<(SocketAddr, Protocol, bool)> {
        let mut all: Vec<_> = self.asked.iter().copied().collect();
        all.extend(
            self.asked
                .iter()
                .map(|(to, protocol, v6)| (SocketAddr::new(to.ip(), 4321), *protocol, *v6)),
        );
        for family in FAMILIES {
            let v6 = family == Family::V6;
            for n in 20..28 {
                all.push(((family.service(n), 80).into(), Protocol::Tcp, v6));
                all.push(((family.service(n), 53).into(), Protocol::Udp, v6));
            }
            all.push(((family.service(99), 80).into(), Protocol::Tcp, v6));
            all.push(((family.node(2), 30_080).into(), Protocol::Tcp, v6));
            all.push(((family.far_pod(1), 80).into(), Protocol::Tcp, v6));
        }
        self.number += 1;
        let (first, step) = (self.number * 7, all.len() / STRAYS + 1);
        let length = all.len();
        (0..STRAYS)
            .map(|n| all[(first + n * step) % length])
            .collect()
    }

    /// Sends packets of UDP that went somewhere before: they stay where they may.
    fn send_again(&mut self, reference: &Reference<'_>) -> Result<(), TestCaseError> {
        for (look, client_port, port, backend) in std::mem::take(&mut self.flows) {
            let (seen, _) = self.send(&look, client_port);
            if reference.serves(&port, backend) {
                prop_assert_eq!(
                    seen,
                    Seen::Reaches(backend),
                    "{:?} left a backend that serves",
                    look
                );
                self.flows.push((look, client_port, port, backend));
            } else if let Fate::Reaches { port, backends, .. } = check(&look, seen, reference)? {
                let Seen::Reaches(backend) = seen else {
                    unreachable!("checked")
                };
                if backends.contains_key(&backend) {
                    self.flows.push((look, client_port, port, backend));
                }
            }
        }
        Ok(())
    }

    fn connect(
        &mut self,
        look: &Look,
        reference: &Reference<'_>,
        ports: &BTreeMap<PortId, Option<u32>>,
    ) -> Result<(), TestCaseError> {
        self.client_port += 1;
        let client_port = self.client_port;
        let (seen, packet) = match look.client {
            Client::Host => match self.host_connects(look, reference) {
                Some(seen) => (seen, Vec::new()),
                None => return Ok(()),
            },
            _ => self.send(look, client_port),
        };
        let fate = check(look, seen, reference)?;
        let (
            Fate::Reaches {
                port,
                backends,
                masqueraded,
            },
            Seen::Reaches(backend),
        ) = (fate, seen)
        else {
            return Ok(());
        };
        if let Some(timeout) = ports[&port] {
            let key = (port.clone(), look.client);
            if let Some((last, age)) = self.stays.get(&key)
                && *age < u64::from(timeout)
                && backends.contains_key(last)
            {
                prop_assert_eq!(
                    backend,
                    *last,
                    "{:?} left the backend that it stays with",
                    look
                );
            }
            self.stays.insert(key, (backend, 0));
        }
        if let Client::Outside(source) = look.client {
            self.leaves(&packet, source, backend, backends[&backend], masqueraded)?;
        }
        if look.protocol == Protocol::Udp && look.client != Client::Host && self.flows.len() < FLOWS
        {
            self.flows.push((*look, client_port, port, backend));
        }
        Ok(())
    }

    /// Looks at the packet where it leaves the node or enters the backend's pod.
    fn leaves(
        &mut self,
        packet: &[u8],
        source: IpAddr,
        backend: SocketAddr,
        here: bool,
        masqueraded: bool,
    ) -> Result<(), TestCaseError> {
        let is_node = |world: &crate::world::World| {
            let flags = world.addresses.get(&Address::from(backend.ip()));
            flags.is_some_and(|value| value.flags & AddressValue::NODE != 0)
        };
        let mut to_node = false;
        self.machine.change(|world| to_node = is_node(world));
        if to_node {
            return Ok(());
        }
        let program = if here {
            Program::ToPod
        } else {
            Program::ToWire
        };
        let done = self.machine.run(program, packet);
        let (from, to) = ends(&done.packet);
        prop_assert_eq!(to, backend);
        prop_assert_eq!(
            from.ip() != source,
            masqueraded,
            "the source that {:?} sees is {:?}",
            backend,
            from
        );
        Ok(())
    }

    fn send(&mut self, look: &Look, client_port: u16) -> (Seen, Vec<u8>) {
        let (program, source) = match look.client {
            Client::Pod(source) => (Program::FromPod, source),
            Client::Outside(source) => (Program::FromWire, source),
            Client::Host => unreachable!("a process of the host sends no packet to a Service"),
        };
        let protocol = match look.protocol {
            Protocol::Tcp => packets::Protocol::Tcp,
            _ => packets::Protocol::Udp,
        };
        let packet = first(protocol, (source, client_port).into(), look.to).frame();
        let done = self.machine.run(program, &packet);
        let seen = match done.action {
            Action::Drop => Seen::Dropped,
            Action::SendBack if !done.causes.contains(&Cause::Hairpin) => Seen::Rejected,
            _ if done.packet == packet => Seen::Untouched,
            _ => Seen::Reaches(ends(&done.packet).1),
        };
        (seen, done.packet)
    }

    /// `None` where there is nothing to compare.
    fn host_connects(&mut self, look: &Look, reference: &Reference<'_>) -> Option<Seen> {
        // To a connected socket of UDP nothing happens before it sends, and without a Service nothing is done for it.
        let has_frontend =
            reference
                .frontends()
                .contains(&(look.to, look.protocol, look.family == Family::V6));
        if self.machine.is_kernel() || (look.protocol == Protocol::Udp && !has_frontend) {
            return None;
        }
        let mut call = Call {
            cookie: u64::from(self.client_port),
            protocol: look.protocol.number().into(),
            address: look.to.ip().into(),
            port: Port::new(look.to.port()),
        };
        let mut verdict = Verdict::Continue;
        self.machine.change(|world| {
            world.random.set(
                world
                    .random
                    .get()
                    .wrapping_mul(0x9e37_79b9)
                    .wrapping_add(12_345),
            );
            verdict = connect(&mut call, &**world);
        });
        let at = SocketAddr::new(call.address.into(), call.port.get());
        Some(match verdict {
            Verdict::Refuse => Seen::Rejected,
            Verdict::TimeOut | Verdict::Deny => Seen::Dropped,
            Verdict::Continue if at == look.to => Seen::Untouched,
            Verdict::Continue => Seen::Reaches(at),
        })
    }
}

/// Compares what was seen with what must be, and gives that.
fn check(look: &Look, seen: Seen, reference: &Reference<'_>) -> Result<Fate, TestCaseError> {
    let fate = reference.fate(look);
    let is_right = match (&fate, seen) {
        (Fate::Untouched, Seen::Untouched)
        | (Fate::Rejected, Seen::Rejected)
        | (Fate::Dropped, Seen::Dropped) => true,
        (Fate::Reaches { backends, .. }, Seen::Reaches(at)) => backends.contains_key(&at),
        _ => false,
    };
    prop_assert!(is_right, "{look:?} is {seen:?} and must be {fate:?}");
    Ok(fate)
}

/// Source and destination.
fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
    let (source, destination): (IpAddr, IpAddr) = match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        other => panic!("no IP packet: {other:?}"),
    };
    let (from, to) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        other => panic!("no ports: {other:?}"),
    };
    (
        SocketAddr::new(source, from),
        SocketAddr::new(destination, to),
    )
}

/// A process of the host that connects a socket.
struct Call {
    cookie: u64,
    protocol: u32,
    address: Address,
    port: Port,
}

impl Socket for Call {
    fn namespace(&self) -> u64 {
        HOST
    }

    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn protocol(&self) -> u32 {
        self.protocol
    }

    fn address(&self) -> Address {
        self.address
    }

    fn port(&self) -> Port {
        self.port
    }

    fn set(&mut self, address: &Address, port: Port) {
        (self.address, self.port) = (*address, port);
    }
}
