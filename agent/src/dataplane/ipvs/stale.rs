//! Flows of UDP that connection tracking remembers to backends that serve no more.
//!
//! IPVS drops a packet of such a flow before it chooses anew, since the entry belongs to another backend; without the entry
//! it chooses at once.

use std::io;

use super::{differ::Differ, server::ServerKey};
use crate::{
    dataplane::netfilter::conntrack::{self, Entry},
    model::Protocol,
};

/// Deletes them; returns how many.
///
/// # Errors
/// Where connection tracking cannot be listed.
pub(super) fn forget(differ: &Differ) -> io::Result<usize> {
    let mut deleted = 0;
    for entry in conntrack::all_entries()? {
        if is_stale(&entry, differ) && conntrack::delete(&entry).is_ok() {
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// As kube-proxy's reconciler has it: Services without endpoints are passed over.
fn is_stale(entry: &Entry, differ: &Differ) -> bool {
    if entry.protocol != Protocol::Udp.number() {
        return false;
    }
    let key = ServerKey {
        protocol: Protocol::Udp,
        address: entry.original.destination.ip(),
        port: entry.original.destination.port(),
    };
    let Some(server) = differ.wanted().get(&key) else {
        return false;
    };
    server
        .destinations
        .binary_search(&entry.reply.source)
        .is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{
        ipvs::server::{OURS, Server, Terms},
        netfilter::conntrack::Ends,
    };

    #[test]
    fn only_flows_to_backends_that_are_gone_are_forgotten() {
        let mut differ = Differ::default();
        let key = ServerKey {
            protocol: Protocol::Udp,
            address: "10.96.0.10".parse().unwrap(),
            port: 53,
        };
        let server = Server {
            terms: Terms {
                scheduler: "rr".into(),
                flags: OURS,
                persistence: None,
            },
            destinations: vec!["10.1.0.1:5353".parse().unwrap()],
        };
        differ.want(key, Some(server));
        let entry = |protocol, to: &str, from: &str| {
            let client = "10.1.0.9:4000".parse().unwrap();
            let original = Ends {
                source: client,
                destination: to.parse().unwrap(),
            };
            let reply = Ends {
                source: from.parse().unwrap(),
                destination: client,
            };
            Entry::new(protocol, original, reply)
        };
        let cases = [
            (17, "10.96.0.10:53", "10.1.0.2:5353", true),
            (17, "10.96.0.10:53", "10.96.0.10:53", true),
            (17, "10.96.0.10:53", "10.1.0.1:5353", false),
            (6, "10.96.0.10:53", "10.1.0.2:5353", false),
            (17, "10.96.0.11:53", "10.1.0.2:5353", false),
        ];
        for (protocol, to, from, stale) in cases {
            let found = is_stale(&entry(protocol, to, from), &differ);
            assert_eq!(found, stale, "{protocol} {to} {from}");
        }
    }
}
