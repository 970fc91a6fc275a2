//! One upstream: how it is asked, and whether it answers.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use hickory_proto::{
    op::{DnsRequest, DnsRequestOptions, Message, Query, ResponseCode},
    rr::{Name as WireName, RecordType},
};
use hickory_server::net::{
    NetError, runtime::TokioRuntimeProvider, udp::UdpClientStream, xfer::DnsRequestSender as _,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
};
use tokio::time::{sleep, timeout};

use super::{
    Question,
    connections::{Connections, Tls},
};
use crate::zone::Name;

/// UDP payload that fits every path (DNS flag day 2020).
const PAYLOAD: u16 = 1232;
/// How long a question may take that only asks whether somebody is there.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// How an upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct How {
    /// Over TCP alone (CoreDNS's `force_tcp`); else UDP, and TCP where an answer is cut.
    pub(in super::super) tcp: bool,
    /// After so many failures in a row it is asked last; 0 for never.
    pub(in super::super) max_fails: u32,
    /// How often a silent one is asked whether it is back,
    pub(in super::super) probe_every: Duration,
    /// for which name's name servers,
    pub(in super::super) probe_name: Name,
    /// and with which RD bit.
    pub(in super::super) probe_recursion: bool,
    /// For how long a connection is kept that nobody uses.
    pub(in super::super) expire: Duration,
    /// Who may sign certificates.
    pub(in super::super) ca: Option<PathBuf>,
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// Over TLS, with this name in its certificate.
    pub(super) tls: Option<String>,
}

/// Times of answers, by upstream and code.
pub(in super::super) type Times = Family<TimeLabels, Histogram, fn() -> Histogram>;

/// Whose answer, and which.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(in super::super) struct TimeLabels {
    proxy_name: &'static str,
    to: String,
    rcode: String,
}

/// A name server.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) place: Place,
    how: How,
    connections: Connections,
    fails: AtomicU32,
    probed: AtomicBool,
    /// It was asked whether it leads back to this server,
    looked_at: AtomicBool,
    /// and does.
    looped: AtomicBool,
    /// Questions and probes that it left without an answer.
    pub(super) failures: AtomicU64,
    times: Times,
}

/// Below this are the names that are asked for to find out whether an upstream leads back here: nobody else knows it.
pub(in super::super) fn loop_token() -> &'static Name {
    static TOKEN: OnceLock<Name> = OnceLock::new();
    TOKEN.get_or_init(|| {
        let label = || format!("{:016x}", rand::random::<u64>());
        let name = Name::default().child(label());
        name.and_then(|name| name.child(label()))
            .unwrap_or_default()
    })
}

impl Upstream {
    /// With what is needed for TLS, where it is asked so.
    pub(super) fn new(place: Place, how: How, tls: Option<Tls>, times: Times) -> Self {
        Self {
            connections: Connections::new(place.address, tls, how.expire),
            place,
            how,
            fails: AtomicU32::new(0),
            probed: AtomicBool::new(false),
            looked_at: AtomicBool::new(false),
            looped: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            times,
        }
    }

    /// Whether it answered lately.
    pub(super) fn answers(&self) -> bool {
        let fails = self.fails.load(Ordering::Relaxed);
        self.how.max_fails == 0 || fails < self.how.max_fails
    }

    /// Whether it leads back here.
    pub(super) fn is_looped(&self) -> bool {
        self.looped.load(Ordering::Relaxed)
    }

    /// How often a connection was there already, and how often one had to be made.
    pub(super) fn connections(&self) -> (u64, u64) {
        self.connections.counts()
    }

    /// Asks it. An upstream that does not answer is probed from then on, until it does.
    ///
    /// # Errors
    /// Where there is no answer in time, or it is to another question.
    pub(super) async fn ask(
        self: &Arc<Self>,
        question: &Question,
        patience: Duration,
    ) -> io::Result<Message> {
        let begun = Instant::now();
        let answer = self.exchange(question, patience).await;
        match &answer {
            Ok(message) => {
                self.fails.store(0, Ordering::Relaxed);
                let time = self.times.get_or_create(&TimeLabels {
                    proxy_name: "forward",
                    to: self.place.address.to_string(),
                    rcode: super::super::labels::code(message.metadata.response_code),
                });
                time.observe(begun.elapsed().as_secs_f64());
            }
            Err(_) => {
                self.failed();
                if self.how.max_fails > 0 && !self.probed.swap(true, Ordering::Relaxed) {
                    tokio::spawn(Arc::clone(self).probe());
                }
            }
        }
        answer
    }

