//! Connections that another proxy has made, as connection tracking knows them.
//!
//! While such a connection is alive, a segment of it must not be taken for one of a connection of ours whose flow was
//! forgotten: it would be sent to another backend, which resets it. Datagrams of UDP need no such care. A pod's go through
//! our programs from the first one on, which translate them before connection tracking sees them. What still goes by an
//! entry are sockets of the host that were connected before our programs came, and what the programs leave to the stack;
//! such an entry is deleted when its backend serves no more, as kube-proxy does.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::Context as _;
use signpost_common::{
    Address, Port,
    dns::Config,
    flow::{FlowKey, FlowValue},
    service::{AddressValue, FrontendKey, MemberKey, MemberValue},
};
use signpost_ebpf::headers::protocol::UDP;

use super::{
    now, pins, sock_diag, sys,
    tables::{Addresses, Configs, Flows, Frontends, KernelTables, Members, Table as _, Tables},
    view::View,
};
use crate::{
    dataplane::netfilter::{
        conntrack::{self, Entry, Translated},
        nat_chains,
    },
    model::Family,
    sysctl::OUR_PORTS,
};

/// What is alive of another proxy's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alive {
    /// Connections of TCP and SCTP.
    pub connections: u64,
    /// Flows of UDP.
    pub datagrams: u64,
}

/// What a look at connection tracking came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// What is alive.
    pub alive: Alive,
    /// Entries of UDP that were deleted because their backend serves no more, by family: IPv4, IPv6.
    pub deleted: [u64; 2],
}

/// What is known of another proxy before the maps are filled.
#[derive(Debug, Default)]
pub struct AtStart {
    /// Connections of it may be alive: by the maps that an agent before this one has left, or where there are none by any
    /// translated connection.
    pub takeover: bool,
    /// Every translated connection.
    pub(super) entries: Vec<Entry>,
}

/// Looks at connection tracking before the maps are filled.
pub fn at_start(root: &Path) -> AtStart {
    if !is_tracked() {
        return AtStart::default();
    }
    let entries = match conntrack::entries(Translated::Destination) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!("connection tracking cannot be read: {error}");
            return AtStart {
                takeover: true,
                entries: Vec::new(),
            };
        }
    };
    let connections = entries.iter().filter(|entry| entry.protocol != UDP);
    let connections: Vec<Entry> = connections.cloned().collect();
    let takeover = match View::open(root).and_then(|view| Ok(judge(&view.tables, &connections)?)) {
        Ok(judged) => judged.alive.connections > 0,
        Err(_) => !connections.is_empty(),
    };
    AtStart { takeover, entries }
}

/// Keeps the ports that another proxy's masqueraded connections have of the node from being given to ours: answers to
/// both would be the same packets. Each becomes a flow that leaves its packets as they are, as the programs make one of
/// what they see the first packet of.
///
/// # Errors
/// Where the map cannot be read.
pub(super) fn keep_ports(tables: &mut impl Tables, entries: &[Entry], now: u64) -> io::Result<()> {
    let mut kept = Vec::new();
    for entry in entries {
        let (backend, node) = (entry.reply.source, entry.reply.destination);
        if !OUR_PORTS.contains(&node.port()) || node == entry.original.source {
            continue;
        }
        // By which interface it goes is not known.
        for leaves in [FlowKey::TO_POD, FlowKey::TO_WIRE] {
            let arrives = leaves ^ FlowKey::OTHER_WAY;
            let back = same(entry.protocol, backend, node, arrives, now);
            let mut there = same(entry.protocol, node, backend, leaves, now);
            there.1.flags = FlowValue::MASQUERADE;
            let known =
                tables.get::<Flows>(&back.0)?.is_some() || tables.get::<Flows>(&there.0)?.is_some();
            if !known {
                kept.extend([back, there]);
            }
        }
    }
    // One that finds no room is one that may meet another. Where the programs do not know the node as a source yet, they do
    // not look for the entry that leaves its packets as they are; its way back counts.
    tables.put::<Flows>(&kept);
    Ok(())
}

