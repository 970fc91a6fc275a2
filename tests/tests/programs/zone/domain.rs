//! The cluster's domain becomes another one: an agent begins with it over the maps that the one before has left, and after
//! every single write all that the programs answer is of one zone, first of the old one, then of the new one.

use std::{io, path::PathBuf};

use bytemuck::{bytes_of, pod_read_unaligned};
use hickory_proto::op::{Message, ResponseCode};
use signpost::{
    agent::desired::{Desired, Given},
    dataplane::{
        Update,
        ebpf::{
            differ::Differ,
            tables::{
                Clocks, Configs, LargeAnswers, Names, NotWritten, SmallAnswers, Table, Tables,
            },
        },
    },
    registry::Registry,
    zone::{Lookup, NS, Name, Zone},
};
use signpost_common::dns::{Config, qtype};
use signpost_ebpf::{
    Verdict, from_pod,
    host::{Frame, Memory},
};
use signpost_fuzz::{judge, maps::Maps};

use super::{Question, TYPES, asks, cluster, likely};

const NOW: u64 = 1_000_000_000_000;

/// Domains that follow each other. Some names of one are names of the other.
const DOMAINS: [[&str; 2]; 4] = [
    ["cluster.local", "cluster.example"],
    ["cluster.local", "svc.cluster.local"],
    ["svc.cluster.local", "cluster.local"],
    ["dev.svc.cluster.local", "local"],
];

/// What an agent knows of a cluster.
struct Known {
    domain: Name,
    desired: Desired,
    update: Update,
}

impl Known {
    fn new(domain: &str) -> Self {
        let domain = Name::from_text(domain).expect("a name");
        let mut registry = Registry::default();
        for event in [cluster::server(), cluster::example(), cluster::lasting()].concat() {
            registry.apply(event);
        }
        let given = Given::new("node".into(), domain.clone(), vec![cluster::DNS.0]);
        let mut desired = Desired::new(given);
        let update = desired.update(&mut registry, 1_700_000_000);
        Self {
            domain,
            desired,
            update: update.expect("the whole state"),
        }
    }

    fn zone(&self) -> &Zone {
        self.desired.zone()
    }

    /// Begins over maps, as far as the tables let it.
    fn begin(&self, tables: &mut impl Tables) {
        let config = cluster::config(PathBuf::new(), self.domain.clone());
        let mut differ = Differ::open(config, tables).expect("maps in memory");
        let report = differ.apply(tables, &self.update).expect("maps in memory");
        assert_eq!(report.refused, []);
        assert!(differ.may_deny());
        assert!(tables.put::<Clocks>(&[(0, NOW)]).is_empty());
    }

    /// Questions for all names that there are, and for some that are missing beside them.
    fn names(&self) -> Vec<(Name, u16)> {
        let known: Vec<Name> = self.zone().names().cloned().collect();
        let missing = known.iter().filter_map(|name| name.child(b"nobody"));
        let all: Vec<Name> = known.iter().cloned().chain(missing).collect();
        let mut asked = Vec::new();
        for (n, name) in all.into_iter().enumerate() {
            let kind = likely(name.wire(), n).unwrap_or(TYPES[n % TYPES.len()]);
            asked.extend([qtype::A, kind].map(|kind| (name.clone(), kind)));
        }
        let apex = [qtype::SOA, NS].map(|kind| (self.domain.clone(), kind));
        asked.extend(apex);
        asked
    }
}

/// A question, and what both zones say to it.
struct Asked {
    question: Vec<u8>,
    frame: Vec<u8>,
    name: Name,
    old: Lookup,
    new: Lookup,
}

/// Maps whose programs are asked everything after every write.
struct Watched<'a> {
    maps: Maps,
    asked: &'a [Asked],
    old: &'a Zone,
    new: &'a Zone,
    /// What programs that are under way may have read: configurations with which questions are answered, and when the agent
    /// was in sync.
    under_way: (Vec<Config>, Vec<u64>),
    /// An answer was of the new zone alone.
    is_new: bool,
    /// How many writes are left before the agent is killed.
    lives: usize,
    /// How often all that was asked was passed on.
    silent: usize,
}

