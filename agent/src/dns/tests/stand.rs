//! What the tests stand on: an agent's feed, an upstream that counts, clients with two parsers.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
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
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::super::*;
use crate::{
    feed::{
        self, Feed, Hello, KINDS,
        cached::{Asked, Cached, Keeper},
    },
    model::{
        Endpoint, EndpointPort, EndpointSlice, Event, Family, Object, ObjectName, Protocol,
        Service, ServiceKind, ServicePort,
    },
};

#[derive(Parser)]
pub(super) struct Line {
    #[command(flatten)]
    pub(super) args: Args,
}

/// An upstream that knows a few names and counts what it is asked.
pub(super) struct FakeUpstream {
    pub(super) address: SocketAddr,
    pub(super) asked: Arc<AtomicUsize>,
    /// The names in the letters in which they were asked for over UDP.
    pub(super) names: Arc<Mutex<Vec<String>>>,
}

impl FakeUpstream {
    pub(super) async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let names = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&names);
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap().queries[0].clone();
                if query.query_type() == RecordType::HINFO {
                    // The look for loops.
                    continue;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let name = query.name().to_ascii();
                if name.to_ascii_lowercase().starts_with("slow.") {
                    sleep(Duration::from_millis(300)).await;
                }
                heard.lock().unwrap().push(name);
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
        Self {
            address,
            asked,
            names,
        }
    }
}

pub(super) fn upstream_answer(question: &[u8], udp: bool) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let query = question.queries[0].clone();
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    let address = |n: u8| RData::A(A(Ipv4Addr::new(192, 0, 2, n)));
    let name = query.name().to_lowercase().to_string();
    match (name.as_str(), query.query_type()) {
        ("slow.example.com.", RecordType::A) => {
            answer.add_answer(Record::from_rdata(query.name().clone(), 20, address(1)));
        }
        (name, RecordType::A) if name.starts_with("letters.") => {
            answer.add_answer(Record::from_rdata(query.name().clone(), 20, address(1)));
        }
        (name, RecordType::A) if name.starts_with("forged-lettercase.") => {
            if udp {
                // Whoever does not see the question can only guess its letters.
                answer.queries[0].set_name(query.name().to_lowercase());
            }
            let n = if udp { 6 } else { 7 };
            answer.add_answer(Record::from_rdata(query.name().clone(), 20, address(n)));
        }
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

/// What an agent was handed over.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(Arc<Mutex<Keeping>>);

#[derive(Debug, Default)]
struct Keeping {
    answers: Vec<Cached>,
    asked: Vec<Asked>,
    flushes: usize,
}

impl Kept {
    /// The answers that were not taken back.
    pub(super) fn answers(&self) -> Vec<Cached> {
        self.0.lock().unwrap().answers.clone()
    }

    /// How often all of them were taken back.
    pub(super) fn flushes(&self) -> usize {
        self.0.lock().unwrap().flushes
    }

    /// Lets the server know that the kernel gave an answer.
    pub(super) fn say(&self, asked: Asked) {
        self.0.lock().unwrap().asked.push(asked);
    }
}

impl Keeper for Kept {
    fn flush(&mut self) -> anyhow::Result<()> {
        let mut keeping = self.0.lock().unwrap();
        keeping.answers.clear();
        keeping.flushes += 1;
        Ok(())
    }

    fn keep(&mut self, cached: &Cached) -> anyhow::Result<()> {
        self.0.lock().unwrap().answers.push(cached.clone());
        Ok(())
    }

    fn asked(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    fn configure(&mut self, _: &crate::zone::ZoneConfig) -> anyhow::Result<()> {
        self.flush()
    }
}

/// A running server with its agent.
pub(super) struct Bench {
    pub(super) listening: Listening,
    pub(super) feed: Feed,
    pub(super) kept: Kept,
    pub(super) clock: File,
    pub(super) upstream: FakeUpstream,
    pub(super) stop: CancellationToken,
    pub(super) served: JoinHandle<anyhow::Result<()>>,
    pub(super) folder: TempDir,
}

impl Bench {
    /// With an agent that has listed nothing yet.
    pub(super) async fn empty(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let memory = memfd_create("clock", MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&memory, 4096).unwrap();
        let clock = File::from(memory.try_clone().unwrap());
        let hello = Hello {
            domain: "cluster.local".parse().unwrap(),
            ttl: 30,
            dns: vec![[10, 96, 0, 10].into()],
            options: None,
            takes_answers: true,
            watched: false,
        };
        let kept = Kept::default();
        let user = nix::unistd::getuid().as_raw();
        let feed = Feed::new(hello, Some(memory))
            .taking(Box::new(kept.clone()))
            .believing(user);
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
        if !flags.contains(&"--startup-timeout") {
            line.extend(["--startup-timeout", "0"]);
        }
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
            kept,
            clock,
            upstream,
            stop,
            served,
            folder,
        }
    }

    /// With a cluster.
    pub(super) async fn new(flags: &[&str]) -> Self {
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

    pub(super) fn fill(&self) {
        for kind in KINDS {
            self.feed.event(&Event::Begin(kind));
        }
        let apply = |object| self.feed.event(&Event::Apply(object, vec![]));
        apply(Object::Namespace(ObjectName::new("", "dev").into()));
        let address = [10, 96, 1, 1].into();
        apply(service("ent", ServiceKind::ClusterIp(vec![address])));
        apply(service("web", ServiceKind::Headless));
        let external = |target: &str| ServiceKind::ExternalName(target.to_owned());
        apply(service("ext", external("www.example.com")));
        apply(service("ext-none", external("none.example.com")));
        let endpoints = (0..100u8).map(|n| Endpoint {
            addresses: IpAddr::from([10, 0, 0, n]).into(),
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node: None,
            hints: None,
            pod: None,
        });
        apply(Object::from(EndpointSlice {
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
            labels: Default::default(),
        }));
        for kind in KINDS {
            self.feed.event(&Event::End(kind));
        }
        self.feed.in_sync(true);
    }

    pub(super) async fn http(&self, address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (code, answer)
    }

    pub(super) async fn raw(&self, question: &[u8]) -> Option<Vec<u8>> {
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

    pub(super) async fn udp(&self, question: &Message) -> Message {
        let answer = self.raw(&question.to_vec().unwrap()).await.unwrap();
        parsed(question, &answer)
    }

    pub(super) async fn tcp(&self, question: &Message) -> Message {
        let bytes = question.to_vec().unwrap();
        let mut stream = TcpStream::connect(self.listening.dns[0]).await.unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        parsed(question, &answer)
    }

    pub(super) async fn ask(&self, name: &str, qtype: RecordType) -> Message {
        self.udp(&question(name, qtype)).await
    }

    pub(super) fn clock(&self) -> u64 {
        let mut bytes = [0; 8];
        self.clock.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_ne_bytes(bytes)
    }
}

/// Both parsers must make the same of an answer.
pub(super) fn parsed(question: &Message, answer: &[u8]) -> Message {
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

pub(super) fn question(name: &str, qtype: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = rand::random();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(WireName::from_ascii(name).unwrap(), qtype));
    message
}

pub(super) fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version);
    edns.set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

pub(super) fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match &record.data {
        RData::A(a) => Some(a.0),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

pub(super) fn service(name: &str, kind: ServiceKind) -> Object {
    Object::from(Service {
        name: ObjectName::new("dev", name),
        created: 0,
        kind,
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
        }],
        ways_in: Default::default(),
        internal_local: false,
        external_local: false,
        affinity_timeout: None,
        proxied: true,
        labels: Default::default(),
    })
}
