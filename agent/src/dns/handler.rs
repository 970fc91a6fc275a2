//! What is done with a question.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Instant,
};

use hickory_proto::{
    op::{Edns, Message, Metadata, OpCode, Query, ResponseCode},
    rr::{Record as WireRecord, RecordType},
    serialize::binary::{BinDecoder, BinEncoder},
};
use hickory_server::{
    net::{NetError, runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::{MessageResponseBuilder, Queries},
};
use rand::seq::SliceRandom as _;

use super::{
    answer::Asked,
    forward::{Forward, From, Question},
    metrics::Metrics,
    state::State,
};
use crate::zone::{Lookup, Name, Record, RecordData};

/// The only version of EDNS; others get BADVERS (RFC 6891 §6.1.3).
const EDNS_VERSION: u8 = 0;
/// No UDP payload may be smaller (RFC 1035 §4.2.1).
const MIN_PAYLOAD: u16 = 512;
/// An ExternalName's answer lives no shorter (CoreDNS's cache).
const MIN_ALIAS_TTL: u32 = 5;

/// Answers questions.
#[derive(Clone, Debug)]
pub(super) struct Handler {
    pub(super) state: Arc<State>,
    pub(super) forward: Arc<Forward>,
    pub(super) metrics: Arc<Metrics>,
    /// The largest UDP answer.
    pub(super) max_payload: u16,
    /// Port that the server's own questions come from; they are not counted.
    pub(super) probe: Arc<AtomicU16>,
}

/// An answer before it is fitted to its transport.
#[derive(Debug, Default)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    recursion_available: bool,
    authentic_data: bool,
    truncated: bool,
    /// The question is repeated.
    question: bool,
    answers: Vec<WireRecord>,
    authorities: Vec<WireRecord>,
    additionals: Vec<WireRecord>,
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Self {
            code,
            question: true,
            ..Self::default()
        }
    }

    /// As an upstream gave it.
    fn forwarded(message: Message) -> Self {
        let metadata = message.metadata;
        Self {
            code: metadata.response_code,
            authoritative: metadata.authoritative,
            recursion_available: metadata.recursion_available,
            authentic_data: metadata.authentic_data,
            truncated: metadata.truncation,
            question: true,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let begun = Instant::now();
        let reply = self.reply(request).await;
        let code = reply.code;
        let info = match self.send(request, &reply, &mut response_handle).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, client = %request.src(), "an answer cannot be sent");
                let mut metadata = Metadata::response_from_request(&request.metadata);
                metadata.response_code = ResponseCode::ServFail;
                hickory_proto::op::Header {
                    metadata,
                    counts: hickory_proto::op::HeaderCounts::default(),
                }
                .into()
            }
        };
        let probe = request.src().ip().is_loopback()
            && request.src().port() == self.probe.load(Ordering::Relaxed);
        if !probe {
            let qtype = request.queries.queries().first().map(|q| q.query_type());
            self.metrics.answered(
                request.src().ip().to_canonical().is_ipv4(),
                request.protocol() == Protocol::Udp,
                qtype,
                code,
                begun.elapsed(),
            );
        }
        info
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query {
            return Reply {
                question: false,
                ..Reply::code(ResponseCode::NotImp)
            };
        }
        let [query] = request.queries.queries() else {
            return Reply {
                question: false,
                ..Reply::code(ResponseCode::FormErr)
            };
        };
        if request.version() != EDNS_VERSION {
            return Reply::code(ResponseCode::BADVERS);
        }
        let query = query.original();
        let domain = self.state.read().zone.config().domain.clone();
        let Some(asked) = Asked::new(query.name(), &domain) else {
            return Reply::code(ResponseCode::FormErr);
        };
        let inside = asked.name.below(&domain).is_some();
        if inside && matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return Reply::code(ResponseCode::Refused);
        }
        match self.local(&asked, query) {
            Local::Reply(reply) => reply,
            Local::Outside(own) => {
                let question = question(request, query.clone(), asked.name);
                Reply::forwarded(self.ask(&question, &own).await)
            }
            Local::Alias {
                mut reply,
                target,
                own,
            } => {
                let mut query = query.clone();
                if let Some(wire) = Asked::new(&target.0, &domain) {
                    query.set_name(wire.wire);
                }
                let question = question(request, query, target.1);
                let message = self.ask(&question, &own).await;
                // An alias of something that is not there is still an alias (CoreDNS).
                if message.metadata.response_code == ResponseCode::NoError {
                    reply.answers.extend(message.answers);
                }
                let smallest = reply.answers.iter().map(|r| r.ttl).min().unwrap_or(0);
                for record in &mut reply.answers {
                    record.ttl = smallest.max(MIN_ALIAS_TTL);
                }
                reply
            }
        }
    }

    async fn ask(&self, question: &Question, own: &[IpAddr]) -> Message {
        let (message, from) = self.forward.ask(question, own).await;
        match from {
            From::Cache => self.metrics.cache_hits.inc(),
            From::Stale => self.metrics.served_stale.inc(),
            From::Upstream => self.metrics.cache_misses.inc(),
            From::Nobody => self.metrics.rejects.inc(),
        };
        message
    }

    /// What the zone says. The lock is held for the lookup only.
    fn local(&self, asked: &Asked, query: &Query) -> Local {
        let inner = self.state.read();
        let zone = &inner.zone;
        let qtype = u16::from(query.query_type());
        let inside = asked.name.below(&zone.config().domain);
        let authoritative = |code| Reply {
            code,
            authoritative: true,
            question: true,
            ..Reply::default()
        };
        let negative = |code| Reply {
            authorities: vec![asked.soa(zone)],
            ..authoritative(code)
        };
        if !inner.synced
            && let Some(labels) = &inside
            && depends_on_the_cluster(labels)
        {
            return Local::Reply(negative(ResponseCode::ServFail));
        }
        match zone.lookup(&asked.name, qtype) {
            Lookup::Outside => Local::Outside(zone.config().dns.clone()),
            Lookup::NoData => Local::Reply(negative(ResponseCode::NoError)),
            Lookup::NxDomain => Local::Reply(negative(ResponseCode::NXDomain)),
            Lookup::Answer {
                mut answers,
                additional,
            } => {
                shuffle(&mut answers);
                Local::Reply(Reply {
                    answers: asked.records(zone, &answers),
                    additionals: asked.records(zone, &additional),
                    ..authoritative(ResponseCode::NoError)
                })
            }
            Lookup::Alias { answers, target } => {
                let answers = asked.records(zone, &answers);
                let wire = answers.last().and_then(|record| match &record.data {
                    hickory_proto::rr::RData::CNAME(name) => Some(name.0.clone()),
                    _ => None,
                });
                Local::Alias {
                    reply: Reply {
                        answers,
                        ..authoritative(ResponseCode::NoError)
                    },
                    target: (wire.unwrap_or_default(), target),
                    own: zone.config().dns.clone(),
                }
            }
        }
    }

    async fn send(
        &self,
        request: &Request,
        reply: &Reply,
        handle: &mut impl ResponseHandler,
    ) -> Result<ResponseInfo, NetError> {
        let payload = request.max_payload().clamp(MIN_PAYLOAD, self.max_payload);
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            // The asker's own size comes back, as CoreDNS has it.
            edns.set_max_payload(asked.max_payload())
                .set_version(EDNS_VERSION);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let limit = match (request.protocol(), &edns) {
            (Protocol::Udp, Some(_)) => payload,
            (Protocol::Udp, None) => MIN_PAYLOAD,
            _ => u16::MAX,
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = reply.recursion_available;
        metadata.authentic_data = reply.authentic_data;
        metadata.truncation = reply.truncated;
        let none = Queries::read(&mut BinDecoder::new(&[]), 0).map_err(NetError::from)?;
        let queries = if reply.question {
            &request.queries
        } else {
            &none
        };
        let all = reply.answers.len() + reply.authorities.len() + reply.additionals.len();
        let must = reply.answers.len() + reply.authorities.len();
        // The first so many records of all sections, in their order.
        let build = |count: usize, cut: bool| {
            let answers = count.min(reply.answers.len());
            let authorities = (count - answers).min(reply.authorities.len());
            let additionals = count - answers - authorities;
            let mut metadata = metadata;
            metadata.truncation |= cut;
            MessageResponseBuilder::new(queries, edns.as_ref()).build(
                metadata,
                &reply.answers[..answers],
                &reply.authorities[..authorities],
                [],
                &reply.additionals[..additionals],
            )
        };
        let fits = |count: usize| {
            let mut bytes = Vec::with_capacity(512);
            let mut encoder = BinEncoder::new(&mut bytes);
            encoder.set_max_size(limit);
            // What the library leaves out it tells by the flag, and the OPT record is what it leaves out first.
            build(count, false)
                .destructive_emit(&mut encoder)
                .is_ok_and(|info| info.truncation == metadata.truncation)
        };
        let mut count = all;
        if !fits(all) {
            // Room for the OPT record is kept this way, which must be in every answer to a question that has one.
            let (mut low, mut high) = (0, all);
            while low + 1 < high {
                let middle = usize::midpoint(low, high);
                if fits(middle) {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            count = low;
        }
        handle.send_response(build(count, count < must)).await
    }
}

/// What the zone makes of a question.
enum Local {
    Reply(Reply),
    /// Ask upstream, but not these addresses: they lead back here.
    Outside(Vec<IpAddr>),
    /// The CNAMEs so far, and the name to ask upstream for.
    Alias {
        reply: Reply,
        target: (hickory_proto::rr::Name, Name),
        own: Vec<IpAddr>,
    },
}

/// Whether the answer can be wrong before the first sync (CoreDNS answers the others).
fn depends_on_the_cluster(labels: &[&[u8]]) -> bool {
    !matches!(
        labels,
        [] | [b"svc"] | [b"pod"] | [b"dns-version"] | [b"dns", b"ns"]
    )
}

fn question(request: &Request, query: Query, name: Name) -> Question {
    Question {
        query,
        name,
        recursion_desired: request.metadata.recursion_desired,
        checking_disabled: request.metadata.checking_disabled,
        edns: request.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
    }
}

/// Addresses in another order each time; aliases stay before them.
fn shuffle(records: &mut [Record]) {
    let is_address = |record: &Record| matches!(record.data, RecordData::Address(_));
    let first = records.iter().position(is_address);
    if let Some(first) = first {
        records[first..].shuffle(&mut rand::rng());
    }
}
