//! Questions for other name servers.

mod connections;
mod policy;
mod upstream;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
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
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::{sync::Semaphore, time::timeout};
use tokio_rustls::rustls::ClientConfig;

use self::{
    connections::Tls,
    policy::Order,
    upstream::{Place, Upstream, is_failover},
};
use super::cache::{self, Cache, Hit, Key};
use crate::{
    config::dns::{Policy, UpstreamAddress},
    zone::Name,
};

pub(super) use self::upstream::{How, Times, loop_token};

/// How long all upstreams together may take: a client waits for five seconds.
const DEADLINE: Duration = Duration::from_secs(4);
/// How long a client waits for a fresh answer where there is a stale one (RFC 8767 §5: the client response timer).
const STALE_AFTER: Duration = Duration::from_millis(1800);
/// The wait after an upstream that says at once that it is not there.
const PAUSE: Duration = Duration::from_millis(10);

/// How names of some zone are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) upstreams: Vec<UpstreamAddress>,
    /// Names at or below these are not asked for.
    pub(super) except: Vec<Name>,
    pub(super) policy: Policy,
    pub(super) how: How,
    /// How long one upstream may take.
    pub(super) patience: Duration,
    /// Questions that are under way at once; 0 for any number.
    pub(super) most: usize,
    /// Codes with which the next upstream is asked.
    pub(super) failover: Vec<u16>,
    /// The name in certificates.
    pub(super) server_name: Option<String>,
    pub(super) cache: cache::Options,
}

/// The upstreams, and what they said.
#[derive(Debug)]
pub(super) struct Forward {
    options: Options,
    tls: Option<Arc<ClientConfig>>,
    upstreams: RwLock<Vec<Arc<Upstream>>>,
    order: Order,
    times: Times,
    permits: Option<Arc<Semaphore>>,
    pub(super) cache: Arc<Cache>,
    /// Questions that are under way: who asks the same waits for the same answer.
    flights: Mutex<HashMap<Key, Flight>>,
    pub(super) prefetched: AtomicU64,
    /// Every upstream was silent, and was asked all the same.
    pub(super) broken: AtomicU64,
}

/// An answer that somebody waits for.
pub(super) type Flight = Shared<BoxFuture<'static, (Message, From)>>;

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
    /// The cache; whether it is one without records.
    Cache {
        denial: bool,
    },
    /// The cache, after its time: no upstream answers.
    Stale,
    Upstream,
    /// Too many questions are under way.
    Rejected,
    /// There is nobody to ask.
    Nobody,
}

/// An upstream in numbers.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pub(super) address: SocketAddr,
    pub(super) failures: u64,
    /// Connections that were there, and that had to be made.
    pub(super) connections: (u64, u64),
}

impl Forward {
    /// Takes from `previous` what stays the same: the cache, and what is known of upstreams.
    ///
    /// # Errors
    /// Where what TLS needs is not there.
    pub(super) fn new(
        options: Options,
        previous: Option<&Self>,
        times: &Times,
    ) -> anyhow::Result<Self> {
        let is_tls = |upstream: &UpstreamAddress| matches!(upstream, UpstreamAddress::Tls(..));
        let tls = if options.upstreams.iter().any(is_tls) {
            Some(connections::client_config(options.how.ca.as_deref())?)
        } else {
            None
        };
        // What other upstreams have said may be wrong from now on.
        let same = previous.filter(|previous| previous.options.upstreams == options.upstreams);
        let cache = same.map(|previous| &previous.cache);
        let cache = cache.filter(|cache| *cache.options() == options.cache);
        let known = previous.map(Self::upstreams).unwrap_or_default();
        let this = Self {
            cache: cache.map_or_else(|| Arc::new(Cache::new(options.cache.clone())), Arc::clone),
            tls,
            upstreams: RwLock::new(known),
            order: Order::new(options.policy),
            times: times.clone(),
            permits: (options.most > 0).then(|| Arc::new(Semaphore::new(options.most))),
            flights: Mutex::default(),
            prefetched: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            options,
        };
        this.follow()?;
        Ok(this)
    }

