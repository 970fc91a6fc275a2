//! The tables in memory, public so that whoever has the contents can fill them.

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    collections::HashMap,
};

use signpost_common::{
    Address, Cause,
    count::ServiceCount,
    device::DeviceValue,
    dns::{
        AnswerHead, Clock, Config, Epoch, LargeAnswer, NameValue, Network, OutsideAnswer,
        SmallAnswer,
    },
    filter::{self, Destinations},
    flow::{FlowKey, FlowValue, FragmentKey, FragmentValue},
    name::NameKey,
    service::{
        AddressValue, AffinityKey, AffinityValue, FrontendKey, FrontendValue, MemberKey,
        MemberValue, RangeKey, SlotKey, SlotValue,
    },
    socket::{PodValue, SocketKey, SocketValue},
    tally::{DnsCounts, Tally},
};

use crate::{
    dns::{self, Scratch, outside, pod, question},
    masquerade,
    packet::Packet,
    record,
    tables::{LONG_AGO, NotInserted, Tables},
    work::Work,
};

/// Every table, and the clocks as they stand.
#[derive(Debug, Default)]
pub struct Memory {
    /// What an address is to us.
    pub addresses: HashMap<Address, AddressValue>,
    /// Frontends.
    pub frontends: HashMap<FrontendKey, FrontendValue>,
    /// Slots.
    pub slots: HashMap<SlotKey, SlotValue>,
    /// Members.
    pub members: HashMap<MemberKey, MemberValue>,
    /// Flows.
    pub flows: RefCell<HashMap<FlowKey, FlowValue>>,
    /// Fragments.
    pub fragments: RefCell<HashMap<FragmentKey, FragmentValue>>,
    /// Clients that stay with a backend.
    pub affinity: RefCell<HashMap<AffinityKey, AffinityValue>>,
    /// Pods whose sockets are looked at, by the cookies of their network namespaces.
    pub socket_pods: HashMap<u64, PodValue>,
    /// Sockets.
    pub sockets: RefCell<HashMap<SocketKey, SocketValue>>,
    /// Networks of service ports and of the cluster.
    pub source_ranges: HashMap<RangeKey, u32>,
    /// Interfaces.
    pub devices: HashMap<u32, DeviceValue>,
    /// Names.
    pub names: HashMap<NameKey, NameValue>,
    /// Small answers.
    pub answers_small: HashMap<NameKey, SmallAnswer>,
    /// Large answers.
    pub answers_large: HashMap<NameKey, LargeAnswer>,
    /// Answers to questions outside of the cluster.
    pub answers_outside: RefCell<HashMap<NameKey, OutsideAnswer>>,
    /// Which of them count.
    pub outside_epoch: Epoch,
    /// Until when answers are told.
    pub watched_until: Clock,
    /// What was told of answers.
    pub log: RefCell<Vec<Vec<u8>>>,
    /// The configuration, once it is written.
    pub config: Option<Config>,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub now: u64,
    /// When the agent was last in sync.
    pub in_sync_at: u64,
    /// When the DNS pod was last alive.
    pub dns_alive_at: u64,
    /// The time of these at which the DNS pod had no server.
    pub dns_refused_at: Cell<u64>,
    /// What was counted, in order.
    pub counted: RefCell<Vec<Cause>>,
    /// What was counted of answers to DNS questions.
    pub dns_counts: RefCell<Box<DnsCounts>>,
    /// Whether service ports are counted.
    pub counts_services: bool,
    /// What was counted of service ports.
    pub service_counts: RefCell<HashMap<u32, ServiceCount>>,
    /// The next random number; each one taken is followed by its successor.
    pub random: Cell<u32>,
    working: Box<Working>,
}

/// What the kernel has for each CPU.
#[derive(Debug)]
struct Working {
    scratch: UnsafeCell<Scratch>,
    work: UnsafeCell<Work>,
}

impl Default for Working {
    fn default() -> Self {
        Self {
            scratch: UnsafeCell::new(Scratch::ZERO),
            work: UnsafeCell::new(Work::ZERO),
        }
    }
}

impl Memory {
    /// What the agent writes into the map `destinations`.
    pub fn destinations(&self) -> Destinations {
        let mut destinations = Destinations::default();
        self.covered()
            .for_each(|address| destinations.cover(address));
        self.covered_ranges()
            .for_each(|range| destinations.cover_network(range));
        destinations
    }

