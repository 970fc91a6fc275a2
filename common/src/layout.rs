//! Names and sizes of the maps and programs, and the version of all that is pinned.

/// Version of everything that this crate defines and that is pinned. It is part of the pin folder's name, so that an
/// agent never reads maps of another layout. A test pins this number to a hash of this crate's map types.
pub const LAYOUT_VERSION: u32 = 13;

/// Names of the maps, at most 15 bytes as the kernel keeps them.
pub mod map {
    /// [`crate::Address`] → [`crate::service::AddressValue`].
    pub const ADDRESSES: &str = "addresses";
    /// Words of bits: [`crate::filter::destination`].
    pub const DESTINATIONS: &str = "destinations";
    /// [`crate::filter::SourceLine`]s: [`crate::filter::source`].
    pub const SOURCES: &str = "sources";
    /// [`crate::service::FrontendKey`] → [`crate::service::FrontendValue`].
    pub const FRONTENDS: &str = "frontends";
    /// [`crate::service::SlotKey`] → [`crate::service::SlotValue`].
    pub const SLOTS: &str = "slots";
    /// [`crate::service::MemberKey`] → [`crate::service::MemberValue`].
    pub const MEMBERS: &str = "members";
    /// Service id → [`crate::service::ServiceValue`].
    pub const SERVICES: &str = "services";
    /// [`crate::flow::FlowKey`] → [`crate::flow::FlowValue`].
    pub const FLOWS: &str = "flows";
    /// [`crate::flow::FragmentKey`] → [`crate::flow::FragmentValue`].
    pub const FRAGMENTS: &str = "fragments";
    /// [`crate::service::AffinityKey`] → [`crate::service::AffinityValue`].
    pub const AFFINITY: &str = "affinity";
    /// [`crate::service::RangeKey`] → 1.
    pub const SOURCE_RANGES: &str = "source_ranges";
    /// [`crate::socket::SocketKey`] → [`crate::socket::SocketValue`].
    pub const SOCKETS: &str = "sockets";
    /// Cookie of a network namespace → [`crate::socket::PodValue`].
    pub const SOCKET_PODS: &str = "socket_pods";
    /// Interface index → [`crate::device::DeviceValue`].
    pub const DEVICES: &str = "devices";
    /// [`crate::name::NameKey`] → [`crate::dns::NameValue`].
    pub const NAMES: &str = "names";
    /// [`crate::name::NameKey`] with a number as type → a part of the name in wire form, lower-cased: see
    /// [`crate::name::text_parts`].
    pub const NAME_TEXTS: &str = "name_texts";
    /// [`crate::name::NameKey`] → [`crate::dns::SmallAnswer`].
    pub const ANSWERS_SMALL: &str = "answers_small";
    /// [`crate::name::NameKey`] → [`crate::dns::LargeAnswer`].
    pub const ANSWERS_LARGE: &str = "answers_large";
    /// [`crate::name::NameKey`] → [`crate::dns::OutsideAnswer`].
    pub const ANSWERS_OUTSIDE: &str = "answers_outside";
    /// One [`crate::dns::Epoch`]: which of `answers_outside` count.
    pub const OUTSIDE_EPOCH: &str = "outside_epoch";
    /// One [`crate::dns::Config`].
    pub const CONFIG: &str = "config";
    /// One [`crate::dns::Clock`]: when the agent was last in sync with its source.
    pub const CLOCKS: &str = "clocks";
    /// One [`crate::dns::Clock`]: when this node's `signpost dns` last said that it is there.
    pub const DNS_ALIVE: &str = "dns_alive";
    /// Service id → [`crate::count::ServiceCount`], per CPU.
    pub const SERVICE_COUNTS: &str = "service_counts";
    /// Words, see [`crate::log::watch`]: whether answers are told.
    pub const DNS_WATCH: &str = "dns_watch";
    /// A ring buffer of [`crate::log::LogHead`]s with questions: the answers that are told.
    pub const DNS_LOG: &str = "dns_log";
    /// [`crate::Cause`] as index → packets, per CPU; those of DNS answers are in `dns_counts`.
    pub const COUNTERS: &str = "counters";
    /// One [`crate::tally::DnsCounts`], per CPU.
    pub const DNS_COUNTS: &str = "dns_counts";
    /// Working memory for DNS questions, per CPU.
    pub const SCRATCH: &str = "scratch";
    /// Working memory for new flows, per CPU.
    pub const WORK: &str = "work";
    /// The clock of the programs, per CPU.
    pub const TICK: &str = "tick";
    /// Cookies of a socket and of its network namespace, [`super::program::LEARN_NAMESPACE`]'s. Not pinned.
    pub const LEARNED: &str = "learned";
}

