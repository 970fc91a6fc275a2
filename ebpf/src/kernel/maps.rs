//! The BPF maps. What is read is copied at once, and its `check` last: a freed element is reused under a reader.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_ns, bpf_ringbuf_output},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, lpm_trie},
};
use signpost_common::{
    Address, Cause,
    count::ServiceCount,
    device::DeviceValue,
    dns::{
        AnswerHead, Clock, Config, Epoch, LargeAnswer, NameValue, OUTSIDE_RECORDS, OutsideAnswer,
        SmallAnswer,
    },
    filter::{self, DESTINATION_WORDS, SOURCE_LINES, SourceLine},
    flow::{FlowKey, FlowValue, FragmentKey, FragmentValue},
    layout::size,
    log::{self, LogHead},
    name::{NameKey, TEXT_PART},
    service::{
        AddressValue, AffinityKey, AffinityValue, FrontendKey, FrontendValue, MemberKey,
        MemberValue, RangeKey, ServiceValue, SlotKey, SlotValue,
    },
    socket::{PodValue, SocketKey, SocketValue},
    tally::{self, DnsCounts, Tally},
};

use crate::{
    dns::{LABELS, Scratch, answer, outside, pod, question},
    kernel::{copied, opaque, skb::bounded},
    masquerade,
    packet::Packet,
    record,
    tables::{LONG_AGO, NotInserted, Tables},
    work::Work,
};

/// How old `last_seen` may get before it is written again.
const SEEN_EVERY: u64 = 1_000_000_000;

#[map(name = "addresses")]
static ADDRESSES: HashMap<Address, AddressValue> =
    HashMap::with_max_entries(size::ADDRESSES, BPF_F_NO_PREALLOC);
#[map(name = "destinations")]
static DESTINATIONS: Array<u64> = Array::with_max_entries(DESTINATION_WORDS, 0);
#[map(name = "sources")]
static SOURCES: Array<SourceLine> = Array::with_max_entries(SOURCE_LINES, 0);
#[map(name = "frontends")]
static FRONTENDS: HashMap<FrontendKey, FrontendValue> =
    HashMap::with_max_entries(size::FRONTENDS, BPF_F_NO_PREALLOC);
#[map(name = "slots")]
static SLOTS: HashMap<SlotKey, SlotValue> =
    HashMap::with_max_entries(size::SLOTS, BPF_F_NO_PREALLOC);
#[map(name = "members")]
static MEMBERS: HashMap<MemberKey, MemberValue> =
    HashMap::with_max_entries(size::MEMBERS, BPF_F_NO_PREALLOC);
#[map(name = "services")]
static SERVICES: HashMap<u32, ServiceValue> =
    HashMap::with_max_entries(size::SERVICES, BPF_F_NO_PREALLOC);
#[map(name = "flows")]
static FLOWS: LruHashMap<FlowKey, FlowValue> = LruHashMap::with_max_entries(size::FLOWS, 0);
#[map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> =
    LruHashMap::with_max_entries(size::FRAGMENTS, 0);
#[map(name = "affinity")]
static AFFINITY: LruHashMap<AffinityKey, AffinityValue> =
    LruHashMap::with_max_entries(size::AFFINITY, 0);
#[map(name = "sockets")]
static SOCKETS: LruHashMap<SocketKey, SocketValue> = LruHashMap::with_max_entries(size::SOCKETS, 0);
#[map(name = "socket_pods")]
static SOCKET_PODS: HashMap<u64, PodValue> =
    HashMap::with_max_entries(size::SOCKET_PODS, BPF_F_NO_PREALLOC);
#[map(name = "source_ranges")]
static SOURCE_RANGES: LpmTrie<[u32; 5], u32> =
    LpmTrie::with_max_entries(size::SOURCE_RANGES, BPF_F_NO_PREALLOC);
#[map(name = "devices")]
static DEVICES: HashMap<u32, DeviceValue> =
    HashMap::with_max_entries(size::DEVICES, BPF_F_NO_PREALLOC);
#[map(name = "names")]
static NAMES: HashMap<NameKey, NameValue> =
    HashMap::with_max_entries(size::NAMES, BPF_F_NO_PREALLOC);
