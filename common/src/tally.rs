//! What is counted of the answers that the programs give to DNS questions: as the metrics of a DNS server have it.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::Cause;

/// Types of records that are counted apart, by their number up to HTTPS (65). All others are one, under 0.
pub const TYPES: usize = 66;
/// Kinds of answers: see [`Tally`].
pub const KINDS: usize = 16;

/// Value of the `dns_counts` map (one element), one for each CPU: the sum of all is what was counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct DnsCounts {
    /// Answers, by [`Tally::place`].
    pub answers: [[u64; TYPES]; KINDS],
}

const _: () = assert!(size_of::<DnsCounts>() == 8 * TYPES * KINDS);

impl DnsCounts {
    /// All zero.
    pub const ZERO: Self = Self {
        answers: [[0; TYPES]; KINDS],
    };

    /// Counts an answer.
    #[inline(always)]
    pub const fn add(&mut self, tally: Tally) {
        let (kind, qtype) = tally.place();
        self.answers[kind][qtype] += 1;
    }

    /// What was counted on all of these CPUs.
    #[cfg(feature = "user")]
    pub fn sum(of_cpus: &[Self]) -> Self {
        let mut sum = Self::ZERO;
        for of_cpu in of_cpus {
            let all = sum.answers.as_flattened_mut().iter_mut();
            for (sum, answers) in all.zip(of_cpu.answers.as_flattened()) {
                *sum += answers;
            }
        }
        sum
    }

    /// What was counted, where it is more than nothing.
    #[cfg(feature = "user")]
    pub fn each(&self) -> impl Iterator<Item = (Tally, u64)> {
        self.answers.iter().zip(0_u8..).flat_map(|(of_kind, kind)| {
            let of_types = of_kind.iter().zip(0_u8..);
            of_types.filter_map(move |(&answers, qtype)| {
                (answers > 0).then_some((Tally { kind, qtype }, answers))
            })
        })
    }

    /// How many answers a cause has.
    #[cfg(feature = "user")]
    pub fn of(&self, cause: Cause) -> u64 {
        let all = self.each().filter(|(tally, _)| tally.cause() == cause);
        all.map(|(_, answers)| answers).sum()
    }
}

impl Default for DnsCounts {
    fn default() -> Self {
        Self::ZERO
    }
}

/// What an answer is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    kind: u8,
    qtype: u8,
}

impl Tally {
    /// There is an authority section: the answer is negative.
    const NEGATIVE: u8 = 1;
    /// The response code is NXDOMAIN (3). The bit is that of the code.
    const NXDOMAIN: u8 = 2;
    /// From the cache of names outside.
    const CACHED: u8 = 4;
    /// The packet is IPv6.
    const V6: u8 = 8;

    /// Of an answer: its cause ([`Cause::DnsCached`] or another), flags of the DNS header in host byte order, number of
    /// authority records, the type that was asked for, the packet's family.
    #[inline(always)]
    pub const fn new(cause: Cause, flags: u16, authorities: u16, qtype: u16, v4: bool) -> Self {
        let mut kind = (flags as u8 & Self::NXDOMAIN) | (authorities as u8 & Self::NEGATIVE);
        if matches!(cause, Cause::DnsCached) {
            kind |= Self::CACHED;
        }
        if !v4 {
            kind |= Self::V6;
        }
        let qtype = if (qtype as usize) < TYPES { qtype } else { 0 };
        Self {
            kind,
            qtype: qtype as u8,
        }
    }

    /// Where it is in [`DnsCounts::answers`].
    #[inline(always)]
    pub const fn place(self) -> (usize, usize) {
        (self.kind as usize, self.qtype as usize)
    }

    /// The cause that the answer had.
    pub const fn cause(self) -> Cause {
        if self.is_cached() {
            Cause::DnsCached
        } else if self.is_nxdomain() {
            Cause::DnsNxdomain
        } else if self.is_negative() {
            Cause::DnsNodata
        } else {
            Cause::DnsAnswered
        }
    }

    /// Whether the answer has no records of what was asked for.
    pub const fn is_negative(self) -> bool {
        self.kind & Self::NEGATIVE != 0
    }

    /// Whether the code is NXDOMAIN; else it is NOERROR.
    pub const fn is_nxdomain(self) -> bool {
        self.kind & Self::NXDOMAIN != 0
    }

    /// Whether the answer is out of the cache of names outside.
    pub const fn is_cached(self) -> bool {
        self.kind & Self::CACHED != 0
    }

    /// Whether the packet was one of IPv4.
    pub const fn is_v4(self) -> bool {
        self.kind & Self::V6 == 0
    }

    /// The type that was asked for, in host byte order; 0 for those that are not counted apart.
    pub const fn qtype(self) -> u16 {
        self.qtype as u16
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_again_as_what_it_was_counted() {
        const NXDOMAIN: u16 = 0x8403;
        const NOERROR: u16 = 0x8400;
        let mut counts = DnsCounts::ZERO;
        for (cause, flags, authorities) in [
            (Cause::DnsAnswered, NOERROR, 0),
            (Cause::DnsNodata, NOERROR, 1),
            (Cause::DnsNxdomain, NXDOMAIN, 1),
            (Cause::DnsCached, NOERROR, 0),
            (Cause::DnsCached, NOERROR, 1),
            (Cause::DnsCached, NXDOMAIN, 1),
        ] {
            for (qtype, kept) in [(1, 1), (28, 28), (65, 65), (66, 0), (65_535, 0)] {
                for v4 in [true, false] {
                    let tally = Tally::new(cause, flags, authorities, qtype, v4);
                    assert_eq!(tally.cause(), cause);
                    assert_eq!(tally.is_negative(), authorities > 0);
                    assert_eq!(tally.is_nxdomain(), flags == NXDOMAIN);
                    assert_eq!((tally.is_v4(), tally.qtype()), (v4, kept));
                    counts.add(tally);
                }
            }
        }
        let both = DnsCounts::sum(&[counts, counts]);
        // Two types are counted as one.
        assert_eq!(both.each().count(), 6 * 4 * 2);
        assert_eq!(both.of(Cause::DnsNodata), 2 * 5 * 2);
        assert_eq!(both.of(Cause::DnsCached), 3 * 2 * 5 * 2);
    }
}