/// Names of the programs.
pub mod program {
    /// tc ingress of a pod's host-side interface.
    pub const FROM_POD: &str = "from_pod";
    /// tc egress of a pod's host-side interface.
    pub const TO_POD: &str = "to_pod";
    /// tc ingress of an uplink or a tunnel.
    pub const FROM_WIRE: &str = "from_wire";
    /// tc egress of an uplink or a tunnel.
    pub const TO_WIRE: &str = "to_wire";
    /// tc ingress of an uplink or a tunnel whose packets have no Ethernet header.
    pub const FROM_BARE: &str = "from_bare";
    /// tc egress of an uplink or a tunnel whose packets have no Ethernet header.
    pub const TO_BARE: &str = "to_bare";
    /// The agent connects a socket of its own, to learn the cookie of its network namespace.
    pub const LEARN_NAMESPACE: &str = "learn_namespace";
    /// A process of the host connects a socket, IPv4.
    pub const CONNECT4: &str = "connect4";
    /// As [`CONNECT4`], IPv6.
    pub const CONNECT6: &str = "connect6";
    /// A process of the host sends a datagram to an address, IPv4.
    pub const SENDMSG4: &str = "sendmsg4";
    /// As [`SENDMSG4`], IPv6.
    pub const SENDMSG6: &str = "sendmsg6";
    /// A process of the host gets a datagram, IPv4.
    pub const RECVMSG4: &str = "recvmsg4";
    /// As [`RECVMSG4`], IPv6.
    pub const RECVMSG6: &str = "recvmsg6";
    /// A process of the host asks what its socket is connected to, IPv4.
    pub const GETPEERNAME4: &str = "getpeername4";
    /// As [`GETPEERNAME4`], IPv6.
    pub const GETPEERNAME6: &str = "getpeername6";
}

/// Most elements of each map. Maps that only the agent fills take memory as they are filled; the LRU maps take all
/// of theirs at once.
pub mod size {
    /// Service addresses and node addresses.
    pub const ADDRESSES: u32 = 65_536;
    /// Frontends.
    pub const FRONTENDS: u32 = 65_536;
    /// Slots: both sets of all service ports, and the old generation while it is replaced.
    pub const SLOTS: u32 = 524_288;
    /// Endpoints of all service ports.
    pub const MEMBERS: u32 = 262_144;
    /// Service ports.
    pub const SERVICES: u32 = 65_536;
    /// Two entries a flow.
    pub const FLOWS: u32 = 262_144;
    /// Fragmented packets under way.
    pub const FRAGMENTS: u32 = 4_096;
    /// Clients of service ports with session affinity.
    pub const AFFINITY: u32 = 65_536;
    /// Networks in the source ranges of all service ports.
    pub const SOURCE_RANGES: u32 = 65_536;
    /// Pods whose sockets are looked at.
    pub const SOCKET_PODS: u32 = 4_096;
    /// Sockets of the host and of such pods: an element for each backend that they talk to, and for UDP another one.
    pub const SOCKETS: u32 = 65_536;
    /// Interfaces.
    pub const DEVICES: u32 = 4_096;
    /// Names.
    pub const NAMES: u32 = 262_144;
    /// Answers of at most [`crate::dns::SMALL_RECORDS`] bytes.
    pub const ANSWERS_SMALL: u32 = 262_144;
    /// Longer answers.
    pub const ANSWERS_LARGE: u32 = 32_768;
    /// Answers to questions outside of the cluster: 5 MB, all at once.
    pub const ANSWERS_OUTSIDE: u32 = 8_192;
    /// Bytes of answers that are told and not read yet: about 5,000. A power of two, and whole pages.
    pub const DNS_LOG: u32 = 512 << 10;
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;
    use std::fmt::Write as _;