#[map(name = "name_texts")]
static NAME_TEXTS: HashMap<NameKey, [u8; TEXT_PART]> =
    HashMap::with_max_entries(size::NAMES, BPF_F_NO_PREALLOC);
#[map(name = "answers_small")]
static ANSWERS_SMALL: HashMap<NameKey, SmallAnswer> =
    HashMap::with_max_entries(size::ANSWERS_SMALL, BPF_F_NO_PREALLOC);
#[map(name = "answers_large")]
static ANSWERS_LARGE: HashMap<NameKey, LargeAnswer> =
    HashMap::with_max_entries(size::ANSWERS_LARGE, BPF_F_NO_PREALLOC);
#[map(name = "answers_outside")]
static ANSWERS_OUTSIDE: LruHashMap<NameKey, OutsideAnswer> =
    LruHashMap::with_max_entries(size::ANSWERS_OUTSIDE, 0);
#[map(name = "outside_epoch")]
static OUTSIDE_EPOCH: Array<Epoch> = Array::with_max_entries(1, 0);
#[map(name = "config")]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map(name = "clocks")]
static CLOCKS: Array<Clock> = Array::with_max_entries(1, 0);
#[map(name = "dns_alive")]
static DNS_ALIVE: Array<Clock> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map(name = "dns_watch")]
static DNS_WATCH: Array<Clock> = Array::with_max_entries(log::watch::COUNT, 0);
#[map(name = "dns_log")]
static DNS_LOG: RingBuf = RingBuf::with_byte_size(size::DNS_LOG, 0);
#[map(name = "counters")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Cause::COUNT, 0);
#[map(name = "dns_counts")]
static DNS_COUNTS: PerCpuArray<DnsCounts> = PerCpuArray::with_max_entries(1, 0);
#[map(name = "service_counts")]
static SERVICE_COUNTS: PerCpuHashMap<u32, ServiceCount> =
    PerCpuHashMap::with_max_entries(size::SERVICES, BPF_F_NO_PREALLOC);
#[map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

#[map(name = "work")]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// The clock, read once a tick of the kernel (1 to 10 ms): nothing here is about shorter times, and reading it costs
/// as much as a look-up.
#[map(name = "tick")]
static TICK: PerCpuArray<Tick> = PerCpuArray::with_max_entries(1, 0);

/// Under 0 the cookie of a socket whose network namespace the agent wants to know, under 1 that of the namespace.
#[map(name = "learned")]
static LEARNED: Array<u64> = Array::with_max_entries(2, 0);

