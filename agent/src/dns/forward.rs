//! Questions for other name servers.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use hickory_proto::op::{
    DnsRequest, DnsRequestOptions, Edns, Message, MessageType, OpCode, Query, ResponseCode,
};
use hickory_server::net::{
    runtime::TokioRuntimeProvider, udp::UdpClientStream, xfer::DnsRequestSender as _,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use super::cache::{Cache, Key};
use crate::zone::Name;

/// How long one upstream may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long all of them together may take: a client waits for five seconds.
const DEADLINE: Duration = Duration::from_secs(4);
/// An upstream that did not answer is asked last for so long.
const SHUNNED: Duration = Duration::from_secs(10);
/// Questions that are under way at once; CoreDNS's limit.
const CONCURRENT: usize = 1000;
/// UDP payload that fits every path (DNS flag day 2020).
const PAYLOAD: u16 = 1232;
/// CoreDNS keeps so many answers.
const CAPACITY: usize = 9984;

/// The upstreams.
#[derive(Debug)]
pub(super) struct Forward {
    upstreams: Vec<Upstream>,
    permits: Semaphore,
    pub(super) cache: Cache,
    epoch: Instant,
}

#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    /// Milliseconds after `epoch` until which it is asked last.
    shunned: AtomicU64,
}

/// What a client wants to know.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) query: Query,
    pub(super) name: Name,
    pub(super) recursion_desired: bool,
    pub(super) checking_disabled: bool,
    /// Where the client sent an OPT record: its DO bit.
    pub(super) edns: Option<bool>,
}

/// How an answer was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Cache,
    Upstream,
    /// Too many questions are under way, or there is nobody to ask.
    Nobody,
}

impl Forward {
    pub(super) fn new(upstreams: Vec<SocketAddr>, keep: Duration) -> Self {
        Self {
            upstreams: upstreams
                .into_iter()
                .map(|address| Upstream {
                    address,
                    shunned: AtomicU64::new(0),
                })
                .collect(),
            permits: Semaphore::new(CONCURRENT),
            cache: Cache::new(CAPACITY, keep),
            epoch: Instant::now(),
        }
    }

    /// Asks the upstreams, one after the other until one answers. `own` are addresses that lead back here.
    ///
    /// What an upstream says is handed on as it is: code, flags, sections. SERVFAIL where none answers, REFUSED where
    /// there is none or too many questions are under way.
    pub(super) async fn ask(&self, question: &Question, own: &[IpAddr]) -> (Message, From) {
        let key = Key {
            name: question.name.clone(),
            qtype: question.query.query_type(),
            class: question.query.query_class(),
            dnssec_ok: question.edns.unwrap_or(false),
            checking_disabled: question.checking_disabled,
        };
        if let Some(message) = self.cache.get(&key, Instant::now()) {
            return (message, From::Cache);
        }
        let Ok(_permit) = self.permits.try_acquire() else {
            return (failure(ResponseCode::Refused), From::Nobody);
        };
        let mut upstreams: Vec<&Upstream> = self
            .upstreams
            .iter()
            .filter(|u| !own.contains(&u.address.ip()))
            .collect();
        if upstreams.is_empty() {
            return (failure(ResponseCode::Refused), From::Nobody);
        }
        let begun = Instant::now();
        let now = self.millis(begun);
        upstreams.sort_by_key(|u| u.shunned.load(Ordering::Relaxed) > now);
        for upstream in upstreams.iter().cycle() {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            let asked = Instant::now();
            match upstream.ask(question, left.min(PATIENCE)).await {
                Ok(mut message) => {
                    upstream.shunned.store(0, Ordering::Relaxed);
                    self.cache.insert(key, &mut message, Instant::now());
                    return (message, From::Upstream);
                }
                Err(error) => {
                    tracing::debug!(upstream = %upstream.address, name = %question.name, %error, "no answer");
                    let until = self.millis(Instant::now() + SHUNNED);
                    upstream.shunned.store(until, Ordering::Relaxed);
                    // An upstream that is not there says so at once, again and again.
                    let spent = asked.elapsed();
                    if spent < PATIENCE / 8 && upstreams.len() == 1 {
                        tokio::time::sleep(PATIENCE / 8).await;
                    } else if spent < PATIENCE / 8 {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        }
        let mut message = failure(ResponseCode::ServFail);
        self.cache.insert(key, &mut message, Instant::now());
        (message, From::Upstream)
    }

    fn millis(&self, at: Instant) -> u64 {
        at.duration_since(self.epoch).as_millis() as u64
    }
}

impl Upstream {
    async fn ask(&self, question: &Question, patience: Duration) -> io::Result<Message> {
        let mut message = Message::query();
        message.metadata.id = rand::random();
        message.metadata.message_type = MessageType::Query;
        message.metadata.op_code = OpCode::Query;
        message.metadata.recursion_desired = question.recursion_desired;
        message.metadata.checking_disabled = question.checking_disabled;
        message.add_query(question.query.clone());
        if let Some(dnssec_ok) = question.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD).set_version(0);
            edns.set_dnssec_ok(dnssec_ok);
            message.set_edns(edns);
        }
        let udp = async {
            let request = DnsRequest::new(message.clone(), DnsRequestOptions::default());
            let mut stream = UdpClientStream::builder(self.address, TokioRuntimeProvider::new())
                .with_timeout(Some(patience))
                .build();
            let answer = stream.send_message(request).next().await;
            let answer = answer.ok_or_else(|| io::Error::other("no answer"))?;
            answer.map(|a| a.into_message()).map_err(io::Error::other)
        };
        let answer: Message = within(patience, udp).await?;
        if !answer.metadata.truncation {
            return Ok(answer);
        }
        match within(patience, self.tcp(&message)).await {
            Ok(whole) => Ok(whole),
            // A part is better than nothing; the client is told that it is one.
            Err(error) => {
                tracing::debug!(upstream = %self.address, %error, "no answer over TCP");
                Ok(answer)
            }
        }
    }

    async fn tcp(&self, message: &Message) -> io::Result<Message> {
        let bytes = message.to_vec().map_err(io::Error::other)?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut stream = TcpStream::connect(self.address).await?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        stream.write_all(&framed).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        let answer = Message::from_vec(&answer).map_err(io::Error::other)?;
        let same = answer.metadata.id == message.metadata.id && answer.queries == message.queries;
        if !same {
            return Err(io::Error::other("an answer to another question"));
        }
        Ok(answer)
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(patience, work)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn failure(code: ResponseCode) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = code;
    message
}