    fn covered(&self) -> impl Iterator<Item = &Address> {
        let devices = self.devices.values();
        let devices = devices.flat_map(|device| [&device.v4, &device.v6]);
        self.addresses.keys().chain(devices)
    }

    fn covered_ranges(&self) -> impl Iterator<Item = &Network> {
        let config = self.config.iter();
        let known = config.filter(|config| config.flags & Config::SERVICE_RANGES != 0);
        known.flat_map(|config| &config.service_ranges)
    }

    fn answer<P: Packet, const N: usize>(
        &self,
        check: u32,
        head: &AnswerHead,
        records: &[u8; N],
        packet: &mut P,
        scratch: &mut Scratch,
    ) -> Result<bool, Cause> {
        if head.check != check {
            return Err(Cause::DnsUnproven);
        }
        dns::answer::write(packet, self, scratch, head, records).map(|()| true)
    }
}

impl Tables for Memory {
    fn address(&self, address: &Address) -> u32 {
        self.addresses.get(address).map_or(0, |value| value.flags)
    }

    fn knows_destination(&self, address: &Address) -> bool {
        let class = filter::destination(address);
        self.covered()
            .any(|other| filter::destination(other) == class)
            || self
                .covered_ranges()
                .any(|range| range.difference(address) == 0)
            || self.flows.borrow().keys().any(|key| {
                key.direction & FlowKey::OTHER_WAY == 0
                    && filter::destination(&key.destination) == class
            })
    }

