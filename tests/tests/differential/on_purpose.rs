//! Where signpost differs from kube-proxy on purpose, and what it shows instead. A scenario says what kube-proxy shows.

use std::collections::BTreeSet;

use signpost_tests::lab::probe::Protocol;

use crate::{
    place::{Client, THE_WORLD},
    run::Look,
    scenario::{At, Expect, Observed, Source},
};

/// A difference.
pub(crate) struct Difference {
    pub(crate) why: &'static str,
    /// What signpost shows where kube-proxy shows this; nothing where they show the same.
    instead: fn(&Look<'_>, &Observed) -> Option<Observed>,
}

/// All of them. The first that says something counts.
pub(crate) const ON_PURPOSE: &[Difference] = &[
    Difference {
        why: "the address of a Service that another proxy serves is left to that proxy; kube-proxy drops what is for it",
        instead: |look, kube_proxy| {
            (*kube_proxy == Observed::Silence && look.is_for_another_proxy()).then(|| {
                Observed::Answer {
                    by: THE_WORLD.to_owned(),
                    to: Source::Own,
                }
            })
        },
    },
    Difference {
        why: "a pod that reaches itself sees the address that it asked, not the node's: the packet never enters the \
              node's stack, where it would be dropped",
        instead: |look, kube_proxy| match (look.case.client, kube_proxy) {
            (Client::Inside(itself), Observed::Answer { by, .. }) if by == itself.name() => {
                Some(kube_proxy.to(Source::Asked))
            }
            _ => None,
        },
    },
    Difference {
        why: "a pod keeps its address towards its own node's NodePorts and towards external addresses: its packets are \
              translated at its own interface, where the replies come by; kube-proxy must make them come to the node",
        instead: |look, kube_proxy| {
            let own = match look.case.target.at {
                At::NodePort(node) => look.case.client.node() == node,
                At::ExternalIp | At::Ingress => true,
                _ => false,
            };
            match kube_proxy {
                Observed::Answer {
                    to: Source::Of(_) | Source::Asked,
                    ..
                } if own && look.case.client.is_pod() => Some(kube_proxy.to(Source::Own)),
                _ => None,
            }
        },
    },
    Difference {
        why: "a process of the host that is refused learns so from its datagrams too; kube-proxy's rule keeps these \
              from leaving, which says EPERM before the refusal is there",
        instead: |look, kube_proxy| {
            let refused = BTreeSet::from([Observed::Refused]);
            (look.is_of_host()
                && look.protocol == Protocol::Udp
                && *kube_proxy == Observed::Denied
                && look.with_tcp.as_ref() == Some(&refused))
            .then_some(Observed::Refused)
        },
    },
    Difference {
        why: "a datagram of a connected socket of the host, or its ping, to an address that no Service has vanishes: no \
              program sees them before they leave; kube-proxy's rule keeps them from leaving, which says EPERM",
        instead: |look, kube_proxy| {
            (look.is_of_host()
                && look.protocol != Protocol::Tcp
                && *kube_proxy == Observed::Denied
                && look.case.target.at == At::Unallocated)
                .then_some(Observed::Silence)
        },
    },
    Difference {
        why: "a process of the host that pings a Service is refused; kube-proxy's rule keeps its packet from leaving, \
              which says EPERM",
        instead: |look, kube_proxy| {
            (look.is_of_host()
                && look.protocol == Protocol::Ping
                && *kube_proxy == Observed::Denied
                && look.case.target.at == At::ClusterIp)
                .then_some(Observed::Refused)
        },
    },
    Difference {
        why: "a process of the host whose connection is dropped is told at once that nobody will answer",
        instead: |look, kube_proxy| {
            (look.is_of_host()
                && look.protocol == Protocol::Tcp
                && *kube_proxy == Observed::Silence)
                .then_some(Observed::TimedOut)
        },
    },
];

/// What signpost shows where kube-proxy shows this.
pub(crate) fn instead(look: &Look<'_>, kube_proxy: &Expect) -> Expect {
    let change = |set: &BTreeSet<Observed>| -> BTreeSet<Observed> {
        set.iter().map(|seen| changed(look, seen).1).collect()
    };
    match kube_proxy {
        Expect::All(all) => Expect::All(change(all)),
        Expect::One(some) => Expect::One(change(some)),
        Expect::TheSame => Expect::TheSame,
    }
}

/// The differences that count for a look, by their place in the list.
pub(crate) fn counting(look: &Look<'_>, seen: &BTreeSet<Observed>) -> BTreeSet<usize> {
    seen.iter()
        .filter_map(|seen| changed(look, seen).0)
        .collect()
}

fn changed(look: &Look<'_>, seen: &Observed) -> (Option<usize>, Observed) {
    let mut list = ON_PURPOSE.iter().enumerate();
    list.find_map(|(number, difference)| {
        let instead = (difference.instead)(look, seen)?;
        let differs = instead != *seen;
        Some((differs.then_some(number), instead))
    })
    .unwrap_or_else(|| (None, seen.clone()))
}
