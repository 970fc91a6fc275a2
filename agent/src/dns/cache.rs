//! Answers of upstreams, kept for a while. Synchronous, and told the time.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, RData, RecordType},
};

use crate::zone::Name;

/// Nothing is kept for less: a TTL of 0 or 1 would make every client's second question a question to the upstream.
const MIN: Duration = Duration::from_secs(5);
/// An answer is fetched again before it runs out when it was given more often than this, and less than one part in so
/// many of its life is left (CoreDNS's `prefetch 2 1m 10%`).
const PREFETCH_HITS: u32 = 2;
const PREFETCH_PART: u32 = 10;
/// TTL of a stale answer (RFC 8767 §4).
const STALE_TTL: Duration = Duration::from_secs(30);
/// For how long an upstream's failure is believed (RFC 2308 §7.1: at most 5 minutes).
const FAILURE: Duration = Duration::from_secs(5);

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
        /// It is asked for often and runs out soon: it should be fetched again. Said once.
        prefetch: bool,
    },
    /// An answer after its time, with the TTL that it may be given with when no upstream answers.
    Stale(Message),
    Miss,
}

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    entries: Mutex<HashMap<Key, Entry>>,
    capacity: usize,
    longest: Duration,
    stale: Duration,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    lifetime: Duration,
    until: Instant,
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
}

impl Cache {
    /// For so many answers, none for longer than `longest`; nothing is kept where that is zero. After that they are
    /// stale for so long.
    pub(super) fn new(capacity: usize, longest: Duration, stale: Duration) -> Self {
        Self {
            entries: Mutex::default(),
            capacity,
            longest,
            stale,
        }
    }

    /// The answer to a question.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Hit {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else {
            return Hit::Miss;
        };
        if let Some(left) = entry.until.checked_duration_since(now) {
            entry.hits = entry.hits.saturating_add(1);
            let prefetch = !entry.prefetched
                && entry.hits > PREFETCH_HITS
                && left < entry.lifetime / PREFETCH_PART;
            entry.prefetched |= prefetch;
            let mut message = entry.message.clone();
            drop(entries);
            set_ttl(&mut message, left);
            return Hit::Fresh { message, prefetch };
        }
        if !entry.is_useful(now, self.stale) {
            return Hit::Miss;
        }
        let mut message = entry.message.clone();
        drop(entries);
        set_ttl(&mut message, STALE_TTL);
        Hit::Stale(message)
    }

    /// Keeps an answer, where it may be kept, and gives all its records the same TTL: the smallest one, within bounds.
    /// A failure does not take the place of an answer that can still be given, stale as it is.
    pub(super) fn insert(&self, key: Key, message: &mut Message, now: Instant) {
        let Some(lifetime) = lifetime(message).map(|ttl| ttl.max(MIN).min(self.longest)) else {
            return;
        };
        if lifetime.is_zero() {
            return;
        }
        set_ttl(message, lifetime);
        let entry = Entry {
            message: message.clone(),
            lifetime,
            until: now + lifetime,
            hits: 0,
            prefetched: false,
        };
        let mut entries = self.lock();
        if entry.is_failure()
            && entries
                .get(&key)
                .is_some_and(|old| !old.is_failure() && old.is_useful(now, self.stale))
        {
            return;
        }
        if entries.len() >= self.capacity && !entries.contains_key(&key) {
            // What is past its time goes first, then what can only be given stale. The order of a hash map is as good
            // as a random choice.
            entries.retain(|_, entry| entry.is_useful(now, self.stale));
            if entries.len() >= self.capacity {
                let old = entries.iter().find(|(_, entry)| entry.until < now);
                let any = old
                    .or_else(|| entries.iter().next())
                    .map(|(key, _)| key.clone());
                any.map(|key| entries.remove(&key));
            }
        }
        entries.insert(key, entry);
    }

    /// How many answers are kept.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how long an answer holds; `None` where it must not be kept.
fn lifetime(message: &Message) -> Option<Duration> {
    if message.metadata.truncation {
        return None;
    }
    let smallest = |records: &[hickory_proto::rr::Record]| records.iter().map(|r| r.ttl).min();
    let seconds = match message.metadata.response_code {
        ResponseCode::ServFail => return Some(FAILURE),
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
    Some(Duration::from_secs(seconds.into()))
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

    /// Keeps nothing beyond its time.
    fn cache(capacity: usize) -> Cache {
        Cache::new(capacity, Duration::from_secs(30), Duration::ZERO)
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
        assert_eq!(cache.len(), 0, "no SOA");
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
        assert_eq!(cache.len(), 2);
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
        assert_eq!(cache.len(), 0);
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
        let (cache, now) = (
            Cache::new(9, Duration::from_secs(30), stale),
            Instant::now(),
        );
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
        let (cache, now) = (
            Cache::new(9, Duration::from_secs(30), stale),
            Instant::now(),
        );
        cache.insert(key("a"), &mut answer(&[20]), now);
        let mut failure = answer(&[]);
        failure.metadata.response_code = ResponseCode::ServFail;
        cache.insert(key("a"), &mut failure, now + Duration::from_secs(25));
        cache.insert(key("b"), &mut failure, now);
        let later = now + Duration::from_secs(26);
        assert!(matches!(cache.get(&key("a"), later), Hit::Stale(_)));
        assert!(matches!(cache.get(&key("b"), later), Hit::Miss));
    }
}