/// The entry of packets that stay as they are.
fn same(
    protocol: u8,
    from: SocketAddr,
    to: SocketAddr,
    direction: u8,
    now: u64,
) -> (FlowKey, FlowValue) {
    let [source, destination] = [from, to].map(|end| Address::from(end.ip()));
    let [source_port, destination_port] = [from, to].map(|end| Port::new(end.port()));
    let key = FlowKey {
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        direction,
        pad: 0,
    };
    let value = FlowValue {
        check: key.check(),
        source,
        destination,
        source_port,
        destination_port,
        last_seen: now,
        ..FlowValue::ZERO
    };
    (key, value)
}

/// Looks at connection tracking. Deletes entries of UDP whose backend serves no more, and the empty NAT chains once
/// nothing needs them. The maps must be filled.
///
/// # Errors
/// Where the maps or connection tracking cannot be read or changed.
pub fn look(root: &Path) -> anyhow::Result<Looked> {
    let view = View::open(root)?;
    let entries = if is_tracked() {
        conntrack::entries(Translated::Destination).context("connection tracking cannot be read")?
    } else {
        Vec::new()
    };
    // Some may have come while the programs were being attached, and those of who says nothing are forgotten.
    if !entries.is_empty() {
        keep_ports(&mut writable_flows(root)?, &entries, now()?).context("ports cannot be kept")?;
    }
    let judged = judge(&view.tables, &entries)?;
    let mut looked = Looked {
        alive: judged.alive,
        deleted: [0; 2],
    };
    let mut stranded = HashSet::new();
    for entry in judged.stale {
        conntrack::delete(entry).context("an entry of connection tracking cannot be deleted")?;
        let family = Family::of(entry.original.source.ip());
        looked.deleted[usize::from(family == Family::V6)] += 1;
        stranded.insert((entry.original.source.port(), entry.original.destination));
    }
    if !stranded.is_empty() {
        tracing::info!(
            entries = stranded.len(),
            "deleted UDP entries of connection tracking whose backend serves no more"
        );
        end_sockets(&stranded).context("UDP sockets of the host cannot be ended")?;
    }
    for (family, needed) in [Family::V4, Family::V6]
        .into_iter()
        .zip(judged.needs_chains)
    {
        if !needed {
            let_chains_go(family)
                .with_context(|| format!("table {} cannot be removed", nat_chains::KEPT))?;
        }
    }
    Ok(looked)
}

fn writable_flows(root: &Path) -> io::Result<KernelTables> {
    let map = sys::open_pinned(&pins::maps_folder(&pins::folder(root)).join(Flows::NAME))?;
    Ok(KernelTables::new([(Flows::NAME, map)].into()))
}

/// Whether connection tracking has anything at all.
fn is_tracked() -> bool {
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    count.is_ok_and(|count| count.trim() != "0")
}

