//! Waiting until programs have ended.

use std::{thread, time::Duration};

/// No program runs for so long, by far.
const LONG: Duration = Duration::from_secs(1);

/// Returns when every program of an interface has ended that runs now.
///
/// They run under RCU, and `membarrier(2)` with `MEMBARRIER_CMD_GLOBAL` (Linux 4.3) returns after a grace period of it. A kernel
/// that is built without, or that has processors without a clock tick (`nohz_full`), refuses the call.
pub fn wait_for_programs() {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        thread::sleep(LONG);
    }
}
