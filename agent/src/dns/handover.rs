//! Hands answers of the cache over to the agent, which lets the kernel give them: those that hold for everybody who asks.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType},
};
use tokio::sync::{mpsc, watch};

use super::{
    answer::to_wire,
    clock::monotonic,
    forward::{Forward, Question},
    handler::{Live, plain},
    routes::Routes,
    state::State,
};
use crate::{
    feed::cached::{self, Asked, Cached, End, Soa},
    zone::{Name, Zone},
};

/// Answers that wait for the agent; of more the later ones are handed over when they are asked for again.
const QUEUE: usize = 1024;
/// An answer is not handed over again before so long: the agent may have refused it.
const AGAIN: Duration = Duration::from_secs(1);
/// How many answers are remembered as handed over.
const REMEMBERED: usize = 16_384;

/// Where what is handed over arrives.
pub(super) type Arrives = (
    watch::Receiver<u64>,
    mpsc::Receiver<(u64, Cached)>,
    watch::Receiver<Option<u64>>,
);

/// Hands answers over.
#[derive(Debug)]
pub(super) struct Handover {
    state: Arc<State>,
    live: Arc<Live>,
    /// Another number with every change of what decides answers: with it all that was handed over counts no more.
    session: watch::Sender<u64>,
    answers: mpsc::Sender<(u64, Cached)>,
    wanted: AtomicBool,
    /// What the server goes by, once an agent asks for it.
    options: watch::Sender<Option<u64>>,
    offered: Mutex<HashMap<cached::Question, Instant>>,
}

impl Handover {
    /// What hands over, and where it arrives: the number of the session, and answers with the number of theirs.
    pub(super) fn new(state: Arc<State>, live: Arc<Live>) -> (Self, Arrives) {
        let (session, session_out) = watch::channel(rand::random());
        let (answers, answers_out) = mpsc::channel(QUEUE);
        let (options, options_out) = watch::channel(None);
        let this = Self {
            state,
            live,
            session,
            answers,
            wanted: AtomicBool::new(false),
            options,
            offered: Mutex::default(),
        };
        (this, (session_out, answers_out, options_out))
    }

    /// Whether somebody takes answers.
    pub(super) fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Whether the agent wants to know what the server goes by.
    pub(super) fn set_compared(&self, compared: bool) {
        let own = self.state.read().zone.config().options.digest;
        self.options.send_replace(compared.then_some(own));
    }

    /// Something changed that decides answers: what was handed over counts no more. To be called after the change.
    pub(super) fn flush(&self) {
        self.session.send_replace(rand::random());
        if self.options.borrow().is_some() {
            self.set_compared(true);
        }
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        offered.clear();
    }

    /// Hands over what the cache now has of a question, where whoever asks it would get that. `fresh` says that it has just
    /// come.
    pub(super) fn offer(&self, forward: &Arc<Forward>, question: &Question, fresh: bool) {
        let qtype = question.query.query_type();
        let kept = matches!(qtype, RecordType::A | RecordType::AAAA | RecordType::CNAME);
        let plain_question = question.query.query_class() == DNSClass::IN
            && question.edns != Some(true)
            && !question.checking_disabled;
        if !kept || !plain_question || !self.wanted.load(Ordering::Relaxed) {
            return;
        }
        // Before anything is looked at: a change makes this number an old one.
        let session = *self.session.borrow();
        let asked = cached::Question {
            name: question.name.clone(),
            qtype: qtype.into(),
        };
        if !self.is_time(&asked, fresh) {
            return;
        }
        let routes = self.live.routes();
        let asks = self.whom(&routes, &asked.name);
        if !asks.is_some_and(|asks| Arc::ptr_eq(&asks, forward)) {
            return;
        }
        let Some(life) = forward.cache.look(&forward.key(question), Instant::now()) else {
            return;
        };
        let code = life.message.metadata.response_code;
        let records = !life.message.answers.is_empty();
        if routes.logs(Some(&asked.name), code, records) {
            return; // the kernel writes no log
        }
        let Some((chain, end)) = read(&asked, &life.message) else {
            return;
        };
        let Some(now) = monotonic() else { return };
        let left = life.until.saturating_duration_since(Instant::now());
        let until = now + left.as_nanos() as u64;
        let metadata = &life.message.metadata;
        let answer = Cached {
            question: asked,
            until,
            due: life.last.map_or(u64::MAX, |last| {
                until.saturating_sub(last.as_nanos() as u64)
            }),
            authoritative: metadata.authoritative,
            recursion_available: metadata.recursion_available,
            authentic_data: metadata.authentic_data,
            chain,
            end,
        };
        // Where it does not fit, user space gives the answer as before.
        let _ = self.answers.try_send((session, answer));
    }

