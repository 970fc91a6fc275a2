//! The loop itself: what it waits for, and what ends it.

use super::*;

#[tokio::test]
async fn a_change_is_carried_out_within_a_moment_and_churn_in_few_rounds() {
    let bench = bench(&["10.96.0.10"]);
    let (inputs, events, _others) = inputs();
    let stop = CancellationToken::new();
    let running = tokio::spawn(bench.agent.run(inputs, stop.clone()));
    for event in lists(Kind::ALL) {
        events.send(event).await.unwrap();
    }
    let count = || bench.fake.told().updates.len();
    let begun = std::time::Instant::now();
    while count() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // A round takes ten milliseconds from now on.
    bench.fake.told().takes = Duration::from_millis(10);
    let begun = std::time::Instant::now();
    for n in 0..200 {
        let address = format!("10.96.1.{n}");
        events
            .send(service("dev", &format!("s{n}"), &address))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rounds = count() - 1;
    let most = (begun.elapsed().as_millis() + 500) / 50 + 1;
    assert!(rounds >= 2, "{rounds} rounds");
    assert!(rounds as u128 <= most, "{rounds} rounds");
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_source_that_ends_ends_the_agent_with_an_error() {
    let bench = bench(&[]);
    let (inputs, events, _others) = inputs();
    drop(events);
    let ended = bench.agent.run(inputs, CancellationToken::new()).await;
    assert!(ended.unwrap_err().to_string().contains("source"));
}

/// What the loop hears, who says the events, and who says the rest.
fn inputs() -> (Inputs, mpsc::Sender<Event>, impl Sized) {
    let (events_in, events) = mpsc::channel(64);
    let (interfaces_in, interfaces) = mpsc::channel(64);
    let (in_sync_in, in_sync) = watch::channel(true);
    let (addresses_in, addresses) = watch::channel(None);
    let (namespaces_in, namespaces) = watch::channel(Namespaces::default());
    let (zone_in, zone) = watch::channel((30, Arc::default()));
    let (other_proxy_in, other_proxy) = watch::channel(None);
    let inputs = Inputs {
        events,
        interfaces,
        namespaces,
        addresses,
        in_sync,
        zone,
        other_proxy,
    };
    let others = (
        interfaces_in,
        namespaces_in,
        in_sync_in,
        addresses_in,
        zone_in,
        other_proxy_in,
    );
    (inputs, events_in, others)
}
