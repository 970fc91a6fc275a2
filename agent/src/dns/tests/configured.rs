//! What the file with the configuration says, as clients see it.

use std::{net::Ipv4Addr, path::PathBuf, sync::atomic::Ordering, time::Duration};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::stand::{Bench, FakeUpstream, addresses, question};
use crate::model::{Event, Kind, Object, ObjectName, Pod};

/// A server with a file.
struct Configured {
    bench: Bench,
    folder: TempDir,
}

impl Configured {
    async fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = Self::path(&folder);
        std::fs::write(&path, text).unwrap();
        let bench = Bench::new(&["--dns-config", path.to_str().unwrap()]).await;
        Self { bench, folder }
    }

    fn path(folder: &TempDir) -> PathBuf {
        folder.path().join("dns.yaml")
    }

    /// Writes another file, and asks until the answer is one that is waited for.
    async fn becomes(&self, text: &str, name: &str, is: impl Fn(&Message) -> bool) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, Self::path(&self.folder)).unwrap();
        let changed = async {
            while !is(&self.bench.ask(name, RecordType::A).await) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(10), changed).await.unwrap();
    }

    /// Asks until the answer has a code.
    async fn until(&self, name: &str, qtype: RecordType, code: ResponseCode) {
        let asked = async {
            while self.code(name, qtype).await != code {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let asked = timeout(Duration::from_secs(10), asked).await;
        asked.unwrap_or_else(|_| panic!("{name} never is {code}"));
    }

    async fn code(&self, name: &str, qtype: RecordType) -> ResponseCode {
        self.bench.ask(name, qtype).await.metadata.response_code
    }
}

fn pod(name: &str, addresses: &[&str]) -> Event {
    let addresses: Vec<std::net::IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
    let pod = Pod {
        name: ObjectName::new("dev", name),
        addresses: addresses.into(),
        labels: Default::default(),
    };
    Event::Apply(Object::from(pod), Vec::new())
}

#[tokio::test]
async fn names_of_pods_are_answered_where_there_is_such_a_pod() {
    const NAME: &str = "10-0-0-1.dev.pod.cluster.local.";
    let dns = Configured::new("cluster: {pods: verified}").await;
    // As long as Pods are not listed nobody knows.
    assert_eq!(dns.code(NAME, RecordType::A).await, ResponseCode::ServFail);
    let feed = &dns.bench.feed;
    feed.event(&Event::Begin(Kind::Pod));
    feed.event(&pod("one", &["10.0.0.1", "fd00::1"]));
    feed.event(&pod("other", &["10.0.0.2"]));
    feed.event(&Event::End(Kind::Pod));
    dns.until(NAME, RecordType::A, ResponseCode::NoError).await;
    let answer = dns.bench.ask(NAME, RecordType::A).await;
    assert_eq!(addresses(&answer), [Ipv4Addr::new(10, 0, 0, 1)]);
    for (name, qtype, code) in [
        (
            "fd00--1.dev.pod.cluster.local.",
            RecordType::AAAA,
            ResponseCode::NoError,
        ),
        (
            "10-0-0-3.dev.pod.cluster.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "10-0-0-1.prod.pod.cluster.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "dev.pod.cluster.local.",
            RecordType::A,
            ResponseCode::NoError,
        ),
    ] {
        assert_eq!(dns.code(name, qtype).await, code, "{name}");
    }
    // A Pod of the same address comes before the old one goes.
    feed.event(&pod("new", &["10.0.0.1"]));
    feed.event(&Event::Delete(Kind::Pod, ObjectName::new("dev", "one")));
    let gone = "fd00--1.dev.pod.cluster.local.";
    dns.until(gone, RecordType::AAAA, ResponseCode::NXDomain)
        .await;
    assert_eq!(dns.code(NAME, RecordType::A).await, ResponseCode::NoError);
    feed.event(&Event::Delete(Kind::Pod, ObjectName::new("dev", "new")));
    dns.until(NAME, RecordType::A, ResponseCode::NXDomain).await;
    let any = |answer: &Message| answer.answers.len() == 1;
    dns.becomes("cluster: {pods: insecure}", NAME, any).await;
    // And back, with what is known.
    let none = |answer: &Message| answer.answers.is_empty();
    dns.becomes("cluster: {pods: verified}", NAME, none).await;
    assert_eq!(
        dns.code("10-0-0-2.dev.pod.cluster.local.", RecordType::A)
            .await,
        ResponseCode::NoError
    );
}

const HOSTS: &str = "
hosts:
  entries:
    - {address: 192.0.2.80, names: [db.cluster.local, Ent.dev.svc.cluster.local, db.example.com]}
    - {address: '2001:db8::80', names: [six.example.com]}
  ttl: 7
  fallthrough: ['.']
";

#[tokio::test]
async fn hosts_come_before_the_zone_and_before_upstreams() {
    let it = Configured::new(HOSTS).await;
    for name in [
        "db.cluster.local.",
        "ent.dev.svc.cluster.local.",
        "db.example.com.",
    ] {
        let answer = it.bench.ask(name, RecordType::A).await;
        assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 80)], "{name}");
        assert!(answer.metadata.authoritative);
        assert_eq!(answer.answers[0].ttl, 7);
    }
    let answer = it.bench.ask("six.example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.is_empty() && answer.authorities.is_empty());
    assert_eq!(it.bench.upstream.asked.load(Ordering::Relaxed), 0);
    let answer = it.bench.ask("example.com.", RecordType::A).await;
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 1)]);
    let pointer = it
        .bench
        .ask("80.2.0.192.in-addr.arpa.", RecordType::PTR)
        .await;
    assert_eq!(pointer.answers.len(), 3);
}

