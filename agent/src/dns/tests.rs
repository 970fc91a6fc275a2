//! The server on real sockets of the loopback: with an agent's feed, a fake upstream, and two parsers.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::atomic::Ordering,
};

use hickory_proto::{
    op::{Edns, Message, OpCode, ResponseCode},
    rr::{RData, RecordType},
};
use rstest::rstest;
use tokio::time::{sleep, timeout};

use super::*;
use crate::model::{Event, ServiceKind};

mod configured;
mod encrypted;
mod forwarding;
mod handover;
mod logged;
mod stand;

use stand::*;

#[tokio::test]
async fn a_cluster_name_is_answered_with_authority_and_in_the_askers_letters() {
    let bench = Bench::new(&[]).await;
    for answer in [
        bench.ask("eNT.dev.SVC.Cluster.Local.", RecordType::A).await,
        bench
            .tcp(&question("eNT.dev.SVC.Cluster.Local.", RecordType::A))
            .await,
    ] {
        let metadata = &answer.metadata;
        assert!(metadata.authoritative && metadata.recursion_desired);
        assert!(!metadata.recursion_available && !metadata.truncation);
        assert_eq!(addresses(&answer), [Ipv4Addr::new(10, 96, 1, 1)]);
        assert_eq!(answer.answers[0].ttl, 30);
        let written = "eNT.dev.SVC.Cluster.Local.";
        assert_eq!(answer.queries[0].name().to_ascii(), written);
        assert_eq!(answer.answers[0].name.to_ascii(), written);
        assert!(answer.edns.is_none());
    }
    assert_eq!(bench.upstream.asked.load(Ordering::Relaxed), 0);
}

#[rstest]
#[case::missing("none.dev.svc.CLUSTER.local.", RecordType::A, ResponseCode::NXDomain)]
#[case::other_type("ent.dev.svc.CLUSTER.local.", RecordType::AAAA, ResponseCode::NoError)]
#[tokio::test]
async fn a_negative_answer_carries_the_soa_in_the_askers_letters(
    #[case] name: &str,
    #[case] qtype: RecordType,
    #[case] code: ResponseCode,
) {
    let bench = Bench::new(&[]).await;
    let answer = bench.ask(name, qtype).await;
    assert_eq!(answer.metadata.response_code, code);
    assert!(answer.metadata.authoritative && answer.answers.is_empty());
    let [soa] = answer.authorities.as_slice() else {
        panic!("{answer}")
    };
    assert_eq!(
        (soa.name.to_ascii().as_str(), soa.ttl),
        ("CLUSTER.local.", 30)
    );
    let RData::SOA(soa) = &soa.data else {
        panic!("{soa}")
    };
    assert_eq!(soa.mname.to_ascii(), "ns.dns.CLUSTER.local.");
    assert_eq!(soa.rname.to_ascii(), "hostmaster.CLUSTER.local.");
    assert_eq!(
        (soa.refresh, soa.retry, soa.expire, soa.minimum),
        (7200, 1800, 86_400, 30)
    );
    assert!(soa.serial > 1_000_000_000);
}

