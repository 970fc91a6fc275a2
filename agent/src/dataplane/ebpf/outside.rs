//! Answers to questions outside of the cluster: what the DNS server's cache hands over is checked, and written for the
//! programs.

mod written;

use std::{
    collections::{BTreeSet, HashMap},
    os::fd::OwnedFd,
};

use anyhow::{Context as _, bail, ensure};
use signpost_common::{
    dns::{Epoch, OutsideAnswer, qtype},
    layout::size,
    name::{HashKeys, NameKey, hash},
};

use super::tables::{KernelTables, OutsideAnswers, OutsideEpoch, Tables};
use crate::{
    feed::cached::{Asked, Cached, End, Keeper, Question},
    zone::{Name, Zone, ZoneConfig},
};

/// No answer holds for longer, in nanoseconds: a day.
const LONGEST: u64 = 24 * 3600 * 1_000_000_000;
/// The longest chain of aliases.
const MAX_CHAIN: usize = 8;

/// The keeper of the maps `answers_outside` and `outside_epoch`.
#[derive(Debug)]
pub struct Outside<T = KernelTables> {
    tables: T,
    keys: HashKeys,
    /// Without names: it says whose a name is.
    zone: Zone,
    on: bool,
    /// 0 where nothing is kept.
    epoch: Epoch,
    kept: HashMap<NameKey, Kept>,
    /// Those that are not due yet, by when they are.
    waiting: BTreeSet<(u64, NameKey)>,
    /// Those that are due and were not given yet.
    due: BTreeSet<NameKey>,
    clock: fn() -> u64,
}

/// An answer that was written.
#[derive(Debug)]
struct Kept {
    question: Question,
    until: u64,
    due: u64,
}

impl Outside {
    /// Over the kernel's maps; what an agent before this one has written does not count any more. With `on` false nothing
    /// is kept.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub(super) fn of_kernel(
        maps: [(&'static str, OwnedFd); 2],
        keys: HashKeys,
        zone: &ZoneConfig,
        on: bool,
    ) -> anyhow::Result<Self> {
        let tables = KernelTables::new(maps.into());
        Self::open(tables, keys, zone, on, || super::now().unwrap_or(u64::MAX))
    }
}

impl<T: Tables> Outside<T> {
    /// Over other maps. `clock` tells nanoseconds of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn open(
        tables: T,
        keys: HashKeys,
        zone: &ZoneConfig,
        on: bool,
        clock: fn() -> u64,
    ) -> anyhow::Result<Self> {
        let mut this = Self {
            tables,
            keys,
            zone: Zone::answering(zone.clone()),
            on,
            epoch: 0,
            kept: HashMap::new(),
            waiting: BTreeSet::new(),
            due: BTreeSet::new(),
            clock,
        };
        this.begin()?;
        Ok(this)
    }

    /// The maps.
    pub const fn tables(&self) -> &T {
        &self.tables
    }

    /// Begins another epoch.
    fn begin(&mut self) -> anyhow::Result<()> {
        self.epoch = 0;
        self.kept.clear();
        self.waiting.clear();
        self.due.clear();
        let before = self.tables.get::<OutsideEpoch>(&0)?.unwrap_or(0);
        let epoch = if self.on {
            before.wrapping_add(1).max(1)
        } else {
            0
        };
        if let Some(failed) = self.tables.put::<OutsideEpoch>(&[(0, epoch)]).pop() {
            return Err(failed.error).context("cannot say that answers count no more");
        }
        self.epoch = epoch;
        Ok(())
    }

