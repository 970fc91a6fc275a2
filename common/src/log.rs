//! What the programs tell of the questions that they answer, while somebody watches.

use bytemuck::{AnyBitPattern, NoUninit};

use crate::{Address, Port};

/// Places in the map `dns_watch`, an array of two words.
pub mod watch {
    /// Until when answers are told: a [`crate::dns::Clock`], which whoever reads them puts off again and again. One that is
    /// killed leaves nothing switched on.
    pub const UNTIL: u32 = 0;
    /// How many answers were not told because the reader did not keep up.
    pub const LOST: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// Head of a record in the ring buffer `dns_log`: a question that was answered. The question as it was asked follows, in wire
/// form: name, type, class.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct LogHead {
    /// When the question came, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
    /// How many nanoseconds later it was answered.
    pub took: u32,
    /// Index of the interface that it came in by.
    pub device: u32,
    /// Who asked.
    pub client: Address,
    /// From which port.
    pub client_port: Port,
    /// Flags of the answer's header, its response code among them, but for those that are copied from the question. Host
    /// byte order.
    pub flags: u16,
    /// Records in its answer section. Host byte order.
    pub answers: u16,
    /// Number of the [`crate::Cause`]. Host byte order.
    pub cause: u16,
}

const _: () = assert!(size_of::<LogHead>() == 40);

impl LogHead {
    /// All zero.
    pub const ZERO: Self = Self {
        at: 0,
        took: 0,
        device: 0,
        client: Address::UNSPECIFIED,
        client_port: Port::new(0),
        flags: 0,
        answers: 0,
        cause: 0,
    };
}

/// Bytes of the longest question: name, type, class.
pub const QUESTION: usize = crate::name::MAX_NAME + 4;
