//! Whether the agent's loop turns, and what it still waits for.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A loop that has not turned for so long hangs. Filling the maps of a large cluster for the first time takes a few
/// seconds of one turn.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// Shared between the loop and the probes.
#[derive(Debug)]
pub struct Health {
    turned: Mutex<Instant>,
    pending: Mutex<BTreeSet<String>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            turned: Mutex::new(Instant::now()),
            pending: Mutex::default(),
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
    fn a_dropped_guard_leaves_its_thing_pending() {
        let health = Arc::new(Health::default());
        drop(health.guard("maps filled"));
        assert_eq!(health.pending(), ["maps filled"]);
    }
}
