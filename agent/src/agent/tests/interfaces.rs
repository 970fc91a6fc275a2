use super::*;
use crate::interfaces::{Addresses, Place};

#[test]
fn an_interface_that_refuses_the_programs_is_tried_again() {
    let mut bench = bench(&[]);
    begin(&mut bench);
    let pod = Interface {
        index: 7,
        name: "veth7".to_owned(),
        place: Place::Pod,
        ethernet: true,
        beyond: None,
        addresses: Addresses::default(),
    };
    bench.fake.told().fails = true;
    bench.agent.interface(InterfaceEvent::Added(pod));
    assert!(bench.metric("signpost_refusals 1"));
    assert!(bench.metric("signpost_interfaces 0"));
    bench.fake.told().fails = false;
    for _ in 0..RETRY_TICKS {
        bench.agent.tick(false);
    }
    assert_eq!(bench.fake.told().attached[&7], "veth7");
    assert!(bench.metric("signpost_refusals 0"));
    assert!(bench.metric("signpost_interfaces 1"));
    bench.agent.interface(InterfaceEvent::Removed(7));
    assert!(bench.fake.told().attached.is_empty());
    assert!(bench.metric("signpost_interfaces 0"));
}

#[test]
fn programs_that_are_lost_are_attached_again() {
    let mut bench = bench(&[]);
    begin(&mut bench);
    bench.agent.interface(InterfaceEvent::Added(Interface {
        index: 7,
        name: "veth7".to_owned(),
        place: Place::Pod,
        ethernet: true,
        beyond: None,
        addresses: Addresses::default(),
    }));
    let mut told = bench.fake.told();
    told.attached.clear();
    // Of the other one the agent knows nothing, or no longer.
    told.lost = vec![7, 8];
    drop(told);
    for _ in 0..RETRY_TICKS {
        bench.agent.tick(false);
    }
    let told = bench.fake.told();
    assert_eq!(told.attached.keys().collect::<Vec<_>>(), [&7]);
}

#[test]
fn interfaces_of_an_agent_before_this_one_are_left_when_they_are_not_found_again() {
    let mut bench = bench(&[]);
    let attached = [(7, "veth7".to_owned()), (8, "veth8".to_owned())];
    bench.fake.told().attached = attached.into();
    bench.agent.interface(InterfaceEvent::Added(Interface {
        index: 7,
        name: "veth7".to_owned(),
        place: Place::Wire,
        ethernet: true,
        beyond: None,
        addresses: Addresses::default(),
    }));
    begin(&mut bench);
    assert_eq!(bench.fake.told().attached.len(), 1);
    assert_eq!(bench.fake.told().attached[&7], "veth7");
}

#[test]
fn the_preferred_addresses_are_those_of_masqueraded_packets() {
    let mut bench = bench(&[]);
    let preferred = local(&["192.0.2.1", "192.0.2.2"], &["192.0.2.2"]);
    bench.agent.addresses(Some(preferred.clone()));
    assert_eq!(bench.fake.told().addresses, preferred.preferred);
}

#[test]
fn nothing_that_arrives_is_translated_before_all_that_leaves_is_finished() {
    let added = |index: u32| {
        InterfaceEvent::Added(Interface {
            index,
            name: format!("eth{index}"),
            place: Place::Wire,
            ethernet: true,
            beyond: None,
            addresses: Addresses::default(),
        })
    };
    let addresses = || Some(local(&["192.0.2.1"], &[]));
    for addresses_first in [false, true] {
        let mut bench = bench(&[]);
        for index in [2, 3] {
            bench.agent.interface(added(index));
        }
        if addresses_first {
            bench.agent.addresses(addresses());
        } else {
            bench.agent.interface(InterfaceEvent::Listed);
        }
        assert!(bench.fake.told().attached.is_empty());
        let guard = "programs attached to the pods' interfaces";
        assert!(bench.health.pending().contains(&guard.to_owned()));

        if addresses_first {
            bench.agent.interface(InterfaceEvent::Listed);
        } else {
            bench.agent.addresses(addresses());
        }
        let attached = |bench: &Bench| Vec::from_iter(bench.fake.told().attached.keys().copied());
        let told = |bench: &Bench| bench.fake.told().order.clone();
        assert_eq!(
            told(&bench),
            ["prepare 2", "prepare 3", "attach 2", "attach 3"]
        );
        assert_eq!(attached(&bench), [2, 3]);
        assert!(!bench.health.pending().contains(&guard.to_owned()));
        bench.agent.interface(added(4));
        assert_eq!(attached(&bench), [2, 3, 4]);
    }
}

/// The interfaces that there are, and this node's addresses, are known.
pub(super) fn begin(bench: &mut Bench) {
    bench.agent.interface(InterfaceEvent::Listed);
    bench.agent.addresses(Some(local(&["192.0.2.1"], &[])));
}
