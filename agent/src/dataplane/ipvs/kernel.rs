//! The kernel's virtual server of the calling thread's network namespace, over generic netlink.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    process::Command as Process,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkPayload};
use netlink_packet_generic::{
    GenlFamily as _, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{Socket, protocols::NETLINK_GENERIC};
use signpost_common::count::ServiceCount;

use super::{
    message::{Attribute, Command, IpvsMessage},
    server::{self, KnownDestination, KnownServer, Operation, ServerKey, Terms},
};
use crate::{
    dataplane::netlink,
    model::{Family, Protocol},
};

/// After how many seconds idle connections are forgotten; 0 leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Of TCP.
    pub tcp: u32,
    /// Of TCP after a FIN.
    pub tcp_fin: u32,
    /// Of UDP.
    pub udp: u32,
}

/// The virtual server.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    family: u16,
}

impl Kernel {
    /// Asks for the virtual server.
    ///
    /// # Errors
    /// `NotFound` where the kernel has none, or its module is not loaded.
    pub fn open() -> io::Result<Self> {
        let socket = netlink::open(NETLINK_GENERIC)?;
        let question = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(
                IpvsMessage::family_name().to_owned(),
            )],
        });
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        socket.send(&netlink::bytes(flags, NetlinkPayload::from(question)), 0)?;
        let mut family = None;
        netlink::receive(&socket, 1, |_, answer: GenlMessage<GenlCtrl>| {
            family = answer.payload.nlas.iter().find_map(|nla| match nla {
                GenlCtrlAttrs::FamilyId(number) => Some(*number),
                _ => None,
            });
        })?;
        let family = family.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { socket, family })
    }

    /// Carries out changes, in order. Returns those that the kernel refused, by their place.
    ///
    /// # Errors
    /// Where the kernel cannot be talked to.
    pub fn carry_out(&self, operations: &[Operation]) -> io::Result<Vec<(usize, io::Error)>> {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let requests = operations.iter().map(|o| self.bytes(flags, o.message()));
        netlink::carry_out_all::<GenlMessage<IpvsMessage>>(&self.socket, requests)
    }

    /// All virtual servers that are known by address and port.
    ///
    /// # Errors
    /// Where the kernel refuses the list.
    pub fn servers(&self) -> io::Result<Vec<(ServerKey, Terms)>> {
        let mut found = Vec::new();
        self.list(Command::GetService, Vec::new(), |message| {
            found.extend(server::known_server(message));
        })?;
        Ok(found)
    }

    /// What each virtual server has counted since it was made.
    ///
    /// # Errors
    /// Where the kernel refuses the list.
    pub fn traffic(&self) -> io::Result<Vec<(ServerKey, ServiceCount)>> {
        let mut found = Vec::new();
        self.list(Command::GetService, Vec::new(), |message| {
            found.extend(server::known_traffic(message));
        })?;
        Ok(found)
    }

    /// The destinations of a virtual server.
    ///
    /// # Errors
    /// Where the kernel refuses the list.
    pub fn destinations(
        &self,
        key: &ServerKey,
    ) -> io::Result<BTreeMap<SocketAddr, KnownDestination>> {
        let family = Family::of(key.address);
        let mut found = BTreeMap::new();
        self.list(
            Command::GetDestination,
            vec![server::name(key)],
            |message| found.extend(server::known_destination(message, family)),
        )?;
        Ok(found)
    }

    /// All virtual servers with their destinations.
    ///
    /// # Errors
    /// Where the kernel refuses a list.
    pub fn all(&self) -> io::Result<BTreeMap<ServerKey, KnownServer>> {
        let mut all = BTreeMap::new();
        for (key, terms) in self.servers()? {
            let destinations = self.destinations(&key)?;
            let server = KnownServer {
                terms,
                destinations,
            };
            all.insert(key, server);
        }
        Ok(all)
    }

    /// Changes the timeouts, for all virtual servers of the network namespace.
    ///
    /// # Errors
    /// Where the kernel refuses them.
    pub fn set_timeouts(&self, timeouts: Timeouts) -> io::Result<()> {
        let message = IpvsMessage {
            command: Command::SetConfig,
            attributes: vec![
                Attribute::TimeoutTcp(timeouts.tcp),
                Attribute::TimeoutTcpFin(timeouts.tcp_fin),
                Attribute::TimeoutUdp(timeouts.udp),
            ],
        };
        self.ask(message, |_| {})
    }

    /// The version of the kernel's virtual server: major, minor and patch.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn version(&self) -> io::Result<[u8; 3]> {
        let message = IpvsMessage {
            command: Command::GetInfo,
            attributes: Vec::new(),
        };
        let mut version = None;
        self.ask(message, |answer| {
            version = answer.attributes.iter().find_map(|a| match a {
                Attribute::Version(version) => Some(*version),
                _ => None,
            });
        })?;
        let [_, major, minor, patch] = version.ok_or(io::ErrorKind::InvalidData)?.to_be_bytes();
        Ok([major, minor, patch])
    }

    /// Whether it takes a scheduler: a virtual server at an address of nobody (RFC 5737) is made and deleted.
    ///
    /// # Errors
    /// What the kernel says, `NotFound` where the scheduler's module is not loaded.
    pub fn check_scheduler(&self, scheduler: &str) -> io::Result<()> {
        let key = ServerKey {
            protocol: Protocol::Tcp,
            address: IpAddr::from([198, 51, 100, 0]),
            port: 20_000,
        };
        let terms = Terms {
            scheduler: scheduler.into(),
            flags: server::OURS,
            persistence: None,
        };
        let both = [
            Operation::AddServer(key, terms),
            Operation::DeleteServer(key),
        ];
        for (number, error) in self.carry_out(&both)? {
            // One that a process left that was killed in between.
            if number == 0 && error.raw_os_error() != Some(libc::EEXIST) {
                return Err(error);
            }
        }
        Ok(())
    }

    fn ask(&self, message: IpvsMessage, mut visit: impl FnMut(&IpvsMessage)) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        self.socket.send(&self.bytes(flags, message), 0)?;
        netlink::receive(&self.socket, 1, |_, answer: GenlMessage<IpvsMessage>| {
            visit(&answer.payload);
        })
    }

    fn list(
        &self,
        command: Command,
        attributes: Vec<Attribute>,
        mut visit: impl FnMut(&IpvsMessage),
    ) -> io::Result<()> {
        let message = IpvsMessage {
            command,
            attributes,
        };
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        self.socket.send(&self.bytes(flags, message), 0)?;
        netlink::receive(
            &self.socket,
            usize::MAX,
            |_, answer: GenlMessage<IpvsMessage>| visit(&answer.payload),
        )
    }

    fn bytes(&self, flags: u16, message: IpvsMessage) -> Vec<u8> {
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(self.family);
        netlink::bytes(flags, NetlinkPayload::from(message))
    }
}

/// Loads the modules that IPVS mode needs, where this process can.
pub fn load_modules() {
    if matches!(Kernel::open(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
        let loaded = Process::new("modprobe")
            .args(["-q", "-a", "ip_vs", "dummy"])
            .status();
        tracing::debug!(?loaded, "modules ip_vs and dummy");
    }
}