    /// Looks whether an answer may be given to everybody. Returns its key, and what is written.
    fn check(&self, cached: &Cached) -> anyhow::Result<(NameKey, OutsideAnswer)> {
        let Cached {
            question: Question { name, qtype },
            until,
            chain,
            end,
            ..
        } = cached;
        let now = (self.clock)();
        ensure!(*until > now, "it has run out");
        ensure!(*until - now <= LONGEST, "it would hold for too long");
        ensure!(self.zone.is_nobodys(name), "the name is not upstream's");
        ensure!(chain.len() <= MAX_CHAIN, "the chain is too long");
        let mut names: Vec<&Name> = std::iter::once(name).chain(chain).collect();
        let last = names[names.len() - 1].clone();
        names.sort_unstable();
        names.dedup();
        ensure!(names.len() == chain.len() + 1, "the chain leads back");
        match (*qtype, end) {
            (qtype::A, End::Addresses(all)) => {
                ensure!(!all.is_empty() && all.iter().all(|a| a.is_ipv4()), "no A");
            }
            (qtype::AAAA, End::Addresses(all)) => {
                ensure!(
                    !all.is_empty() && all.iter().all(|a| a.is_ipv6()),
                    "no AAAA"
                );
            }
            (qtype::CNAME, End::Addresses(all)) => {
                ensure!(all.is_empty() && chain.len() == 1, "no CNAME");
            }
            (qtype::A | qtype::AAAA | qtype::CNAME, End::NoData(soa) | End::NxDomain(soa)) => {
                ensure!(
                    *qtype != qtype::CNAME || chain.is_empty(),
                    "a chain to nothing"
                );
                ensure!(last.below(&soa.owner).is_some(), "another zone's SOA");
            }
            _ => bail!("type {qtype} is not kept"),
        }
        let key = hash(name.wire(), &self.keys).context("the name is not hashed")?;
        let key = key.with_type(*qtype);
        let answer = written::answer(cached, key, self.epoch).context("it is too long")?;
        Ok((key, answer))
    }

    fn forget(&mut self, key: &NameKey) {
        if let Some(kept) = self.kept.remove(key) {
            self.waiting.remove(&(kept.due, *key));
        }
    }

    /// Makes room in what is remembered: the kernel makes room by itself.
    fn make_room(&mut self, now: u64) {
        if self.kept.len() < size::ANSWERS_OUTSIDE as usize {
            return;
        }
        self.kept.retain(|_, kept| kept.until > now);
        if self.kept.len() >= size::ANSWERS_OUTSIDE as usize {
            // They are told of no more; that they are given all the same does no harm.
            self.kept.clear();
        }
        let kept = &self.kept;
        self.waiting.retain(|(_, key)| kept.contains_key(key));
    }
}

impl<T: Tables + Send + std::fmt::Debug> Keeper for Outside<T> {
    fn flush(&mut self) -> anyhow::Result<()> {
        self.begin()
    }

    fn keep(&mut self, cached: &Cached) -> anyhow::Result<()> {
        ensure!(self.epoch != 0, "nothing is kept");
        let (key, answer) = self.check(cached)?;
        if let Some(kept) = self.kept.get(&key)
            && kept.until == cached.until
            && let Some(there) = self.tables.get::<OutsideAnswers>(&key)?
            && there.head.epoch == self.epoch
        {
            return Ok(()); // it keeps its count
        }
        self.forget(&key);
        self.make_room((self.clock)());
        if let Some(failed) = self.tables.put::<OutsideAnswers>(&[(key, answer)]).pop() {
            return Err(failed.error).context("the kernel does not take it");
        }
        let kept = Kept {
            question: cached.question.clone(),
            until: cached.until,
            due: cached.due,
        };
        self.kept.insert(key, kept);
        self.waiting.insert((cached.due, key));
        Ok(())
    }

    fn asked(&mut self) -> Vec<Asked> {
        let now = (self.clock)();
        while let Some(&(due, key)) = self.waiting.first()
            && due <= now
        {
            self.waiting.pop_first();
            self.due.insert(key);
        }
        let mut asked = Vec::new();
        let mut still = BTreeSet::new();
        for key in std::mem::take(&mut self.due) {
            let Some(kept) = self.kept.get(&key) else {
                continue;
            };
            if kept.due > now {
                continue; // it was replaced
            }
            if kept.until <= now {
                self.kept.remove(&key);
                continue;
            }
            let hits = match self.tables.get::<OutsideAnswers>(&key) {
                Ok(there) => there.map_or(0, |there| there.head.hits),
                Err(error) => {
                    tracing::debug!(%error, "it is not known how often an answer was given");
                    0
                }
            };
            if hits == 0 {
                still.insert(key);
            } else {
                asked.push(Asked {
                    question: kept.question.clone(),
                    hits,
                });
            }
        }
        self.due = still;
        asked
    }

    fn configure(&mut self, zone: &ZoneConfig) -> anyhow::Result<()> {
        self.zone = Zone::answering(zone.clone());
        self.flush()
    }
}
