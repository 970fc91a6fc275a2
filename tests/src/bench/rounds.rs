//! Takes samples of several things in turn, so that whatever else the machine does falls on all of them alike.

use std::time::Duration;

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

use super::{
    figure::{Against, Cpu, Figure, Reach},
    progress::Progress,
    statistics::Estimate,
};

/// What one slice of work showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// What is measured: a rate or a time.
    pub value: f64,
    /// The 99th percentile, where single operations were timed.
    pub tail: f64,
    /// CPU time of this process per operation, in nanoseconds.
    pub cpu: f64,
}

/// Something that is measured.
pub struct Subject<'a> {
    name: &'static str,
    slice: Box<dyn FnMut() -> anyhow::Result<Sample> + 'a>,
    samples: Vec<Sample>,
}

impl<'a> Subject<'a> {
    /// From a closure that does one slice of work.
    pub fn new(name: &'static str, slice: impl FnMut() -> anyhow::Result<Sample> + 'a) -> Self {
        Self {
            name,
            slice: Box::new(slice),
            samples: Vec::new(),
        }
    }
}

/// Measures all subjects in each of so many rounds; every other round goes backwards. A first round, which fills
/// caches, does not count.
///
/// # Errors
/// Those of the subjects.
pub fn take(
    subjects: &mut [Subject<'_>],
    rounds: usize,
    progress: &Progress,
) -> anyhow::Result<()> {
    for round in 0..=rounds {
        let mut order: Vec<_> = subjects.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for subject in order {
            let sample = (subject.slice)()?;
            if round > 0 {
                subject.samples.push(sample);
            }
        }
        progress.step();
    }
    Ok(())
}

/// Which number of a sample is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// [`Sample::value`].
    Value,
    /// [`Sample::tail`].
    Tail,
    /// [`Sample::cpu`].
    Cpu,
}

/// A comparison of two subjects, pair by pair.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'a> {
    /// Which suite.
    pub suite: &'a str,
    /// What.
    pub what: &'a str,
    /// Unit of the number that is compared.
    pub unit: &'a str,
    /// Which number that is.
    pub of: Of,
    /// Name of the subject.
    pub subject: &'a str,
    /// Name of the other.
    pub against: &'a str,
    /// What the ratio is to reach.
    pub reach: Option<Reach>,
}

impl Comparison<'_> {
    /// Works it out.
    ///
    /// # Panics
    /// Where there is no such subject.
    pub fn figure(&self, subjects: &[Subject<'_>]) -> Figure {
        let samples = |name: &str| {
            let subject = subjects.iter().find(|subject| subject.name == name);
            let subject = subject.unwrap_or_else(|| panic!("nothing named {name} was measured"));
            subject.samples.as_slice()
        };
        let (one, other) = (samples(self.subject), samples(self.against));
        let number = |sample: &Sample| match self.of {
            Of::Value => sample.value,
            Of::Tail => sample.tail,
            Of::Cpu => sample.cpu,
        };
        let all = |samples: &[Sample], number: &dyn Fn(&Sample) -> f64| {
            Estimate::of(&samples.iter().map(number).collect::<Vec<_>>())
        };
        let ratio = |number: &dyn Fn(&Sample) -> f64| {
            let pairs = one.iter().zip(other);
            Estimate::of(
                &pairs
                    .map(|(a, b)| number(a) / number(b))
                    .collect::<Vec<_>>(),
            )
        };
        let cpu = |sample: &Sample| sample.cpu;
        Figure {
            suite: self.suite.to_owned(),
            what: self.what.to_owned(),
            unit: self.unit.to_owned(),
            measured: all(one, &number),
            against: Some(Against {
                what: self.against.to_owned(),
                measured: all(other, &number),
                ratio: ratio(&number),
                cpu: Some(Cpu {
                    measured: all(one, &cpu).median,
                    against: all(other, &cpu).median,
                    ratio: ratio(&cpu),
                }),
            }),
            reach: self.reach,
            samples: one
                .iter()
                .zip(other)
                .flat_map(|(a, b)| [number(a), number(b)])
                .collect(),
        }
    }
}

/// CPU time that this process has used, all threads, kernel and user space. Work that its packets cause in softirqs is
/// counted as well, where the kernel does not account for interrupts apart (`CONFIG_IRQ_TIME_ACCOUNTING`).
///
/// # Errors
/// None on Linux.
pub fn cpu_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// Keeps the calling thread, and those that it starts, on the machine's last processor. Client and server share it:
/// waking an idle processor costs more than all that is measured, and not always the same.
///
/// # Errors
/// Where the kernel refuses.
pub fn pin() -> anyhow::Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let last = (0..CpuSet::count())
        .rev()
        .find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.unwrap_or(0))?;
    sched_setaffinity(this, &one)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_pair_by_pair_and_the_first_round_does_not_count() {
        // The machine gets slower by half from pair to pair, which the ratio does not show.
        let mut numbers = [1000.0, 1.0, 2.0, 4.0].into_iter();
        let mut others = [1.0, 2.0, 4.0, 8.0].into_iter();
        let sample = |value: Option<f64>| {
            Ok(Sample {
                value: value.unwrap(),
                cpu: 1.0,
                ..Sample::default()
            })
        };
        let mut subjects = [
            Subject::new("one", || sample(numbers.next())),
            Subject::new("other", || sample(others.next())),
        ];
        take(&mut subjects, 3, &Progress::silent()).unwrap();
        let figure = Comparison {
            suite: "s",
            what: "w",
            unit: "u",
            of: Of::Value,
            subject: "one",
            against: "other",
            reach: None,
        }
        .figure(&subjects);
        let ratio = figure.against.unwrap().ratio;
        assert_eq!((ratio.low, ratio.median, ratio.high), (0.5, 0.5, 0.5));
        assert_eq!(figure.samples, [1.0, 2.0, 2.0, 4.0, 4.0, 8.0]);
    }
}