    use super::*;
    use crate::{
        Address, Cause,
        count::ServiceCount,
        device::DeviceValue,
        dns::{
            AnswerHead, Config, LargeAnswer, NameValue, Network, OutsideAnswer, OutsideHead,
            SmallAnswer,
        },
        filter::{DESTINATION_WORDS, SOURCE_LINES, SourceLine},
        flow::{FlowKey, FlowValue, FragmentKey, FragmentValue},
        log::{LogHead, watch},
        name::{HashKeys, NameKey, TEXT_PART},
        service::{
            AddressValue, AffinityKey, AffinityValue, FrontendKey, FrontendValue, MemberKey,
            MemberValue, RangeKey, ServiceValue, SlotKey, SlotValue,
        },
        socket::{PodValue, SocketKey, SocketValue},
        tally::DnsCounts,
    };

    macro_rules! describe {
        ($text:ident, $($type:ident { $($field:ident),* })+) => { $(
            write!($text, "{} {}:", stringify!($type), size_of::<$type>()).unwrap();
            $(write!($text, " {} {}", stringify!($field), offset_of!($type, $field)).unwrap();)*
            $text.push('\n');
        )+ };
    }

    /// FNV-1a: the same on every machine and in every release.
    fn fnv(text: &str) -> u64 {
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    }

    #[test]
    fn another_layout_has_another_version() {
        let mut text = String::new();
        describe! { text,
            Address {}
            AddressValue { flags }
            FrontendKey { address, port, protocol, pad }
            FrontendValue { check, service, generation, cluster, local, flags, affinity_timeout }
            SlotKey { service, generation, index }
            SlotValue { service, generation, address, port, flags }
            MemberKey { service, address, port, pad }
            MemberValue { flags }
            ServiceValue { namespace, name, port_name, protocol, family, pad, generation }
            AffinityKey { client, service }
            AffinityValue { check, port, pad, address, last_used }
            RangeKey { bits, service, address }
            SocketKey { cookie, address, port, direction, pad }
            SocketValue { check, address, port, flags, service }
            PodValue { namespace, v4, v6, flags, pad }
            DeviceValue { v4, v6 }
            ServiceCount { connections, packets_in, bytes_in, packets_out, bytes_out }
            FlowKey { source, destination, source_port, destination_port, protocol, direction, pad }
            FlowValue { check, service, source, destination, source_port, destination_port, flags, addresses_sum, ports_sum, left_at, last_seen }
            FragmentKey { source, destination, identification, protocol, direction, kind }
            FragmentValue { source, destination, last_seen, flags, check }
            NameKey { first, second, length, labels, qtype, pad }
            NameValue { check, flags, large, user }
            AnswerHead { check, count, length, stride, flags, additional, sum }
            SmallAnswer { head, records }
            LargeAnswer { head, records }
            OutsideHead { check, epoch, until, hits, length, flags, answers, authorities, sum, addresses, pad, ttl_at }
            OutsideAnswer { head, records }
            DnsCounts { answers }
            LogHead { at, took, device, client, client_port, flags, answers, cause }
            HashKeys { words }
            Network { address, mask }
            Config { flags, negative_grace, zone, services, soa, hash, host, service_ranges, dns, external_ports, pad }
        }
        let sizes = [
            size::ADDRESSES,
            size::FRONTENDS,
            size::SLOTS,
            size::MEMBERS,
            size::SERVICES,
            size::FLOWS,
            size::FRAGMENTS,
            size::AFFINITY,
            size::SOURCE_RANGES,
            size::SOCKETS,
            size::SOCKET_PODS,
            size::DEVICES,
            size::NAMES,
            size::ANSWERS_SMALL,
            size::ANSWERS_LARGE,
            size::ANSWERS_OUTSIDE,
            size::DNS_LOG,
            watch::COUNT,
            DESTINATION_WORDS,
            SOURCE_LINES,
            size_of::<SourceLine>() as u32,
            Cause::COUNT,
            TEXT_PART as u32,
        ];
        write!(text, "{sizes:?}").unwrap();
        assert_eq!(
            (LAYOUT_VERSION, fnv(&text)),
            (13, 0xbcc0_d425_5c0a_c4a3),
            "count LAYOUT_VERSION up and write both down here: pinned maps have another layout than\n{text}"
        );
    }
}