impl Tables for Watched<'_> {
    fn put<T: Table>(&mut self, elements: &[(T::Key, T::Value)]) -> Vec<NotWritten> {
        for (key, value) in elements {
            if !self.lives() {
                break;
            }
            let before = self.maps.get::<T>(key).expect("maps in memory");
            if T::NAME == Configs::NAME
                && let Some(before) = before
            {
                self.tear::<T>(*key, &before, value);
            }
            self.maps.put::<T>(&[(*key, *value)]);
            self.ask_after::<T>();
        }
        Vec::new()
    }

    fn delete<T: Table>(&mut self, keys: &[T::Key]) -> io::Result<()> {
        for key in keys {
            if self.lives() {
                self.maps.delete::<T>(&[*key])?;
                self.ask_after::<T>();
            }
        }
        Ok(())
    }

    fn for_each<T: Table>(&self, visit: &mut dyn FnMut(&T::Key, &T::Value)) -> io::Result<()> {
        self.maps.for_each::<T>(visit)
    }

    fn get<T: Table>(&self, key: &T::Key) -> io::Result<Option<T::Value>> {
        self.maps.get::<T>(key)
    }

    fn wait_for_programs(&mut self) {
        self.under_way = Default::default();
    }
}

impl Watched<'_> {
    fn lives(&mut self) -> bool {
        self.lives = self.lives.saturating_sub(1);
        self.lives > 0
    }

    /// The element of an array map is copied word by word, while programs read it.
    fn tear<T: Table>(&mut self, key: T::Key, before: &T::Value, after: &T::Value) {
        let mut torn = bytes_of(before).to_vec();
        for (at, new) in bytes_of(after).chunks(8).enumerate() {
            let place = at * 8..at * 8 + new.len();
            if torn[place.clone()] != *new {
                torn[place].copy_from_slice(new);
                self.maps.put::<T>(&[(key, pod_read_unaligned(&torn))]);
                self.ask();
            }
        }
    }

    fn ask_after<T: Table>(&mut self) {
        let counts = [
            Configs::NAME,
            Clocks::NAME,
            Names::NAME,
            SmallAnswers::NAME,
            LargeAnswers::NAME,
        ];
        if counts.contains(&T::NAME) {
            self.ask();
        }
    }

    /// Asks everything, by programs that begin now and by those that are under way.
    fn ask(&mut self) {
        let mut memory = Memory::default();
        self.maps.fill(&mut memory);
        memory.now = NOW;
        let in_sync_at = self.maps.all::<Clocks>().next().map_or(0, |(_, at)| at);
        let config = memory.config.expect("an agent has begun");
        let (configs, clocks) = &mut self.under_way;
        if !clocks.contains(&in_sync_at) {
            clocks.push(in_sync_at);
        }
        if config.flags & Config::DNS == 0 {
            self.silent += 1;
        } else if !configs.contains(&config) {
            configs.push(config);
        }
        let (configs, clocks) = self.under_way.clone();
        for (config, clock) in configs
            .iter()
            .flat_map(|c| clocks.iter().map(move |at| (c, at)))
        {
            (memory.config, memory.in_sync_at) = (Some(*config), *clock);
            self.judge(&memory);
        }
    }

    /// All that is answered is of one zone, and once that is the new one, it stays that.
    fn judge(&mut self, memory: &Memory) {
        let (mut only_old, mut only_new) = (Vec::new(), Vec::new());
        for asked in self.asked {
            let Some(message) = answer(memory, asked) else {
                continue;
            };
            let of_old = judge::agrees(self.old, &asked.name, &message, &asked.old);
            let of_new = judge::agrees(self.new, &asked.name, &message, &asked.new);
            match (of_old, of_new) {
                (Ok(()), Ok(())) => {}
                (Ok(()), Err(_)) => only_old.push(&asked.name),
                (Err(_), Ok(())) => only_new.push(&asked.name),
                (Err(old), Err(new)) => panic!("{}: of no zone: {old}; {new}", asked.name),
            }
        }
        self.is_new |= !only_new.is_empty();
        assert!(
            only_old.is_empty() || !self.is_new,
            "of the old zone: {only_old:?}; of the new one: {only_new:?}"
        );
    }

    /// Everything that the new zone has is answered, missing names too.
    fn is_all_new(&self) {
        let mut memory = Memory::default();
        self.maps.fill(&mut memory);
        (memory.now, memory.in_sync_at) = (NOW, NOW);
        let (mut some, mut none) = (0, 0);
        for asked in self.asked {
            let message = answer(&memory, asked);
            let message = message.filter(|_| asked.name.below(&self.new.config().domain).is_some());
            match message {
                Some(message) if message.metadata.response_code == ResponseCode::NXDomain => {
                    none += 1;
                }
                Some(_) => some += 1,
                None => {}
            }
        }
        assert!(some > 40 && none > 20, "{some} {none}");
        assert!(self.is_new);
    }
}

