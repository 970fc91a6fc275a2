//! The server on real sockets of the loopback: with an agent's feed, a fake upstream, and two parsers.

use std::{
    fs::File,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::FileExt as _,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};

use clap::Parser;
use domain::base::{Message as OtherMessage, iana::Rcode};
use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{
        Name as WireName, RData, Record, RecordType,
        rdata::{A, CNAME, SOA},
    },
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rstest::rstest;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::*;
use crate::{
    feed::{self, Feed, Hello, KINDS},
    model::{
        Endpoint, EndpointPort, EndpointSlice, Event, Family, Object, ObjectName, Protocol,
        Service, ServiceKind, ServicePort,
    },
};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// An upstream that knows a few names and counts what it is asked.
struct FakeUpstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl FakeUpstream {
    async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let answer = upstream_answer(&buffer[..length], true);
                udp.send_to(&answer, from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut question = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut question).await.unwrap();
                let answer = upstream_answer(&question, false);
                stream.write_u16(answer.len() as u16).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        Self { address, asked }
    }
}

fn upstream_answer(question: &[u8], udp: bool) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    let address = |n: u8| RData::A(A(Ipv4Addr::new(192, 0, 2, n)));
    let name = query.name().to_lowercase().to_string();
    match (name.as_str(), query.query_type()) {
        ("example.com.", RecordType::A) => {
            answer.add_answer(Record::from_rdata(query.name().clone(), 20, address(1)));
        }
        ("www.example.com.", RecordType::A) => {
            let target = WireName::from_ascii("example.com.").unwrap();
            let data = RData::CNAME(CNAME(target.clone()));
            answer.add_answer(Record::from_rdata(query.name().clone(), 25, data));
            answer.add_answer(Record::from_rdata(target, 20, address(1)));
        }
        ("large.example.com.", RecordType::A) if udp => answer.metadata.truncation = true,
        ("large.example.com.", RecordType::A) => {
            for n in 0..60 {
                answer.add_answer(Record::from_rdata(query.name().clone(), 20, address(n)));
            }
        }
        ("refused.example.com.", _) => answer.metadata.response_code = ResponseCode::Refused,
        ("example.com.", _) => {}
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let root = WireName::root();
            let soa = SOA::new(root.clone(), root.clone(), 1, 2, 3, 4, 15);
            answer.add_authority(Record::from_rdata(root, 15, RData::SOA(soa)));
        }
    }
    answer.to_vec().unwrap()
}

/// A running server with its agent.
struct Bench {
    listening: Listening,
    feed: Feed,
    clock: File,
    upstream: FakeUpstream,
    stop: CancellationToken,
    served: JoinHandle<anyhow::Result<()>>,
    _folder: TempDir,
}

impl Bench {
    /// With an agent that has listed nothing yet.
    async fn empty(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let memory = memfd_create("clock", MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&memory, 4096).unwrap();
        let clock = File::from(memory.try_clone().unwrap());
        let hello = Hello {
            domain: "cluster.local".parse().unwrap(),
            ttl: 30,
            dns: vec![[10, 96, 0, 10].into()],
        };
        let feed = Feed::new(hello, Some(memory));
        let (served, socket) = (feed.clone(), folder.path().join(feed::SOCKET));
        tokio::spawn(async move { feed::serve(served, &socket).await.unwrap() });
        let upstream = FakeUpstream::start().await;
        let address = upstream.address.to_string();
        let run_folder = folder.path().to_str().unwrap();
        let mut line = vec![
            "dns",
            "--run-folder",
            run_folder,
            "--listen",
            "127.0.0.1:0",
            "--health-address",
            "127.0.0.1:0",
            "--metrics-address",
            "127.0.0.1:0",
            "--lameduck",
            "1",
        ];
        if !flags.contains(&"--upstream") {
            line.extend(["--upstream", &address]);
        }
        line.extend(flags);
        let server = Server::bind(Line::parse_from(line).args).await.unwrap();
        let listening = server.listening().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(server.serve(stop.clone()));
        Self {
            listening,
            feed,
            clock,
            upstream,
            stop,
            served,
            _folder: folder,
        }
    }

