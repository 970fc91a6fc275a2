//! UDP sockets of the host and of pods that are connected to a backend which serves no more.
//!
//! What such a socket sends no program sees, so it would talk to nobody for good. It is destroyed: the process gets an
//! error, connects again, and has a backend that serves. kube-proxy has the same effect by deleting the flow from
//! connection tracking.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use signpost_common::{
    Address, Port,
    service::{MemberKey, MemberValue},
    socket::{SocketKey, SocketValue},
};
use tracing::{info, warn};

use super::{
    sock_diag::{self, Connected},
    tables::{KernelTables, Members, Sockets, Tables},
};
use crate::namespaces::PodNamespace;

/// How often sockets are looked at for a backend: a process may connect while the maps change.
const LOOKS: u8 = 3;

/// Backends that stopped serving lately.
#[derive(Debug, Default)]
pub(super) struct Stranded {
    stopped: HashMap<MemberKey, u8>,
    trouble: Option<String>,
}

impl Stranded {
    /// Finds out whether sockets can be destroyed at all.
    pub(super) fn probe(&mut self) {
        self.note(sock_diag::probe());
    }

    /// Looks for sockets that are connected to backends that stopped serving just now.
    pub(super) fn stop<'a>(
        &mut self,
        stopped: impl IntoIterator<Item = MemberKey>,
        tables: &mut KernelTables,
        pods: impl Iterator<Item = &'a PodNamespace>,
    ) {
        let before = self.stopped.len();
        self.stopped
            .extend(stopped.into_iter().map(|key| (key, LOOKS)));
        if self.stopped.len() > before {
            self.look(tables, pods);
        }
    }

    /// Looks again, as long as a backend stopped serving lately.
    pub(super) fn look<'a>(
        &mut self,
        tables: &mut KernelTables,
        mut pods: impl Iterator<Item = &'a PodNamespace>,
    ) {
        if self.stopped.is_empty() {
            return;
        }
        let result = self
            .destroy(tables)
            .and_then(|()| pods.try_for_each(|pod| pod.run(|| self.destroy(tables))?));
        self.note(result);
        self.stopped.retain(|_, looks| {
            *looks -= 1;
            *looks > 0
        });
    }

    /// For operators: why sockets are not destroyed.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// In the namespace of the calling thread.
    fn destroy(&self, tables: &mut KernelTables) -> io::Result<()> {
        let places: HashSet<(Address, Port)> =
            self.stopped.keys().map(|k| (k.address, k.port)).collect();
        for socket in sock_diag::connected_udp()? {
            if !places.contains(&(socket.address, socket.port)) {
                continue;
            }
            let Some(entries) = self.entries(&socket, tables)? else {
                continue;
            };
            match sock_diag::destroy(&socket) {
                Ok(()) => info!(
                    backend = %std::net::IpAddr::from(socket.address),
                    port = socket.port.get(),
                    "ended a UDP socket whose backend serves no more"
                ),
                // The process was quicker.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
            tables.delete::<Sockets>(&entries)?;
        }
        Ok(())
    }

    /// The elements of a socket that got one of these backends from a Service. One that a process connected to the
    /// backend itself has none, and is left alone.
    fn entries(
        &self,
        socket: &Connected,
        tables: &KernelTables,
    ) -> io::Result<Option<[SocketKey; 2]>> {
        let key = |address, port, direction| SocketKey {
            cookie: socket.cookie,
            address,
            port,
            direction,
            pad: [0; 2],
        };
        let from = key(socket.address, socket.port, SocketKey::FROM_BACKEND);
        let Some(SocketValue {
            check,
            address,
            port,
            service,
            ..
        }) = tables.get::<Sockets>(&from)?
        else {
            return Ok(None);
        };
        let member = MemberKey {
            service,
            address: socket.address,
            port: socket.port,
            pad: 0,
        };
        if check != from.check() || !self.stopped.contains_key(&member) {
            return Ok(None);
        }
        let serves = tables
            .get::<Members>(&member)?
            .is_some_and(|value| value.flags & MemberValue::SERVING != 0);
        Ok((!serves).then(|| [from, key(address, port, SocketKey::TO_BACKEND)]))
    }

    fn note(&mut self, result: io::Result<()>) {
        let Err(error) = result else {
            self.trouble = None;
            return;
        };
        let why = match error.raw_os_error() {
            Some(libc::ENOENT) => "the kernel lacks CONFIG_INET_UDP_DIAG".to_owned(),
            Some(libc::EOPNOTSUPP) => "the kernel lacks CONFIG_INET_DIAG_DESTROY".to_owned(),
            _ => error.to_string(),
        };
        if self.trouble.as_ref() != Some(&why) {
            warn!("connected UDP sockets stay with backends that serve no more: {why}");
        }
        self.trouble = Some(why);
    }
}
