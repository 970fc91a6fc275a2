//! Answers of upstreams, kept for a while. Synchronous, and told the time.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, RData, RecordType},
};
use indexmap::IndexMap;
use rand::Rng as _;

use crate::zone::Name;

/// TTL of a stale answer (RFC 8767 §4).
const STALE_TTL: Duration = Duration::from_secs(30);
/// How many entries are looked at for one that makes room.
const LOOKED_AT: usize = 8;

/// How answers are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// Answers with records.
    pub(super) success: Kept,
    /// Answers that say that there is nothing, and failures.
    pub(super) denial: Kept,
    /// For how long an upstream's failure is believed.
    pub(super) failure: Duration,
    /// An answer is fetched again before it runs out when it was given more often than this; 0 for never,
    pub(super) prefetch_hits: u32,
    /// with no longer than this between two times,
    pub(super) prefetch_within: Duration,
    /// and less than so many percent of its life are left.
    pub(super) prefetch_percentage: u32,
    /// For how long answers are given after their time, where no upstream answers.
    pub(super) stale: Duration,
}

/// How answers of a kind are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) capacity: usize,
    /// None longer; nothing is kept where this is zero.
    pub(super) longest: Duration,
    /// None shorter: a TTL of 0 or 1 would make every client's second question a question to the upstream.
    pub(super) shortest: Duration,
    /// Zones of which nothing is kept.
    pub(super) except: Vec<Name>,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) name: Name,
    pub(super) qtype: RecordType,
    pub(super) class: DNSClass,
    /// DNSSEC records were asked for.
    pub(super) dnssec_ok: bool,
    /// The upstream was told not to validate.
    pub(super) checking_disabled: bool,
}

/// What the cache says to a question.
#[derive(Debug)]
pub(super) enum Hit {
    /// An answer, with what is left of its TTL.
    Fresh {
        message: Message,
        /// It has no records.
        denial: bool,
        /// It is asked for often and runs out soon: it should be fetched again. Said once.
        prefetch: bool,
    },
    /// An answer after its time, with the TTL that it may be given with when no upstream answers.
    Stale(Message),
    Miss,
}

/// An answer that holds.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) message: Message,
    pub(super) until: Instant,
    /// So long before its end it is fetched again where it is asked for often; `None` where it never is.
    pub(super) last: Option<Duration>,
}

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    entries: Mutex<Entries>,
    options: Options,
    evictions: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    success: IndexMap<Key, Entry>,
    denial: IndexMap<Key, Entry>,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    lifetime: Duration,
    until: Instant,
    last: Instant,
    hits: u32,
    prefetched: bool,
}

impl Entry {
    fn is_failure(&self) -> bool {
        self.message.metadata.response_code == ResponseCode::ServFail
    }

    /// Whether it can still be of use. A failure is none after its time.
    fn is_useful(&self, now: Instant, stale: Duration) -> bool {
        now <= self.until || (!self.is_failure() && now <= self.until + stale)
    }

    /// Whether it should be fetched again, after it was given once more with so much time left.
    fn is_due(&mut self, left: Duration, now: Instant, options: &Options) -> bool {
        if now.duration_since(self.last) > options.prefetch_within {
            self.hits = 0;
        }
        self.last = now;
        self.hits = self.hits.saturating_add(1);
        self.is_to_be_fetched(left, options)
    }

    /// Whether it is given often enough, and has little time left. Said once.
    fn is_to_be_fetched(&mut self, left: Duration, options: &Options) -> bool {
        let due = options.prefetch_hits > 0
            && !self.prefetched
            && self.hits > options.prefetch_hits
            && left < options.last(self.lifetime);
        self.prefetched |= due;
        due
    }
}

impl Options {
    /// The part of a life in which an answer is fetched again.
    fn last(&self, lifetime: Duration) -> Duration {
        lifetime * self.prefetch_percentage / 100
    }
}

impl Entries {
    fn of(&mut self, kind: Kind) -> &mut IndexMap<Key, Entry> {
        match kind {
            Kind::Success => &mut self.success,
            Kind::Denial => &mut self.denial,
        }
    }

    fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        match self.success.get_mut(key) {
            Some(entry) => Some(entry),
            None => self.denial.get_mut(key),
        }
    }
}

impl Cache {
    pub(super) fn new(options: Options) -> Self {
        Self {
            entries: Mutex::default(),
            options,
            evictions: AtomicU64::new(0),
        }
    }