#[tokio::test]
async fn hosts_without_fallthrough_answer_for_their_zone_alone() {
    let it = Configured::new(
        "hosts: {zones: [example.com], entries: [{address: 192.0.2.80, names: [db.example.com]}]}",
    )
    .await;
    assert_eq!(
        it.code("other.example.com.", RecordType::A).await,
        ResponseCode::ServFail
    );
    assert_eq!(
        it.code("ent.dev.svc.cluster.local.", RecordType::A).await,
        ResponseCode::NoError
    );
}

#[tokio::test]
async fn a_rewritten_name_comes_back_as_it_was_asked_for() {
    let it = Configured::new(
        "rewrite:
- {match: suffix, from: .internal.test, to: .dev.svc.cluster.local, answer: auto}
- {match: exact, from: alias.test, to: example.com}
",
    )
    .await;
    let answer = it.bench.ask("Ent.Internal.TEST.", RecordType::A).await;
    assert_eq!(addresses(&answer), [Ipv4Addr::new(10, 96, 1, 1)]);
    assert_eq!(answer.queries[0].name().to_ascii(), "Ent.Internal.TEST.");
    assert_eq!(answer.answers[0].name, answer.queries[0].name().clone());
    let answer = it
        .bench
        .ask("_http._tcp.ent.internal.test.", RecordType::SRV)
        .await;
    let RData::SRV(srv) = &answer.answers[0].data else {
        panic!("{answer}")
    };
    assert_eq!(srv.target.to_ascii(), "ent.internal.test.");
    assert_eq!(answer.additionals[0].name.to_ascii(), "ent.internal.test.");
    let answer = it.bench.ask("alias.test.", RecordType::A).await;
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 1)]);
    assert_eq!(answer.answers[0].name.to_ascii(), "alias.test.");
    assert_eq!(
        it.code("x.alias.test.", RecordType::A).await,
        ResponseCode::NXDomain
    );
}

#[tokio::test]
async fn stub_domains_are_asked_for_where_they_are() {
    let stub = FakeUpstream::start().await;
    let it = Configured::new(&format!(
        "stubDomains:
- {{domains: [corp.test, consul.cluster.local], forward: {{upstreams: ['{}']}}}}
rewrite: [{{match: suffix, from: .corp.test, to: .example.com}}]
",
        stub.address
    ))
    .await;
    for name in [
        "letters.corp.test.",
        "letters.x.consul.cluster.local.",
        "letters.consul.cluster.local.",
    ] {
        let answer = it.bench.ask(name, RecordType::A).await;
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::NoError,
            "{name}"
        );
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(it.bench.upstream.asked.load(Ordering::Relaxed), 0);
    let (_, metrics) = it.bench.http(it.bench.listening.metrics, "/metrics").await;
    let line = "coredns_dns_requests_total{server=\"dns://:53\",zone=\"corp.test.\",view=\"\",proto=\"udp\",family=\"1\",type=\"A\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn the_zone_has_other_names_and_its_options() {
    let it = Configured::new(
        "cluster: {otherDomains: [cluster.example], namespaces: [dev], pods: disabled, ttl: 9}",
    )
    .await;
    let answer = it
        .bench
        .ask("_http._tcp.ent.dev.svc.Cluster.Example.", RecordType::SRV)
        .await;
    let RData::SRV(srv) = &answer.answers[0].data else {
        panic!("{answer}")
    };
    assert_eq!(srv.target.to_ascii(), "ent.dev.svc.Cluster.Example.");
    let answer = it
        .bench
        .ask("none.dev.svc.cluster.example.", RecordType::A)
        .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].name.to_ascii(), "cluster.example.");
    let pod = "10-0-0-1.dev.pod.cluster.local.";
    assert_eq!(it.code(pod, RecordType::A).await, ResponseCode::NXDomain);
}

