//! The maps as tables with types, and what the differ asks of them.

use std::{collections::BTreeMap, hash::Hash, io, os::fd::OwnedFd};

use bytemuck::{AnyBitPattern, NoUninit};
use signpost_common::{
    Address,
    count::ServiceCount,
    device::DeviceValue,
    dns::{Clock, Config, Epoch, LargeAnswer, NameValue, OutsideAnswer, SmallAnswer},
    filter::{DESTINATION_WORDS, SOURCE_LINES, SourceLine},
    flow::{FlowKey, FlowValue, FragmentKey, FragmentValue},
    layout::{map, size},
    log::watch,
    name::{NameKey, TEXT_PART},
    service::{
        AddressValue, AffinityKey, AffinityValue, FrontendKey, FrontendValue, MemberKey,
        MemberValue, RangeKey, ServiceValue, SlotKey, SlotValue,
    },
    socket::{PodValue, SocketKey, SocketValue},
    tally::DnsCounts,
};

use super::sys::{self, Failed, MapInfo, MapKind};

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;

/// A map with its types.
pub trait Table {
    /// The key.
    type Key: NoUninit + AnyBitPattern + Eq + Hash + Send + Sync;
    /// The value.
    type Value: NoUninit + AnyBitPattern + Send + Sync;
    /// The map's name.
    const NAME: &'static str;
    /// Most elements.
    const SIZE: u32;
    /// Kind of the map.
    const KIND: MapKind;
    /// `map_flags`.
    const FLAGS: u32;

    /// What the kernel must say about the map.
    fn info() -> MapInfo {
        MapInfo {
            kind: Self::KIND as u32,
            key: size_of::<Self::Key>() as u32,
            value: size_of::<Self::Value>() as u32,
            size: Self::SIZE,
            flags: Self::FLAGS,
        }
    }
}

