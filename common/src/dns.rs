//! Values of the maps that answer DNS questions, and what they mean.

use bytemuck::{AnyBitPattern, NoUninit, Pod, Zeroable};

use crate::{
    Address,
    name::{HashKeys, NameKey},
};

/// The types of record that the kernel knows by name (RFC 1035 §3.2.2, RFC 3596, RFC 2782).
pub mod qtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Canonical name.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Pointer.
    pub const PTR: u16 = 12;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Server selection.
    pub const SRV: u16 = 33;
    /// EDNS (RFC 6891).
    pub const OPT: u16 = 41;
}

/// Value of the `names` map (key: [`NameKey`] with type 0): what exists at a name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct NameValue {
    /// [`NameKey::check`] of the entry's key: a freed element is reused under a reader, who reads this last and leaves
    /// the question to user space where it differs.
    pub check: u32,
    /// A sum of the constants of this type.
    pub flags: u32,
    /// The types in map `answers_large`, a sum of [`NameValue::type_bit`].
    pub large: u32,
    /// The types that exist but that only user space answers, a sum of [`NameValue::type_bit`].
    pub user: u32,
}

const _: () = assert!(size_of::<NameValue>() == 16);

impl NameValue {
    /// A type that is neither in the answer maps nor in [`NameValue::user`] is known not to exist: NODATA.
    pub const COMPLETE: u32 = 1;
    /// A namespace that exists (`ns.svc.zone`): a service that is not in the map does not exist.
    pub const NAMESPACE: u32 = 2;
    /// A Service that exists: three labels to its left or more do not exist; one or two are left to user space.
    pub const SERVICE: u32 = 4;
    /// With [`NameValue::SERVICE`]: a name of one label to its left that is not in the map does not exist.
    pub const LISTED: u32 = 8;
    /// With [`NameValue::COMPLETE`]: the name is denied for a type that is known not to exist, instead of NODATA.
    pub const ABSENT: u32 = 16;
    /// The zone's own name: its SOA record is [`Config::soa`].
    pub const APEX: u32 = 32;
    /// The name above the namespaces of Pods (`pod.zone`): names below it are the addresses that they spell, in every
    /// namespace that exists.
    pub const PODS: u32 = 64;

    /// The bit of a type in [`NameValue::large`] and [`NameValue::user`]; types without a bit of their own share
    /// one.
    #[inline(always)]
    pub const fn type_bit(qtype: u16) -> u32 {
        match qtype {
            qtype::A => 1,
            qtype::AAAA => 2,
            qtype::SRV => 4,
            qtype::PTR => 8,
            qtype::CNAME => 16,
            qtype::TXT => 32,
            qtype::SOA => 64,
            2 => 128, // NS
            _ => 1 << 31,
        }
    }
}

/// Head of the values of the `answers` maps. The records follow it, in wire form; names in them may point into the
/// question, or to where earlier records are when they lie right behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct AnswerHead {
    /// [`NameKey::check`] of the entry's key (type included), as in [`NameValue::check`].
    pub check: u32,
    /// Number of records of the answer section. Host byte order.
    pub count: u16,
    /// Bytes of all records, once. Host byte order.
    pub length: u16,
    /// Where records are all of one length, that length, and they are stored twice in a row, so that any rotation is
    /// one copy; 0 where the order stays.
    pub stride: u8,
    /// A sum of the constants of this type.
    pub flags: u8,
    /// Number of records of the additional section, which follow those of the answer section. Host byte order.
    pub additional: u16,
    /// Ones'-complement sum of the records, as 16-bit words as they lie in memory, the last one filled up with zero,
    /// not folded and not inverted: what the kernel's checksum helpers take as a difference.
    pub sum: u32,
}

const _: () = assert!(size_of::<AnswerHead>() == 16);

impl AnswerHead {
    /// Names in the records are in small letters, so that this answers only a question in small letters: in the zone's
    /// part of names the asker's letter case has to come back (CoreDNS).
    pub const SMALL_LETTERS: u8 = 1;
}

/// Bytes of records in a value of `answers_small`: four A records twice, or two AAAA records twice.
pub const SMALL_RECORDS: usize = 128;
/// Bytes of records in a value of `answers_large`: 39 A records twice, or 22 AAAA records twice.
pub const LARGE_RECORDS: usize = 1248;

/// Value of the map `answers_small` (key: [`NameKey`] with type).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct SmallAnswer {
    /// What is in `records`.
    pub head: AnswerHead,
    /// Records, then zeros.
    pub records: [u8; SMALL_RECORDS],
}

/// Value of the map `answers_large` (key: [`NameKey`] with type).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct LargeAnswer {
    /// What is in `records`.
    pub head: AnswerHead,
    /// Records, then zeros.
    pub records: [u8; LARGE_RECORDS],
}

/// Bytes of records in a value of `answers_outside`.
pub const OUTSIDE_RECORDS: usize = 440;
/// The most records in it.
pub const OUTSIDE_COUNT: usize = 16;

/// Head of a value of `answers_outside`: what the DNS server's cache says of a name outside of the cluster. The TTL of
/// every record is zero; the programs put what is left of it there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct OutsideHead {
    /// [`NameKey::check`] of the entry's key (type included), as in [`NameValue::check`].
    pub check: u32,
    /// The epoch that it was written in. It counts while that is the one in the map `outside_epoch`.
    pub epoch: u32,
    /// When it runs out.
    pub until: Clock,
    /// How often it was given. The programs count here; some may be lost where several processors give it at once.
    pub hits: u64,
    /// Bytes of all records. Host byte order.
    pub length: u16,
    /// Flags of the answer's header, its response code among them. Host byte order.
    pub flags: u16,
    /// Number of records of the answer section. Host byte order.
    pub answers: u16,
    /// Number of records of the authority section, which follow them. Host byte order.
    pub authorities: u16,
    /// Ones'-complement sum of the records as in [`AnswerHead::sum`], folded to 16 bits: of a value that is mixed up out of
    /// two it is another one.
    pub sum: u32,
    /// How many addresses the answer section ends with. Host byte order.
    pub addresses: u16,
    /// Zero.
    pub pad: u16,
    /// Where in the records their TTLs are, in host byte order; then zeros.
    pub ttl_at: [u16; OUTSIDE_COUNT],
}

