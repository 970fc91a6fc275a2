//! A name server in the world beyond the cluster, which remembers every question that it gets.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, SOA},
    },
};

use super::{Lab, WORLD, address};

/// The name that exists in the world.
pub const NAME: &str = "www.example.com.";

/// Another name of it.
pub const ALIAS: &str = "alias.example.com.";

/// Another name that leads there, which nobody should remember.
pub const SHORT: &str = "short.example.com.";

/// What it leads to.
pub const ADDRESSES: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(203, 0, 113, 80),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80),
);

/// How soon a server notices that it is to end.
const TICK: Duration = Duration::from_millis(50);

/// The name server. It ends when this is dropped.
#[derive(Debug)]
pub struct Upstream {
    questions: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    /// Starts it on [`WORLD`], port 53, UDP and TCP.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub fn start(lab: &Lab) -> anyhow::Result<Self> {
        let mut upstream = Self {
            questions: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for ip in WORLD.map(address) {
            let sockets = lab.wire().run(|| {
                let socket = UdpSocket::bind((ip, 53))?;
                socket.set_read_timeout(Some(TICK))?;
                let listener = TcpListener::bind((ip, 53))?;
                listener.set_nonblocking(true)?;
                anyhow::Ok((socket, listener))
            });
            let (socket, listener) = sockets?.with_context(|| format!("{ip} port 53"))?;
            upstream.spawn(move |questions, stop| datagrams(&socket, questions, stop));
            upstream.spawn(move |questions, stop| connections(&listener, questions, stop));
        }
        Ok(upstream)
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        WORLD.map(address).to_vec()
    }

    /// Every question so far, as `name. TYPE` in small letters.
    pub fn questions(&self) -> Vec<String> {
        lock(&self.questions).clone()
    }

    fn spawn(&mut self, serve: impl FnOnce(&Mutex<Vec<String>>, &AtomicBool) + Send + 'static) {
        let (questions, stop) = (Arc::clone(&self.questions), Arc::clone(&self.stop));
        self.threads
            .push(thread::spawn(move || serve(&questions, &stop)));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn datagrams(socket: &UdpSocket, questions: &Mutex<Vec<String>>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer)
            && let Ok(answer) = answer(&buffer[..length], questions)
        {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn connections(listener: &TcpListener, questions: &Mutex<Vec<String>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, from)) => {
                let _ = connection(&stream, from, questions);
            }
            Err(_) => thread::sleep(TICK),
        }
    }
}

/// One question on a connection, with the length before it.
fn connection(
    mut stream: &std::net::TcpStream,
    _from: SocketAddr,
    questions: &Mutex<Vec<String>>,
) -> anyhow::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut question = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut question)?;
    let answer = answer(&question, questions)?;
    stream.write_all(&u16::try_from(answer.len())?.to_be_bytes())?;
    Ok(stream.write_all(&answer)?)
}

fn answer(question: &[u8], questions: &Mutex<Vec<String>>) -> anyhow::Result<Vec<u8>> {
    let asked = Message::from_vec(question)?;
    let query = asked.queries.first().context("no question")?.clone();
    // It is asked in random letter case.
    let name = query.name().to_lowercase();
    lock(questions).push(format!("{name} {}", query.query_type()));
    let mut answer = Message::new(
        asked.metadata.id,
        MessageType::Response,
        asked.metadata.op_code,
    );
    answer.metadata.recursion_desired = asked.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    let mut owner = query.name().clone();
    if name.to_string() == ALIAS {
        let target = Name::from_ascii(NAME)?;
        let alias = RData::CNAME(CNAME(target.clone()));
        answer.add_answer(Record::from_rdata(owner, 60, alias));
        owner = target;
    }
    let ttl = if name.to_string() == SHORT { 0 } else { 60 };
    let known = [NAME, ALIAS, SHORT].contains(&name.to_string().as_str());
    let data = match query.query_type() {
        RecordType::A => Some(RData::A(ADDRESSES.0.into())),
        RecordType::AAAA => Some(RData::AAAA(ADDRESSES.1.into())),
        _ => None,
    };
    match data {
        _ if !known => answer.metadata.response_code = ResponseCode::NXDomain,
        Some(data) => {
            answer.add_answer(Record::from_rdata(owner, ttl, data));
        }
        None => {}
    }
    if answer.answers.is_empty() {
        let zone = Name::from_ascii(if name.to_string().ends_with(".example.com.") {
            "example.com."
        } else {
            "."
        })?;
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 60);
        answer.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
    }
    Ok(answer.to_vec()?)
}

fn lock(questions: &Mutex<Vec<String>>) -> std::sync::MutexGuard<'_, Vec<String>> {
    questions.lock().unwrap_or_else(PoisonError::into_inner)
}