#[tokio::test]
async fn srv_targets_copy_the_askers_letters_of_the_zone() {
    let bench = Bench::new(&[]).await;
    let answer = bench
        .ask("_http._tcp.ent.dev.svc.cluster.LOCAL.", RecordType::SRV)
        .await;
    let RData::SRV(srv) = &answer.answers[0].data else {
        panic!("{answer}")
    };
    assert_eq!(srv.target.to_ascii(), "ent.dev.svc.cluster.LOCAL.");
    assert_eq!((srv.priority, srv.weight, srv.port), (0, 100, 80));
    assert_eq!(answer.additionals[0].name.to_ascii(), srv.target.to_ascii());
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_cut_and_whole_over_tcp() {
    let bench = Bench::new(&[]).await;
    let asked = question("web.dev.svc.cluster.local.", RecordType::A);
    for (payload, limit) in [
        (None, 512),
        (Some(100), 512),
        (Some(900), 900),
        (Some(65_535), 1232),
    ] {
        let asked = match payload {
            Some(payload) => with_edns(asked.clone(), payload, 0),
            None => asked.clone(),
        };
        let bytes = bench.raw(&asked.to_vec().unwrap()).await.unwrap();
        let answer = parsed(&asked, &bytes);
        assert!(
            answer.metadata.truncation && bytes.len() <= limit,
            "{payload:?}"
        );
        assert!(
            bytes.len() + 16 > limit,
            "as many records as fit: {}",
            bytes.len()
        );
        assert_eq!(answer.edns.is_some(), payload.is_some());
        if let Some(edns) = &answer.edns {
            assert!(edns.flags().dnssec_ok);
            // The library reads less than 512 as 512.
            let offered = payload.map(|payload| payload.max(512));
            assert_eq!((Some(edns.max_payload()), edns.version()), (offered, 0));
        }
    }
    let whole = bench.tcp(&asked).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(addresses(&whole).len(), 100);
}

#[tokio::test]
async fn additional_records_that_do_not_fit_are_no_truncation() {
    let bench = Bench::new(&["--max-payload", "8000"]).await;
    let asked = question("_http._tcp.web.dev.svc.cluster.local.", RecordType::SRV);
    let answer = bench.udp(&with_edns(asked, 8000, 0)).await;
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 100);
    assert!(answer.edns.is_some());
}

#[tokio::test]
async fn addresses_come_in_another_order_each_time() {
    let bench = Bench::new(&[]).await;
    let asked = question("web.dev.svc.cluster.local.", RecordType::A);
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let answer = bench.tcp(&asked).await;
        firsts.insert(addresses(&answer)[0]);
    }
    assert!(firsts.len() > 5, "{firsts:?}");
}

#[tokio::test]
async fn what_is_no_plain_question_gets_the_right_code() {
    let bench = Bench::new(&[]).await;
    let code = |answer: &Message| answer.metadata.response_code;
    let ent = || question("ent.dev.svc.cluster.local.", RecordType::A);

    let answer = bench.udp(&with_edns(ent(), 1232, 1)).await;
    // 16 has two names, and the parser knows the other one.
    assert_eq!(u16::from(code(&answer)), u16::from(ResponseCode::BADVERS));
    assert_eq!(answer.edns.as_ref().map(Edns::version), Some(0));

    for opcode in [OpCode::Notify, OpCode::Status] {
        let mut asked = ent();
        asked.metadata.op_code = opcode;
        let answer = bench.udp(&asked).await;
        assert_eq!(code(&answer), ResponseCode::NotImp);
        assert_eq!(answer.metadata.op_code, opcode);
        assert!(answer.queries.is_empty());
    }

    let mut two = ent();
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&bench.udp(&two).await), ResponseCode::FormErr);
    let mut none = ent();
    none.queries.clear();
    assert_eq!(code(&bench.udp(&none).await), ResponseCode::FormErr);

    for qtype in [RecordType::AXFR, RecordType::IXFR] {
        let answer = bench.udp(&question("cluster.local.", qtype)).await;
        assert_eq!(code(&answer), ResponseCode::Refused);
        assert!(!answer.metadata.authoritative);
    }

    let mut cut = ent().to_vec().unwrap();
    cut.truncate(20);
    let answer = Message::from_vec(&bench.raw(&cut).await.unwrap()).unwrap();
    assert_eq!(code(&answer), ResponseCode::FormErr);
}

#[tokio::test]
async fn before_the_first_sync_nothing_of_the_cluster_is_denied() {
    let bench = Bench::empty(&[]).await;
    let answer = bench.ask("ent.dev.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(answer.metadata.authoritative);
    assert_eq!(answer.authorities.len(), 1);
    let answer = bench.ask("cluster.local.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    let answer = bench.ask("example.com.", RecordType::A).await;
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 1)]);
    let health = bench.listening.health[0];
    assert_eq!(bench.http(health, "/ready").await.0, 503);
    assert_eq!(bench.http(health, "/health").await.0, 200);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(bench.clock(), 0, "a server that knows nothing is not alive");
}