    /// How names are asked for.
    pub(super) const fn options(&self) -> &Options {
        &self.options
    }

    /// Reads the files that name upstreams, and takes those that they name. A file that cannot be read, or names
    /// none, changes nothing. Returns whether the upstreams changed.
    ///
    /// # Errors
    /// Where an upstream has no name that its certificate could have.
    pub(super) fn follow(&self) -> anyhow::Result<bool> {
        let mut places = Vec::new();
        for upstream in &self.options.upstreams {
            match upstream {
                UpstreamAddress::Plain(address) => places.push(Place {
                    address: *address,
                    tls: None,
                }),
                UpstreamAddress::Tls(address, name) => {
                    let name = name.clone().or_else(|| self.options.server_name.clone());
                    places.push(Place {
                        address: *address,
                        tls: Some(name.unwrap_or_else(|| address.ip().to_string())),
                    });
                }
                UpstreamAddress::File(path) => match read(path) {
                    Ok(named) if !named.is_empty() => places.extend(named),
                    Ok(_) | Err(_) if !self.upstreams().is_empty() => return Ok(false),
                    Ok(_) => tracing::warn!(file = %path.display(), "names no upstream"),
                    Err(error) => {
                        tracing::warn!(file = %path.display(), "names no upstream: {error:#}");
                    }
                },
            }
        }
        let mut seen: Vec<Place> = Vec::new();
        places.retain(|place| {
            let new = !seen.contains(place);
            seen.push(place.clone());
            new
        });
        let known = self.upstreams();
        let how = &self.options.how;
        let mut upstreams = Vec::new();
        for place in places {
            if let Some(known) = known.iter().find(|known| known.is(&place, how)) {
                upstreams.push(Arc::clone(known));
                continue;
            }
            let tls = match (&place.tls, &self.tls) {
                (Some(name), Some(config)) => Some(Tls::new(config, name)?),
                _ => None,
            };
            upstreams.push(Arc::new(Upstream::new(
                place,
                how.clone(),
                tls,
                self.times.clone(),
            )));
        }
        let addresses = |list: &[Arc<Upstream>]| -> Vec<Place> {
            list.iter().map(|upstream| upstream.place.clone()).collect()
        };
        let changed = addresses(&known) != addresses(&upstreams);
        *self
            .upstreams
            .write()
            .unwrap_or_else(PoisonError::into_inner) = upstreams;
        Ok(changed)
    }

    /// Asks every upstream that was not asked yet whether it leads back here. `heard` says whether the question has come
    /// back.
    pub(super) async fn look_for_loops(&self, heard: impl Fn(&Name) -> bool) {
        for upstream in self.upstreams() {
            upstream.look_for_loop(&heard).await;
        }
    }

    /// Every upstream in numbers.
    pub(super) fn numbers(&self) -> Vec<Numbers> {
        let numbers = |upstream: &Arc<Upstream>| Numbers {
            address: upstream.place.address,
            failures: upstream.failures.load(Ordering::Relaxed),
            connections: upstream.connections(),
        };
        self.upstreams().iter().map(numbers).collect()
    }

