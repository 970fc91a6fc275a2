//! Differences of the eBPF mode.

use signpost_tests::lab::probe::Protocol;

use super::{Difference, Instead::Each, OF_ANOTHER_PROXY, REFUSED_TO_DATAGRAMS, REFUSED_TO_PINGS};
use crate::{
    place::Client,
    scenario::{At, Observed, Source},
};

/// All of them. The first that says something counts.
pub(super) const ALL: &[Difference] = &[
    OF_ANOTHER_PROXY,
    Difference {
        why: "a pod that reaches itself sees the address that it asked, not the node's: the packet never enters the \
              node's stack, where it would be dropped",
        instead: Each(|look, kube_proxy| match (look.case.client, kube_proxy) {
            (Client::Inside(itself), Observed::Answer { by, .. }) if by == itself.name() => {
                Some(kube_proxy.to(Source::Asked))
            }
            _ => None,
        }),
    },
    Difference {
        why: "a pod keeps its address towards its own node's NodePorts and towards external addresses: its packets are \
              translated at its own interface, where the replies come by; kube-proxy must make them come to the node",
        instead: Each(|look, kube_proxy| {
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
        }),
    },
    REFUSED_TO_DATAGRAMS,
    Difference {
        why: "a datagram of a connected socket of the host, or its ping, to an address that no Service has vanishes: no \
              program sees them before they leave; kube-proxy's rule keeps them from leaving, which says EPERM",
        instead: Each(|look, kube_proxy| {
            (look.is_of_host()
                && look.protocol != Protocol::Tcp
                && *kube_proxy == Observed::Denied
                && look.case.target.at == At::Unallocated)
                .then_some(Observed::Silence)
        }),
    },
    REFUSED_TO_PINGS,
    Difference {
        why: "a process of the host whose connection is dropped is told at once that nobody will answer",
        instead: Each(|look, kube_proxy| {
            (look.is_of_host()
                && look.protocol == Protocol::Tcp
                && *kube_proxy == Observed::Silence)
                .then_some(Observed::TimedOut)
        }),
    },
];