#[tokio::test]
async fn reverse_zones_that_do_not_fall_through_are_denied_with_their_own_soa() {
    let it = Configured::new("cluster: {reverseZones: [10.0.0.0/8], fallthrough: []}").await;
    let answer = it
        .bench
        .ask("9.9.9.10.in-addr.arpa.", RecordType::PTR)
        .await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].name.to_ascii(), "10.in-addr.arpa.");
    let found = it
        .bench
        .ask("1.1.96.10.in-addr.arpa.", RecordType::PTR)
        .await;
    assert_eq!(found.answers.len(), 1);
    assert_eq!(it.bench.upstream.asked.load(Ordering::Relaxed), 0);
    it.bench
        .ask("9.2.0.192.in-addr.arpa.", RecordType::PTR)
        .await;
    assert_eq!(it.bench.upstream.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn another_file_counts_without_a_question_lost() {
    let it = Configured::new(HOSTS).await;
    let (address, done) = (
        it.bench.listening.dns[0],
        tokio_util::sync::CancellationToken::new(),
    );
    let stop = done.clone();
    let load = tokio::spawn(async move {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        let (mut count, mut buffer) = (0, [0; 512]);
        while !stop.is_cancelled() {
            let asked = question("ent.dev.svc.cluster.local.", RecordType::A);
            socket.send(&asked.to_vec().unwrap()).await.unwrap();
            let answer = timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await;
            answer.expect("an answer").unwrap();
            count += 1;
        }
        count
    });
    let other = HOSTS.replace("192.0.2.80", "192.0.2.81");
    let new = [Ipv4Addr::new(192, 0, 2, 81)];
    it.becomes(&other, "db.cluster.local.", |answer| {
        addresses(answer) == new
    })
    .await;
    // A bad one changes nothing, and is counted.
    std::fs::write(Configured::path(&it.folder), "hosts: 1\n").unwrap();
    let counted = async {
        let failed = "coredns_reload_failed_total 1";
        while !it
            .bench
            .http(it.bench.listening.metrics, "/metrics")
            .await
            .1
            .contains(failed)
        {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(10), counted).await.unwrap();
    let answer = it.bench.ask("db.cluster.local.", RecordType::A).await;
    assert_eq!(addresses(&answer), new);
    it.becomes("{}\n", "db.cluster.local.", |answer| {
        answer.metadata.response_code == ResponseCode::NXDomain
    })
    .await;
    done.cancel();
    assert!(load.await.unwrap() > 100);
}

#[tokio::test]
async fn an_upstream_that_leads_back_is_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = Configured::path(&folder);
    std::fs::write(&path, "{}\n").unwrap();
    let bench = Bench::new(&["--dns-config", path.to_str().unwrap()]).await;
    let own = bench.listening.dns[0];
    std::fs::write(&path, format!("forward: {{upstreams: ['{own}']}}\n")).unwrap();
    // Before it is found, the question goes round until nobody waits for it any more.
    let found = async {
        for n in 0.. {
            // Names of their own, so that the cache says nothing.
            let name = format!("n{n}.example.com.");
            let answer = bench.ask(&name, RecordType::A).await;
            if answer.metadata.response_code == ResponseCode::Refused {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), found).await.unwrap();
}

#[tokio::test]
async fn connections_over_tcp_have_limits() {
    let it = Configured::new("limits: {tcpConnectionsPerClient: 2}").await;
    let connect = || tokio::net::TcpStream::connect(it.bench.listening.dns[0]);
    let kept = [connect().await.unwrap(), connect().await.unwrap()];
    let mut refused = connect().await.unwrap();
    let mut byte = [0; 1];
    let read = tokio::io::AsyncReadExt::read(&mut refused, &mut byte);
    let read = timeout(Duration::from_secs(5), read).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "it is closed");
    drop(kept);
    let asked = question("ent.dev.svc.cluster.local.", RecordType::A);
    let answered = async {
        loop {
            // The server notices a closed connection a moment later.
            let (_, metrics) = it.bench.http(it.bench.listening.metrics, "/metrics").await;
            assert!(metrics.contains("signpost_dns_connections_refused_total"));
            assert!(!metrics.contains("signpost_dns_connections_refused_total 0\n"));
            let mut stream = connect().await.unwrap();
            let bytes = asked.to_vec().unwrap();
            let sent = async {
                tokio::io::AsyncWriteExt::write_u16(&mut stream, bytes.len() as u16).await?;
                tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await?;
                tokio::io::AsyncReadExt::read_u16(&mut stream).await
            };
            if sent.await.is_ok() {
                break;
            }
        }
    };
    timeout(Duration::from_secs(5), answered).await.unwrap();
}