    /// How answers are kept.
    pub(super) const fn options(&self) -> &Options {
        &self.options
    }

    /// The answer to a question.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Hit {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else {
            return Hit::Miss;
        };
        if let Some(left) = entry.until.checked_duration_since(now) {
            let prefetch = entry.is_due(left, now, &self.options);
            let mut message = entry.message.clone();
            drop(entries);
            let denial = message.answers.is_empty();
            set_ttl(&mut message, left);
            return Hit::Fresh {
                message,
                denial,
                prefetch,
            };
        }
        if !entry.is_useful(now, self.options.stale) {
            return Hit::Miss;
        }
        let mut message = entry.message.clone();
        drop(entries);
        set_ttl(&mut message, STALE_TTL);
        Hit::Stale(message)
    }

    /// What is known of a question, whoever asks; it is not counted as given. `None` for a failure and for what has run
    /// out.
    pub(super) fn look(&self, key: &Key, now: Instant) -> Option<Life> {
        let mut entries = self.lock();
        let entry = entries.get_mut(key)?;
        let holds = entry.until > now && !entry.is_failure();
        let fetched = self.options.prefetch_hits > 0;
        holds.then(|| Life {
            message: entry.message.clone(),
            until: entry.until,
            last: fetched.then(|| self.options.last(entry.lifetime)),
        })
    }

    /// Takes in that somebody else has given an answer so often during its life. Returns whether it should be fetched
    /// again.
    pub(super) fn given(&self, key: &Key, hits: u64, now: Instant) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else {
            return false;
        };
        let Some(left) = entry.until.checked_duration_since(now) else {
            return false;
        };
        let hits = u32::try_from(hits).unwrap_or(u32::MAX);
        // When they were is not known: they count as evenly spread.
        if entry.lifetime > self.options.prefetch_within.saturating_mul(hits) {
            return false;
        }
        entry.last = now;
        entry.hits = entry.hits.saturating_add(hits);
        entry.is_to_be_fetched(left, &self.options)
    }

    /// Keeps an answer, where it may be kept, and gives all its records the same TTL: the smallest one, within bounds.
    /// A failure does not take the place of an answer that can still be given, stale as it is.
    pub(super) fn insert(&self, key: Key, message: &mut Message, now: Instant) {
        let Some((kind, lifetime)) = self.lifetime(&key, message) else {
            return;
        };
        set_ttl(message, lifetime);
        let entry = Entry {
            message: message.clone(),
            lifetime,
            until: now + lifetime,
            last: now,
            hits: 0,
            prefetched: false,
        };
        let (stale, failure) = (self.options.stale, entry.is_failure());
        let mut entries = self.lock();
        let keeps = |old: &mut Entry| !old.is_failure() && old.is_useful(now, stale);
        if failure && entries.get_mut(&key).is_some_and(keeps) {
            return;
        }
        let (other, capacity) = match kind {
            Kind::Success => (Kind::Denial, self.options.success.capacity),
            Kind::Denial => (Kind::Success, self.options.denial.capacity),
        };
        entries.of(other).swap_remove(&key);
        let of_kind = entries.of(kind);
        if of_kind.len() >= capacity && !of_kind.contains_key(&key) {
            make_room(of_kind);
            self.evictions.fetch_add(1, Ordering::Relaxed);
        }
        of_kind.insert(key, entry);
    }

    /// How many answers with records, and how many others, are kept.
    pub(super) fn len(&self) -> (usize, usize) {
        let entries = self.lock();
        (entries.success.len(), entries.denial.len())
    }

    /// How many made room for others.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// Of which kind an answer is, and for how long it holds; `None` where it must not be kept.
    fn lifetime(&self, key: &Key, message: &Message) -> Option<(Kind, Duration)> {
        let ttl = lifetime(message)?;
        let Some(ttl) = ttl else {
            let failure = self.options.failure;
            return (!failure.is_zero()).then_some((Kind::Denial, failure));
        };
        let (kind, kept) = if message.answers.is_empty() {
            (Kind::Denial, &self.options.denial)
        } else {
            (Kind::Success, &self.options.success)
        };
        if key.name.is_in(&kept.except) {
            return None;
        }
        let ttl = ttl.max(kept.shortest).min(kept.longest);
        (!ttl.is_zero()).then_some((kind, ttl))
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Success,
    Denial,
}

