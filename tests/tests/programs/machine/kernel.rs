//! The programs and maps in the kernel.

use std::{
    collections::HashMap as Wanted,
    hash::Hash,
    path::Path,
    sync::{Mutex, MutexGuard, OnceLock},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, PerCpuHashMap, RingBuf, lpm_trie::Key},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use signpost::dataplane::ebpf::{pins, program::OBJECT, tables};
use signpost_common::{
    Cause,
    count::{COUNT_SERVICES, ServiceCount},
    dns::{Config, OutsideAnswer},
    filter::{self, Destinations, SourceLine},
    flow::{FlowKey, FlowValue},
    layout::{map, program},
    log::watch,
    name::{HashKeys, NameKey},
    service::{AffinityKey, AffinityValue},
    tally::DnsCounts,
};
use signpost_ebpf::host::Memory;

use super::{Action, Done, Program};

/// Actions of tc (`linux/pkt_cls.h`).
const UNSPEC: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// The longest packet that a run can give back.
const LONGEST: usize = 4096;

/// The object, loaded.
pub(crate) struct Kernel {
    object: Ebpf,
    destinations: Destinations,
}

/// The kernel's programs, loaded once a process, for one test at a time.
pub(crate) fn kernel() -> MutexGuard<'static, Kernel> {
    static KERNEL: OnceLock<Mutex<Kernel>> = OnceLock::new();
    KERNEL
        .get_or_init(|| Mutex::new(Kernel::load(EbpfLoader::new())))
        .lock()
        // A test that failed leaves nothing behind that the next one does not write anew.
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Kernel {
    /// The programs over the maps that are pinned by an agent.
    pub(crate) fn over(pin_root: &Path) -> Self {
        let maps = pins::maps_folder(&pins::folder(pin_root));
        let mut loader = EbpfLoader::new();
        for (name, _) in tables::pinned() {
            loader.map_pin_path(name, maps.join(name));
        }
        Self::load(loader)
    }

    /// Programs that count what goes through service ports.
    pub(crate) fn that_counts() -> Self {
        let mut loader = EbpfLoader::new();
        loader.override_global(COUNT_SERVICES, &1_u32, true);
        Self::load(loader)
    }

    /// What went through a service port.
    pub(crate) fn service_count(&self, service: u32) -> ServiceCount {
        let map = self
            .object
            .map(map::SERVICE_COUNTS)
            .expect("service_counts");
        let counts: PerCpuHashMap<_, u32, ServiceCount> =
            PerCpuHashMap::try_from(map).expect("a per-CPU hash map");
        let of_cpus = counts.get(&service, 0).map(|of_cpus| of_cpus.to_vec());
        ServiceCount::sum(&of_cpus.unwrap_or_default())
    }

    fn load(mut loader: EbpfLoader<'_>) -> Self {
        let mut object = loader
            .load(OBJECT)
            .expect("the object loads; this needs root");
        for program in Program::ALL {
            classifier(&mut object, program)
                .load()
                .expect("the kernel accepts the program");
        }
        Self {
            object,
            destinations: Destinations::default(),
        }
    }

    /// The maps, by name.
    pub(crate) fn maps(&self) -> impl Iterator<Item = (&str, &aya::maps::Map)> {
        self.object.maps()
    }

    /// Runs a program on a packet.
    pub(crate) fn run(&mut self, program: Program, packet: &[u8]) -> Done {
        let before = self.counters();
        let mut out = vec![0; LONGEST];
        let result = classifier(&mut self.object, program)
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            })
            .expect("a test run");
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value as i32 {
            UNSPEC => Action::Continue,
            SHOT => Action::Drop,
            REDIRECT => Action::SendBack,
            other => panic!("unknown action {other}"),
        };
        let after = self.counters();
        let causes = Cause::ALL
            .iter()
            .copied()
            .filter(|cause| before[cause.index() as usize] != after[cause.index() as usize])
            .collect();
        Done {
            action,
            packet: out,
            causes,
        }
    }

    /// The time of a run, the kernel's own overhead included: the mean of so many runs on one and the same packet.
    /// Where the program changes it, the runs after the first see the changed one.
    pub(crate) fn time(&mut self, program: Program, packet: &[u8], repeat: u32) -> Duration {
        classifier(&mut self.object, program)
            .test_run(TestRunOptions {
                data_in: Some(packet),
                repeat,
                ..TestRunOptions::default()
            })
            .expect("a test run")
            .duration
    }

    fn counters(&self) -> Vec<u64> {
        let map = self.object.map(map::COUNTERS).expect("counters");
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map).expect("a per-CPU array");
        let answers = self.dns_counts();
        let count = |cause: &Cause| {
            let of_cpus = counters.get(&cause.index(), 0).expect("a counter");
            of_cpus.iter().sum::<u64>() + answers.of(*cause)
        };
        Cause::ALL.iter().map(count).collect()
    }

    /// What was counted of answers to DNS questions.
    pub(crate) fn dns_counts(&self) -> DnsCounts {
        let map = self.object.map(map::DNS_COUNTS).expect("dns_counts");
        let counts: PerCpuArray<_, DnsCounts> =
            PerCpuArray::try_from(map).expect("a per-CPU array");
        DnsCounts::sum(&counts.get(&0, 0).expect("an element"))
    }

    /// Writes everything that the agent writes.
    pub(crate) fn fill(&mut self, tables: &Memory) {
        self.fill_destinations(tables.destinations());
        self.replace(map::ADDRESSES, &tables.addresses);
        self.replace(map::FRONTENDS, &tables.frontends);
        self.replace(map::SLOTS, &tables.slots);
        self.replace(map::MEMBERS, &tables.members);
        self.replace(map::DEVICES, &tables.devices);
        self.replace_ranges(tables);
        self.replace(map::NAMES, &tables.names);
        self.replace(map::ANSWERS_SMALL, &tables.answers_small);
        self.replace(map::ANSWERS_LARGE, &tables.answers_large);
        let mut outside = tables.answers_outside.borrow().clone();
        // The kernel's clock goes on: what the tables have as a distance from now is kept as one.
        let start = monotonic();
        for answer in outside.values_mut() {
            let until = &mut answer.head.until;
            *until = match until.checked_sub(tables.now) {
                Some(left) => start + left,
                None => start.saturating_sub(tables.now - *until),
            };
        }
        self.replace(map::ANSWERS_OUTSIDE, &outside);
        self.set(map::OUTSIDE_EPOCH, tables.outside_epoch);
        // Without a zone there is no configuration yet.
        let config = tables.config.unwrap_or(Config {
            flags: 0,
            negative_grace: 0,
            zone: NameKey::ZERO,
            services: NameKey::ZERO,
            soa: [0; 56],
            hash: HashKeys { words: [0; 72] },
            host: [0; 2],
            service_ranges: Default::default(),
            dns: Default::default(),
            external_ports: Config::NO_PORTS,
            pad: 0,
        });
        self.set(map::CONFIG, config);
        let now = monotonic();
        let at = |at: u64| match at {
            0 => 0,
            at => now - (tables.now - at),
        };
        self.set(map::CLOCKS, at(tables.in_sync_at));
        self.set(map::DNS_ALIVE, at(tables.dns_alive_at));
        let until = match tables.watched_until.checked_sub(tables.now) {
            Some(left) => now + left,
            None => tables.watched_until,
        };
        self.set_at(map::DNS_WATCH, watch::UNTIL, until);
    }

    /// Writes what the programs write.
    pub(crate) fn fill_flows(&mut self, tables: &Memory) {
        for key in tables.flows.borrow().keys() {
            self.note_source(key);
        }
        self.replace(map::FLOWS, &tables.flows.borrow());
        self.replace(map::FRAGMENTS, &tables.fragments.borrow());
        self.fill_affinity(tables);
    }

    /// Writes what the programs write of clients that stay with their backends.
    pub(crate) fn fill_affinity(&mut self, tables: &Memory) {
        self.replace(map::AFFINITY, &tables.affinity.borrow());
    }

    /// The clients that stay with their backends.
    pub(crate) fn affinity(&mut self) -> Wanted<AffinityKey, AffinityValue> {
        self.hash(map::AFFINITY)
            .iter()
            .map(|entry| entry.expect("a client"))
            .collect()
    }

    /// How often an answer to a question outside of the cluster was given.
    pub(crate) fn outside_hits(&mut self, key: &NameKey) -> Option<u64> {
        let answers = self.hash::<NameKey, OutsideAnswer>(map::ANSWERS_OUTSIDE);
        answers.get(key, 0).ok().map(|answer| answer.head.hits)
    }

    /// What was told of answers since the last call.
    pub(crate) fn log(&mut self) -> Vec<Vec<u8>> {
        let map = self.object.map_mut(map::DNS_LOG);
        let mut ring = RingBuf::try_from(map.expect("dns_log")).expect("a ring buffer");
        let mut told = Vec::new();
        while let Some(record) = ring.next() {
            told.push(record.to_vec());
        }
        told
    }

    /// How many answers were not told for want of room.
    pub(crate) fn log_lost(&self) -> u64 {
        let map = self.object.map(map::DNS_WATCH).expect("dns_watch");
        let words: Array<_, u64> = Array::try_from(map).expect("an array");
        words.get(&watch::LOST, 0).expect("an element")
    }

    fn fill_destinations(&mut self, wanted: Destinations) {
        let map = self.object.map_mut(map::DESTINATIONS);
        let map = map.expect("a map of that name");
        let mut array: Array<_, u64> = Array::try_from(map).expect("an array");
        let words = wanted.words().iter().zip(self.destinations.words());
        for (index, (word, written)) in (0..).zip(words) {
            if word != written {
                array.set(index, word, 0).expect("an element is written");
            }
        }
        self.destinations = wanted;
    }

    /// Does what a program does before it records a flow.
    fn note_source(&mut self, key: &FlowKey) {
        if key.direction & FlowKey::OTHER_WAY == 0 {
            return;
        }
        let (index, place) = filter::source(&key.source, key.direction);
        let map = self.object.map_mut(map::SOURCES);
        let map = map.expect("a map of that name");
        let mut array: Array<_, SourceLine> = Array::try_from(map).expect("an array");
        let mut line = array.get(&index, 0).expect("an element");
        line[place as usize] = 1;
        array.set(index, line, 0).expect("an element is written");
    }

    fn replace_ranges(&mut self, tables: &Memory) {
        let map = self
            .object
            .map_mut(map::SOURCE_RANGES)
            .expect("a map of that name");
        let mut trie: LpmTrie<_, [u32; 5], u32> = LpmTrie::try_from(map).expect("a trie");
        let old: Vec<_> = trie.keys().filter_map(Result::ok).collect();
        for key in old {
            trie.remove(&key).expect("an element is removed");
        }
        for (range, value) in &tables.source_ranges {
            let [a, b, c, d] = range.address.words();
            let key = Key::new(range.bits, [range.service, a, b, c, d]);
            trie.insert(&key, value, 0).expect("an element is written");
        }
    }

    /// The flows that are recorded.
    pub(crate) fn flows(&mut self) -> Vec<(FlowKey, FlowValue)> {
        self.hash::<FlowKey, FlowValue>(map::FLOWS)
            .iter()
            .map(|entry| entry.expect("a flow"))
            .collect()
    }

    fn set<V: Pod>(&mut self, name: &str, value: V) {
        self.set_at(name, 0, value);
    }

    fn set_at<V: Pod>(&mut self, name: &str, index: u32, value: V) {
        let map = self.object.map_mut(name).expect("a map of that name");
        let mut array: Array<_, V> = Array::try_from(map).expect("an array");
        array.set(index, value, 0).expect("an element is written");
    }

    fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        let map = self.object.map_mut(name).expect("a map of that name");
        HashMap::try_from(map).expect("a hash map")
    }

    fn replace<K: Pod + Eq + Hash, V: Pod>(&mut self, name: &str, wanted: &Wanted<K, V>) {
        let mut map = self.hash::<K, V>(name);
        let old: Vec<K> = map.keys().filter_map(Result::ok).collect();
        for key in old.iter().filter(|key| !wanted.contains_key(key)) {
            map.remove(key).expect("an element is removed");
        }
        for (key, value) in wanted {
            map.insert(key, value, 0).expect("an element is written");
        }
    }
}

fn classifier(object: &mut Ebpf, program: Program) -> &mut SchedClassifier {
    let name = match program {
        Program::FromPod => program::FROM_POD,
        Program::ToPod => program::TO_POD,
        Program::FromWire => program::FROM_WIRE,
        Program::ToWire => program::TO_WIRE,
        Program::FromBare => program::FROM_BARE,
        Program::ToBare => program::TO_BARE,
    };
    object
        .program_mut(name)
        .expect("a program of that name")
        .try_into()
        .expect("a classifier")
}

/// `CLOCK_MONOTONIC` in nanoseconds.
fn monotonic() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
