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

/// As [`mix`], for the number that is worked out for every packet: the products do not wait for each other (NH of
/// UMAC, RFC 4418 §5.2.2).
#[inline(always)]
pub(crate) fn products<const N: usize>(pairs: &[[u32; 2]; N]) -> u32 {
    const { assert!(N <= KEYS.len()) };
    let mut sum = 0u64;
    let mut n = 0;
    while n < N {
        let [one, other] = [
            pairs[n][0].wrapping_add(KEYS[n][0]),
            pairs[n][1].wrapping_add(KEYS[n][1]),
        ];
        sum = sum.wrapping_add(one as u64 * other as u64);
        n += 1;
    }
    sum ^= sum >> 32;
    (sum.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
}

/// The fraction of pi again.
const KEYS: [[u32; 2]; 5] = [
    [0x1319_8a2e, 0x0370_7344],
    [0xa409_3822, 0x299f_31d0],
    [0x082e_fa98, 0xec4e_6c89],
    [0x4528_21e6, 0x38d0_1377],
    [0xbe54_66cf, 0x34e9_0c6c],
];
