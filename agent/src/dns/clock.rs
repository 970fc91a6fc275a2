//! The *dns alive* clock: the memory of a BPF map, written without a system call and without any privilege.

use std::{
    fs::File,
    io,
    num::NonZeroUsize,
    os::fd::{AsFd as _, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};
use signpost_common::dns::Clock as Nanoseconds;

/// What a clock says that stopped: long ago, but not never.
const STOPPED: Nanoseconds = 1;

/// Element 0 of the map, in this process's memory.
#[derive(Debug)]
pub(super) struct Clock {
    page: NonNull<AtomicU64>,
    length: NonZeroUsize,
}

// SAFETY: the memory is shared with the kernel and other processes anyway, and is only used as an atomic; the mapping
// belongs to this value until it is dropped.
unsafe impl Send for Clock {}
// SAFETY: as above; all access through a shared reference is atomic.
unsafe impl Sync for Clock {}

impl Clock {
    /// Maps an array of at least one 8-byte element (`BPF_F_MMAPABLE`, Linux 5.5), or any file of that size.
    ///
    /// # Errors
    /// Where the descriptor cannot be mapped.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
        let length = NonZeroUsize::new(page as usize).ok_or(io::ErrorKind::InvalidInput)?;
        let file = File::from(fd);
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing. The map outlives the descriptor
        // as long as the mapping is there.
        let mapped = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                file.as_fd(),
                0,
            )
        }?;
        Ok(Self {
            page: mapped.cast(),
            length,
        })
    }

    /// Sets it to now.
    pub(super) fn tick(&self) {
        if let Some(now) = monotonic() {
            self.cell().store(now, Ordering::Relaxed);
        }
    }

    /// Says that nobody answers here any more.
    pub(super) fn stop(&self) {
        self.cell().store(STOPPED, Ordering::Relaxed);
    }

    fn cell(&self) -> &AtomicU64 {
        // SAFETY: the mapping is at least 8 bytes long, aligned to a page, and there until this value is dropped. The
        // kernel's programs read it as one aligned word.
        unsafe { self.page.as_ref() }
    }
}

/// `CLOCK_MONOTONIC`, the clock of the kernel's programs. A container has the node's.
pub(super) fn monotonic() -> Option<Nanoseconds> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    Some(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

impl Drop for Clock {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, whole, and no reference to it outlives this value.
        if let Err(error) = unsafe { munmap(self.page.cast(), self.length.get()) } {
            tracing::debug!(%error, "the dns alive clock cannot be unmapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use nix::{
        sys::memfd::{MFdFlags, memfd_create},
        unistd::ftruncate,
    };

    use super::*;

    #[test]
    fn the_other_side_sees_the_clock_tick_and_stop() {
        let memory = memfd_create("clock", MFdFlags::empty()).unwrap();
        ftruncate(&memory, 4096).unwrap();
        let other = File::from(memory.try_clone().unwrap());
        let read = || {
            let mut bytes = [0; 8];
            other.read_exact_at(&mut bytes, 0).unwrap();
            u64::from_ne_bytes(bytes)
        };
        let clock = Clock::new(memory).unwrap();
        assert_eq!(read(), 0);
        clock.tick();
        let first = read();
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        let now = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
        assert!(first > 0 && now - first < 1_000_000_000);
        clock.tick();
        assert!(read() >= first);
        clock.stop();
        assert_eq!(read(), STOPPED);
    }
}
