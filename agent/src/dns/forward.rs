//! Questions for other name servers.

mod policy;
mod upstream;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture, future::Shared};
use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::Name as WireName,
};
use tokio::{sync::Semaphore, time::timeout};

use self::{policy::Order, upstream::Upstream};
use super::cache::{Cache, Hit, Key};
use crate::zone::Name;

pub use self::{policy::Policy, upstream::Transport};

/// How long one upstream may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long all of them together may take: a client waits for five seconds.
const DEADLINE: Duration = Duration::from_secs(4);
/// How long a client waits for a fresh answer where there is a stale one (RFC 8767 §5: the client response timer).
const STALE_AFTER: Duration = Duration::from_millis(1800);
/// Questions that are under way at once; CoreDNS's limit.
const CONCURRENT: usize = 1000;
/// CoreDNS keeps so many answers.
const CAPACITY: usize = 9984;

/// How names outside of the cluster are asked for.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) upstreams: Vec<SocketAddr>,
    pub(super) policy: Policy,
    pub(super) transport: Transport,
    /// For how long answers are kept at most.
    pub(super) keep: Duration,
    /// For how long an answer is given after that, where no upstream answers.
    pub(super) stale: Duration,
}

/// The upstreams, and what they said.
#[derive(Debug)]
pub(super) struct Forward {
    upstreams: RwLock<Vec<Arc<Upstream>>>,
    transport: Transport,
    order: Order,
    permits: Arc<Semaphore>,
    pub(super) cache: Cache,
    /// Questions that are under way: who asks the same waits for the same answer.
    flights: Mutex<HashMap<Key, Flight>>,
    pub(super) prefetched: AtomicU64,
}

/// An answer that somebody waits for.
type Flight = Shared<BoxFuture<'static, (Message, From)>>;

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
    /// The cache, after its time: no upstream answers.
    Stale,
    Upstream,
    /// Too many questions are under way, or there is nobody to ask.
    Nobody,
}

impl Forward {
    pub(super) fn new(options: &Options) -> Self {
        let this = Self {
            upstreams: RwLock::default(),
            transport: options.transport,
            order: Order::new(options.policy),
            permits: Arc::new(Semaphore::new(CONCURRENT)),
            cache: Cache::new(CAPACITY, options.keep, options.stale),
            flights: Mutex::default(),
            prefetched: AtomicU64::new(0),
        };
        this.replace(&options.upstreams);
        this
    }

    /// Takes other upstreams; what is known of those that stay is kept. Whether anything changed.
    pub(super) fn replace(&self, addresses: &[SocketAddr]) -> bool {
        let mut upstreams = self
            .upstreams
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let same = upstreams.iter().map(|u| &u.address).eq(addresses);
        *upstreams = addresses
            .iter()
            .map(|address| {
                let known = upstreams.iter().find(|u| u.address == *address);
                known
                    .cloned()
                    .unwrap_or_else(|| Arc::new(Upstream::new(*address, self.transport)))
            })
            .collect();
        !same
    }

    /// Every upstream, with how many questions it left without an answer.
    pub(super) fn failures(&self) -> Vec<(SocketAddr, u64)> {
        self.upstreams()
            .iter()
            .map(|u| (u.address, u.failures.load(Ordering::Relaxed)))
            .collect()
    }

    /// The answer from the cache, else from an upstream. `own` are addresses that lead back here.
    ///
    /// What an upstream says is handed on as it is: code, flags, sections; the owners get the asker's letter case.
    /// SERVFAIL where none answers and there is no stale answer either, REFUSED where there is none or too many
    /// questions are under way.
    pub(super) async fn ask(
        self: &Arc<Self>,
        question: &Question,
        own: &[IpAddr],
    ) -> (Message, From) {
        let key = Key {
            name: question.name.clone(),
            qtype: question.query.query_type(),
            class: question.query.query_class(),
            dnssec_ok: question.edns.unwrap_or(false),
            checking_disabled: question.checking_disabled,
        };
        let (mut message, from) = match self.cache.get(&key, Instant::now()) {
            Hit::Fresh { message, prefetch } => {
                if prefetch && self.fly(key, question, own).is_some() {
                    self.prefetched.fetch_add(1, Ordering::Relaxed);
                }
                (message, From::Cache)
            }
            Hit::Stale(stale) => match self.fly(key, question, own) {
                None => (stale, From::Stale),
                Some(flight) => match timeout(STALE_AFTER, flight).await {
                    Ok(fresh) if fresh.0.metadata.response_code != ResponseCode::ServFail => fresh,
                    _ => (stale, From::Stale),
                },
            },
            Hit::Miss => match self.fly(key, question, own) {
                Some(flight) => flight.await,
                None => (failure(ResponseCode::Refused), From::Nobody),
            },
        };
        recase(&mut message, question.query.name());
        (message, from)
    }

    /// The question that is under way already, or a new one. It goes on when nobody waits for it any more. `None`
    /// where there is no upstream, or too many questions are under way.
    fn fly(self: &Arc<Self>, key: Key, question: &Question, own: &[IpAddr]) -> Option<Flight> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&key) {
            return Some(flight.clone());
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let mut upstreams = self.upstreams();
        upstreams.retain(|u| !own.contains(&u.address.ip()));
        if upstreams.is_empty() {
            return None;
        }
        let (this, asked, landing) = (Arc::clone(self), question.clone(), key.clone());
        let asking = tokio::spawn(async move {
            let mut message = this.ask_in_turn(upstreams, &asked).await;
            this.cache
                .insert(landing.clone(), &mut message, Instant::now());
            this.flights().remove(&landing);
            drop(permit);
            message
        });
        let flight = asking
            .map(|joined| joined.unwrap_or_else(|_| failure(ResponseCode::ServFail)))
            .map(|message| (message, From::Upstream))
            .boxed()
            .shared();
        flights.insert(key, flight.clone());
        Some(flight)
    }

    /// Asks one after the other until one answers.
    async fn ask_in_turn(&self, mut upstreams: Vec<Arc<Upstream>>, question: &Question) -> Message {
        let begun = Instant::now();
        self.order.put(&mut upstreams, |u| u.answers());
        for upstream in upstreams.iter().cycle() {
            let left = DEADLINE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            let asked = Instant::now();
            match upstream.ask(question, left.min(PATIENCE)).await {
                Ok(message) => return message,
                Err(error) => {
                    tracing::debug!(upstream = %upstream.address, name = %question.name, %error, "no answer");
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
        failure(ResponseCode::ServFail)
    }

    fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.upstreams
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the records of the name that was asked for the asker's letter case (0x20): upstreams are asked in a random one.
fn recase(message: &mut Message, name: &WireName) {
    for record in &mut message.answers {
        if record.name == *name {
            record.name = name.clone();
        }
    }
}

fn failure(code: ResponseCode) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = code;
    message
}
