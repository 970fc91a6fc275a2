//! Forgets what the programs recorded of sockets that are closed.

use std::{collections::HashSet, io};

use signpost_common::socket::{SocketKey, SocketValue};

use super::{
    Pressure, sock_diag,
    tables::{KernelTables, Sockets, Table, Tables},
};
use crate::namespaces::PodNamespace;

/// At which of the sweeps all sockets are listed, which takes some milliseconds where there are many.
const EVERY: u32 = 30;

/// What was found at the last sweep.
#[derive(Debug, Default)]
pub(super) struct Abandoned {
    sweeps: u32,
    /// Entries of sockets that are not listed. A socket that is just being connected is not either, so that they go
    /// only when this is so twice.
    suspects: HashSet<SocketKey>,
    elements: usize,
}

impl Abandoned {
    /// At every thirtieth sweep, removes entries whose sockets are closed, in the host's namespace and in those of pods.
    /// Returns how many went.
    ///
    /// # Errors
    /// Where the map cannot be read or changed, or sockets cannot be listed.
    pub(super) fn sweep<'a>(
        &mut self,
        tables: &mut KernelTables,
        pods: impl Iterator<Item = &'a PodNamespace>,
    ) -> io::Result<usize> {
        self.sweeps += 1;
        if self.sweeps < EVERY {
            return Ok(0);
        }
        self.sweeps = 0;
        self.sweep_now(tables, pods)
    }

    /// How full the map is, as of the last sweep.
    pub(super) const fn pressure(&self) -> Pressure {
        Pressure {
            map: Sockets::NAME,
            elements: self.elements,
            size: Sockets::SIZE,
        }
    }

    fn sweep_now<'a>(
        &mut self,
        tables: &mut KernelTables,
        pods: impl Iterator<Item = &'a PodNamespace>,
    ) -> io::Result<usize> {
        let mut keys = Vec::new();
        self.elements = 0;
        tables.for_each::<Sockets>(&mut |key, value| {
            self.elements += 1;
            if value.flags & SocketValue::UNLISTED == 0 {
                keys.push(*key);
            }
        })?;
        let mut alive = HashSet::new();
        if !keys.is_empty() {
            alive = sock_diag::cookies()?;
            for pod in pods {
                alive.extend(pod.run(sock_diag::cookies)??);
            }
        }
        keys.retain(|key| !alive.contains(&key.cookie));
        let (gone, suspects): (Vec<_>, Vec<_>) = keys
            .into_iter()
            .partition(|key| self.suspects.contains(key));
        tables.delete::<Sockets>(&gone)?;
        self.suspects = suspects.into_iter().collect();
        self.elements -= gone.len();
        Ok(gone.len())
    }
}
