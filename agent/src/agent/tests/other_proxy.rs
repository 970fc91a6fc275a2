use super::*;

#[test]
fn the_programs_and_operators_are_told_of_another_proxy() {
    let mut bench = bench(&[]);
    bench.agent.tick(true);
    let last = |bench: &Bench| bench.published.0.lock().unwrap().reports.pop().unwrap();
    assert_eq!(last(&bench).other_proxy, None);
    let other_proxy = OtherProxy {
        connections: 2,
        drain: true,
        ..OtherProxy::default()
    };
    bench.agent.other_proxy(Some(other_proxy.clone()));
    let handover = bench.fake.told().handover;
    assert!(handover.takeover && handover.drain);
    bench.agent.tick(true);
    assert_eq!(last(&bench).other_proxy, Some(other_proxy));
}
