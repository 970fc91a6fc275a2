//! From flags and file to what the server is made of. What the file says counts before a flag.

use std::time::Duration;

use super::{
    Args, cache,
    forward::{self, How},
};
use crate::{
    config::dns::{Cache, DnsConfig, Forward, HealthCheck, Kept, UpstreamAddress},
    zone::Name,
};

/// CoreDNS keeps so many answers, and as many denials.
const CAPACITY: usize = 9984;
/// The shortest time for which CoreDNS keeps an answer, in seconds.
const SHORTEST: u64 = 5;
/// For how long an upstream's failure is believed, in seconds (RFC 2308 §7.1: at most 5 minutes).
const FAILURE: u64 = 5;
/// CoreDNS's `prefetch 2 1m 10%`.
const PREFETCH: (u32, Duration, u32) = (2, Duration::from_secs(60), 10);
/// CoreDNS goes on asking an upstream until two more health checks failed, and its clients wait as long.
const MAX_FAILS: u32 = 1;
/// Questions that are under way at once (kubeadm's Corefile).
const MOST: u32 = 1000;
/// CoreDNS's `expire` and `read_timeout`.
const EXPIRE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(2);

/// How names outside of the cluster are asked for.
pub(super) fn forward(args: &Args, config: &DnsConfig) -> forward::Options {
    let mut forward = config.forward.clone();
    if forward.upstreams.is_empty() {
        forward.upstreams = args.upstreams();
    }
    options(args, &forward, &config.cache)
}

/// How the names of each stub domain are asked for.
pub(super) fn stubs(args: &Args, config: &DnsConfig) -> Vec<(Vec<Name>, forward::Options)> {
    let stubs = config.stub_domains.iter();
    stubs
        .map(|stub| {
            let cache = stub.cache.as_ref().unwrap_or(&config.cache);
            (stub.domains.clone(), options(args, &stub.forward, cache))
        })
        .collect()
}

fn options(args: &Args, forward: &Forward, cache: &Cache) -> forward::Options {
    let Forward {
        upstreams,
        except,
        policy,
        max_fails,
        health_check,
        max_concurrent,
        force_tcp,
        prefer_udp,
        expire,
        read_timeout,
        tls,
        failover,
    } = forward;
    let HealthCheck {
        interval,
        domain,
        no_recursion,
    } = health_check.clone().unwrap_or_default();
    forward::Options {
        upstreams: upstreams.clone(),
        except: except.clone(),
        policy: policy.unwrap_or(args.upstream_policy),
        how: How {
            tcp: *force_tcp || !*prefer_udp && args.upstream_transport == super::Transport::Tcp,
            max_fails: max_fails.map_or(MAX_FAILS, |fails| fails.get()),
            probe_every: interval.get(),
            probe_name: domain,
            probe_recursion: !no_recursion,
            expire: expire.map_or(EXPIRE, |expire| expire.get()),
            ca: tls.ca.clone(),
        },
        patience: read_timeout.map_or(PATIENCE, |timeout| timeout.get()),
        most: max_concurrent.map_or(MOST, |most| most.get()) as usize,
        failover: failover.iter().map(|code| code.number()).collect(),
        server_name: tls.server_name.clone(),
        cache: kept(args, cache),
    }
}

fn kept(args: &Args, cache: &Cache) -> cache::Options {
    let of = |kept: &Kept| cache::Kept {
        capacity: kept
            .capacity
            .map_or(CAPACITY, |capacity| capacity.get() as usize),
        longest: Duration::from_secs(kept.ttl.map_or(args.cache_seconds, |ttl| ttl.get().into())),
        shortest: Duration::from_secs(kept.min_ttl.map_or(SHORTEST, |ttl| ttl.get().into())),
        except: kept.except.clone(),
    };
    let failure = cache.failure_ttl.map_or(FAILURE, |ttl| ttl.get().into());
    let (success, denial) = (of(&cache.success), of(&cache.denial));
    let nothing = success.longest.is_zero() && denial.longest.is_zero();
    let prefetch = cache.prefetch.as_ref();
    let prefetch = prefetch.map_or(PREFETCH, |prefetch| {
        (
            prefetch.hits.get(),
            prefetch.within.get(),
            prefetch.percentage.get(),
        )
    });
    let stale = cache.serve_stale.map(|stale| stale.get());
    cache::Options {
        success,
        denial,
        // Who keeps nothing keeps no failures either.
        failure: Duration::from_secs(if nothing { 0 } else { failure }),
        prefetch_hits: prefetch.0,
        prefetch_within: prefetch.1,
        prefetch_percentage: prefetch.2,
        stale: stale.unwrap_or_else(|| Duration::from_secs(args.stale_seconds)),
    }
}

impl Args {
    /// Those of the flag, else the file's.
    fn upstreams(&self) -> Vec<UpstreamAddress> {
        if self.upstream.is_empty() {
            return vec![UpstreamAddress::File(self.resolv_conf.clone())];
        }
        self.upstream.clone()
    }
}
