//! `ipvsadm` as a second witness of what clients saw: whoever answered is a destination of the virtual server, and where
//! clients are sent to all that serve, all of its destinations answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context as _, Result};
use signpost_tests::lab::{self, probe::Protocol};

use crate::{
    place::{Backend, Node},
    run::Look,
    scenario::{Expect, Observed},
    world::Provider,
};

/// The destinations that get connections, by protocol and address of their virtual server.
type Servers = BTreeMap<(Protocol, SocketAddr), BTreeSet<SocketAddr>>;

/// What `ipvsadm` says on each node.
pub(crate) struct Witness(BTreeMap<Node, Servers>);

impl Witness {
    /// Asks it.
    pub(crate) fn hear(nodes: &[(Node, lab::Node)]) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (node, place) in nodes {
            let text = place.command("ipvsadm")?.args(["-S", "-n"]).text()?;
            let mut servers = Servers::new();
            for line in text.lines() {
                let destination = destination(line).with_context(|| line.to_owned())?;
                if let Some((server, to)) = destination {
                    servers.entry(server).or_default().insert(to);
                }
            }
            all.insert(*node, servers);
        }
        Ok(Self(all))
    }

    /// What it says against a look at this address.
    pub(crate) fn against(&self, look: &Look<'_>, asked: SocketAddr) -> Option<String> {
        // A connection that is older may have a destination that gets no new ones.
        if look.case.over.is_some() || look.protocol == Protocol::Ping {
            return None;
        }
        let answered: BTreeSet<&str> = look.seen[&Provider::Signpost]
            .iter()
            .filter_map(|seen| match seen {
                Observed::Answer { by, .. } => Some(by.as_str()),
                _ => None,
            })
            .filter(|by| Backend::named(by).is_some())
            .collect();
        if answered.is_empty() {
            return None;
        }
        let servers = &self.0[&look.node()];
        let none = BTreeSet::new();
        let known = servers.get(&(look.protocol, asked)).unwrap_or(&none);
        let names: BTreeSet<&str> = Backend::ALL
            .into_iter()
            .filter(|backend| {
                let address = look.family.of(backend.addresses());
                known.iter().any(|to| to.ip() == address)
            })
            .map(Backend::name)
            .collect();
        let is_right = match look.case.expect {
            Expect::One(_) => answered.is_subset(&names),
            _ => answered == names || look.keeps_clients() && answered.is_subset(&names),
        };
        (!is_right).then(|| format!("ipvsadm has {names:?} at {asked}"))
    }
}

/// A destination with a weight, of a line such as `-a -t 10.96.1.1:80 -r 10.244.2.2:8080 -m -w 1`.
fn destination(line: &str) -> Result<Option<((Protocol, SocketAddr), SocketAddr)>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["-a", protocol, server, "-r", to, "-m", "-w", weight] = words[..] else {
        return Ok(None);
    };
    let protocol = match protocol {
        "-t" => Protocol::Tcp,
        "-u" => Protocol::Udp,
        _ => return Ok(None),
    };
    Ok((weight != "0").then_some(((protocol, server.parse()?), to.parse()?)))
}