/// Removes one of some that are chosen at random: the one that runs out first.
fn make_room(entries: &mut IndexMap<Key, Entry>) {
    let mut random = rand::rng();
    let chosen = (0..LOOKED_AT.min(entries.len())).map(|_| random.random_range(0..entries.len()));
    let until = |index: &usize| entries.get_index(*index).map(|(_, entry)| entry.until);
    if let Some(index) = chosen.min_by_key(until) {
        entries.swap_remove_index(index);
    }
}

/// For how long an answer holds; `Some(None)` for a failure, `None` where it must not be kept.
#[expect(
    clippy::option_option,
    reason = "a failure's time is the cache's to say"
)]
fn lifetime(message: &Message) -> Option<Option<Duration>> {
    if message.metadata.truncation {
        return None;
    }
    let smallest = |records: &[hickory_proto::rr::Record]| records.iter().map(|r| r.ttl).min();
    let seconds = match message.metadata.response_code {
        ResponseCode::ServFail => return Some(None),
        ResponseCode::NoError if !message.answers.is_empty() => [
            smallest(&message.answers),
            smallest(&message.authorities),
            smallest(&message.additionals),
        ]
        .into_iter()
        .flatten()
        .min()?,
        // RFC 2308 §5; without a SOA it must not be kept.
        ResponseCode::NoError | ResponseCode::NXDomain => {
            message
                .authorities
                .iter()
                .find_map(|record| match &record.data {
                    RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                    _ => None,
                })?
        }
        _ => return None,
    };
    Some(Some(Duration::from_secs(seconds.into())))
}