/// A socket of the host that is still connected to the Service itself is served by nobody once the other proxy's rules are
/// gone: its process has to connect it anew, and our programs see that.
fn end_sockets(stranded: &HashSet<(u16, SocketAddr)>) -> io::Result<()> {
    for socket in sock_diag::connected_udp()? {
        let service = SocketAddr::new(IpAddr::from(socket.address), socket.port.get());
        if stranded.contains(&(socket.source_port(), service)) {
            match sock_diag::destroy(&socket) {
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The empty chains also serve connections of ours which had to get another source port beside the other proxy's.
fn let_chains_go(family: Family) -> io::Result<()> {
    match nat_chains::has_table(family, nat_chains::KEPT) {
        Ok(true) => {}
        // Without nftables there is no such table.
        Ok(false) | Err(_) => return Ok(()),
    }
    let moved = |entry: &Entry| {
        Family::of(entry.original.source.ip()) == family
            && entry.original.source.ip() == entry.reply.destination.ip()
    };
    if is_tracked() && conntrack::entries(Translated::Source)?.iter().any(moved) {
        return Ok(());
    }
    nat_chains::let_go(family)?;
    tracing::info!(
        ?family,
        "removed the empty NAT chains: the last connection of the other proxy is gone"
    );
    Ok(())
}

/// What entries are.
#[derive(Debug)]
struct Judged<'a> {
    alive: Alive,
    stale: Vec<&'a Entry>,
    /// Whether a family's connections need NAT chains.
    needs_chains: [bool; 2],
}

fn judge<'a>(tables: &impl Tables, entries: &'a [Entry]) -> io::Result<Judged<'a>> {
    let mut judged = Judged {
        alive: Alive::default(),
        stale: Vec::new(),
        needs_chains: [false; 2],
    };
    let config = tables.get::<Configs>(&0)?;
    let mut known: HashMap<(SocketAddr, u8), Option<Service>> = HashMap::new();
    let mut serving: Option<HashSet<u32>> = None;
    for entry in entries {
        let to = (entry.original.destination, entry.protocol);
        let service = match known.get(&to) {
            Some(service) => *service,
            None => {
                let service = service(tables, config.as_ref(), to.0, to.1)?;
                known.insert(to, service);
                service
            }
        };
        let Some(service) = service else { continue };
        let family = Family::of(entry.original.source.ip());
        judged.needs_chains[usize::from(family == Family::V6)] = true;
        if entry.protocol != UDP {
            judged.alive.connections += 1;
            continue;
        }
        let serving = match &serving {
            Some(serving) => serving,
            None => serving.insert(serving_services(tables)?),
        };
        match service {
            // kube-proxy leaves those alone of a Service that nobody serves.
            Service::Known(id) if serving.contains(&id) && !serves(tables, id, entry)? => {
                judged.stale.push(entry);
            }
            _ => judged.alive.datagrams += 1,
        }
    }
    Ok(judged)
}

/// To whom an entry's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// A service port that we serve.
    Known(u32),
    /// One that we do not know, at an address of Services.
    Unknown,
}

fn service(
    tables: &impl Tables,
    config: Option<&Config>,
    to: SocketAddr,
    protocol: u8,
) -> io::Result<Option<Service>> {
    let address = Address::from(to.ip());
    let key = |address| FrontendKey {
        address,
        port: Port::new(to.port()),
        protocol,
        pad: 0,
    };
    let flags = tables
        .get::<Addresses>(&address)?
        .map_or(0, |value| value.flags);
    if flags & AddressValue::SERVICE != 0 {
        let frontend = tables.get::<Frontends>(&key(address))?;
        return Ok(Some(frontend.map_or(Service::Unknown, |frontend| {
            Service::Known(frontend.service)
        })));
    }
    if flags & AddressValue::NODE != 0 {
        let any = if to.is_ipv4() {
            Address::v4([0; 4])
        } else {
            Address::UNSPECIFIED
        };
        // Others translate what comes to the node too, such as host ports.
        let frontend = tables.get::<Frontends>(&key(any))?;
        return Ok(frontend.map(|frontend| Service::Known(frontend.service)));
    }
    let in_range = flags == 0
        && config.is_some_and(|config| {
            let mut ranges = config.service_ranges.iter();
            config.flags & Config::SERVICE_RANGES != 0
                && ranges.any(|range| range.difference(&address) == 0)
        });
    Ok(in_range.then_some(Service::Unknown))
}

fn serving_services(tables: &impl Tables) -> io::Result<HashSet<u32>> {
    let mut serving = HashSet::new();
    tables.for_each::<Members>(&mut |key, value| {
        if value.flags & MemberValue::SERVING != 0 {
            serving.insert(key.service);
        }
    })?;
    Ok(serving)
}