macro_rules! tables {
    ($($(#[doc = $help:literal])+ $table:ident: $name:expr, $key:ty => $value:ty, $size:expr, $kind:ident, $flags:expr;)+) => {
        $(
            $(#[doc = $help])+
            #[derive(Clone, Copy, Debug)]
            pub enum $table {}

            impl Table for $table {
                type Key = $key;
                type Value = $value;
                const NAME: &'static str = $name;
                const SIZE: u32 = $size;
                const KIND: MapKind = MapKind::$kind;
                const FLAGS: u32 = $flags;
            }
        )+

        /// Every map that is pinned: its name, and what the kernel must say about it.
        pub fn pinned() -> Vec<(&'static str, MapInfo)> {
            vec![$(($table::NAME, $table::info()),)+]
        }
    };
}

tables! {
    /// What an address is.
    Addresses: map::ADDRESSES, Address => AddressValue, size::ADDRESSES, Hash, NO_PREALLOC;
    /// Which destinations may be ours.
    Destinations: map::DESTINATIONS, u32 => u64, DESTINATION_WORDS, Array, 0;
    /// Which sources flows have.
    Sources: map::SOURCES, u32 => SourceLine, SOURCE_LINES, Array, 0;
    /// Where clients send to.
    Frontends: map::FRONTENDS, FrontendKey => FrontendValue, size::FRONTENDS, Hash, NO_PREALLOC;
    /// Places of the sets.
    Slots: map::SLOTS, SlotKey => SlotValue, size::SLOTS, Hash, NO_PREALLOC;
    /// Endpoints.
    Members: map::MEMBERS, MemberKey => MemberValue, size::MEMBERS, Hash, NO_PREALLOC;
    /// Names of service ports.
    Services: map::SERVICES, u32 => ServiceValue, size::SERVICES, Hash, NO_PREALLOC;
    /// Networks that may use the load balancers' IPs, and those of the cluster.
    SourceRanges: map::SOURCE_RANGES, RangeKey => u32, size::SOURCE_RANGES, LpmTrie, NO_PREALLOC;
    /// Flows.
    Flows: map::FLOWS, FlowKey => FlowValue, size::FLOWS, LruHash, 0;
    /// Fragmented packets.
    Fragments: map::FRAGMENTS, FragmentKey => FragmentValue, size::FRAGMENTS, LruHash, 0;
    /// Backends that clients stay with.
    Affinities: map::AFFINITY, AffinityKey => AffinityValue, size::AFFINITY, LruHash, 0;
    /// Sockets of the host and of such pods.
    Sockets: map::SOCKETS, SocketKey => SocketValue, size::SOCKETS, LruHash, 0;
    /// Pods whose sockets are looked at.
    SocketPods: map::SOCKET_PODS, u64 => PodValue, size::SOCKET_PODS, Hash, NO_PREALLOC;
    /// Addresses of interfaces for masqueraded packets.
    Devices: map::DEVICES, u32 => DeviceValue, size::DEVICES, Hash, NO_PREALLOC;
    /// What exists at a name.
    Names: map::NAMES, NameKey => NameValue, size::NAMES, Hash, NO_PREALLOC;
    /// Parts of names in wire form.
    NameTexts: map::NAME_TEXTS, NameKey => [u8; TEXT_PART], size::NAMES, Hash, NO_PREALLOC;
    /// Answers that are short.
    SmallAnswers: map::ANSWERS_SMALL, NameKey => SmallAnswer, size::ANSWERS_SMALL, Hash, NO_PREALLOC;
    /// Answers that are long.
    LargeAnswers: map::ANSWERS_LARGE, NameKey => LargeAnswer, size::ANSWERS_LARGE, Hash, NO_PREALLOC;
    /// Answers to questions outside of the cluster.
    OutsideAnswers: map::ANSWERS_OUTSIDE, NameKey => OutsideAnswer, size::ANSWERS_OUTSIDE, LruHash, 0;
    /// Which of them count.
    OutsideEpoch: map::OUTSIDE_EPOCH, u32 => Epoch, 1, Array, 0;
    /// The configuration.
    Configs: map::CONFIG, u32 => Config, 1, Array, 0;
    /// When the agent was in sync.
    Clocks: map::CLOCKS, u32 => Clock, 1, Array, 0;
    /// When the DNS pod was alive.
    DnsAlive: map::DNS_ALIVE, u32 => Clock, 1, Array, MMAPABLE;
    /// Whether answers are told.
    DnsWatch: map::DNS_WATCH, u32 => Clock, watch::COUNT, Array, 0;
    /// The answers that are told.
    DnsLog: map::DNS_LOG, () => (), size::DNS_LOG, RingBuf, 0;
    /// What goes through each service port, for each CPU.
    ServiceCounts: map::SERVICE_COUNTS, u32 => ServiceCount, size::SERVICES, PerCpuHash, NO_PREALLOC;
    /// Answers to DNS questions, for each CPU.
    AnswerCounts: map::DNS_COUNTS, u32 => DnsCounts, 1, PerCpuArray, 0;
    /// Packets by cause.
    Counters: map::COUNTERS, u32 => u64, signpost_common::Cause::COUNT, PerCpuArray, 0;
}

/// An element that was not written.
#[derive(Debug)]
pub struct NotWritten {
    /// Its place among the elements.
    pub index: usize,
    /// The map.
    pub map: &'static str,
    /// The map's size.
    pub size: u32,
    /// Why.
    pub error: io::Error,
}

impl std::fmt::Display for NotWritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.error.raw_os_error() == Some(libc::E2BIG) {
            write!(
                f,
                "map {} is full with {} elements; have fewer Services or endpoints, or build with larger maps",
                self.map, self.size
            )
        } else {
            write!(f, "map {} refused an element: {}", self.map, self.error)
        }
    }
}

/// What the differ asks of the maps, so that its order can be tested without a kernel.
pub trait Tables {
    /// Writes elements, new or not. Those that fail do not keep the others from it.
    fn put<T: Table>(&mut self, elements: &[(T::Key, T::Value)]) -> Vec<NotWritten>;

    /// Deletes elements. Those that are not there count as deleted.
    ///
    /// # Errors
    /// Where the map cannot be changed at all.
    fn delete<T: Table>(&mut self, keys: &[T::Key]) -> io::Result<()>;

    /// Shows every element, in no order.
    ///
    /// # Errors
    /// Where the map cannot be read.
    fn for_each<T: Table>(&self, visit: &mut dyn FnMut(&T::Key, &T::Value)) -> io::Result<()>;

    /// One element.
    ///
    /// # Errors
    /// Where the map cannot be read.
    fn get<T: Table>(&self, key: &T::Key) -> io::Result<Option<T::Value>>;

    /// Returns when every program has ended that runs now: what is written from then on no program mixes with what it read
    /// before. Maps that no program reads have nothing to wait for.
    fn wait_for_programs(&mut self) {}
}

/// The maps of the kernel.
#[derive(Debug)]
pub struct KernelTables {
    maps: BTreeMap<&'static str, OwnedFd>,
}

impl KernelTables {
    /// Over open maps, each under its name.
    pub fn new(maps: BTreeMap<&'static str, OwnedFd>) -> Self {
        Self { maps }
    }

    /// One map.
    ///
    /// # Errors
    /// `ENOENT` where it is not open.
    pub fn map<T: Table>(&self) -> io::Result<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        let missing = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("map {} is not open", T::NAME),
            )
        };
        self.maps.get(T::NAME).map(AsFd::as_fd).ok_or_else(missing)
    }
}

impl Tables for KernelTables {
    fn put<T: Table>(&mut self, elements: &[(T::Key, T::Value)]) -> Vec<NotWritten> {
        let not_written = |index, error| NotWritten {
            index,
            map: T::NAME,
            size: T::SIZE,
            error,
        };
        let map = match self.map::<T>() {
            Ok(map) => map,
            Err(error) => {
                let all = 0..elements.len();
                return all
                    .map(|index| not_written(index, error.kind().into()))
                    .collect();
            }
        };
        let mut failed = Vec::new();
        for (number, chunk) in elements.chunks(sys::BATCH).enumerate() {
            let keys: Vec<T::Key> = chunk.iter().map(|(key, _)| *key).collect();
            let values: Vec<T::Value> = chunk.iter().map(|(_, value)| *value).collect();
            failed.extend(
                sys::update_batch(map, &keys, &values)
                    .into_iter()
                    .map(|Failed { index, error }| not_written(number * sys::BATCH + index, error)),
            );
        }
        failed
    }

    fn delete<T: Table>(&mut self, keys: &[T::Key]) -> io::Result<()> {
        sys::delete_batch(self.map::<T>()?, keys)
    }

    fn for_each<T: Table>(&self, visit: &mut dyn FnMut(&T::Key, &T::Value)) -> io::Result<()> {
        sys::for_each_batch(self.map::<T>()?, |keys, values| {
            keys.iter()
                .zip(values)
                .for_each(|(key, value)| visit(key, value));
            Ok(())
        })
    }

    fn get<T: Table>(&self, key: &T::Key) -> io::Result<Option<T::Value>> {
        sys::lookup(self.map::<T>()?, key)
    }

    fn wait_for_programs(&mut self) {
        sys::wait_for_programs();
    }
}
