//! Every policy with every state of a local and of a remote endpoint, seen from everywhere. What is expected is what
//! kube-proxy shows.

use crate::{
    place::{
        Backend::{self, A1, B1},
        Client::{Host, Outside, Pod},
        Node::One,
    },
    scenario::{Expect::TheSame, NODE_PORT, Scenario, VIP},
    service::{Endpoint, Service, cluster_ip, node_port, ready, serving, terminating, unready},
};

type State = (&'static str, fn(Backend) -> Option<Endpoint>);

const STATES: [State; 5] = [
    ("no", |_| None),
    ("a ready", |at| Some(ready(at))),
    ("a terminating and serving", |at| Some(serving(at))),
    ("a terminating", |at| Some(terminating(at))),
    ("an unready", |at| Some(unready(at))),
];

pub(crate) fn scenarios() -> Vec<Scenario> {
    let policies: [(&str, Service); 6] = [
        ("ClusterIP", cluster_ip()),
        ("ClusterIP, internally local", cluster_ip().internal_local()),
        ("NodePort", node_port()),
        ("NodePort, internally local", node_port().internal_local()),
        ("NodePort, externally local", node_port().external_local()),
        (
            "NodePort, internally and externally local",
            node_port().internal_local().external_local(),
        ),
    ];
    let mut scenarios = Vec::new();
    for (policy, service) in policies {
        for (of_local, local) in STATES {
            for (of_remote, remote) in STATES {
                let name =
                    format!("{policy}, {of_local} local endpoint, {of_remote} remote endpoint");
                let endpoints: Vec<_> = [local(A1), remote(B1)].into_iter().flatten().collect();
                let with_node_port = policy.starts_with("NodePort");
                let service = service.clone().slice(endpoints);
                scenarios.push(seen_from_everywhere(name, service, with_node_port));
            }
        }
    }
    scenarios
}

fn seen_from_everywhere(name: String, service: Service, with_node_port: bool) -> Scenario {
    let mut scenario = Scenario::new(name).step([service]);
    for client in [Pod(One), Host(One), Outside(One)] {
        scenario = scenario.sees(client, VIP, TheSame);
        if with_node_port {
            scenario = scenario.sees(client, NODE_PORT, TheSame);
        }
    }
    scenario
}
