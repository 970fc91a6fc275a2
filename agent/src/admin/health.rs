//! Whether the agent's loop turns, and what it still waits for.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::ProxyHealth;

/// A loop that has not turned for so long hangs. Filling the maps of a large cluster for the first time takes a few
/// seconds of one turn.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// A change that was not carried out for so long makes the proxy unhealthy: twice kube-proxy's `syncPeriod`.
const LATE_AFTER: Duration = Duration::from_secs(60);

/// Shared between the loop and the probes.
#[derive(Debug)]
pub struct Health {
    turned: Mutex<Instant>,
    pending: Mutex<BTreeSet<String>>,
    proxy: Mutex<Proxy>,
}

#[derive(Debug)]
struct Proxy {
    updated: Option<Timestamp>,
    /// Since when a change waits.
    queued: Option<Instant>,
    node_eligible: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            turned: Mutex::new(Instant::now()),
            pending: Mutex::default(),
            // Until the Node object is known, nothing is known against the node.
            proxy: Mutex::new(Proxy {
                updated: None,
                queued: None,
                node_eligible: true,
            }),
        }
    }
}

impl Health {
    /// Says that the loop has turned.
    pub fn turn(&self) {
        *locked(&self.turned) = Instant::now();
    }

    /// Whether the loop has turned lately.
    pub fn is_alive(&self) -> bool {
        locked(&self.turned).elapsed() < HANGS_AFTER
    }

    /// Says that a change waits to be carried out.
    pub fn queued(&self) {
        locked(&self.proxy).queued.get_or_insert_with(Instant::now);
    }

    /// Says that no change waits any more.
    pub fn updated(&self) {
        let mut proxy = locked(&self.proxy);
        proxy.updated = Some(Timestamp::now());
        proxy.queued = None;
    }

    /// Says whether new connections from outside may come to this node.
    pub fn set_node_eligible(&self, eligible: bool) {
        locked(&self.proxy).node_eligible = eligible;
    }

    /// What `/healthz` and `/livez` say. A loop that hangs may have changes before it that it has not even seen.
    pub fn proxy(&self) -> ProxyHealth {
        let alive = self.is_alive();
        let proxy = locked(&self.proxy);
        ProxyHealth {
            last_updated: proxy.updated,
            healthy: alive
                && proxy
                    .queued
                    .is_none_or(|since| since.elapsed() < LATE_AFTER),
            node_eligible: proxy.node_eligible,
        }
    }

    /// Keeps the agent from being ready until the guard is told that `what` is done.
    pub fn guard(self: &Arc<Self>, what: impl Into<String>) -> Guard {
        let what = what.into();
        locked(&self.pending).insert(what.clone());
        Guard {
            health: Arc::clone(self),
            what,
        }
    }

    /// What the agent still waits for, in order.
    pub fn pending(&self) -> Vec<String> {
        locked(&self.pending).iter().cloned().collect()
    }
}

/// Something that has to be done before the agent is ready. A guard that is dropped leaves it pending.
#[derive(Debug)]
#[must_use = "what it stands for is pending until `done`"]
pub struct Guard {
    health: Arc<Health>,
    what: String,
}

impl Guard {
    /// It is done.
    pub fn done(self) {
        locked(&self.health.pending).remove(&self.what);
        tracing::debug!(what = self.what, "no longer pending");
    }
}

/// What is behind these locks is whole after every statement, so a panic elsewhere does not spoil it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_turn_is_not_alive() {
        let health = Health::default();
        *health.turned.lock().unwrap() = Instant::now()
            .checked_sub(HANGS_AFTER)
            .expect("the machine has been up for that long");
        assert!(!health.is_alive());
        health.turn();
        assert!(health.is_alive());
    }

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy_until_it_is_carried_out() {
        let health = Health::default();
        health.updated();
        health.queued();
        assert!(health.proxy().healthy);
        let long_ago = Instant::now().checked_sub(LATE_AFTER);
        health.proxy.lock().unwrap().queued = Some(long_ago.expect("the machine is up for longer"));
        health.queued();
        assert!(!health.proxy().healthy, "the oldest one counts");
        health.updated();
        assert!(health.proxy().healthy);
    }

    #[test]
    fn a_dropped_guard_leaves_its_thing_pending() {
        let health = Arc::new(Health::default());
        drop(health.guard("maps filled"));
        assert_eq!(health.pending(), ["maps filled"]);
    }
}
