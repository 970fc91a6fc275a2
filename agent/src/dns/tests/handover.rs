//! What the server hands over to the agent.

use std::{sync::atomic::Ordering, time::Duration};

use hickory_proto::rr::RecordType;
use tokio::time::{sleep, timeout};

use super::stand::{Bench, Kept, question, with_edns};
use crate::feed::cached::{Asked, Cached, End, Question};

/// Waits until something is so.
async fn until(kept: &Kept, is: impl Fn(&Kept) -> bool) {
    let waiting = async {
        while !is(kept) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = timeout(Duration::from_secs(10), waiting).await;
    waited.unwrap_or_else(|_| panic!("{:?}", kept.answers()));
}

fn of(name: &str, qtype: RecordType) -> Question {
    Question {
        name: name.parse().unwrap(),
        qtype: qtype.into(),
    }
}

/// The answer to a question, once it was handed over.
async fn handed(bench: &Bench, name: &str) -> Cached {
    let question = of(name, RecordType::A);
    let find = |kept: &Kept| {
        let answers = kept.answers();
        answers
            .into_iter()
            .find(|answer| answer.question == question)
    };
    until(&bench.kept, |kept| find(kept).is_some()).await;
    find(&bench.kept).unwrap()
}

#[tokio::test]
async fn answers_and_denials_are_handed_over_with_all_that_leads_to_them() {
    let bench = Bench::new(&[]).await;
    let before = super::super::clock::monotonic().unwrap();
    for name in ["www.example.com.", "eXample.com.", "none.example.com."] {
        bench.ask(name, RecordType::A).await;
    }
    let www = handed(&bench, "www.example.com").await;
    assert_eq!(www.chain, ["example.com".parse().unwrap()]);
    assert_eq!(www.end, End::Addresses(vec![[192, 0, 2, 1].into()]));
    assert!(www.recursion_available && !www.authoritative && !www.authentic_data);
    // The smallest TTL, counted from when it came.
    let now = super::super::clock::monotonic().unwrap();
    let life = 20_000_000_000;
    assert!((before + life - 1_000_000..=now + life).contains(&www.until));
    assert_eq!(www.until - www.due, life / 10);
    assert!(handed(&bench, "example.com").await.chain.is_empty());
    let none = handed(&bench, "none.example.com").await;
    let End::NxDomain(soa) = none.end else {
        panic!("{none:?}")
    };
    assert_eq!(soa.numbers, [1, 2, 3, 4, 15]);
}

#[tokio::test]
async fn what_is_not_for_everybody_is_not_handed_over() {
    let bench = Bench::new(&[]).await;
    let mut unchecked = question("www.example.com.", RecordType::A);
    unchecked.metadata.checking_disabled = true;
    let signed = with_edns(question("www.example.com.", RecordType::A), 1232, 0);
    for asked in [&unchecked, &signed] {
        bench.udp(asked).await;
        bench.udp(asked).await;
    }
    for name in [
        "ent.dev.svc.cluster.local.",
        "none.dev.svc.cluster.local.",
        "refused.example.com.",
    ] {
        bench.ask(name, RecordType::A).await;
    }
    bench.ask("www.example.com.", RecordType::MX).await;
    // An alias in the cluster leads to a name that is everybody's; the alias is the cluster's.
    bench.ask("ext.dev.svc.cluster.local.", RecordType::A).await;
    handed(&bench, "www.example.com").await;
    let names = bench
        .kept
        .answers()
        .into_iter()
        .map(|answer| answer.question);
    let expected = [of("www.example.com", RecordType::A)];
    assert_eq!(names.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_the_kernel_gives_often_is_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dns.yaml");
    let prefetch = "cache: {prefetch: {hits: 10, within: 1m, percentage: 90}}";
    std::fs::write(&file, prefetch).unwrap();
    let bench = Bench::new(&["--dns-config", file.to_str().unwrap()]).await;
    bench.ask("www.example.com.", RecordType::A).await;
    let first = handed(&bench, "www.example.com").await;
    until(&bench.kept, |kept| {
        kept.say(Asked {
            question: of("www.example.com", RecordType::A),
            hits: 30,
        });
        kept.answers().len() > 1
    })
    .await;
    assert_eq!(bench.upstream.asked.load(Ordering::Relaxed), 2);
    let second = bench.kept.answers().pop().unwrap();
    assert_eq!(second.question, first.question);
    assert!(second.until > first.until);
}

#[tokio::test]
async fn another_configuration_takes_everything_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dns.yaml");
    std::fs::write(&file, "").unwrap();
    let bench = Bench::new(&["--dns-config", file.to_str().unwrap()]).await;
    bench.ask("www.example.com.", RecordType::A).await;
    handed(&bench, "www.example.com").await;
    let hosts =
        "hosts: {entries: [{address: 192.0.2.80, names: [www.example.com]}], fallthrough: [.]}";
    std::fs::write(&file, hosts).unwrap();
    until(&bench.kept, |kept| kept.answers().is_empty()).await;
    // The zone comes after the upstreams, and takes it back once more.
    until(&bench.kept, |kept| kept.flushes() > 2).await;
    bench.ask("www.example.com.", RecordType::A).await;
    bench.ask("example.com.", RecordType::A).await;
    handed(&bench, "example.com").await;
    let names = bench
        .kept
        .answers()
        .into_iter()
        .map(|answer| answer.question);
    let expected = [of("example.com", RecordType::A)];
    assert_eq!(names.collect::<Vec<_>>(), expected);
}