fn answer(memory: &Memory, asked: &Asked) -> Option<Message> {
    memory.flows.borrow_mut().clear();
    let mut frame = Frame(asked.frame.clone());
    match from_pod(&mut frame, memory) {
        Ok(Verdict::SendBack(_) | Verdict::Answered(_)) => {
            Some(judge::read(&asked.question, &frame.0[42..]))
        }
        _ => None,
    }
}

fn asked(old: &Known, new: &Known) -> Vec<Asked> {
    let mut names = [old.names(), new.names()].concat();
    names.sort();
    names.dedup();
    let ask = |(name, kind): (Name, u16)| {
        let question = Question {
            name: name.wire().iter().copied().chain([0]).collect(),
            ..Question::new("", kind)
        };
        Asked {
            question: question.bytes(),
            frame: asks(&question.edns(1232)).frame(),
            old: old.zone().lookup(&name, kind),
            new: new.zone().lookup(&name, kind),
            name,
        }
    };
    names.into_iter().map(ask).collect()
}

fn watched<'a>(maps: Maps, asked: &'a [Asked], old: &'a Known, new: &'a Known) -> Watched<'a> {
    Watched {
        maps,
        asked,
        old: old.zone(),
        new: new.zone(),
        under_way: Default::default(),
        is_new: false,
        lives: usize::MAX,
        silent: 0,
    }
}

#[test]
fn another_domain_is_taken_over_in_one_step() {
    for [before, after] in DOMAINS {
        println!("{before} becomes {after}");
        let (old, new) = (Known::new(before), Known::new(after));
        let mut maps = Maps::default();
        old.begin(&mut maps);
        let asked = asked(&old, &new);
        let mut watched = watched(maps, &asked, &old, &new);
        watched.ask();
        assert!(!watched.is_new);
        new.begin(&mut watched);
        watched.is_all_new();
        assert!(watched.silent > 0);
    }
}

#[test]
fn an_agent_may_be_killed_while_the_domain_changes() {
    let [before, after] = DOMAINS[1];
    let (old, new) = (Known::new(before), Known::new(after));
    let mut maps = Maps::default();
    old.begin(&mut maps);
    let (asked, back) = (asked(&old, &new), asked(&new, &old));
    for lives in (1..).step_by(40) {
        let mut killed = watched(maps.clone(), &asked, &old, &new);
        killed.lives = lives;
        new.begin(&mut killed);
        let was_killed = killed.lives == 0;

        let mut again = watched(killed.maps.clone(), &asked, &old, &new);
        again.is_new = killed.is_new;
        new.begin(&mut again);
        again.is_all_new();

        // Who wants the old domain back gets it in one step, too.
        let mut back = watched(killed.maps, &back, &new, &old);
        back.is_new = !killed.is_new;
        old.begin(&mut back);
        back.is_all_new();
        if !was_killed {
            break;
        }
    }
}