    /// Asks it, once, for a name that is its own and that only this server knows; whoever hears it says so.
    pub(super) async fn look_for_loop(&self, heard: impl Fn(&Name) -> bool) {
        if self.looked_at.swap(true, Ordering::Relaxed) {
            return;
        }
        let label = format!("{:016x}", rand::random::<u64>());
        let Some(name) = loop_token().child(label) else {
            return;
        };
        let Ok(wire) = WireName::from_ascii(format!("{name}.")) else {
            return;
        };
        let question = Question {
            query: Query::query(wire, RecordType::HINFO),
            name: name.clone(),
            recursion_desired: true,
            checking_disabled: false,
            edns: None,
        };
        let asked = self.exchange(&question, PROBE_PATIENCE).await;
        if heard(&name) {
            self.looped.store(true, Ordering::Relaxed);
            tracing::error!(
                upstream = %self.place.address,
                "an upstream leads back to this server and is not asked; name others, see forward.upstreams"
            );
        } else if let Err(error) = asked {
            tracing::debug!(upstream = %self.place.address, %error, "no answer to the look for loops");
        }
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let fails = self.fails.fetch_add(1, Ordering::Relaxed) + 1;
        if fails == self.how.max_fails {
            tracing::warn!(upstream = %self.place.address, "an upstream is silent; others are asked first");
        }
    }

    async fn exchange(&self, question: &Question, patience: Duration) -> io::Result<Message> {
        if self.how.tcp || self.place.tls.is_some() {
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
                tracing::debug!(upstream = %self.place.address, %error, "no answer over TCP");
                answer
            }
        }
    }

    /// From a port of its own, in random letter case. `InvalidData` where the upstream, or somebody who plays its
    /// part, answers in another letter case.
    async fn udp(&self, question: &Question) -> io::Result<Message> {
        let request = request(question, true);
        let mut stream = UdpClientStream::builder(self.place.address, TokioRuntimeProvider::new())
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
        let answer = self.connections.exchange(&bytes).await?;
        let answer = Message::from_vec(&answer).map_err(io::Error::other)?;
        let same = answer.metadata.id == message.metadata.id && answer.queries == message.queries;
        if !same {
            return Err(io::Error::other("an answer to another question"));
        }
        Ok(answer)
    }

    /// Asks until there is an answer, whatever it says.
    async fn probe(self: Arc<Self>) {
        let name = self.how.probe_name.clone();
        let wire = WireName::from_ascii(format!("{name}.")).unwrap_or_else(|_| WireName::root());
        let question = Question {
            query: Query::query(wire, RecordType::NS),
            name,
            recursion_desired: self.how.probe_recursion,
            checking_disabled: false,
            edns: None,
        };
        // Nobody asks an upstream any more that no configuration names.
        while self.fails.load(Ordering::Relaxed) > 0 && Arc::strong_count(&self) > 1 {
            sleep(self.how.probe_every).await;
            if self.exchange(&question, PROBE_PATIENCE).await.is_err() {
                self.failed();
            } else {
                self.fails.store(0, Ordering::Relaxed);
                tracing::info!(upstream = %self.place.address, "an upstream answers again");
            }
        }
        self.probed.store(false, Ordering::Relaxed);
    }

    /// Whether it can be asked as somebody else wants to.
    pub(super) fn is(&self, place: &Place, how: &How) -> bool {
        self.place == *place && self.how == *how
    }
}

/// Whether an answer says that somebody else should be asked.
pub(super) fn is_failover(message: &Message, codes: &[u16]) -> bool {
    let code = message.metadata.response_code;
    code != ResponseCode::NoError && codes.contains(&u16::from(code))
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
