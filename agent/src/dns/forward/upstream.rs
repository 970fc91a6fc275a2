//! One upstream: how it is asked, and whether it answers.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::ValueEnum;
use futures::StreamExt as _;
use hickory_proto::{
    op::{DnsRequest, DnsRequestOptions, Message, Query},
    rr::{Name, RecordType},
};
use hickory_server::net::{
    NetError, runtime::TokioRuntimeProvider, udp::UdpClientStream, xfer::DnsRequestSender as _,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::Question;

/// UDP payload that fits every path (DNS flag day 2020).
const PAYLOAD: u16 = 1232;
/// How often a silent upstream is asked whether it is back (CoreDNS's health check).
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// How long such a question may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// How upstreams are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// UDP, and TCP where an answer is cut
    #[default]
    Udp,
    /// TCP alone (CoreDNS's `force_tcp`)
    Tcp,
}

/// A name server.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    transport: Transport,
    silent: AtomicBool,
    /// Questions and probes that it left without an answer.
    pub(super) failures: AtomicU64,
}

impl Upstream {
    pub(super) const fn new(address: SocketAddr, transport: Transport) -> Self {
        Self {
            address,
            transport,
            silent: AtomicBool::new(false),
            failures: AtomicU64::new(0),
        }
    }

    /// Whether it answered when it was last asked.
    pub(super) fn answers(&self) -> bool {
        !self.silent.load(Ordering::Relaxed)
    }

    /// Asks it. An upstream that does not answer is silent from then on, until it answers a probe.
    ///
    /// # Errors
    /// Where there is no answer in time, or it is to another question.
    pub(super) async fn ask(
        self: &Arc<Self>,
        question: &Question,
        patience: Duration,
    ) -> io::Result<Message> {
        let answer = self.exchange(question, patience).await;
        if answer.is_ok() {
            self.silent.store(false, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
            if !self.silent.swap(true, Ordering::Relaxed) {
                tracing::warn!(upstream = %self.address, "an upstream is silent; others are asked first");
                tokio::spawn(Arc::clone(self).probe());
            }
        }
        answer
    }

    async fn exchange(&self, question: &Question, patience: Duration) -> io::Result<Message> {
        if self.transport == Transport::Tcp {
            return within(patience, self.tcp(question)).await;
        }
        let answer = match within(patience, self.udp(question)).await {
            Ok(answer) if !answer.metadata.truncation => return Ok(answer),
            cut => cut,
        };
        if matches!(&answer, Err(error) if error.kind() != io::ErrorKind::InvalidData) {
            return answer;
        }
        match within(patience, self.tcp(question)).await {
            Ok(whole) => Ok(whole),
            // A part is better than nothing; the client is told that it is one.
            Err(error) => {
                tracing::debug!(upstream = %self.address, %error, "no answer over TCP");
                answer
            }
        }
    }

    /// From a port of its own, in random letter case. `InvalidData` where the upstream, or somebody who plays its
    /// part, answers in another letter case.
    async fn udp(&self, question: &Question) -> io::Result<Message> {
        let request = request(question, true);
        let mut stream = UdpClientStream::builder(self.address, TokioRuntimeProvider::new())
            .with_timeout(None)
            .build();
        let answer = stream.send_message(request).next().await;
        let answer = answer.ok_or_else(|| io::Error::other("no answer"))?;
        match answer {
            Ok(answer) => Ok(answer.into_message()),
            Err(NetError::QueryCaseMismatch) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an answer in another letter case",
            )),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    async fn tcp(&self, question: &Question) -> io::Result<Message> {
        let (message, _) = request(question, false).into_parts();
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

    /// Asks for the root's name servers until there is an answer, whatever it says.
    async fn probe(self: Arc<Self>) {
        let Ok(name) = ".".parse() else { return };
        let question = Question {
            query: Query::query(Name::root(), RecordType::NS),
            name,
            recursion_desired: true,
            checking_disabled: false,
            edns: None,
        };
        while !self.answers() {
            sleep(PROBE_EVERY).await;
            if self.exchange(&question, PROBE_PATIENCE).await.is_err() {
                self.failures.fetch_add(1, Ordering::Relaxed);
            } else {
                self.silent.store(false, Ordering::Relaxed);
                tracing::info!(upstream = %self.address, "an upstream answers again");
            }
        }
    }
}

fn request(question: &Question, random_case: bool) -> DnsRequest {
    let mut options = DnsRequestOptions::default();
    options.use_edns = question.edns.is_some();
    options.edns_payload_len = PAYLOAD;
    options.edns_set_dnssec_ok = question.edns == Some(true);
    options.recursion_desired = question.recursion_desired;
    options.case_randomization = random_case;
    let mut request = DnsRequest::from_query(question.query.clone(), options);
    request.metadata.id = rand::random();
    request.metadata.checking_disabled = question.checking_disabled;
    request
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(patience, work)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