fn serves(tables: &impl Tables, service: u32, entry: &Entry) -> io::Result<bool> {
    let member = tables.get::<Members>(&MemberKey {
        service,
        address: entry.reply.source.ip().into(),
        port: Port::new(entry.reply.source.port()),
        pad: 0,
    })?;
    Ok(member.is_some_and(|member| member.flags & MemberValue::SERVING != 0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytemuck::{Zeroable, bytes_of, pod_read_unaligned};
    use signpost_common::{
        dns::Network,
        service::{AddressValue, FrontendValue},
    };
    use signpost_ebpf::headers::protocol::TCP;

    use super::*;
    use crate::dataplane::{
        ebpf::tables::{NotWritten, Table},
        netfilter::conntrack::Ends,
    };

    #[derive(Default)]
    struct Maps(BTreeMap<(&'static str, Vec<u8>), Vec<u8>>);

    impl Maps {
        fn has<T: Table>(&mut self, key: T::Key, value: T::Value) {
            let place = (T::NAME, bytes_of(&key).to_vec());
            self.0.insert(place, bytes_of(&value).to_vec());
        }
    }

    impl Tables for Maps {
        fn put<T: Table>(&mut self, elements: &[(T::Key, T::Value)]) -> Vec<NotWritten> {
            for (key, value) in elements {
                self.has::<T>(*key, *value);
            }
            Vec::new()
        }

        fn delete<T: Table>(&mut self, _: &[T::Key]) -> io::Result<()> {
            unreachable!("looking changes nothing")
        }

        fn for_each<T: Table>(&self, visit: &mut dyn FnMut(&T::Key, &T::Value)) -> io::Result<()> {
            for ((_, key), value) in self.0.iter().filter(|((name, _), _)| *name == T::NAME) {
                visit(&pod_read_unaligned(key), &pod_read_unaligned(value));
            }
            Ok(())
        }

        fn get<T: Table>(&self, key: &T::Key) -> io::Result<Option<T::Value>> {
            let place = (T::NAME, bytes_of(key).to_vec());
            Ok(self.0.get(&place).map(|value| pod_read_unaligned(value)))
        }
    }

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A ClusterIP, a node with a NodePort, and an address that somebody else serves.
    fn maps() -> Maps {
        let mut maps = Maps::default();
        let mut address = |text: &str, flags| {
            let address = Address::from(text.parse::<IpAddr>().unwrap());
            maps.has::<Addresses>(address, AddressValue { flags });
        };
        address(
            "10.96.0.1",
            AddressValue::SERVICE | AddressValue::CLUSTER_IP,
        );
        address("192.0.2.1", AddressValue::NODE | AddressValue::NODE_PORT);
        address("10.96.0.3", AddressValue::FOREIGN);
        for protocol in [TCP, UDP] {
            for (address, port) in [([10, 96, 0, 1], 80), ([0; 4], 30_080)] {
                let key = FrontendKey {
                    address: Address::v4(address),
                    port: Port::new(port),
                    protocol,
                    pad: 0,
                };
                let service = protocol.into();
                let value = FrontendValue {
                    service,
                    ..FrontendValue::default()
                };
                maps.has::<Frontends>(key, value);
            }
        }
        let config = Config {
            flags: Config::SERVICE_RANGES,
            service_ranges: [Network {
                address: Address::v4([10, 96, 0, 0]),
                mask: Address::v6_words([u32::MAX, u32::MAX, u32::MAX, 0xffff_0000_u32.to_be()]),
            }; 4],
            ..Config::zeroed()
        };
        maps.has::<Configs>(0, config);
        maps
    }

    fn member(maps: &mut Maps, address: [u8; 4], flags: u32) {
        let key = MemberKey {
            service: UDP.into(),
            address: Address::v4(address),
            port: Port::new(8080),
            pad: 0,
        };
        maps.has::<Members>(key, MemberValue { flags });
    }

    fn entry(protocol: u8, to: &str, backend: &str) -> Entry {
        let client = end("10.0.0.1:5000");
        Entry::new(
            protocol,
            Ends {
                source: client,
                destination: end(to),
            },
            Ends {
                source: end(backend),
                destination: client,
            },
        )
    }

    #[test]
    fn connections_to_addresses_of_services_are_another_proxy_s() {
        for (to, alive) in [
            ("10.96.0.1:80", true),
            // The port, or the whole Service, may be gone since.
            ("10.96.0.1:81", true),
            ("10.96.0.2:80", true),
            ("192.0.2.1:30080", true),
            // A host port of the CNI, another proxy's for good, and no Service at all.
            ("192.0.2.1:8080", false),
            ("10.96.0.3:80", false),
            ("203.0.113.1:80", false),
        ] {
            let entries = [entry(TCP, to, "10.0.0.2:8080")];
            let maps = maps();
            let judged = judge(&maps, &entries).unwrap();
            assert_eq!(judged.alive.connections, u64::from(alive), "{to}");
            assert_eq!(judged.needs_chains, [alive, false], "{to}");
        }
    }

    #[test]
    fn ports_of_masqueraded_connections_are_kept() {
        let mut maps = Maps::default();
        let client = end("10.0.0.1:5000");
        let entries = ["10.0.0.1:5000", "192.0.2.1:60999", "192.0.2.1:61000"].map(|to| {
            let original = Ends {
                source: client,
                destination: end("10.96.0.1:80"),
            };
            let reply = Ends {
                source: end("10.0.0.2:8080"),
                destination: end(to),
            };
            Entry::new(TCP, original, reply)
        });
        keep_ports(&mut maps, &entries, 7).unwrap();
        let mut kept = Vec::new();
        maps.for_each::<Flows>(&mut |key, value| kept.push((*key, *value)))
            .unwrap();
        assert_eq!(kept.len(), 4);
        for (key, value) in kept {
            let leaves = key.direction & FlowKey::OTHER_WAY != 0;
            let ours = if leaves {
                key.source_port
            } else {
                key.destination_port
            };
            assert_eq!(ours.get(), 61_000);
            assert_eq!(
                (value.source, value.source_port, value.destination_port),
                (key.source, key.source_port, key.destination_port)
            );
            let flags = if leaves { FlowValue::MASQUERADE } else { 0 };
            assert_eq!((value.check, value.flags), (key.check(), flags));
            assert_eq!((value.addresses_sum, value.ports_sum), (0, 0));
        }
    }

    #[test]
    fn datagrams_to_a_backend_that_serves_no_more_are_stale() {
        let mut maps = maps();
        let entries = [
            entry(UDP, "10.96.0.1:80", "10.0.0.2:8080"),
            entry(UDP, "192.0.2.1:30080", "10.0.0.3:8080"),
            entry(UDP, "10.96.0.2:80", "10.0.0.4:8080"),
        ];
        let stale = |maps: &Maps| {
            let judged = judge(maps, &entries).unwrap();
            assert_eq!(judged.alive.connections, 0);
            assert_eq!(
                judged.alive.datagrams + judged.stale.len() as u64,
                entries.len() as u64
            );
            let backends = judged.stale.iter().map(|entry| entry.reply.source);
            backends.map(|b| b.to_string()).collect::<Vec<_>>()
        };
        // Nobody serves: the datagrams may go on as they did.
        assert_eq!(stale(&maps), [""; 0]);
        member(&mut maps, [10, 0, 0, 2], MemberValue::SERVING);
        member(&mut maps, [10, 0, 0, 3], 0);
        assert_eq!(stale(&maps), ["10.0.0.3:8080"]);
        member(&mut maps, [10, 0, 0, 3], MemberValue::SERVING);
        member(&mut maps, [10, 0, 0, 2], 0);
        assert_eq!(stale(&maps), ["10.0.0.2:8080"]);
    }
}