    fn knows_source(&self, address: &Address, direction: u8) -> bool {
        let class = filter::source(address, direction);
        self.flows.borrow().keys().any(|key| {
            key.direction & FlowKey::OTHER_WAY != 0
                && filter::source(&key.source, key.direction) == class
        })
    }

    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        self.frontends
            .get(key)
            .copied()
            .filter(|value| value.check == key.check())
    }

    fn slot(&self, key: &SlotKey) -> Option<SlotValue> {
        self.slots.get(key).copied()
    }

    fn member(&self, key: &MemberKey) -> u32 {
        self.members.get(key).map_or(0, |value| value.flags)
    }

    fn in_range(&self, key: &RangeKey) -> bool {
        self.source_ranges.keys().any(|range| {
            let shift = RangeKey::ALL_BITS - range.bits;
            let first = |key: &RangeKey| {
                u128::from_be_bytes(key.address.octets())
                    .checked_shr(shift)
                    .unwrap_or(0)
            };
            range.service == key.service && first(range) == first(key)
        })
    }

    fn device(&self, ifindex: u32) -> Option<DeviceValue> {
        self.devices.get(&ifindex).copied()
    }

    fn peek_flow(&self, key: &FlowKey, check: u32, to: &mut FlowValue) -> bool {
        match self.flows.borrow().get(key) {
            Some(found) if found.check == check => {
                *to = *found;
                true
            }
            _ => false,
        }
    }

    fn flow(&self, key: &FlowKey, check: u32, add_flags: u32, to: &mut FlowValue) -> bool {
        match self.flows.borrow_mut().get_mut(key) {
            Some(found) if found.check == check => {
                *to = *found;
                found.last_seen = self.now;
                found.flags |= add_flags;
                true
            }
            _ => false,
        }
    }

    fn insert_flow(
        &self,
        key: &FlowKey,
        value: &FlowValue,
        replace: bool,
    ) -> Result<(), NotInserted> {
        let mut flows = self.flows.borrow_mut();
        if !replace && flows.contains_key(key) {
            return Err(NotInserted::Exists);
        }
        flows.insert(*key, *value);
        Ok(())
    }

    fn record(&self, work: &mut Work) -> Result<(), Cause> {
        record::record(self, work)
    }

    fn masquerade(&self, work: &mut Work, device: u32) -> Result<(), Cause> {
        masquerade::complete(self, work, device)
    }

    fn hash(&self, scratch: &mut Scratch) -> Result<NameKey, Cause> {
        question::hash(
            scratch,
            &self.config.as_ref().ok_or(Cause::NotConfigured)?.hash,
        )
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        let found = self.fragments.borrow().get(key).copied();
        found.filter(|value| value.check == key.check())
    }

    fn insert_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.fragments.borrow_mut().insert(*key, *value);
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        let found = self.affinity.borrow().get(key).copied();
        found.filter(|value| value.check == key.check())
    }

    fn insert_affinity(&self, key: &AffinityKey, value: &AffinityValue) {
        self.affinity.borrow_mut().insert(*key, *value);
    }

    fn socket_pod(&self, namespace: u64) -> Option<PodValue> {
        self.socket_pods.get(&namespace).copied()
    }

    fn socket(&self, key: &SocketKey) -> Option<SocketValue> {
        let found = self.sockets.borrow().get(key).copied();
        found.filter(|value| value.check == key.check())
    }

    fn insert_socket(&self, key: &SocketKey, value: &SocketValue) -> bool {
        self.sockets.borrow_mut().insert(*key, *value);
        true
    }

    fn remove_socket(&self, key: &SocketKey) {
        self.sockets.borrow_mut().remove(key);
    }

    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    fn name(&self, key: &NameKey) -> Option<NameValue> {
        self.names.get(key).copied()
    }

    fn write_answer<P: Packet>(
        &self,
        key: &NameKey,
        large: bool,
        packet: &mut P,
        scratch: &mut Scratch,
    ) -> Result<bool, Cause> {
        if large {
            let Some(LargeAnswer { head, records }) = self.answers_large.get(key) else {
                return Ok(false);
            };
            self.answer(key.check(), head, records, packet, scratch)
        } else {
            let Some(SmallAnswer { head, records }) = self.answers_small.get(key) else {
                return Ok(false);
            };
            self.answer(key.check(), head, records, packet, scratch)
        }
    }

    fn find_outside(&self, scratch: &mut Scratch) -> Result<(), Cause> {
        outside::find(self, scratch)
    }

    fn read_spelling(&self, scratch: &mut Scratch, label: u16) -> Result<(), Cause> {
        pod::read(scratch, label)
    }

    fn copy_outside(&self, key: &NameKey, to: &mut outside::Copied) -> bool {
        let mut answers = self.answers_outside.borrow_mut();
        let Some(found) = answers.get_mut(key) else {
            return false;
        };
        found.head.hits += 1;
        to.head = found.head;
        to.bytes_mut()[..found.records.len()].copy_from_slice(&found.records);
        true
    }

    fn outside_epoch(&self) -> Epoch {
        self.outside_epoch
    }

    fn watched_until(&self) -> Clock {
        self.watched_until
    }

    fn tell(&self, scratch: &mut Scratch) {
        let mut told = bytemuck::bytes_of(&scratch.log).to_vec();
        told.extend(&scratch.bytes[..scratch.question.length as usize]);
        self.log.borrow_mut().push(told);
    }

    fn scratch(&self) -> Option<&mut Scratch> {
        // SAFETY: a program asks once for it, and the tables are not shared between threads (they are not `Sync`).
        Some(unsafe { &mut *self.working.scratch.get() })
    }

    fn work(&self) -> Option<&mut Work> {
        // SAFETY: as above; no reference to it outlives the function of the program that asked for it.
        Some(unsafe { &mut *self.working.work.get() })
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn clock(&self) -> u64 {
        self.now
    }

    fn in_sync_at(&self) -> u64 {
        self.in_sync_at
    }

    fn dns_alive_at(&self) -> u64 {
        match self.dns_alive_at {
            0 => 0,
            at if at == self.dns_refused_at.get() => LONG_AGO,
            at => at,
        }
    }

    fn dns_pod_refuses(&self) {
        self.dns_refused_at.set(self.dns_alive_at);
    }

    fn random(&self) -> u32 {
        self.random.replace(self.random.get().wrapping_add(1))
    }

    fn counts_services(&self) -> bool {
        self.counts_services
    }

    fn count_service(&self, service: &u32, add: impl FnOnce(&mut ServiceCount)) {
        if let Some(count) = self.service_counts.borrow_mut().get_mut(service) {
            add(count);
        }
    }

    fn begin_to_count(&self, service: &u32) {
        self.service_counts
            .borrow_mut()
            .entry(*service)
            .or_default();
    }

    fn count(&self, cause: Cause) {
        self.counted.borrow_mut().push(cause);
    }

    fn count_answer(&self, tally: Tally) {
        self.dns_counts.borrow_mut().add(tally);
    }
}
