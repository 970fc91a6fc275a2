//! Pods and processes that reach themselves through a Service.

use std::collections::BTreeSet;

use crate::{
    place::{
        Backend::{A1, A2, B1, H1},
        Client::{Host, Inside},
        Node::One,
    },
    scenario::{Expect, Scenario, Source, VIP, reaches, reaches_as},
    service::{cluster_ip, ready},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("a pod reaches itself")
            .step([cluster_ip().slice([ready(A1)])])
            .sees(Inside(A1), VIP, reaches_as(&Source::Of(One), &[A1])),
        Scenario::new("a pod reaches itself and others")
            .step([cluster_ip().slice([ready(A1), ready(A2), ready(B1)])])
            .sees(Inside(A1), VIP, with_itself(&Source::Of(One))),
        Scenario::new("a pod that serves reaches another one of its Service")
            .step([cluster_ip().slice([ready(A2)])])
            .sees(Inside(A1), VIP, reaches(&[A2])),
        Scenario::new("a process of the host reaches itself")
            .step([cluster_ip().slice([ready(H1)])])
            .sees(Host(One), VIP, reaches(&[H1])),
    ]
}

/// A1 sees this source when it asks itself; the others see its own address.
fn with_itself(source: &Source) -> Expect {
    let (Expect::All(own), Expect::All(others)) = (reaches_as(source, &[A1]), reaches(&[A2, B1]))
    else {
        unreachable!("both are sets");
    };
    Expect::All(own.union(&others).cloned().collect::<BTreeSet<_>>())
}
