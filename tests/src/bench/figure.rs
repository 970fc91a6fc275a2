//! What was measured, and whether it is what is to be reached.

use serde::{Deserialize, Serialize};

use super::statistics::Estimate;

/// A run of benchmarks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Kernel release and architecture.
    pub kernel: String,
    /// The processors.
    pub processors: String,
    /// Load average of the last minute before the run: above a few hundredths others take part in the figures.
    pub load: f64,
    /// What was measured.
    pub figures: Vec<Figure>,
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Which suite.
    pub suite: String,
    /// What.
    pub what: String,
    /// Unit of `measured` and `against`.
    pub unit: String,
    /// What came out.
    pub measured: Estimate,
    /// The same of what it is compared with, measured in the same run.
    pub against: Option<Against>,
    /// What is to be reached.
    pub reach: Option<Reach>,
    /// Every sample, in the order taken; of a comparison each is followed by its partner.
    pub samples: Vec<f64>,
}

/// The other side of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// What it is.
    pub what: String,
    /// What came out for it.
    pub measured: Estimate,
    /// The ratio measured ÷ against, taken pair by pair.
    pub ratio: Estimate,
    /// The same of CPU time per operation.
    pub cpu: Option<Cpu>,
}

/// CPU time that the process spent per operation, in kernel and user space, softirqs included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Nanoseconds, median.
    pub measured: f64,
    /// Nanoseconds, median, of the other side.
    pub against: f64,
    /// The ratio, pair by pair.
    pub ratio: Estimate,
}

/// What is to be reached: by the ratio of a comparison, else by the measured value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

/// Whether it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of the 95 % interval is on the good side.
    Reached,
    /// All of it is on the other side.
    Missed,
    /// It lies across: more pairs, or a quieter machine, would tell.
    Open,
}

impl Figure {
    /// Whether what is to be reached was reached. None where nothing is.
    pub fn verdict(&self) -> Option<Verdict> {
        let found = self.decisive();
        Some(match self.reach? {
            Reach::AtMost(limit) if found.high <= limit => Verdict::Reached,
            Reach::AtMost(limit) if found.low > limit => Verdict::Missed,
            Reach::AtLeast(limit) if found.low >= limit => Verdict::Reached,
            Reach::AtLeast(limit) if found.high < limit => Verdict::Missed,
            _ => Verdict::Open,
        })
    }

    /// How much of what is allowed is used up: 1 is the limit, less is better.
    pub fn used(&self) -> Option<Estimate> {
        let found = self.decisive();
        Some(match self.reach? {
            Reach::AtMost(limit) => Estimate {
                median: found.median / limit,
                low: found.low / limit,
                high: found.high / limit,
            },
            Reach::AtLeast(limit) => Estimate {
                median: limit / found.median,
                low: limit / found.high,
                high: limit / found.low,
            },
        })
    }

    fn decisive(&self) -> Estimate {
        self.against
            .as_ref()
            .map_or(self.measured, |against| against.ratio)
    }
}

impl Report {
    /// Whether nothing was missed for sure.
    pub fn is_good(&self) -> bool {
        self.figures
            .iter()
            .all(|figure| figure.verdict() != Some(Verdict::Missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(low: f64, median: f64, high: f64, reach: Reach) -> Figure {
        Figure {
            suite: "dns".to_owned(),
            what: "A".to_owned(),
            unit: "ns".to_owned(),
            measured: Estimate { median, low, high },
            against: None,
            reach: Some(reach),
            samples: Vec::new(),
        }
    }

    #[test]
    fn only_an_interval_on_one_side_of_the_limit_decides() {
        for (low, high, reach, verdict) in [
            (1.0, 2.0, Reach::AtMost(2.0), Verdict::Reached),
            (1.0, 2.1, Reach::AtMost(2.0), Verdict::Open),
            (2.1, 2.2, Reach::AtMost(2.0), Verdict::Missed),
            (0.95, 1.0, Reach::AtLeast(0.95), Verdict::Reached),
            (0.94, 1.0, Reach::AtLeast(0.95), Verdict::Open),
            (0.90, 0.94, Reach::AtLeast(0.95), Verdict::Missed),
        ] {
            let figure = figure(low, f64::midpoint(low, high), high, reach);
            assert_eq!(figure.verdict(), Some(verdict), "{low}..{high} {reach:?}");
        }
    }

    #[test]
    fn what_is_used_of_the_limit_is_below_one_where_it_is_reached() {
        for reach in [Reach::AtMost(4.0), Reach::AtLeast(2.0)] {
            let used = figure(3.0, 3.2, 3.5, reach).used().unwrap();
            assert!(used.low < used.median && used.median < used.high && used.high < 1.0);
        }
    }
}