    /// Fetches again what the kernel gives often and what runs out soon.
    pub(super) fn asked(self: &Arc<Self>, asked: Vec<Asked>) {
        let routes = self.live.routes();
        for Asked { question, hits } in asked {
            let Some(forward) = self.whom(&routes, &question.name) else {
                continue;
            };
            let own = self.state.read().zone.config().dns.clone();
            let question = Question {
                query: Query::query(to_wire(question.name.wire()), question.qtype.into()),
                name: question.name,
                recursion_desired: true,
                checking_disabled: false,
                edns: Some(false),
            };
            let Some(flight) = forward.prefetch(&question, &own, hits) else {
                continue;
            };
            let this = Arc::clone(self);
            tokio::spawn(async move {
                flight.await;
                this.offer(&forward, &question, true);
            });
        }
    }

    /// Who is asked for a name by everybody who asks for it; `None` where that depends on more than upstreams.
    fn whom(&self, routes: &Routes, name: &Name) -> Option<Arc<Forward>> {
        let inner = self.state.read();
        let zone: &Zone = &inner.zone;
        if !zone.is_nobodys(name) {
            return None;
        }
        let forward = if zone.is_elsewhere(name) {
            routes.to(name).1
        } else {
            &routes.default
        };
        let refused = name.is_in(&forward.options().except);
        (!refused).then(|| Arc::clone(forward))
    }

    fn is_time(&self, question: &cached::Question, fresh: bool) -> bool {
        let now = Instant::now();
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = |at: &Instant| now.duration_since(*at) < AGAIN;
        if !fresh && offered.get(question).is_some_and(lately) {
            return false;
        }
        if offered.len() >= REMEMBERED {
            offered.retain(|_, at| lately(at));
            if offered.len() >= REMEMBERED {
                offered.clear();
            }
        }
        offered.insert(question.clone(), now);
        true
    }
}

/// What an answer says. `None` for anything but a chain of aliases from the name to addresses or to a SOA record, in
/// this order.
fn read(question: &cached::Question, message: &Message) -> Option<(Vec<Name>, End)> {
    let (mut chain, mut addresses) = (Vec::new(), Vec::new());
    let mut owner = question.name.clone();
    let qtype = RecordType::from(question.qtype);
    for record in &message.answers {
        if record.dns_class != DNSClass::IN || plain(&record.name)? != owner {
            return None;
        }
        match &record.data {
            RData::CNAME(target) if addresses.is_empty() => {
                owner = plain(&target.0)?;
                chain.push(owner.clone());
            }
            RData::A(a) if qtype == RecordType::A => addresses.push(a.0.into()),
            RData::AAAA(a) if qtype == RecordType::AAAA => addresses.push(a.0.into()),
            _ => return None,
        }
    }
    if !message.additionals.is_empty() {
        return None;
    }
    let end = match (message.metadata.response_code, &message.authorities[..]) {
        (ResponseCode::NoError, []) => End::Addresses(addresses),
        (ResponseCode::NoError, [soa]) if addresses.is_empty() => End::NoData(start(soa)?),
        (ResponseCode::NXDomain, [soa]) if addresses.is_empty() => End::NxDomain(start(soa)?),
        _ => return None,
    };
    Some((chain, end))
}

fn start(record: &Record) -> Option<Soa> {
    let RData::SOA(soa) = &record.data else {
        return None;
    };
    Some(Soa {
        owner: plain(&record.name)?,
        mname: plain(&soa.mname)?,
        rname: plain(&soa.rname)?,
        numbers: [
            soa.serial,
            soa.refresh as u32,
            soa.retry as u32,
            soa.expire as u32,
            soa.minimum,
        ],
    })
}
