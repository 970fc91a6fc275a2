use signpost::interfaces::{Interface, InterfaceEvent, follow};
use signpost_tests::lab::links::remove;
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
            let following = tokio::spawn(follow(vec!["veth*".to_owned()], sender));
            assert_eq!(next(&mut events).await, InterfaceEvent::Listed);

            connect(&node, &pod);
            let index = index("veth0");
            let name = "veth0".to_owned();
            assert_eq!(
                next(&mut events).await,
                InterfaceEvent::Added(Interface { index, name })
            );
            remove(&node, "veth0").unwrap();
            assert_eq!(next(&mut events).await, InterfaceEvent::Removed(index));
            drop(events);
            following.await.unwrap().unwrap();
        });
    })
    .unwrap();
}
