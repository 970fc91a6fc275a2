//! In which order upstreams are asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use rand::seq::SliceRandom as _;

use crate::config::dns::Policy;

/// A policy with what it has to remember.
#[derive(Debug, Default)]
pub(super) struct Order {
    policy: Policy,
    turn: AtomicUsize,
}

impl Order {
    pub(super) const fn new(policy: Policy) -> Self {
        Self {
            policy,
            turn: AtomicUsize::new(0),
        }
    }

    /// Puts upstreams into the order in which they are asked: those that answer first.
    pub(super) fn put<T>(&self, upstreams: &mut [T], answers: impl Fn(&T) -> bool) {
        match self.policy {
            Policy::Random => upstreams.shuffle(&mut rand::rng()),
            Policy::RoundRobin if !upstreams.is_empty() => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                upstreams.rotate_left(turn % upstreams.len());
            }
            Policy::RoundRobin | Policy::Sequential => {}
        }
        upstreams.sort_by_key(|upstream| !answers(upstream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(order: &Order, silent: &[u8]) -> u8 {
        let mut upstreams = [1, 2, 3];
        order.put(&mut upstreams, |upstream| !silent.contains(upstream));
        upstreams[0]
    }

    #[test]
    fn sequential_keeps_to_the_first_that_answers() {
        let order = Order::new(Policy::Sequential);
        assert_eq!([first(&order, &[]), first(&order, &[])], [1, 1]);
        assert_eq!(first(&order, &[1]), 2);
        assert_eq!(first(&order, &[1, 2, 3]), 1);
    }

    #[test]
    fn round_robin_gives_each_its_turn() {
        let order = Order::new(Policy::RoundRobin);
        let firsts: Vec<u8> = (0..6).map(|_| first(&order, &[])).collect();
        assert_eq!(firsts, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn random_reaches_all_of_them() {
        let order = Order::new(Policy::Random);
        for wanted in 1..=3 {
            assert!((0..1000).any(|_| first(&order, &[]) == wanted));
        }
        assert!((0..100).all(|_| first(&order, &[1, 3]) == 2));
    }
}
