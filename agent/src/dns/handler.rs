//! What is done with a question.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Instant,
};

use futures::FutureExt as _;
use hickory_proto::{
    op::{OpCode, Query, ResponseCode},
    rr::{Name as WireName, RData, Record as WireRecord, RecordType},
};
use hickory_server::{
    net::{runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
};
use rand::seq::SliceRandom as _;
use tokio::time::timeout_at;

use super::{
    answer::Asked,
    forward::{Forward, From, Question, loop_token},
    handover::Handover,
    logged::{self, Told, Watch},
    metrics::{Answered, Metrics},
    reply::{EDNS_VERSION, Reply},
    routes::{Allowed, Rates, Routes},
    state::State,
};
use crate::{
    feed::logged::By,
    zone::{Lookup, Name, Pods, Record, RecordData, Resolved, rewrite::Rewritten},
};

/// An ExternalName's answer lives no shorter (CoreDNS's cache).
const MIN_ALIAS_TTL: u32 = 5;
/// The most upstreams that are known to lead back here.
const LOOPS: usize = 256;

/// Answers questions.
#[derive(Clone, Debug)]
pub(super) struct Handler {
    pub(super) state: Arc<State>,
    pub(super) live: Arc<Live>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) handover: Arc<Handover>,
    pub(super) watch: Arc<Watch>,
    /// The largest UDP answer.
    pub(super) max_payload: u16,
    /// Port that the server's own questions come from; they are not counted.
    pub(super) probe: Arc<AtomicU16>,
    /// Until then questions wait for the whole zone.
    pub(super) patient_until: tokio::time::Instant,
}

/// What changes while the server runs.
#[derive(Debug)]
pub(super) struct Live {
    routes: RwLock<Arc<Routes>>,
    rates: Rates,
    /// Questions that look for loops and have come back.
    looped: Mutex<Vec<Name>>,
}

impl Live {
    pub(super) fn new(routes: Routes) -> Self {
        Self {
            routes: RwLock::new(Arc::new(routes)),
            rates: Rates::default(),
            looped: Mutex::default(),
        }
    }

    /// Who is asked for what at the moment.
    pub(super) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Other routes, for questions from now on.
    pub(super) fn replace(&self, routes: Routes) {
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    /// Whether a question that looks for loops has come back.
    pub(super) fn has_looped(&self, name: &Name) -> bool {
        self.looped().contains(name)
    }

    fn loops(&self, name: &Name) {
        let mut looped = self.looped();
        if looped.len() < LOOPS && !looped.contains(name) {
            looped.push(name.clone());
        }
    }

    fn looped(&self) -> MutexGuard<'_, Vec<Name>> {
        self.looped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question, and who is asked where nobody here knows.
struct Entered {
    query: Query,
    rewritten: Option<Rewritten>,
    forward: Arc<Forward>,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let begun = Instant::now();
        let probe = request.src().ip().is_loopback()
            && request.src().port() == self.probe.load(Ordering::Relaxed);
        if !probe {
            // The kernel sends questions here as soon as this node's server is back, and without its zone the server
            // does not even know which names are outside.
            let _ = timeout_at(self.patient_until, self.state.complete()).await;
        }
        let routes = self.live.routes();
        let reply = match self.allowed(request, &routes) {
            Allowed::Whole => {
                let replied = AssertUnwindSafe(self.reply(request, &routes)).catch_unwind();
                replied.await.unwrap_or_else(|_| {
                    self.metrics.panics.inc();
                    Reply::code(ResponseCode::ServFail)
                })
            }
            Allowed::Cut => Reply::cut(),
            Allowed::Nothing => {
                self.metrics.dropped.inc();
                return Reply::unsent(request);
            }
        };
        let sent = reply
            .send(request, self.max_payload, &mut response_handle)
            .await;
        let (info, size) = sent.unwrap_or_else(|error| {
            tracing::debug!(%error, client = %request.src(), "an answer cannot be sent");
            (Reply::unsent(request), 0)
        });
        if !probe {
            self.tell(request, &routes, (&reply, size), begun);
        }
        info
    }
}

impl Handler {
    fn allowed(&self, request: &Request, routes: &Routes) -> Allowed {
        let client = request.src().ip().to_canonical();
        match routes.limits.responses_per_second {
            // The server asks itself whether it is well.
            Some(most) if request.protocol() == Protocol::Udp && !client.is_loopback() => {
                self.live.rates.allow(client, most.get(), Instant::now())
            }
            _ => Allowed::Whole,
        }
    }

