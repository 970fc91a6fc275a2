//! Addresses and ports as packets and maps carry them.

use bytemuck::{AnyBitPattern, NoUninit, Pod, Zeroable};

/// An IPv6 address, or an IPv4 address in its v4-mapped form (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2).
///
/// Sixteen bytes in network byte order, kept as four words as they lie in memory, so that copies and compares are
/// word-wise in the kernel. One form for both families is what lets one set of maps serve both.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Address([u32; 4]);

const _: () = assert!(size_of::<Address>() == 16 && align_of::<Address>() == 4);

impl Address {
    /// The unspecified IPv6 address.
    pub const UNSPECIFIED: Self = Self([0; 4]);
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// From the four bytes of an IPv4 header, first byte first.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self::v4_word(u32::from_ne_bytes(bytes))
    }

    /// From the four bytes of an IPv4 header read as one word, in network byte order.
    #[inline(always)]
    pub const fn v4_word(word: u32) -> Self {
        Self([0, 0, Self::MAPPED, word])
    }

    /// From the sixteen bytes of an IPv6 header, first byte first.
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// From the four words of an IPv6 header, each in network byte order.
    #[inline(always)]
    pub const fn v6_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// Whether this is a v4-mapped address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }

    /// Whether two addresses are one, without a branch for each word: the verifier follows every branch.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.difference(other) == 0
    }

    /// 0 where two addresses are one.
    #[inline(always)]
    pub const fn difference(&self, other: &Self) -> u32 {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h)
    }

    /// The words, each in network byte order; the last one is the IPv4 address of a v4-mapped address.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// The sixteen bytes, first byte first.
    pub fn octets(&self) -> [u8; 16] {
        bytemuck::cast(self.0)
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

/// A port in network byte order.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, NoUninit, AnyBitPattern,
)]
pub struct Port(u16);

impl Port {
    /// From a number, such as 80.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be())
    }

    /// From the two bytes of a header read as one half-word.
    #[inline(always)]
    pub const fn from_wire(port: u16) -> Self {
        Self(port)
    }

    /// The two bytes of a header as one half-word.
    #[inline(always)]
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// The number, such as 80.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn an_ipv4_address_and_its_mapped_form_are_one_address() {
        let v4: IpAddr = "10.96.0.10".parse().unwrap();
        let mapped: IpAddr = "::ffff:10.96.0.10".parse().unwrap();
        assert_eq!(Address::from(v4), Address::from(mapped));
        assert!(Address::from(v4).is_v4());
        assert_eq!(IpAddr::from(Address::from(mapped)), v4);
    }

    #[test]
    fn octets_are_in_network_byte_order() {
        let v6: IpAddr = "fd00:96::a".parse().unwrap();
        let address = Address::from(v6);
        assert!(!address.is_v4());
        assert_eq!(address.octets()[..4], [0xfd, 0, 0, 0x96]);
        assert_eq!(IpAddr::from(address), v6);
        assert_eq!(bytemuck::bytes_of(&Port::new(0x1234)), [0x12, 0x34]);
    }
}
