use signpost::interfaces::{Addresses, Interface, InterfaceEvent, Patterns, Place, follow};
use signpost_tests::lab::links::{add_addresses, bridge, enslave, remove};
use tokio::{sync::mpsc, time::timeout};

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

async fn next(events: &mut mpsc::Receiver<InterfaceEvent>) -> InterfaceEvent {
    timeout(PATIENCE, events.recv())
        .await
        .expect("nothing was heard")
        .expect("it ended")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn pods_interfaces_are_reported_as_they_come_and_go_and_others_are_not() {
    let (node, pod) = (namespace(), namespace());
    // Both ends are on the node: not a pod's.
    let end = |name| End {
        namespace: &node,
        name,
        mac: None,
    };
    veth(&end("veth8"), &end("veth9"), 1500).unwrap();
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (sender, mut events) = mpsc::channel(8);
            let patterns = Patterns {
                pods: vec!["veth*".to_owned()],
                wires: Vec::new(),
            };
            let following = tokio::spawn(follow(patterns, sender));
            assert_eq!(next(&mut events).await, InterfaceEvent::Listed);

            connect(&node, &pod);
            let index = index("veth0");
            let name = "veth0".to_owned();
            assert_eq!(
                next(&mut events).await,
                InterfaceEvent::Added(Interface {
                    index,
                    name,
                    place: Place::Pod,
                    ethernet: true,
                    // The first one that this namespace has a number for.
                    beyond: Some(0),
                    addresses: Addresses::default(),
                })
            );
            remove(&node, "veth0").unwrap();
            assert_eq!(next(&mut events).await, InterfaceEvent::Removed(index));
            drop(events);
            following.await.unwrap().unwrap();
        });
    })
    .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_uplink_is_found_and_the_bridge_of_the_pods_is_not() {
    let (node, pod, world) = (namespace(), namespace(), namespace());
    let v4 = |text: &str| vec![(text.parse().unwrap(), 24)];
    bridge(&node, "cni0").unwrap();
    connect(&node, &pod);
    enslave(&node, "veth0", "cni0").unwrap();
    add_addresses(&node, "cni0", &v4("10.244.1.1")).unwrap();
    let end = |namespace, name| End {
        namespace,
        name,
        mac: None,
    };
    veth(&end(&node, "uplink"), &end(&world, "eth0"), 1500).unwrap();
    add_addresses(&node, "uplink", &v4("192.0.2.7")).unwrap();
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (sender, mut events) = mpsc::channel(8);
            let patterns = Patterns {
                pods: vec!["veth*".to_owned()],
                wires: Vec::new(),
            };
            tokio::spawn(follow(patterns, sender));
            let mut found = BTreeMap::new();
            while let InterfaceEvent::Added(interface) = next(&mut events).await {
                found.insert(
                    interface.name.clone(),
                    (interface.place, interface.addresses.v4),
                );
            }
            assert_eq!(
                found,
                BTreeMap::from([
                    (
                        "uplink".to_owned(),
                        (Place::Wire, Some([192, 0, 2, 7].into()))
                    ),
                    // A packet for this pod leaves by the bridge.
                    (
                        "veth0".to_owned(),
                        (Place::Pod, Some([10, 244, 1, 1].into()))
                    ),
                ])
            );
        });
    })
    .unwrap();
}