#[tokio::test]
async fn a_question_waits_for_the_first_sync() {
    let bench = Bench::empty(&["--startup-timeout", "60"]).await;
    let name = "ent.dev.svc.cluster.local.";
    let asked = bench.ask(name, RecordType::A);
    let filled = async {
        sleep(Duration::from_millis(300)).await;
        bench.fill();
    };
    let (answer, ()) = tokio::join!(asked, filled);
    assert_eq!(addresses(&answer), [Ipv4Addr::new(10, 96, 1, 1)]);
}

#[tokio::test]
async fn a_name_outside_is_forwarded_and_kept() {
    let bench = Bench::new(&[]).await;
    let answer = bench.ask("Example.com.", RecordType::A).await;
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 1)]);
    assert_eq!(answer.queries[0].name().to_ascii(), "Example.com.");
    let again = bench.ask("example.COM.", RecordType::A).await;
    assert_eq!(addresses(&again), addresses(&answer));
    assert!(again.answers[0].ttl <= 20);
    assert_eq!(bench.upstream.asked.load(Ordering::Relaxed), 1);

    let missing = bench.ask("none.example.com.", RecordType::A).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities.len(), 1);
    let refused = bench.ask("refused.example.com.", RecordType::A).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);

    let (_, metrics) = bench.http(bench.listening.metrics, "/metrics").await;
    for line in [
        "coredns_cache_hits_total{server=\"dns://:53\",type=\"success\",zones=\".\",view=\"\"} 1",
        "coredns_dns_requests_total{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\",family=\"1\",type=\"A\"} 4",
        "coredns_dns_responses_total{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"NXDOMAIN\",plugin=\"forward\"} 1",
        "signpost_dns_synced 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn the_sizes_of_answers_are_told() {
    let bench = Bench::new(&[]).await;
    let mut sum = 0;
    // A whole one, a cut one, and one to which nothing belongs.
    for name in [
        "ent.dev.svc.cluster.local.",
        "web.dev.svc.cluster.local.",
        "refused.example.com.",
    ] {
        let asked = question(name, RecordType::A).to_vec().unwrap();
        sum += bench.raw(&asked).await.unwrap().len();
    }
    let labels = r#"{server="dns://:53",zone=".",view="",proto="udp"}"#;
    let line = format!("coredns_dns_response_size_bytes_sum{labels} {sum}.0");
    let told = async {
        // The answer is there before it is counted.
        while !bench
            .http(bench.listening.metrics, "/metrics")
            .await
            .1
            .contains(&line)
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), told).await.unwrap();
}

#[tokio::test]
async fn an_upstreams_cut_answer_is_fetched_over_tcp() {
    let bench = Bench::new(&[]).await;
    let asked = question("large.example.com.", RecordType::A);
    assert_eq!(addresses(&bench.tcp(&asked).await).len(), 60);
    let cut = bench.udp(&asked).await;
    assert!(cut.metadata.truncation && addresses(&cut).len() < 60);
}

#[tokio::test]
async fn an_external_name_is_followed_outside() {
    let bench = Bench::new(&[]).await;
    let answer = bench.ask("ext.dev.svc.cluster.local.", RecordType::A).await;
    assert!(answer.metadata.authoritative);
    let owners: Vec<String> = answer.answers.iter().map(|r| r.name.to_ascii()).collect();
    assert_eq!(
        owners,
        [
            "ext.dev.svc.cluster.local.",
            "www.example.com.",
            "example.com."
        ]
    );
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 1)]);
    assert!(answer.answers.iter().all(|r| r.ttl == 20));
    let dangling = bench
        .ask("ext-none.dev.svc.cluster.local.", RecordType::A)
        .await;
    assert_eq!(dangling.metadata.response_code, ResponseCode::NoError);
    assert_eq!(dangling.answers.len(), 1);
    assert!(dangling.authorities.is_empty());
}