/// A tick of the kernel.
#[repr(C)]
struct Tick {
    /// Ticks since boot.
    number: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC` when it was first seen.
    at: u64,
}

/// [`signpost_common::count::COUNT_SERVICES`].
#[unsafe(no_mangle)]
static COUNT_SERVICES: u32 = 0;

/// What a service port's counts begin with.
static NOTHING_COUNTED: ServiceCount = ServiceCount::ZERO;

/// The maps of this instance.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn address(&self, address: &Address) -> u32 {
        // SAFETY: one word, read at once.
        unsafe { ADDRESSES.get(address) }.map_or(0, |value| value.flags)
    }

    #[inline(always)]
    fn knows_destination(&self, address: &Address) -> bool {
        let (index, bit) = filter::destination(address);
        // SAFETY: an aligned word of an array, which is never freed while the program runs.
        DESTINATIONS
            .get_ptr(index)
            .is_some_and(|word| unsafe { read_volatile(word) } & bit != 0)
    }

    #[inline(always)]
    fn knows_source(&self, address: &Address, direction: u8) -> bool {
        let (line, place) = filter::source(address, direction);
        // SAFETY: a byte of an array, which is never freed while the program runs; `place` is less than the length.
        SOURCES.get_ptr(line).is_some_and(
            |line| unsafe { read_volatile(line.cast::<u8>().add(place as usize)) } != 0,
        )
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        let found = FRONTENDS.get_ptr(key)?;
        // SAFETY: the pointer stays readable while the program runs; the check tells whose value it is.
        let (value, check) = unsafe { (copied(found), read_volatile(addr_of!((*found).check))) };
        if check == key.check() {
            Some(value)
        } else {
            None
        }
    }

    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<SlotValue> {
        // SAFETY: copied at once; service and generation tell whose value it is.
        SLOTS.get_ptr(key).map(|found| unsafe { copied(found) })
    }

    #[inline(always)]
    fn member(&self, key: &MemberKey) -> u32 {
        // SAFETY: one word, read at once.
        unsafe { MEMBERS.get(key) }.map_or(0, |value| value.flags)
    }

    #[inline(always)]
    fn in_range(&self, key: &RangeKey) -> bool {
        // SAFETY: the types have the same bytes: the number of bits, then what they count in.
        let key = unsafe { &*core::ptr::from_ref(key).cast::<lpm_trie::Key<[u32; 5]>>() };
        SOURCE_RANGES.get(key).is_some()
    }

    #[inline(always)]
    fn device(&self, ifindex: u32) -> Option<DeviceValue> {
        let found = DEVICES.get_ptr(ifindex)?;
        // SAFETY: copied at once. Nothing is mixed up in an element that is reused: an address is one of this node's.
        Some(unsafe { copied(found) })
    }

    #[inline(always)]
    fn peek_flow(&self, key: &FlowKey, check: u32, to: &mut FlowValue) -> bool {
        let Some(found) = FLOWS.get_ptr(key) else {
            return false;
        };
        // SAFETY: the pointer stays readable while the program runs; the check tells whose value it is.
        unsafe {
            *to = copied(found);
            read_volatile(addr_of!((*found).check)) == check
        }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey, check: u32, add_flags: u32, to: &mut FlowValue) -> bool {
        let Some(found) = FLOWS.get_ptr_mut(key) else {
            return false;
        };
        // SAFETY: the pointer stays readable and writable while the program runs; the check tells whose value it is.
        unsafe {
            *to = copied(found);
            if read_volatile(addr_of!((*found).check)) != check {
                return false;
            }
            let now = self.now();
            if now.saturating_sub(to.last_seen) > SEEN_EVERY {
                (*found).last_seen = now;
            }
            let missing = (add_flags & !to.flags).to_ne_bytes();
            if u32::from_ne_bytes(missing) != 0 {
                let flags = addr_of_mut!((*found).flags).cast::<u8>();
                for (index, byte) in missing.into_iter().enumerate() {
                    if byte != 0 {
                        write_volatile(flags.add(index), byte);
                    }
                }
            }
            true
        }
    }

    #[inline(always)]
    fn insert_flow(
        &self,
        key: &FlowKey,
        value: &FlowValue,
        replace: bool,
    ) -> Result<(), NotInserted> {
        if key.direction & FlowKey::OTHER_WAY != 0 {
            let (line, place) = filter::source(&key.source, key.direction);
            let line = SOURCES.get_ptr_mut(line).ok_or(NotInserted::Refused)?;
            // SAFETY: as in `knows_source`; bytes are written one by one, so that no other processor's is lost.
            unsafe { write_volatile(line.cast::<u8>().add(place as usize), 1) };
        }
        let flags = if replace { 0 } else { u64::from(BPF_NOEXIST) };
        match FLOWS.insert(key, value, flags) {
            Ok(()) => Ok(()),
            Err(-17) => Err(NotInserted::Exists), // EEXIST
            Err(_) => Err(NotInserted::Refused),
        }
    }

    #[inline(always)]
    fn record(&self, _work: &mut Work) -> Result<(), Cause> {
        result(record_flow())
    }

    #[inline(always)]
    fn masquerade(&self, _work: &mut Work, device: u32) -> Result<(), Cause> {
        result(masquerade_flow(device))
    }

    #[inline(always)]
    fn hash(&self, scratch: &mut Scratch) -> Result<NameKey, Cause> {
        result(hash_question())?;
        Ok(scratch.suffixes[scratch.question.labels as usize & (LABELS - 1)])
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        // Nothing is lost where it is gone already.
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        let found = FRAGMENTS.get_ptr(key)?;
        // SAFETY: the pointer stays readable while the program runs; the check tells whose value it is.
        let (value, check) = unsafe { (copied(found), read_volatile(addr_of!((*found).check))) };
        (check == key.check()).then_some(value)
    }

    #[inline(always)]
    fn insert_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        // Without an entry the later fragments are left to the stack and counted there.
        let _ = FRAGMENTS.insert(key, value, 0);
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        let found = AFFINITY.get_ptr(key)?;
        // SAFETY: the pointer stays readable while the program runs; the check tells whose value it is.
        let (value, check) = unsafe { (copied(found), read_volatile(addr_of!((*found).check))) };
        (check == key.check()).then_some(value)
    }

    #[inline(always)]
    fn insert_affinity(&self, key: &AffinityKey, value: &AffinityValue) {
        // Without an entry the client gets another backend next time.
        let _ = AFFINITY.insert(key, value, 0);
    }

    #[inline(always)]
    fn socket_pod(&self, namespace: u64) -> Option<PodValue> {
        let found = SOCKET_PODS.get_ptr(namespace)?;
        // SAFETY: as above.
        let (pod, whose) = unsafe { (copied(found), read_volatile(addr_of!((*found).namespace))) };
        (whose == namespace).then_some(pod)
    }

    #[inline(always)]
    fn socket(&self, key: &SocketKey) -> Option<SocketValue> {
        let found = SOCKETS.get_ptr(key)?;
        // SAFETY: as above.
        let (value, check) = unsafe { (copied(found), read_volatile(addr_of!((*found).check))) };
        (check == key.check()).then_some(value)
    }

    #[inline(always)]
    fn insert_socket(&self, key: &SocketKey, value: &SocketValue) -> bool {
        SOCKETS.insert(key, value, 0).is_ok()
    }

    #[inline(always)]
    fn remove_socket(&self, key: &SocketKey) {
        // Nothing is lost where it is gone already.
        let _ = SOCKETS.remove(key);
    }

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0).filter(|config| config.zone.labels != 0)
    }

    #[inline(always)]
    fn name(&self, key: &NameKey) -> Option<NameValue> {
        // SAFETY: copied at once.
        unsafe { NAMES.get(key) }.copied()
    }

    #[inline(always)]
    fn write_answer<P: Packet>(
        &self,
        key: &NameKey,
        large: bool,
        packet: &mut P,
        scratch: &mut Scratch,
    ) -> Result<bool, Cause> {
        if large {
            let Some(found) = ANSWERS_LARGE.get_ptr(key) else {
                return Ok(false);
            };
            // SAFETY: the pointer stays readable while the program runs; `write` looks whose value it was.
            let (head, records) = unsafe { (&(*found).head, &(*found).records) };
            self.write(key, head, records, packet, scratch)
        } else {
            let Some(found) = ANSWERS_SMALL.get_ptr(key) else {
                return Ok(false);
            };
            // SAFETY: as above.
            let (head, records) = unsafe { (&(*found).head, &(*found).records) };
            self.write(key, head, records, packet, scratch)
        }
    }

    #[inline(always)]
    fn find_outside(&self, _scratch: &mut Scratch) -> Result<(), Cause> {
        result(find_outside())
    }

    #[inline(always)]
    fn read_spelling(&self, _scratch: &mut Scratch, label: u16) -> Result<(), Cause> {
        result(read_spelling(label as u32))
    }

    #[inline(always)]
    fn copy_outside(&self, key: &NameKey, to: &mut outside::Copied) -> bool {
        let Some(found) = ANSWERS_OUTSIDE.get_ptr_mut(key) else {
            return false;
        };
        // SAFETY: the pointer stays readable and writable while the program runs. Whose value it was, and whether it was
        // one, is told by the check and the sum in the copy.
        unsafe {
            to.head = copied(addr_of!((*found).head));
            let from = addr_of!((*found).records).cast::<u64>();
            for n in 0..OUTSIDE_RECORDS / 8 {
                if n * 8 >= to.head.length as usize {
                    break;
                }
                write_volatile(&mut to.words[n], read_volatile(from.add(n)));
            }
            let hits = read_volatile(addr_of!((*found).head.hits));
            write_volatile(addr_of_mut!((*found).head.hits), hits.wrapping_add(1));
        }
        true
    }

    #[inline(always)]
    fn outside_epoch(&self) -> Epoch {
        // The agent writes it.
        // SAFETY: an aligned word of an array, which is never freed while the program runs.
        OUTSIDE_EPOCH
            .get_ptr(0)
            .map_or(0, |epoch| unsafe { read_volatile(epoch) })
    }

    #[inline(always)]
    fn watched_until(&self) -> Clock {
        // Another process writes it.
        // SAFETY: an aligned word of an array, which is never freed while the program runs.
        DNS_WATCH
            .get_ptr(log::watch::UNTIL)
            .map_or(0, |until| unsafe { read_volatile(until) })
    }

    #[inline(always)]
    fn tell(&self, _scratch: &mut Scratch) {
        tell_answer();
    }

    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "as in the trait")]
    fn scratch(&self) -> Option<&mut Scratch> {
        // SAFETY: the area belongs to this CPU, and the program is not entered again before it ends.
        SCRATCH
            .get_ptr_mut(0)
            .map(|scratch| unsafe { &mut *scratch })
    }

    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "as in the trait")]
    fn work(&self) -> Option<&mut Work> {
        // SAFETY: as above.
        WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        let Some(tick) = TICK.get_ptr_mut(0) else {
            return 0;
        };
        // SAFETY: the element belongs to this CPU, and the helpers have no preconditions.
        unsafe {
            let number = bpf_jiffies64();
            if (*tick).number != number {
                *tick = Tick {
                    number,
                    at: bpf_ktime_get_ns(),
                };
            }
            (*tick).at
        }
    }

    #[inline(always)]
    fn clock(&self) -> u64 {
        // SAFETY: no preconditions.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn in_sync_at(&self) -> u64 {
        CLOCKS.get(0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn dns_alive_at(&self) -> u64 {
        // Another process writes it.
        // SAFETY: an aligned word of an array, which is never freed while the program runs.
        DNS_ALIVE
            .get_ptr(0)
            .map_or(0, |clock| unsafe { read_volatile(clock) })
    }

    #[inline(always)]
    fn dns_pod_refuses(&self) {
        // A pod that never said that it is alive is another server's, which cannot take this back.
        if let Some(clock) = DNS_ALIVE.get_ptr_mut(0)
            && self.dns_alive_at() != 0
        {
            // SAFETY: an aligned word of an array, which is never freed while the program runs.
            unsafe { write_volatile(clock, LONG_AGO) };
        }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn counts_services(&self) -> bool {
        // SAFETY: a word that is read-only once the program is loaded.
        unsafe { read_volatile(&COUNT_SERVICES) != 0 }
    }

    #[inline(always)]
    fn count_service(&self, service: &u32, add: impl FnOnce(&mut ServiceCount)) {
        if let Some(count) = SERVICE_COUNTS.get_ptr_mut(service) {
            // SAFETY: the value belongs to this CPU. An element that is reused meanwhile may count a packet of another
            // service port, as a flow may whose service port is gone.
            add(unsafe { &mut *count });
        }
    }

    #[inline(always)]
    fn begin_to_count(&self, service: &u32) {
        // Without room nothing is counted of this service port.
        let _ = SERVICE_COUNTS.insert(service, &NOTHING_COUNTED, u64::from(BPF_NOEXIST));
    }

    #[inline(always)]
    fn count(&self, cause: Cause) {
        if let Some(counter) = COUNTERS.get_ptr_mut(cause.index()) {
            // SAFETY: the counter belongs to this CPU.
            unsafe { *counter += 1 };
        }
    }

    #[inline(always)]
    fn count_answer(&self, tally: Tally) {
        let (kind, qtype) = tally.place();
        // The verifier does not see where these come from.
        let [kind, qtype] = [kind, qtype].map(|place| opaque(place as u64) as usize);
        if let Some(counts) = DNS_COUNTS.get_ptr_mut(0)
            && qtype < tally::TYPES
        {
            // SAFETY: the counts belong to this CPU.
            unsafe { (*counts).answers[kind % tally::KINDS][qtype] += 1 };
        }
    }
}

/// Success, as [`record_flow`] and [`hash_question`] say it; a cause is its number plus one.
const SUCCESS: u32 = 0;

/// A function of its own for the verifier: see [`Tables::record`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn record_flow() -> u32 {
    code(match Maps.work() {
        Some(work) => record::record(&Maps, work),
        None => Err(Cause::NotConfigured),
    })
}

/// A function of its own for the verifier: see [`Tables::masquerade`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn masquerade_flow(device: u32) -> u32 {
    code(match Maps.work() {
        Some(work) => masquerade::complete(&Maps, work, device),
        None => Err(Cause::NotConfigured),
    })
}

/// A function of its own for the verifier: see [`Tables::hash`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hash_question() -> u32 {
    code(match (Maps.scratch(), Maps.config()) {
        (Some(scratch), Some(config)) => question::hash(scratch, &config.hash).map(|_| ()),
        _ => Err(Cause::NotConfigured),
    })
}

/// A function of its own for the verifier: see [`Tables::find_outside`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_outside() -> u32 {
    code(match Maps.scratch() {
        Some(scratch) => outside::find(&Maps, scratch),
        None => Err(Cause::NotConfigured),
    })
}

/// A function of its own for the verifier: see [`Tables::read_spelling`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_spelling(label: u32) -> u32 {
    code(match Maps.scratch() {
        Some(scratch) => pod::read(scratch, label as u16),
        None => Err(Cause::NotConfigured),
    })
}

/// A function of its own for the verifier, and so that what is hardly ever done is in nobody's way.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_answer() -> u32 {
    const HEAD: u32 = size_of::<LogHead>() as u32;
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return SUCCESS;
    };
    // SAFETY: the area belongs to this CPU, and nobody has a reference to it who looks at it meanwhile.
    let length = HEAD + unsafe { (*scratch).question.length };
    let Some(length) = bounded(length, HEAD + log::QUESTION as u32) else {
        return SUCCESS;
    };
    // SAFETY: the head is at the front of the area and has the question behind it; both have room for `length` bytes.
    let told = unsafe {
        bpf_ringbuf_output(
            addr_of!(DNS_LOG).cast_mut().cast(),
            scratch.cast(),
            u64::from(length),
            0,
        )
    };
    if told != 0
        && let Some(lost) = DNS_WATCH.get_ptr_mut(log::watch::LOST)
    {
        // Some may be missing where several processors count at once.
        // SAFETY: an aligned word of an array, which is never freed while the program runs.
        unsafe { write_volatile(lost, read_volatile(lost).wrapping_add(1)) };
    }
    SUCCESS
}

#[inline(always)]
fn code(result: Result<(), Cause>) -> u32 {
    match result {
        Ok(()) => SUCCESS,
        Err(cause) => cause.index() + 1,
    }
}

#[inline(always)]
fn result(code: u32) -> Result<(), Cause> {
    match code {
        SUCCESS => Ok(()),
        code => Err(Cause::from_index(code - 1)),
    }
}

impl Maps {
    /// Tells the agent the namespace of the socket that it asks about.
    #[inline(always)]
    pub fn learn(&self, socket: u64, namespace: u64) {
        if LEARNED.get(0).is_some_and(|wanted| *wanted == socket)
            && let Some(learned) = LEARNED.get_ptr_mut(1)
        {
            // SAFETY: an aligned word of an array, which is never freed while the program runs.
            unsafe { write_volatile(learned, namespace) };
        }
    }

    /// Writes an answer and looks then whose it was.
    #[inline(always)]
    fn write<P: Packet, const N: usize>(
        &self,
        key: &NameKey,
        head: &AnswerHead,
        records: &[u8; N],
        packet: &mut P,
        scratch: &mut Scratch,
    ) -> Result<bool, Cause> {
        let copy = *head;
        let check = key.check();
        if copy.check != check {
            return Err(Cause::DnsUnproven);
        }
        answer::write(packet, self, scratch, &copy, records)?;
        // SAFETY: a reference to a word.
        if unsafe { read_volatile(&head.check) } == check {
            Ok(true)
        } else {
            Err(Cause::HelperFailed) // the question is gone from the packet: the asker has to ask again
        }
    }
}