    /// With a cluster.
    async fn new(flags: &[&str]) -> Self {
        let bench = Self::empty(flags).await;
        bench.fill();
        timeout(Duration::from_secs(5), async {
            while bench.http(bench.listening.health[0], "/ready").await.0 != 200 {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        bench
    }

    fn fill(&self) {
        for kind in KINDS {
            self.feed.event(&Event::Begin(kind));
        }
        let apply = |object| self.feed.event(&Event::Apply(object, vec![]));
        apply(Object::Namespace(ObjectName::new("", "dev")));
        let address = [10, 96, 1, 1].into();
        apply(service("ent", ServiceKind::ClusterIp(vec![address])));
        apply(service("web", ServiceKind::Headless));
        let external = |target: &str| ServiceKind::ExternalName(target.to_owned());
        apply(service("ext", external("www.example.com")));
        apply(service("ext-none", external("none.example.com")));
        let endpoints = (0..100u8).map(|n| Endpoint {
            addresses: vec![[10, 0, 0, n].into()],
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node: None,
            zone_hints: vec![],
            node_hints: vec![],
            pod: None,
        });
        apply(Object::EndpointSlice(EndpointSlice {
            name: ObjectName::new("dev", "web-a"),
            service: Some("web".into()),
            family: Family::V4,
            ports: vec![EndpointPort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 8080,
            }],
            endpoints: endpoints.collect(),
            proxied: true,
            triggered: None,
        }));
        for kind in KINDS {
            self.feed.event(&Event::End(kind));
        }
        self.feed.in_sync(true);
    }

    async fn http(&self, address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer)
    }

    async fn raw(&self, question: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket
            .send_to(question, self.listening.dns[0])
            .await
            .unwrap();
        let mut answer = vec![0; 65_535];
        let received = timeout(Duration::from_secs(6), socket.recv(&mut answer)).await;
        let length = received.ok()?.unwrap();
        answer.truncate(length);
        Some(answer)
    }

    async fn udp(&self, question: &Message) -> Message {
        let answer = self.raw(&question.to_vec().unwrap()).await.unwrap();
        parsed(question, &answer)
    }

    async fn tcp(&self, question: &Message) -> Message {
        let bytes = question.to_vec().unwrap();
        let mut stream = TcpStream::connect(self.listening.dns[0]).await.unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        parsed(question, &answer)
    }

    async fn ask(&self, name: &str, qtype: RecordType) -> Message {
        self.udp(&question(name, qtype)).await
    }

    fn clock(&self) -> u64 {
        let mut bytes = [0; 8];
        self.clock.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_ne_bytes(bytes)
    }
}

/// Both parsers must make the same of an answer.
fn parsed(question: &Message, answer: &[u8]) -> Message {
    let message = Message::from_vec(answer).unwrap();
    assert_eq!(message.metadata.id, question.metadata.id);
    let other = OtherMessage::from_octets(answer).unwrap();
    assert_eq!(other.header().id(), message.metadata.id);
    assert_eq!(other.header().aa(), message.metadata.authoritative);
    assert_eq!(
        Rcode::checked_from_int(message.metadata.response_code.low()),
        Some(other.header().rcode())
    );
    let count = |section: Option<domain::base::message::RecordSection<'_, &[u8]>>| {
        section
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
            .len()
    };
    assert_eq!(count(other.answer().ok()), message.answers.len());
    assert_eq!(count(other.authority().ok()), message.authorities.len());
    let opt = usize::from(message.edns.is_some());
    assert_eq!(
        count(other.additional().ok()),
        message.additionals.len() + opt
    );
    message
}

fn question(name: &str, qtype: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = rand::random();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(WireName::from_ascii(name).unwrap(), qtype));
    message
}

fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version);
    edns.set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match &record.data {
        RData::A(a) => Some(a.0),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

fn service(name: &str, kind: ServiceKind) -> Object {
    Object::Service(Service {
        name: ObjectName::new("dev", name),
        created: 0,
        kind,
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
        }],
        internal_local: false,
        external_local: false,
        affinity_timeout: None,
        proxied: true,
    })
}

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
            assert_eq!(
                (usize::from(edns.max_payload()), edns.version()),
                (limit, 0)
            );
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
        "coredns_cache_hits_total 1",
        "coredns_dns_requests_total{family=\"1\",proto=\"udp\",type=\"A\"} 4",
        "coredns_dns_responses_total{rcode=\"NXDOMAIN\"} 1",
        "signpost_dns_synced 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
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
async fn the_next_upstream_is_asked_when_one_is_silent() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let good = FakeUpstream::start().await;
    let upstreams = format!("{},{}", silent.local_addr().unwrap(), good.address);
    let bench = Bench::new(&["--upstream", &upstreams]).await;
    let answer = bench.ask("example.com.", RecordType::A).await;
    assert_eq!(addresses(&answer).len(), 1);
    let begun = std::time::Instant::now();
    let answer = bench.ask("www.example.com.", RecordType::A).await;
    assert_eq!(addresses(&answer).len(), 1);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "the silent one is asked last now"
    );
}

#[tokio::test]
async fn without_any_answer_from_upstreams_the_client_is_told_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream = silent.local_addr().unwrap().to_string();
    let bench = Bench::new(&["--upstream", &upstream]).await;
    let begun = std::time::Instant::now();
    let answer = bench.ask("example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(!answer.metadata.recursion_available);
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(3900) && took < Duration::from_millis(4900),
        "{took:?}"
    );
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
    let upstream = |text: &str| text.parse::<Upstream>().ok().map(|u| u.0);
    let port = |ip: IpAddr, port| Some(SocketAddr::new(ip, port));
    assert_eq!(upstream("192.0.2.1"), port([192, 0, 2, 1].into(), 53));
    assert_eq!(
        upstream("192.0.2.1:5353"),
        port([192, 0, 2, 1].into(), 5353)
    );
    assert_eq!(upstream("::1"), port(Ipv6Addr::LOCALHOST.into(), 53));
    assert_eq!(upstream("[::1]:54"), port(Ipv6Addr::LOCALHOST.into(), 54));
    assert_eq!(upstream("example.com"), None);
}