#[tokio::test]
async fn a_change_of_the_agent_is_in_the_answers_at_once() {
    let bench = Bench::new(&[]).await;
    let name = "new.dev.svc.cluster.local.";
    let missing = bench.ask(name, RecordType::A).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    let address = [10, 96, 1, 2].into();
    let object = service("new", ServiceKind::ClusterIp(vec![address]));
    bench.feed.event(&Event::Apply(object, vec![]));
    timeout(Duration::from_millis(500), async {
        while addresses(&bench.ask(name, RecordType::A).await).is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let reverse = bench.ask("2.1.96.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(reverse.answers.len(), 1);
    assert!(reverse.metadata.authoritative);
}

#[tokio::test]
async fn the_clock_ticks_while_the_server_answers_and_stops_when_it_is_told_to_end() {
    let mut bench = Bench::new(&[]).await;
    sleep(Duration::from_millis(600)).await;
    let first = bench.clock();
    assert!(first > 1);
    sleep(Duration::from_millis(600)).await;
    assert!(bench.clock() > first);
    bench.stop.cancel();
    timeout(Duration::from_millis(500), async {
        while bench.clock() != 1 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let answer = bench.ask("ent.dev.svc.cluster.local.", RecordType::A).await;
    assert_eq!(
        addresses(&answer).len(),
        1,
        "questions under way are answered"
    );
    assert_eq!(bench.http(bench.listening.health[0], "/ready").await.0, 503);
    let served = timeout(Duration::from_secs(3), &mut bench.served).await;
    served.unwrap().unwrap().unwrap();
    assert_eq!(bench.clock(), 1);
}

#[tokio::test]
async fn a_folder_of_manifests_stands_in_for_the_agent() {
    const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: kube-system}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: dns, port: 53, protocol: UDP}]
";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), MANIFESTS).unwrap();
    let state = tempfile::tempdir().unwrap();
    let source = format!("files:{}", folder.path().display());
    let bench = Bench::empty(&[
        "--source",
        &source,
        "--state-folder",
        state.path().to_str().unwrap(),
    ])
    .await;
    // `ns.dns` is there once the address of the cluster's DNS is learned from its Service.
    timeout(Duration::from_secs(5), async {
        while addresses(&bench.ask("ns.dns.cluster.local.", RecordType::A).await).is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let answer = bench
        .ask("kube-dns.kube-system.svc.cluster.local.", RecordType::A)
        .await;
    assert_eq!(addresses(&answer), [Ipv4Addr::new(10, 96, 0, 10)]);
    let servers = bench.ask("cluster.local.", RecordType::NS).await;
    assert_eq!((servers.answers.len(), servers.additionals.len()), (1, 1));
}

#[test]
fn sources_and_upstreams_are_written_as_the_help_says() {
    let source = |text: &str| text.parse::<Source>().ok();
    assert_eq!(source("agent"), Some(Source::Agent(None)));
    assert_eq!(
        source("agent:/a.sock"),
        Some(Source::Agent(Some("/a.sock".into())))
    );
    assert_eq!(source("kube"), Some(Source::Kube));
    assert_eq!(source("files:/m"), Some(Source::Files("/m".into())));
    assert_eq!(source("files:"), None);
    let upstream = |text: &str| text.parse::<UpstreamAddress>().ok();
    let port = |ip: IpAddr, port| Some(UpstreamAddress::Plain(SocketAddr::new(ip, port)));
    assert_eq!(upstream("192.0.2.1"), port([192, 0, 2, 1].into(), 53));
    assert_eq!(
        upstream("192.0.2.1:5353"),
        port([192, 0, 2, 1].into(), 5353)
    );
    assert_eq!(upstream("::1"), port(Ipv6Addr::LOCALHOST.into(), 53));
    assert_eq!(upstream("[::1]:54"), port(Ipv6Addr::LOCALHOST.into(), 54));
    assert_eq!(upstream("example.com"), None);
}