fn set_ttl(message: &mut Message, ttl: Duration) {
    let ttl = ttl.as_secs() as u32;
    for records in [
        &mut message.answers,
        &mut message.authorities,
        &mut message.additionals,
    ] {
        for record in records {
            record.ttl = ttl;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::{
        op::OpCode,
        rr::{
            Name as WireName, Record,
            rdata::{A, SOA},
        },
    };

    use super::*;

    fn key(name: &str) -> Key {
        Key {
            name: name.parse().unwrap(),
            qtype: RecordType::A,
            class: DNSClass::IN,
            dnssec_ok: false,
            checking_disabled: false,
        }
    }

    fn answer(ttls: &[u32]) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        for ttl in ttls {
            let data = RData::A(A(Ipv4Addr::LOCALHOST));
            message.add_answer(Record::from_rdata(WireName::root(), *ttl, data));
        }
        message
    }

    fn with_stale(capacity: usize, stale: Duration) -> Cache {
        let kept = Kept {
            capacity,
            longest: Duration::from_secs(30),
            shortest: Duration::from_secs(5),
            except: vec!["kept.not".parse().unwrap()],
        };
        Cache::new(Options {
            success: kept.clone(),
            denial: kept,
            failure: Duration::from_secs(5),
            prefetch_hits: 2,
            prefetch_within: Duration::from_secs(60),
            prefetch_percentage: 10,
            stale,
        })
    }

    /// Keeps nothing beyond its time.
    fn cache(capacity: usize) -> Cache {
        with_stale(capacity, Duration::ZERO)
    }

    fn fresh(cache: &Cache, name: &str, now: Instant) -> Option<Message> {
        match cache.get(&key(name), now) {
            Hit::Fresh { message, .. } => Some(message),
            Hit::Stale(_) | Hit::Miss => None,
        }
    }

    fn ttl_after(cache: &Cache, seconds: u64, start: Instant) -> Option<u32> {
        let message = fresh(cache, "a", start + Duration::from_secs(seconds))?;
        message.answers.first().map(|r| r.ttl)
    }

    #[test]
    fn the_smallest_ttl_counts_down_until_the_answer_is_gone() {
        let (cache, now) = (cache(9), Instant::now());
        cache.insert(key("a"), &mut answer(&[20, 12]), now);
        assert_eq!(ttl_after(&cache, 0, now), Some(12));
        assert_eq!(ttl_after(&cache, 5, now), Some(7));
        assert_eq!(ttl_after(&cache, 13, now), None);
    }

    #[test]
    fn ttls_have_bounds() {
        let (cache, now) = (cache(9), Instant::now());
        let mut long = answer(&[3600]);
        cache.insert(key("a"), &mut long, now);
        assert_eq!(long.answers[0].ttl, 30);
        cache.insert(key("a"), &mut answer(&[0]), now);
        assert_eq!(ttl_after(&cache, 0, now), Some(5));
    }

    #[test]
    fn a_negative_answer_is_kept_for_as_long_as_its_soa_says() {
        let (cache, now) = (cache(9), Instant::now());
        let mut message = answer(&[]);
        message.metadata.response_code = ResponseCode::NXDomain;
        cache.insert(key("a"), &mut message, now);
        assert_eq!(cache.len(), (0, 0), "no SOA");
        let root = WireName::root;
        let soa = SOA::new(root(), root(), 1, 2, 3, 4, 10);
        message.add_authority(Record::from_rdata(root(), 600, RData::SOA(soa)));
        cache.insert(key("a"), &mut message, now);
        assert!(fresh(&cache, "a", now + Duration::from_secs(9)).is_some());
        assert!(fresh(&cache, "a", now + Duration::from_secs(11)).is_none());
    }

    #[test]
    fn a_full_cache_takes_a_new_answer_for_an_old_one() {
        let (cache, now) = (cache(2), Instant::now());
        for name in ["a", "b", "c"] {
            cache.insert(key(name), &mut answer(&[20]), now);
        }
        assert_eq!(cache.len(), (2, 0));
        assert_eq!(cache.evictions(), 1);
        assert!(fresh(&cache, "c", now).is_some());
    }

    #[test]
    fn refusals_and_truncated_answers_are_not_kept() {
        let (cache, now) = (cache(9), Instant::now());
        let mut message = answer(&[20]);
        message.metadata.truncation = true;
        cache.insert(key("a"), &mut message, now);
        let mut message = answer(&[]);
        message.metadata.response_code = ResponseCode::Refused;
        cache.insert(key("a"), &mut message, now);
        assert_eq!(cache.len(), (0, 0));
    }

    #[test]
    fn what_is_asked_for_often_is_fetched_again_once_before_it_runs_out() {
        let (cache, now) = (cache(9), Instant::now());
        cache.insert(key("a"), &mut answer(&[20]), now);
        let prefetch = |seconds| {
            matches!(
                cache.get(&key("a"), now + Duration::from_secs(seconds)),
                Hit::Fresh { prefetch: true, .. }
            )
        };
        let said: Vec<bool> = [1, 2, 3, 19, 19].map(prefetch).to_vec();
        assert_eq!(said, [false, false, false, true, false]);
        cache.insert(key("a"), &mut answer(&[20]), now);
        assert!(!prefetch(19), "asked for once only");
    }

    #[test]
    fn an_answer_after_its_time_is_stale_and_then_gone() {
        let stale = Duration::from_secs(3600);
        let (cache, now) = (with_stale(9, stale), Instant::now());
        cache.insert(key("a"), &mut answer(&[20]), now);
        let after = |seconds| cache.get(&key("a"), now + Duration::from_secs(seconds));
        let Hit::Stale(message) = after(21) else {
            panic!("not stale")
        };
        assert_eq!(message.answers[0].ttl, 30);
        assert!(matches!(after(3619), Hit::Stale(_)));
        assert!(matches!(after(3621), Hit::Miss));
    }

    #[test]
    fn a_failure_does_not_take_the_place_of_a_stale_answer() {
        let stale = Duration::from_secs(3600);
        let (cache, now) = (with_stale(9, stale), Instant::now());
        cache.insert(key("a"), &mut answer(&[20]), now);
        let mut failure = answer(&[]);
        failure.metadata.response_code = ResponseCode::ServFail;
        cache.insert(key("a"), &mut failure, now + Duration::from_secs(25));
        cache.insert(key("b"), &mut failure, now);
        let later = now + Duration::from_secs(26);
        assert!(matches!(cache.get(&key("a"), later), Hit::Stale(_)));
        assert!(matches!(cache.get(&key("b"), later), Hit::Miss));
    }

    #[test]
    fn zones_can_be_left_out_and_denials_do_not_push_out_answers() {
        let (cache, now) = (cache(1), Instant::now());
        cache.insert(key("a.kept.not"), &mut answer(&[20]), now);
        assert_eq!(cache.len(), (0, 0));
        cache.insert(key("a"), &mut answer(&[20]), now);
        let mut failure = answer(&[]);
        failure.metadata.response_code = ResponseCode::ServFail;
        cache.insert(key("b"), &mut failure, now);
        assert_eq!(cache.len(), (1, 1));
        assert!(fresh(&cache, "a", now).is_some());
    }
}