    /// Where the upstreams are.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.upstreams()
            .iter()
            .map(|upstream| upstream.place.address)
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
        if question.name.is_in(&self.options.except) {
            return (failure(ResponseCode::ServFail), From::Nobody);
        }
        let key = self.key(question);
        let (mut message, from) = match self.cache.get(&key, Instant::now()) {
            Hit::Fresh {
                message,
                denial,
                prefetch,
            } => {
                if prefetch && self.fly(key, question, own).is_ok() {
                    self.prefetched.fetch_add(1, Ordering::Relaxed);
                }
                (message, From::Cache { denial })
            }
            Hit::Stale(stale) => match self.fly(key, question, own) {
                Err(_) => (stale, From::Stale),
                Ok(flight) => match timeout(STALE_AFTER, flight).await {
                    Ok(fresh) if fresh.0.metadata.response_code != ResponseCode::ServFail => fresh,
                    _ => (stale, From::Stale),
                },
            },
            Hit::Miss => match self.fly(key, question, own) {
                Ok(flight) => flight.await,
                Err(why) => (failure(ResponseCode::Refused), why),
            },
        };
        recase(&mut message, question.query.name());
        (message, from)
    }

    /// Under which its answer is kept.
    #[expect(clippy::unused_self, reason = "a key is one of its cache")]
    pub(super) fn key(&self, question: &Question) -> Key {
        Key {
            name: question.name.clone(),
            qtype: question.query.query_type(),
            class: question.query.query_class(),
            dnssec_ok: question.edns.unwrap_or(false),
            checking_disabled: question.checking_disabled,
        }
    }

    /// Fetches an answer again that somebody else has given so often, where it is time for that.
    pub(super) fn prefetch(
        self: &Arc<Self>,
        question: &Question,
        own: &[IpAddr],
        hits: u64,
    ) -> Option<Flight> {
        let key = self.key(question);
        if !self.cache.given(&key, hits, Instant::now()) {
            return None;
        }
        let flight = self.fly(key, question, own).ok()?;
        self.prefetched.fetch_add(1, Ordering::Relaxed);
        Some(flight)
    }

    /// The question that is under way already, or a new one. It goes on when nobody waits for it any more.
    ///
    /// # Errors
    /// Where there is no upstream, or too many questions are under way.
    fn fly(
        self: &Arc<Self>,
        key: Key,
        question: &Question,
        own: &[IpAddr],
    ) -> Result<Flight, From> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&key) {
            return Ok(flight.clone());
        }
        let permit = match &self.permits {
            None => None,
            Some(permits) => Some(
                Arc::clone(permits)
                    .try_acquire_owned()
                    .map_err(|_| From::Rejected)?,
            ),
        };
        let mut upstreams = self.upstreams();
        upstreams.retain(|u| !own.contains(&u.place.address.ip()) && !u.is_looped());
        if upstreams.is_empty() {
            return Err(From::Nobody);
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
        Ok(flight)
    }

    /// Asks one after the other until one answers.
    async fn ask_in_turn(&self, mut upstreams: Vec<Arc<Upstream>>, question: &Question) -> Message {
        let begun = Instant::now();
        self.order.put(&mut upstreams, |u| u.answers());
        if !upstreams.iter().any(|upstream| upstream.answers()) {
            self.broken.fetch_add(1, Ordering::Relaxed);
        }
        let patience = self.options.patience;
        let mut unwanted = None;
        for (turn, upstream) in upstreams.iter().cycle().enumerate() {
            let left = DEADLINE.max(patience).saturating_sub(begun.elapsed());
            if left.is_zero() || unwanted.is_some() && turn >= upstreams.len() {
                break;
            }
            let asked = Instant::now();
            match upstream.ask(question, left.min(patience)).await {
                Ok(message) if is_failover(&message, &self.options.failover) => {
                    unwanted = Some(message);
                }
                Ok(message) => return message,
                Err(error) => {
                    tracing::debug!(upstream = %upstream.place.address, name = %question.name, %error, "no answer");
                    // An upstream that is not there says so at once, again and again.
                    if asked.elapsed() < patience / 8 {
                        let alone = upstreams.len() == 1;
                        tokio::time::sleep(if alone { patience / 8 } else { PAUSE }).await;
                    }
                }
            }
        }
        unwanted.unwrap_or_else(|| failure(ResponseCode::ServFail))
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

/// The name servers of a file like `/etc/resolv.conf`.
fn read(path: &Path) -> anyhow::Result<Vec<Place>> {
    let (config, _) = parse_resolv_conf(std::fs::read(path)?)?;
    let servers = config.name_servers().iter();
    let place = |ip: IpAddr| Place {
        address: SocketAddr::new(ip, 53),
        tls: None,
    };
    Ok(servers.map(|server| place(server.ip)).collect())
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
