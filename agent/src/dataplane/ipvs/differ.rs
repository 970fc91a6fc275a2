//! From what is wanted of virtual servers and what the kernel has to the fewest changes. Pure.
//!
//! What is not wanted any more goes gracefully. A destination of TCP or SCTP gets weight 0 and is deleted once no
//! connection to it is remembered; a virtual server goes with the last of its destinations. Of UDP both go at once.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::server::{KnownDestination, KnownServer, Operation, Server, ServerKey};
use crate::model::Protocol;

/// The weight of destinations that are wanted.
const WEIGHT: u32 = 1;
/// How many connections there are is not known.
const UNCOUNTED: u32 = u32::MAX;

/// What is wanted and what is known.
#[derive(Debug, Default)]
pub struct Differ {
    wanted: BTreeMap<ServerKey, Server>,
    known: BTreeMap<ServerKey, KnownServer>,
}

impl Differ {
    /// Says what the kernel has, all of it.
    pub fn set_known(&mut self, known: BTreeMap<ServerKey, KnownServer>) {
        self.known = known;
    }

    /// Says what the kernel has of one virtual server.
    pub fn know(&mut self, key: ServerKey, known: Option<KnownServer>) {
        match known {
            Some(known) => self.known.insert(key, known),
            None => self.known.remove(&key),
        };
    }

    /// Says what is wanted of one virtual server.
    pub fn want(&mut self, key: ServerKey, wanted: Option<Server>) {
        match wanted {
            Some(wanted) => self.wanted.insert(key, wanted),
            None => self.wanted.remove(&key),
        };
    }

    /// All virtual servers that are wanted, or that the kernel has.
    pub fn keys(&self) -> Vec<ServerKey> {
        let mut keys: Vec<ServerKey> = self
            .wanted
            .keys()
            .chain(self.known.keys())
            .copied()
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// What the kernel has.
    pub const fn known(&self) -> &BTreeMap<ServerKey, KnownServer> {
        &self.known
    }

    /// What is wanted.
    pub const fn wanted(&self) -> &BTreeMap<ServerKey, Server> {
        &self.wanted
    }

    /// The changes of one virtual server, in order: what comes is before what goes.
    pub fn operations(&self, key: &ServerKey) -> Vec<Operation> {
        match (self.wanted.get(key), self.known.get(key)) {
            (None, None) => Vec::new(),
            (None, Some(known)) if !known.terms.is_ours() => Vec::new(),
            (None, Some(known)) => going(key, known),
            (Some(wanted), None) => {
                let mut operations = vec![Operation::AddServer(*key, wanted.terms.clone())];
                let destinations = wanted.destinations.iter();
                operations
                    .extend(destinations.map(|to| Operation::AddDestination(*key, *to, WEIGHT)));
                operations
            }
            (Some(wanted), Some(known)) => changing(key, wanted, known),
        }
    }

    /// Takes down that the kernel carried out a change.
    pub fn carried_out(&mut self, operation: &Operation) {
        let destination = |weight| KnownDestination {
            weight,
            connections: UNCOUNTED,
        };
        match operation {
            Operation::AddServer(key, terms) => {
                let server = KnownServer {
                    terms: terms.clone(),
                    destinations: BTreeMap::new(),
                };
                self.known.insert(*key, server);
            }
            Operation::SetServer(key, terms) => {
                if let Some(known) = self.known.get_mut(key) {
                    known.terms = terms.clone();
                }
            }
            Operation::DeleteServer(key) => {
                self.known.remove(key);
            }
            Operation::AddDestination(key, to, weight)
            | Operation::SetDestination(key, to, weight) => {
                if let Some(known) = self.known.get_mut(key) {
                    known.destinations.insert(*to, destination(*weight));
                }
            }
            Operation::DeleteDestination(key, to) => {
                if let Some(known) = self.known.get_mut(key) {
                    known.destinations.remove(to);
                }
            }
        }
    }

    /// The virtual servers with destinations that go once their connections have: these have to be counted.
    pub fn draining(&self) -> Vec<ServerKey> {
        let drains = |(key, known): &(&ServerKey, &KnownServer)| {
            let wanted = self.wanted.get(key);
            let is_ours = wanted.is_some() || known.terms.is_ours();
            is_ours
                && known
                    .destinations
                    .iter()
                    .any(|(to, d)| d.weight == 0 && !is_wanted(wanted, to))
        };
        self.known.iter().filter(drains).map(|(k, _)| *k).collect()
    }

    /// Whether one of our virtual servers at this address is in the kernel.
    pub fn serves_at(&self, address: IpAddr) -> bool {
        let end = |protocol, port| ServerKey {
            protocol,
            address,
            port,
        };
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .flat_map(|protocol| self.known.range(end(protocol, 0)..=end(protocol, u16::MAX)))
            .any(|(_, known)| known.terms.is_ours())
    }
}

fn is_wanted(wanted: Option<&Server>, to: &SocketAddr) -> bool {
    wanted.is_some_and(|wanted| wanted.destinations.binary_search(to).is_ok())
}

fn going(key: &ServerKey, known: &KnownServer) -> Vec<Operation> {
    if key.protocol == Protocol::Udp {
        return vec![Operation::DeleteServer(*key)];
    }
    let mut operations: Vec<Operation> = known
        .destinations
        .iter()
        .filter_map(|(to, destination)| leave(key, to, destination))
        .collect();
    let left = known.destinations.len()
        - operations
            .iter()
            .filter(|o| matches!(o, Operation::DeleteDestination(..)))
            .count();
    if left == 0 {
        operations = vec![Operation::DeleteServer(*key)];
    }
    operations
}

fn changing(key: &ServerKey, wanted: &Server, known: &KnownServer) -> Vec<Operation> {
    let mut operations = Vec::new();
    if wanted.terms != known.terms {
        operations.push(Operation::SetServer(*key, wanted.terms.clone()));
    }
    for to in &wanted.destinations {
        match known.destinations.get(to) {
            None => operations.push(Operation::AddDestination(*key, *to, WEIGHT)),
            Some(known) if known.weight != WEIGHT => {
                operations.push(Operation::SetDestination(*key, *to, WEIGHT));
            }
            Some(_) => {}
        }
    }
    let unwanted = known.destinations.iter();
    let unwanted = unwanted.filter(|(to, _)| !is_wanted(Some(wanted), to));
    operations.extend(unwanted.filter_map(|(to, destination)| leave(key, to, destination)));
    operations
}

/// The next step of a destination that goes; `None` while it has connections.
fn leave(key: &ServerKey, to: &SocketAddr, known: &KnownDestination) -> Option<Operation> {
    let at_once = key.protocol == Protocol::Udp;
    if at_once || (known.weight == 0 && known.connections == 0) {
        Some(Operation::DeleteDestination(*key, *to))
    } else if known.weight != 0 {
        Some(Operation::SetDestination(*key, *to, 0))
    } else {
        None
    }
}
