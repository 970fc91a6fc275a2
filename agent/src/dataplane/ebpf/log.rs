//! The answers that the programs tell while somebody reads them.

use std::{
    fmt,
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use aya::maps::{Map, MapData, RingBuf};
use bytemuck::pod_read_unaligned;
use nix::fcntl::{Flock, FlockArg};
use signpost_common::{
    Cause,
    dns::Clock,
    layout::map,
    log::{LogHead, watch},
};

use super::{now, pins, sys};
use crate::{
    feed::logged::{By, Logged},
    zone::Name,
};

/// For how long the programs go on after [`KernelLog::keep_on`]: what is left of a reader that was killed.
const LEASE: Duration = Duration::from_secs(3);
/// Bytes of type and class, the end of a question.
const TYPE_AND_CLASS: usize = 4;

/// What the programs of an instance tell. One reader at a time; dropped, it is switched off.
pub struct KernelLog {
    ring: RingBuf<MapData>,
    watch: OwnedFd,
    folder: PathBuf,
    begun: Clock,
    lost: u64,
    _lock: Flock<File>,
}

impl KernelLog {
    /// Switches it on.
    ///
    /// # Errors
    /// Where nothing is pinned, nobody may change it, or somebody else reads.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let folder = pins::maps_folder(&pins::folder(root));
        ensure!(
            folder.exists(),
            "nothing is pinned under {}: has an agent of this version ever run with this --bpffs-root?",
            root.display()
        );
        let file =
            File::open(&folder).with_context(|| format!("cannot open {}", folder.display()))?;
        // A ring buffer has one place up to which it was read.
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
            anyhow::anyhow!("somebody else watches this node's DNS ({error}); end that first")
        })?;
        let path = folder.join(map::DNS_LOG);
        let open = || -> anyhow::Result<_> {
            let data = MapData::from_pin(&path)?;
            Ok(RingBuf::try_from(Map::RingBuf(data))?)
        };
        let ring = open().with_context(|| format!("cannot read {}", path.display()))?;
        let path = folder.join(map::DNS_WATCH);
        let watch = sys::open_pinned(&path)
            .with_context(|| format!("cannot open {} for writing", path.display()))?;
        let mut this = Self {
            ring,
            watch,
            folder,
            begun: now()?,
            lost: 0,
            _lock: lock,
        };
        this.lost = this.told_lost()?;
        this.keep_on()?;
        Ok(this)
    }

    /// Keeps it on for some seconds more. To be called every second.
    ///
    /// # Errors
    /// Where the maps are gone: an agent of another version has made others.
    pub fn keep_on(&self) -> anyhow::Result<()> {
        ensure!(
            self.folder.exists(),
            "the agent was replaced by one of another version; start this again with that one"
        );
        let until = now()? + LEASE.as_nanos() as Clock;
        self.set(until)
            .context("cannot keep the programs telling of answers")
    }

    /// How many answers were not told since the last call, because they were read too slowly.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn take_lost(&mut self) -> io::Result<u64> {
        let lost = self.told_lost()?;
        let before = std::mem::replace(&mut self.lost, lost);
        Ok(lost.saturating_sub(before))
    }

    /// The next answer; `None` until the descriptor can be read again.
    pub fn read(&mut self) -> Option<Logged> {
        loop {
            // What is left of another reader is nobody's any more, and what cannot be read says nothing.
            let logged = logged(&self.ring.next()?);
            if let Some(logged) = logged.filter(|logged| logged.at >= self.begun) {
                return Some(logged);
            }
        }
    }

    fn told_lost(&self) -> io::Result<u64> {
        Ok(sys::lookup(self.watch.as_fd(), &watch::LOST)?.unwrap_or(0))
    }

    fn set(&self, until: Clock) -> io::Result<()> {
        sys::update(self.watch.as_fd(), &watch::UNTIL, &until)
    }
}

impl AsRawFd for KernelLog {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        // Where that fails it ends by itself.
        let _ = self.set(0);
    }
}

impl fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelLog")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// A record of the ring buffer.
fn logged(record: &[u8]) -> Option<Logged> {
    let (head, question) = record.split_at_checked(size_of::<LogHead>())?;
    let head: LogHead = pod_read_unaligned(head);
    let (name, rest) = question.split_at_checked(question.len().checked_sub(TYPE_AND_CLASS)?)?;
    let LogHead {
        at,
        took,
        device: _,
        client,
        client_port,
        flags,
        answers,
        cause,
    } = head;
    Some(Logged {
        at,
        took: took.into(),
        client: client.into(),
        port: client_port.get(),
        tcp: false,
        name: Name::from_wire(name)?,
        qtype: u16::from_be_bytes([rest[0], rest[1]]),
        code: flags & 0xf,
        records: answers,
        by: match Cause::from_index(cause.into()) {
            Cause::DnsCached => By::KernelCache,
            _ => By::Kernel,
        },
        lost: 0,
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use signpost_common::{Address, Port};

    use super::*;

    #[test]
    fn a_record_says_who_asked_what_and_what_was_answered() {
        let head = LogHead {
            at: 7,
            took: 600,
            device: 3,
            client: Address::from(IpAddr::from([10, 1, 0, 5])),
            client_port: Port::new(40_000),
            flags: 0x8403,
            answers: 2,
            cause: Cause::DnsNxdomain.index() as u16,
        };
        let mut record = bytemuck::bytes_of(&head).to_vec();
        record.extend(b"\x03Ent\x03dev\x00\x00\x1c\x00\x01");
        let expected = Logged {
            at: 7,
            took: 600,
            client: [10, 1, 0, 5].into(),
            port: 40_000,
            tcp: false,
            name: "ent.dev".parse().unwrap(),
            qtype: 28,
            code: 3,
            records: 2,
            by: By::Kernel,
            lost: 0,
        };
        assert_eq!(logged(&record), Some(expected));
        for length in 0..record.len() {
            assert_ne!(logged(&record[..length]).map(|l| l.qtype), Some(28));
        }
    }
}
