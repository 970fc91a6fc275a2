//! Differences of Internet checksums (RFC 1071, RFC 1624).

/// A ones'-complement sum of 16-bit words as they lie in memory: what the kernel's checksum helpers take as a
/// difference. Words of 32 bits count as their two halves, because 2³² is 1 modulo 0xffff.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// From what the kernel or an answer's head holds: not inverted.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw as u64)
    }

    /// Adds a half-word at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn add16(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Takes a half-word at an even offset away.
    #[inline(always)]
    #[must_use]
    pub const fn remove16(self, word: u16) -> Self {
        Self(self.0 + !word as u64)
    }

    /// Adds a word at an even offset.
    #[inline(always)]
    #[must_use]
    pub const fn add32(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// Takes a word at an even offset away.
    #[inline(always)]
    #[must_use]
    pub const fn remove32(self, word: u32) -> Self {
        Self(self.0 + !word as u64)
    }

    /// Replaces an address (four words at an even offset).
    #[inline(always)]
    #[must_use]
    pub const fn replace_address(self, old: [u32; 4], new: [u32; 4]) -> Self {
        self.remove32(old[0])
            .add32(new[0])
            .remove32(old[1])
            .add32(new[1])
            .remove32(old[2])
            .add32(new[2])
            .remove32(old[3])
            .add32(new[3])
    }

    /// Adds another sum.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self(self.0 + other.fold() as u64)
    }

    /// What takes this sum away when it is added.
    #[inline(always)]
    #[must_use]
    pub const fn negated(self) -> Self {
        Self(!self.fold() as u64)
    }

    /// The sum of the same bytes one byte further on.
    #[inline(always)]
    #[must_use]
    pub const fn shifted(self) -> Self {
        Self(self.fold().swap_bytes() as u64)
    }

    /// As 16 bits, not inverted.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let mut sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    /// A checksum field after this difference (RFC 1624: `HC' = ~(~HC + ~m + m')`).
    #[inline(always)]
    pub const fn update(self, field: u16) -> u16 {
        !Self(self.0 + !field as u64).fold()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §1, byte by byte.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_be()
    }

    fn sum(bytes: &[u8]) -> Sum {
        bytes.chunks(2).fold(Sum::default(), |s, p| {
            s.add16(u16::from_ne_bytes([p[0], *p.get(1).unwrap_or(&0)]))
        })
    }

    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    proptest! {
        #[test]
        fn sums_are_those_of_rfc_1071(bytes: Vec<u8>) {
            prop_assert!(same(sum(&bytes).fold(), reference(&bytes)));
        }

        #[test]
        fn a_shifted_sum_is_that_of_the_bytes_at_an_odd_offset(bytes: Vec<u8>) {
            let shifted: Vec<u8> = std::iter::once(0).chain(bytes.iter().copied()).collect();
            prop_assert!(same(sum(&bytes).shifted().fold(), reference(&shifted)));
        }

        #[test]
        fn an_updated_checksum_is_that_of_the_new_bytes(mut bytes: [u8; 40], new: [u32; 4]) {
            let old: [u32; 4] = std::array::from_fn(|i| u32::from_ne_bytes(bytes[8 + 4 * i..12 + 4 * i].try_into().unwrap()));
            let before = !reference(&bytes);
            let difference = Sum::default().replace_address(old, new);
            for (i, word) in new.iter().enumerate() {
                bytes[8 + 4 * i..12 + 4 * i].copy_from_slice(&word.to_ne_bytes());
            }
            prop_assert!(same(difference.update(before), !reference(&bytes)));
        }
    }
}