    /// Counts an answer, and logs it where that is wanted.
    fn tell(
        &self,
        request: &Request,
        routes: &Routes,
        (reply, size): (&Reply, usize),
        begun: Instant,
    ) {
        let query = request
            .queries
            .queries()
            .first()
            .map(|query| query.original());
        let name = query.and_then(|query| plain(query.name()));
        let zone = name.as_ref().and_then(|name| routes.to(name).0);
        self.metrics.answered(&Answered {
            ipv4: request.src().ip().to_canonical().is_ipv4(),
            udp: request.protocol() == Protocol::Udp,
            zone,
            qtype: query.map(Query::query_type),
            code: reply.code,
            by: reply.by,
            size: request.as_slice().len(),
            answer_size: size,
            took: begun.elapsed(),
        });
        if let (Some(query), Some(name)) = (query, &name) {
            self.watch.tell(&Told {
                client: (request.src().ip(), request.src().port()),
                tcp: request.protocol() != Protocol::Udp,
                name,
                qtype: query.query_type().into(),
                code: reply.code.into(),
                records: reply.answers.len(),
                by: reply.by,
                took: begun.elapsed(),
            });
        }
        if routes.logs(name.as_ref(), reply.code, !reply.answers.is_empty())
            && let Some(query) = query
        {
            tracing::info!(
                client = %request.src(),
                name = %query.name(),
                qtype = %query.query_type(),
                code = super::labels::code(reply.code),
                microseconds = begun.elapsed().as_micros() as u64,
                "answered"
            );
        }
    }

    async fn reply(&self, request: &Request, routes: &Routes) -> Reply {
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
        self.answer(request, query.original(), routes, true).await
    }

    /// The answer to a question as it was asked; `chases` aliases to their ends.
    async fn answer(
        &self,
        request: &Request,
        query: &Query,
        routes: &Routes,
        chases: bool,
    ) -> Reply {
        let entered = match self.enter(query, routes) {
            Ok(entered) => entered,
            Err(reply) => return reply,
        };
        let mut reply = match self.local(&entered.query) {
            Local::Reply(reply) => reply,
            Local::Outside(name, own) => {
                let question = question(request, entered.query, name);
                let (message, from) = self.ask(&entered.forward, &question, &own).await;
                let failed = message.metadata.response_code == ResponseCode::ServFail;
                if failed && from == From::Upstream && routes.errors {
                    tracing::error!(name = %question.name, qtype = %question.query.query_type(), "no upstream answers");
                }
                Reply {
                    by: logged::by(from),
                    ..Reply::forwarded(message)
                }
            }
            Local::Alias { reply, .. } if !chases => reply,
            Local::Alias { mut reply, target } => {
                let mut query = entered.query;
                query.set_name(target);
                let end = Box::pin(self.answer(request, &query, routes, false)).await;
                reply.by = end.by;
                // An alias of something that is not there is still an alias (CoreDNS).
                if end.code == ResponseCode::NoError {
                    reply.answers.extend(end.answers);
                }
                let smallest = reply.answers.iter().map(|r| r.ttl).min().unwrap_or(0);
                for record in &mut reply.answers {
                    record.ttl = smallest.max(MIN_ALIAS_TTL);
                }
                reply
            }
        };
        if let Some(rewritten) = &entered.rewritten {
            reply.undo(rewritten, query.name());
        }
        reply
    }

    /// Looks whose a name is, and whether it stands for another one.
    ///
    /// # Errors
    /// The reply, where there is nothing to look for.
    fn enter(&self, query: &Query, routes: &Routes) -> Result<Entered, Reply> {
        let Some(name) = plain(query.name()) else {
            return Err(Reply::code(ResponseCode::FormErr));
        };
        if query.query_type() == RecordType::HINFO && name.below(loop_token()).is_some() {
            self.live.loops(&name);
            return Err(Reply::code(ResponseCode::Refused));
        }
        let inner = self.state.read();
        let zone = &inner.zone;
        let (forward, rewritten) = if zone.is_elsewhere(&name) {
            (routes.to(&name).1, None)
        } else {
            let rewrites = &zone.config().options.rewrites;
            (&routes.default, Rewritten::of(&name, rewrites))
        };
        let mut entered = Entered {
            query: query.clone(),
            rewritten,
            forward: Arc::clone(forward),
        };
        if let Some(rewritten) = &entered.rewritten {
            let Some(name) = &rewritten.name else {
                return Err(Reply::code(ResponseCode::ServFail));
            };
            entered.query.set_name(super::answer::to_wire(name.wire()));
        }
        drop(inner);
        Ok(entered)
    }

