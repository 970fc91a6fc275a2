//! Differences of the IPVS mode. They are what kube-proxy's own IPVS mode does too, but for the first and the last two.

use std::collections::BTreeSet;

use signpost_tests::lab::probe::Protocol;

use super::{
    Difference,
    Instead::{AnyOf, Each},
    OF_ANOTHER_PROXY, REFUSED_TO_DATAGRAMS, REFUSED_TO_PINGS,
};
use crate::{
    place::{Backend, THE_WORLD},
    scenario::{At, Observed, Source},
};

/// All of them. The first that says something counts.
pub(super) const ALL: &[Difference] = &[
    OF_ANOTHER_PROXY,
    Difference {
        why: "a virtual server has one set of endpoints: with externalTrafficPolicy Local clients inside the cluster get \
              those of the node, where there are some",
        instead: Each(|look, kube_proxy| {
            let node = match look.case.target.at {
                At::NodePort(_) | At::ExternalIp | At::Ingress => look.node(),
                _ => return None,
            };
            let Observed::Answer { by, to } = kube_proxy else {
                return None;
            };
            let local = look.local_endpoints(node);
            if !look.is_externally_local()
                || Backend::named(by).is_none()
                || local.iter().any(|b| b.name() == by)
            {
                return None;
            }
            local.first().map(|backend| Observed::Answer {
                by: backend.name().to_owned(),
                to: to.clone(),
            })
        }),
    },
    Difference {
        why: "an external address of a Service is the node's own: what nobody serves there is refused, and it goes some \
              seconds after the last connection to it",
        instead: AnyOf(|look| {
            let the_world = Observed::Answer {
                by: THE_WORLD.to_owned(),
                to: Source::Own,
            };
            let is_external = matches!(look.case.target.at, At::ExternalIp | At::Ingress);
            let differs = is_external && look.of_kube_proxy().contains(&the_world);
            differs.then(|| BTreeSet::from([the_world, Observed::Refused]))
        }),
    },
    Difference {
        why: "a datagram leaves an endpoint that terminates as soon as there are others, though it serves",
        instead: Each(|look, kube_proxy| {
            let Observed::Answer { by, to } = kube_proxy else {
                return None;
            };
            let ready = look.ready_endpoints();
            let moves = look.protocol == Protocol::Udp && look.case.over.is_some();
            if !moves || ready.is_empty() || ready.iter().any(|b| b.name() == by) {
                return None;
            }
            ready.first().map(|backend| Observed::Answer {
                by: backend.name().to_owned(),
                to: to.clone(),
            })
        }),
    },
    Difference {
        why: "each way to a Service has a virtual server of its own, which knows of no client that has come by another",
        instead: AnyOf(|look| {
            let is_other_way = look.keeps_clients() && look.step > 1;
            if !is_other_way || look.case.target.at == At::ClusterIp {
                return None;
            }
            let answer = |backend: Backend| Observed::Answer {
                by: backend.name().to_owned(),
                to: Source::Own,
            };
            Some(look.endpoints().into_iter().map(answer).collect())
        }),
    },
    REFUSED_TO_DATAGRAMS,
    REFUSED_TO_PINGS,
];
