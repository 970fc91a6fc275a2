//! The mixing behind the `check` fields of map values.

/// Two words as one.
#[inline(always)]
pub(crate) const fn pair(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// A number that depends on every bit of every word. Not keyed: it tells elements apart that are mixed up by
/// accident, and spreads flows over backends.
#[inline(always)]
pub(crate) fn mix(words: &[u64]) -> u32 {
    let mut state = 0x243f_6a88_85a3_08d3_u64; // the fraction of pi
    for &word in words {
        state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15); // 2^64 by the golden ratio
        state ^= state >> 32;
    }
    (state.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
}