    /// Asks upstreams. Says where the answer comes from.
    async fn ask(
        &self,
        forward: &Arc<Forward>,
        question: &Question,
        own: &[IpAddr],
    ) -> (hickory_proto::op::Message, From) {
        let (mut message, from) = forward.ask(question, own).await;
        self.metrics.forwarded(from);
        if let From::Cache { .. } | From::Upstream = from {
            let fresh = from == From::Upstream;
            self.handover.offer(forward, question, fresh);
        }
        shuffle_addresses(&mut message.answers);
        (message, from)
    }

    /// What is known here. The lock is held for that only.
    fn local(&self, query: &Query) -> Local {
        let inner = self.state.read();
        let zone = &inner.zone;
        let Some(asked) = Asked::new(query.name(), zone) else {
            return Local::Reply(Reply::code(ResponseCode::FormErr));
        };
        let qtype = u16::from(query.query_type());
        let inside = asked.name.below(&zone.config().domain);
        let inside = inside.filter(|_| !zone.is_elsewhere(&asked.name));
        let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
        if inside.is_some() && transfer {
            return Local::Reply(Reply::code(ResponseCode::Refused));
        }
        let authoritative = |code| Reply {
            code,
            authoritative: true,
            question: true,
            by: By::Zone,
            ..Reply::default()
        };
        let negative = |code| Reply {
            authorities: vec![asked.soa(zone)],
            ..authoritative(code)
        };
        let lookup = match zone.resolve(&asked.name, qtype) {
            Resolved::NoData => return Local::Reply(authoritative(ResponseCode::NoError)),
            Resolved::Failure => return Local::Reply(Reply::code(ResponseCode::ServFail)),
            Resolved::Lookup(lookup) => lookup,
        };
        // What hosts say does not depend on the cluster, and what it says of the cluster has no other source.
        let by_hosts = zone.config().options.hosts.answers(&asked.name);
        let known = |labels: &[&[u8]]| {
            if is_of_a_pod(labels) && zone.config().options.pods == Pods::Verified {
                inner.synced && inner.pods_synced
            } else {
                inner.synced || !depends_on_the_cluster(labels)
            }
        };
        if !by_hosts
            && let Some(labels) = &inside
            && !known(labels)
        {
            return Local::Reply(negative(ResponseCode::ServFail));
        }
        match lookup {
            Lookup::Outside => Local::Outside(asked.name.clone(), zone.config().dns.clone()),
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
            Lookup::Alias { answers, .. } => {
                let answers = asked.records(zone, &answers);
                let target = answers.last().and_then(|record| match &record.data {
                    RData::CNAME(name) => Some(name.0.clone()),
                    _ => None,
                });
                Local::Alias {
                    reply: Reply {
                        answers,
                        ..authoritative(ResponseCode::NoError)
                    },
                    target: target.unwrap_or_default(),
                }
            }
        }
    }
}

/// What is known here of a question.
enum Local {
    Reply(Reply),
    /// Ask upstream for this name, but not these addresses: they lead back here.
    Outside(Name, Vec<IpAddr>),
    /// The CNAMEs so far, and the name to ask for next.
    Alias {
        reply: Reply,
        target: WireName,
    },
}

/// Whether the answer can be wrong before the first sync (CoreDNS answers the others).
fn depends_on_the_cluster(labels: &[&[u8]]) -> bool {
    !matches!(
        labels,
        [] | [b"svc"] | [b"pod"] | [b"dns-version"] | [b"dns", b"ns"]
    )
}

/// Whether a name is one of a Pod, or below it.
fn is_of_a_pod(labels: &[&[u8]]) -> bool {
    matches!(labels, [b"pod", _, _, ..])
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

/// Addresses in another order each time (CoreDNS's `loadbalance`); everything else stays where it is.
fn shuffle_addresses(records: &mut [WireRecord]) {
    let is_address = |record: &WireRecord| matches!(record.data, RData::A(_) | RData::AAAA(_));
    let Some(first) = records.iter().position(is_address) else {
        return;
    };
    let length = records[first..]
        .iter()
        .take_while(|r| is_address(r))
        .count();
    records[first..first + length].shuffle(&mut rand::rng());
}

/// A name as it was asked for; `None` where it cannot be had in wire form.
pub(super) fn plain(wire: &WireName) -> Option<Name> {
    let labels = wire.iter();
    let bytes: Vec<u8> = labels
        .flat_map(|label| std::iter::once(label.len() as u8).chain(label.iter().copied()))
        .collect();
    Name::from_wire(&bytes)
}
