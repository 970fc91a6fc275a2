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

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    entries: Mutex<HashMap<Key, Entry>>,
    capacity: usize,
    longest: Duration,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    until: Instant,
}

impl Cache {
    /// For so many answers, none for longer than `longest`; nothing is kept where that is zero.
    pub(super) fn new(capacity: usize, longest: Duration) -> Self {
        Self {
            entries: Mutex::default(),
            capacity,
            longest,
        }
    }

    /// The answer, with what is left of its TTL.
    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<Message> {
        let mut message;
        let left;
        {
            let entries = self.lock();
            let entry = entries.get(key)?;
            left = entry.until.checked_duration_since(now)?;
            message = entry.message.clone();
        }
        set_ttl(&mut message, left);
        Some(message)
    }

    /// Keeps an answer, where it may be kept, and gives all its records the same TTL: the smallest one, within bounds.
    pub(super) fn insert(&self, key: Key, message: &mut Message, now: Instant) {
        let Some(ttl) = lifetime(message).map(|ttl| ttl.max(MIN).min(self.longest)) else {
            return;
        };
        if ttl.is_zero() {
            return;
        }
        set_ttl(message, ttl);
        let mut entries = self.lock();
        if entries.len() >= self.capacity && !entries.contains_key(&key) {
            entries.retain(|_, entry| entry.until > now);
            // The order of a hash map is as good as a random choice.
            if entries.len() >= self.capacity
                && let Some(any) = entries.keys().next().cloned()
            {
                entries.remove(&any);
            }
        }
        let entry = Entry {
            message: message.clone(),
            until: now + ttl,
        };
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

    fn ttl_after(cache: &Cache, seconds: u64, start: Instant) -> Option<u32> {
        let message = cache.get(&key("a"), start + Duration::from_secs(seconds))?;
        message.answers.first().map(|r| r.ttl)
    }

    #[test]
    fn the_smallest_ttl_counts_down_until_the_answer_is_gone() {
        let (cache, now) = (Cache::new(9, Duration::from_secs(30)), Instant::now());
        cache.insert(key("a"), &mut answer(&[20, 12]), now);
        assert_eq!(ttl_after(&cache, 0, now), Some(12));
        assert_eq!(ttl_after(&cache, 5, now), Some(7));
        assert_eq!(ttl_after(&cache, 13, now), None);
    }

    #[test]
    fn ttls_have_bounds() {
        let (cache, now) = (Cache::new(9, Duration::from_secs(30)), Instant::now());
        let mut long = answer(&[3600]);
        cache.insert(key("a"), &mut long, now);
        assert_eq!(long.answers[0].ttl, 30);
        cache.insert(key("a"), &mut answer(&[0]), now);
        assert_eq!(ttl_after(&cache, 0, now), Some(5));
    }

    #[test]
    fn a_negative_answer_is_kept_for_as_long_as_its_soa_says() {
        let (cache, now) = (Cache::new(9, Duration::from_secs(30)), Instant::now());
        let mut message = answer(&[]);
        message.metadata.response_code = ResponseCode::NXDomain;
        cache.insert(key("a"), &mut message, now);
        assert_eq!(cache.len(), 0, "no SOA");
        let root = WireName::root;
        let soa = SOA::new(root(), root(), 1, 2, 3, 4, 10);
        message.add_authority(Record::from_rdata(root(), 600, RData::SOA(soa)));
        cache.insert(key("a"), &mut message, now);
        assert!(cache.get(&key("a"), now + Duration::from_secs(9)).is_some());
        assert!(
            cache
                .get(&key("a"), now + Duration::from_secs(11))
                .is_none()
        );
    }

    #[test]
    fn a_full_cache_takes_a_new_answer_for_an_old_one() {
        let (cache, now) = (Cache::new(2, Duration::from_secs(30)), Instant::now());
        for name in ["a", "b", "c"] {
            cache.insert(key(name), &mut answer(&[20]), now);
        }
        assert_eq!(cache.len(), 2);
        assert!(cache.get(&key("c"), now).is_some());
    }

    #[test]
    fn refusals_and_truncated_answers_are_not_kept() {
        let (cache, now) = (Cache::new(9, Duration::from_secs(30)), Instant::now());
        let mut message = answer(&[20]);
        message.metadata.truncation = true;
        cache.insert(key("a"), &mut message, now);
        let mut message = answer(&[]);
        message.metadata.response_code = ResponseCode::Refused;
        cache.insert(key("a"), &mut message, now);
        assert_eq!(cache.len(), 0);
    }
}
