//! What becomes of a packet.

use signpost_common::Cause;

/// What an entry point has to do with a packet that was not left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to do with us: on to the next program and the stack, not counted.
    Continue,
    /// Rewritten: on to the next program and the stack.
    Rewritten(Cause),
    /// Rewritten, and on its way to the next hop already: the stack does not see it.
    Forwarded(Cause),
    /// Turned into something for the pod that sent it: back through its interface.
    SendBack(Cause),
    /// Turned into the answer to a DNS question, which is counted already: back through the pod's interface.
    Answered(Cause),
    /// Not to be delivered.
    Drop(Cause),
}

/// Whether a cause that ended a program's work means that the packet cannot be trusted any more. Everything else goes
/// on to the stack unharmed.
#[inline(always)]
pub const fn spoils(cause: Cause) -> bool {
    matches!(cause, Cause::HelperFailed)
}

/// A result in one number, for functions that are not inlined: the compiler may leave the unused bytes of an enum
/// undefined in a register, and the verifier refuses what it then does with them.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed(u32);

impl Packed {
    const CONTINUE: u32 = 0;
    const REWRITTEN: u32 = 1 << 8;
    const SEND_BACK: u32 = 2 << 8;
    const DROP: u32 = 3 << 8;
    const ERROR: u32 = 4 << 8;
    const ANSWERED: u32 = 5 << 8;
    const FORWARDED: u32 = 6 << 8;

    /// Packs a result.
    #[inline(always)]
    pub const fn new(result: Result<Verdict, Cause>) -> Self {
        Self(match result {
            Ok(Verdict::Continue) => Self::CONTINUE,
            Ok(Verdict::Rewritten(cause)) => Self::REWRITTEN | cause.index(),
            Ok(Verdict::Forwarded(cause)) => Self::FORWARDED | cause.index(),
            Ok(Verdict::SendBack(cause)) => Self::SEND_BACK | cause.index(),
            Ok(Verdict::Answered(cause)) => Self::ANSWERED | cause.index(),
            Ok(Verdict::Drop(cause)) => Self::DROP | cause.index(),
            Err(cause) => Self::ERROR | cause.index(),
        })
    }

    /// The number, for functions that the kernel verifies apart: their results are numbers.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Of such a number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The result again.
    ///
    /// # Errors
    /// Those that were packed.
    #[inline(always)]
    pub const fn unpack(self) -> Result<Verdict, Cause> {
        let cause = Cause::from_index(self.0 & 0xff);
        match self.0 & !0xff {
            Self::CONTINUE => Ok(Verdict::Continue),
            Self::REWRITTEN => Ok(Verdict::Rewritten(cause)),
            Self::FORWARDED => Ok(Verdict::Forwarded(cause)),
            Self::SEND_BACK => Ok(Verdict::SendBack(cause)),
            Self::ANSWERED => Ok(Verdict::Answered(cause)),
            Self::DROP => Ok(Verdict::Drop(cause)),
            _ => Err(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_result_comes_out_as_it_went_in() {
        for &cause in Cause::ALL {
            for result in [
                Ok(Verdict::Continue),
                Ok(Verdict::Rewritten(cause)),
                Ok(Verdict::Forwarded(cause)),
                Ok(Verdict::SendBack(cause)),
                Ok(Verdict::Answered(cause)),
                Ok(Verdict::Drop(cause)),
                Err(cause),
            ] {
                assert_eq!(Packed::new(result).unpack(), result);
            }
        }
    }
}
