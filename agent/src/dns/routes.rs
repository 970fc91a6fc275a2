//! Who is asked for what: everything of the server that another file changes, but for the zone.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::op::ResponseCode;

use super::{
    Args,
    forward::{Forward, Times},
    settings,
};
use crate::{
    config::dns::{Class, DnsConfig, Limits},
    zone::Name,
};

/// Clients whose rate is known at a time; of more, some begin anew.
const CLIENTS: usize = 65_536;

/// Who is asked for what.
#[derive(Debug)]
pub(super) struct Routes {
    /// For all names that are nobody's.
    pub(super) default: Arc<Forward>,
    /// Zones that somebody has.
    stubs: Vec<(Name, Arc<Forward>)>,
    log: Vec<Class>,
    log_zones: Vec<Name>,
    pub(super) errors: bool,
    pub(super) looks_for_loops: bool,
    pub(super) limits: Limits,
    pub(super) lameduck: Duration,
}

impl Routes {
    /// What flags and file say. What stays the same is taken over from `previous`.
    ///
    /// # Errors
    /// Where what TLS needs is not there.
    pub(super) fn new(
        args: &Args,
        config: &DnsConfig,
        previous: Option<&Self>,
        times: &Times,
    ) -> anyhow::Result<Self> {
        let default = settings::forward(args, config);
        let old = previous.map(|previous| &previous.default);
        let default = reuse(default, old, times)?;
        let mut stubs: Vec<(Name, Arc<Forward>)> = Vec::new();
        for (domains, options) in settings::stubs(args, config) {
            let old = domains.iter().find_map(|domain| {
                let mut stubs = previous?.stubs.iter();
                stubs
                    .find(|(name, _)| name == domain)
                    .map(|(_, forward)| forward)
            });
            let forward = reuse(options, old, times)?;
            stubs.extend(
                domains
                    .into_iter()
                    .map(|domain| (domain, Arc::clone(&forward))),
            );
        }
        let lameduck = Duration::from_secs(args.lameduck);
        Ok(Self {
            default,
            stubs,
            log: config.log.classes.clone(),
            log_zones: config.log.zones.clone(),
            errors: config.errors.unwrap_or(true),
            looks_for_loops: config.loop_detection.unwrap_or(true),
            limits: config.limits.clone(),
            lameduck: config.lameduck.map_or(lameduck, |lameduck| lameduck.get()),
        })
    }

    /// Who is asked for a name, with the zone that they have.
    pub(super) fn to(&self, name: &Name) -> (Option<&Name>, &Arc<Forward>) {
        let around = self
            .stubs
            .iter()
            .filter(|(zone, _)| name.below(zone).is_some());
        match around.max_by_key(|(zone, _)| zone.wire().len()) {
            Some((zone, forward)) => (Some(zone), forward),
            None => (None, &self.default),
        }
    }

    /// Every one, once, with the zone that it is for.
    pub(super) fn all(&self) -> Vec<(String, &Arc<Forward>)> {
        let mut all = vec![(".".to_owned(), &self.default)];
        for (zone, forward) in &self.stubs {
            if !all.iter().any(|(_, known)| Arc::ptr_eq(known, forward)) {
                all.push((format!("{zone}."), forward));
            }
        }
        all
    }

    /// Whether an answer is logged.
    pub(super) fn logs(&self, name: Option<&Name>, code: ResponseCode, records: bool) -> bool {
        if self.log.is_empty() {
            return false;
        }
        let class = match code {
            ResponseCode::NoError if records => Class::Success,
            ResponseCode::NoError | ResponseCode::NXDomain => Class::Denial,
            _ => Class::Error,
        };
        let inside = || name.is_some_and(|name| name.is_in(&self.log_zones));
        (self.log.contains(&Class::All) || self.log.contains(&class))
            && (self.log_zones.is_empty() || inside())
    }
}

fn reuse(
    options: super::forward::Options,
    old: Option<&Arc<Forward>>,
    times: &Times,
) -> anyhow::Result<Arc<Forward>> {
    match old {
        Some(old) if *old.options() == options => Ok(Arc::clone(old)),
        _ => Ok(Arc::new(Forward::new(
            options,
            old.map(Arc::as_ref),
            times,
        )?)),
    }
}

/// How many answers clients got lately.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<IpAddr, Rate>>);

/// A bucket of answers that a client may still have.
#[derive(Debug)]
struct Rate {
    left: f64,
    at: Instant,
    dropped: u64,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    Whole,
    /// Without records, so that an honest client asks again over TCP.
    Cut,
    Nothing,
}

impl Rates {
    /// Whether a client may have one more answer. Every other one that it may not have is cut, the rest is dropped.
    pub(super) fn allow(&self, client: IpAddr, per_second: u32, now: Instant) -> Allowed {
        let most = f64::from(per_second);
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= CLIENTS && !rates.contains_key(&client) {
            rates.retain(|_, rate| now.duration_since(rate.at) < Duration::from_secs(1));
            if rates.len() >= CLIENTS {
                rates.clear();
            }
        }
        let rate = rates.entry(client).or_insert(Rate {
            left: most,
            at: now,
            dropped: 0,
        });
        let passed = now.duration_since(rate.at).as_secs_f64();
        rate.left = (rate.left + passed * most).min(most);
        rate.at = now;
        if rate.left >= 1.0 {
            rate.left -= 1.0;
            return Allowed::Whole;
        }
        rate.dropped += 1;
        if rate.dropped.is_multiple_of(2) {
            Allowed::Cut
        } else {
            Allowed::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_so_many_answers_a_second_and_others_theirs() {
        let (rates, start) = (Rates::default(), Instant::now());
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let allowed: Vec<Allowed> = (0..5).map(|_| rates.allow(one, 3, start)).collect();
        assert_eq!(allowed[..3], [Allowed::Whole; 3]);
        assert_eq!(allowed[3..], [Allowed::Nothing, Allowed::Cut]);
        assert_eq!(rates.allow(other, 3, start), Allowed::Whole);
        let later = start + Duration::from_secs(1);
        assert_eq!(rates.allow(one, 3, later), Allowed::Whole);
    }
}
