use super::{interfaces::begin, socket_pods::PodSockets, *};
use crate::{
    interfaces::{Addresses, Place},
    namespaces::PodNamespace,
};

fn some() -> Addresses {
    Addresses {
        v4: Some([10, 244, 1, 9].into()),
        v6: None,
    }
}

/// A pod that an interface leads to, and one that none does.
fn pods() -> Namespaces {
    Namespaces {
        pods: vec![
            PodNamespace::known(1, "veth", Some(7), some()),
            PodNamespace::known(2, "macvlan", None, some()),
        ],
        trouble: None,
    }
}

fn interface() -> Interface {
    Interface {
        index: 12,
        name: "veth12".to_owned(),
        place: Place::Pod,
        ethernet: true,
        beyond: Some(7),
        addresses: Addresses::default(),
    }
}

fn said(bench: &Bench) -> Vec<BTreeMap<String, Served>> {
    bench.fake.told().at_sockets.clone()
}

fn served(veth: Served, macvlan: Served) -> BTreeMap<String, Served> {
    [("veth".to_owned(), veth), ("macvlan".to_owned(), macvlan)].into()
}

#[test]
fn a_pod_whose_interface_has_no_programs_is_served_at_its_sockets_until_it_has() {
    let mut bench = bench(&[]);
    bench.agent = bench.agent.with_pod_sockets(PodSockets::Missing);
    bench.agent.namespaces(pods());
    assert_eq!(said(&bench), [], "the interfaces are not known yet");

    bench.fake.told().fails = true;
    bench.agent.interface(InterfaceEvent::Added(interface()));
    begin(&mut bench);
    let both = served(Served::Everything, Served::Everything);
    assert_eq!(said(&bench), std::slice::from_ref(&both));

    bench.fake.told().fails = false;
    for _ in 0..RETRY_TICKS {
        bench.agent.tick(false);
    }
    let one = served(Served::Nothing, Served::Everything);
    assert_eq!(said(&bench), [both.clone(), one.clone()]);

    bench.agent.interface(InterfaceEvent::Removed(12));
    assert_eq!(said(&bench), [both.clone(), one, both]);
}

#[test]
fn a_pod_that_cannot_be_served_at_its_sockets_is_told_of_and_tried_again() {
    let mut bench = bench(&[]);
    bench.agent = bench.agent.with_pod_sockets(PodSockets::Missing);
    bench.fake.told().refuses_sockets = vec![Refusal {
        object: "pod macvlan".to_owned(),
        reason: "no cookie".to_owned(),
    }];
    begin(&mut bench);
    bench.agent.interface(InterfaceEvent::Added(interface()));
    bench.agent.namespaces(pods());
    bench.agent.notice();
    assert!(bench.metric("signpost_refusals 1"));
    bench.fake.told().refuses_sockets.clear();
    let times = said(&bench).len();
    for _ in 0..RETRY_TICKS {
        bench.agent.tick(false);
    }
    assert_eq!(said(&bench).len(), times + 1);
    assert!(bench.metric("signpost_refusals 0"));
}