/// Value of the map `answers_outside` (key: [`NameKey`] with type).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct OutsideAnswer {
    /// What is in `records`.
    pub head: OutsideHead,
    /// Records as in [`AnswerHead`], then zeros.
    pub records: [u8; OUTSIDE_RECORDS],
}

const _: () = assert!(size_of::<OutsideAnswer>() == 512);

/// Value of the map `outside_epoch` (one element): which values of `answers_outside` count, 0 for none.
pub type Epoch = u32;

/// The SOA record of negative answers, without its three names' ends: see [`Config::soa`].
pub const SOA_LENGTH: usize = 54;
/// Where in [`Config::soa`] a pointer to the zone in the question has to be put.
pub const SOA_POINTERS: [usize; 3] = [0, 19, 32];

/// Value of the map `config` (one element).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, AnyBitPattern)]
pub struct Config {
    /// A sum of the constants of this type.
    pub flags: u32,
    /// For how many seconds after `in_sync_at` negative answers are given.
    pub negative_grace: u32,
    /// The zone (`cluster.local`).
    pub zone: NameKey,
    /// The name above the namespaces (`svc.cluster.local`).
    pub services: NameKey,
    /// The SOA record of negative answers: owner, type, class, TTL, length, `ns.dns.<zone>`, `hostmaster.<zone>`,
    /// serial, refresh, retry, expire, minimum. The zone parts are compression pointers, filled in for each question
    /// so that the answer copies the letter case of the asker ([`SOA_POINTERS`]); then two zero bytes.
    pub soa: [u8; 56],
    /// The name hash's keys.
    pub hash: HashKeys,
    /// Cookie of the network namespace whose processes are the host's (`bpf_get_netns_cookie`), low word first.
    pub host: [u32; 2],
    /// The networks that ClusterIPs are given out of, with [`Config::SERVICE_RANGES`]; places that are not needed
    /// repeat the first one.
    pub service_ranges: [Network; 4],
    /// The cluster's DNS addresses: of questions that are sent to one of them some are answered. Places that are not
    /// needed repeat the first one, or are unspecified.
    pub dns: [Address; 4],
    /// The lowest and the highest UDP port at which a Service is served to clients outside the cluster, NodePorts among
    /// them, in host byte order; the first is the higher one where there is none.
    pub external_ports: [u16; 2],
    /// Zero.
    pub pad: u32,
}

/// A network.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Network {
    /// Its first address; IPv4 is v4-mapped.
    pub address: Address,
    /// One in every bit that counts.
    pub mask: Address,
}

impl Network {
    /// 0 where an address is in the network. There is no branch for each word.
    #[inline(always)]
    pub const fn difference(&self, address: &Address) -> u32 {
        let ([a, b, c, d], [e, f, g, h]) = (self.address.words(), address.words());
        let [i, j, k, l] = self.mask.words();
        ((e & i) ^ a) | ((f & j) ^ b) | ((g & k) ^ c) | ((h & l) ^ d)
    }
}

impl Config {
    /// [`Config::external_ports`] where there are none.
    pub const NO_PORTS: [u16; 2] = [u16::MAX, 0];
    /// Questions are answered in the kernel.
    pub const DNS: u32 = 1;
    /// Unknown TCP segments without SYN pass to the stack: another proxy's connections are still alive.
    pub const TAKEOVER: u32 = 2;
    /// Known flows are translated, new ones pass to the stack: this node is left to another proxy.
    pub const DRAIN: u32 = 4;
    /// All traffic to ClusterIPs is masqueraded (kube-proxy's `masqueradeAll`).
    pub const MASQUERADE_ALL: u32 = 8;
    /// The networks of the cluster's pods are known ([`crate::service::RangeKey::CLUSTER`]): traffic to ClusterIPs
    /// from elsewhere is masqueraded.
    pub const CLUSTER_RANGES: u32 = 16;
    /// [`Config::service_ranges`] are known: packets to an address in them that is none of a Service are dropped, as
    /// kube-proxy's nftables mode does.
    pub const SERVICE_RANGES: u32 = 32;
    /// There are pods whose sockets are looked at ([`crate::socket::PodValue`]), or were since the agent started.
    pub const SOCKET_PODS: u32 = 64;
    /// What comes from outside and is masqueraded to backends on other nodes is sent on past the stack.
    pub const FAST_PATH: u32 = 128;
}

/// Value of the maps `clocks` and `dns_alive` (arrays of one element): nanoseconds of `CLOCK_MONOTONIC`, 0 for never.
pub type Clock = u64;

/// After how many nanoseconds the *dns alive* clock is stale.
pub const DNS_ALIVE_FOR: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn a_network_contains_what_has_its_first_bits() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        let network = Network {
            address: address("10.96.0.0"),
            mask: Address::v6_words([u32::MAX, u32::MAX, u32::MAX, 0xfff0_0000_u32.to_be()]),
        };
        for (text, inside) in [
            ("10.96.0.0", true),
            ("10.111.255.255", true),
            ("10.112.0.0", false),
            ("::10.96.0.1", false),
        ] {
            assert_eq!(network.difference(&address(text)) == 0, inside, "{text}");
        }
    }
}
