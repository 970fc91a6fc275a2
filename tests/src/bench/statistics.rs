//! Medians, and how sure they are.

use serde::{Deserialize, Serialize};

/// A median with its 95 % bounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

impl Estimate {
    /// Of samples that are independent of each other.
    ///
    /// The bounds are order statistics: the true median lies below the k-th smallest of n samples with the probability
    /// that a fair coin shows heads less than k times in n throws. They assume nothing about the distribution, which
    /// is never normal here. With fewer than six samples they are the smallest and the largest, and promise less.
    ///
    /// # Panics
    /// Without samples.
    pub fn of(samples: &[f64]) -> Self {
        assert!(!samples.is_empty(), "a median of nothing");
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = rank(sorted.len());
        Self {
            median: quantile(&sorted, 0.5),
            low: sorted[rank - 1],
            high: sorted[sorted.len() - rank],
        }
    }
}

/// The 99th percentile, with the bounds of order statistics that a normal approximation of the binomial gives.
pub fn tail(samples: &[f64]) -> Estimate {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let off = 1.96 * (n * 0.99 * 0.01).sqrt();
    let at = |rank: f64| sorted[(rank.round() as usize).clamp(1, sorted.len()) - 1];
    Estimate {
        median: quantile(&sorted, 0.99),
        low: at(n * 0.99 - off),
        high: at(n * 0.99 + off),
    }
}

/// The value below which this part of sorted values lies.
///
/// # Panics
/// Without values.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Which of the smallest of `n` samples is the lower bound, counted from 1.
fn rank(n: usize) -> usize {
    // Heads exactly k times in n throws, beginning with none.
    let mut exactly = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut fewer = 0.0;
    for k in 0..n {
        fewer += exactly;
        if fewer > 0.025 {
            return k.max(1);
        }
        exactly *= (n - k) as f64 / (k + 1) as f64;
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_those_of_the_binomial_table() {
        // n and the rank of the lower bound, from a table of the sign test at 5 %, two-sided.
        for (n, expected) in [(6, 1), (9, 2), (15, 4), (20, 6), (25, 8), (31, 10)] {
            assert_eq!(rank(n), expected, "{n} samples");
        }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_two() {
        let samples = [4.0, 1.0, 3.0, 2.0];
        let estimate = Estimate::of(&samples);
        assert_eq!(
            (estimate.low, estimate.median, estimate.high),
            (1.0, 2.5, 4.0)
        );
    }

    #[test]
    fn one_outlier_moves_neither_median_nor_bounds() {
        let mut samples: Vec<f64> = (1..=15).map(f64::from).collect();
        let before = Estimate::of(&samples);
        samples[14] = 1e9;
        assert_eq!(Estimate::of(&samples), before);
        assert_eq!((before.low, before.high), (4.0, 12.0));
    }
}
