//! The kernel's virtual servers, brought to what is wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use anyhow::Context as _;

use super::{
    differ::Differ,
    kernel::Kernel,
    server::{KnownServer, Operation, Server, ServerKey},
};
use crate::dataplane::Report;

/// What is wanted of them, and what the kernel has.
#[derive(Debug)]
pub(super) struct Servers {
    kernel: Kernel,
    differ: Differ,
}

/// Changes of virtual servers, by when they may be carried out.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What comes: it is served before it can be reached.
    pub(super) coming: Vec<Operation>,
    /// What goes: it cannot be reached when it is not served any more.
    pub(super) going: Vec<Operation>,
}

impl Changes {
    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.coming.iter().chain(&self.going)
    }
}

impl Servers {
    /// Of this kernel, of which nothing is known yet.
    pub(super) fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            differ: Differ::default(),
        }
    }

    /// Reads all that the kernel has.
    pub(super) fn read(&mut self) -> anyhow::Result<()> {
        let known = self
            .kernel
            .all()
            .context("cannot list the virtual servers")?;
        self.differ.set_known(known);
        Ok(())
    }

    /// What is wanted and what is known.
    pub(super) const fn differ(&self) -> &Differ {
        &self.differ
    }

    /// The addresses of the virtual servers that the kernel has.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.differ.known().keys().map(|key| key.address)
    }

    /// Says what is wanted of one of them.
    pub(super) fn want(&mut self, key: ServerKey, wanted: Option<Server>) {
        self.differ.want(key, wanted);
    }

    /// What has to be done for these.
    pub(super) fn changes<'a>(&self, keys: impl IntoIterator<Item = &'a ServerKey>) -> Changes {
        let mut changes = Changes::default();
        for operation in keys.into_iter().flat_map(|key| self.differ.operations(key)) {
            if is_going(&operation) {
                changes.going.push(operation);
            } else {
                changes.coming.push(operation);
            }
        }
        changes
    }

    /// Carries out changes. What is refused is looked at again and tried once more; returns what is refused then.
    pub(super) fn carry_out(
        &mut self,
        operations: &[Operation],
        report: &mut Report,
    ) -> anyhow::Result<Vec<(ServerKey, io::Error)>> {
        const CONTEXT: &str = "the virtual servers cannot be changed";
        let refused = self.kernel.carry_out(operations).context(CONTEXT)?;
        let again: BTreeSet<ServerKey> = refused
            .iter()
            .map(|(number, _)| *operations[*number].server())
            .collect();
        for operation in operations {
            if !again.contains(operation.server()) {
                self.carried_out(operation, report);
            }
        }
        let mut failed = Vec::new();
        for key in again {
            self.look_up(key)?;
            let operations = self.differ.operations(&key);
            let mut refused = self.kernel.carry_out(&operations).context(CONTEXT)?;
            if refused.is_empty() {
                for operation in &operations {
                    self.carried_out(operation, report);
                }
                continue;
            }
            self.look_up(key)?;
            let (number, error) = refused.swap_remove(0);
            tracing::debug!(operation = ?operations[number], %error, "refused");
            failed.push((key, error));
        }
        Ok(failed)
    }

    /// Finds what somebody else has changed.
    pub(super) fn look(&mut self) -> anyhow::Result<BTreeSet<ServerKey>> {
        let servers: BTreeMap<ServerKey, _> = self.kernel.servers()?.into_iter().collect();
        let known = self.differ.known();
        let gone = known.keys().filter(|key| !servers.contains_key(*key));
        let changed = servers
            .iter()
            .filter(|(key, terms)| known.get(key).is_none_or(|known| known.terms != **terms))
            .map(|(key, _)| key);
        let touched: BTreeSet<ServerKey> = gone.chain(changed).copied().collect();
        for key in &touched {
            let known = match servers.get(key) {
                None => None,
                Some(terms) => Some(KnownServer {
                    terms: terms.clone(),
                    destinations: self.kernel.destinations(key)?,
                }),
            };
            self.differ.know(*key, known);
        }
        Ok(touched)
    }

    /// Counts the connections of what drains; returns which drain.
    pub(super) fn count_draining(&mut self) -> anyhow::Result<BTreeSet<ServerKey>> {
        let mut touched = BTreeSet::new();
        for key in self.differ.draining() {
            let Some(known) = self.differ.known().get(&key) else {
                continue;
            };
            let known = KnownServer {
                terms: known.terms.clone(),
                destinations: self.kernel.destinations(&key)?,
            };
            self.differ.know(key, Some(known));
            touched.insert(key);
        }
        Ok(touched)
    }

    fn carried_out(&mut self, operation: &Operation, report: &mut Report) {
        self.differ.carried_out(operation);
        match operation {
            Operation::DeleteServer(_) | Operation::DeleteDestination(..) => report.deleted += 1,
            _ => report.written += 1,
        }
    }

    fn look_up(&mut self, key: ServerKey) -> anyhow::Result<()> {
        let servers = self
            .kernel
            .servers()
            .context("cannot list the virtual servers")?;
        let known = match servers.into_iter().find(|(found, _)| *found == key) {
            None => None,
            Some((_, terms)) => Some(KnownServer {
                terms,
                destinations: self
                    .kernel
                    .destinations(&key)
                    .context("cannot list destinations")?,
            }),
        };
        self.differ.know(key, known);
        Ok(())
    }
}

fn is_going(operation: &Operation) -> bool {
    match operation {
        Operation::DeleteServer(_) | Operation::DeleteDestination(..) => true,
        Operation::SetDestination(_, _, weight) => *weight == 0,
        _ => false,
    }
}
