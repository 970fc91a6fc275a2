//! Ctrl-C ends the demo and takes the laboratory down.

use std::{
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nix::sys::signal::{SigSet, Signal};
use signpost_tests::lab::workplace;

/// A program on the terminal takes Ctrl-C for itself.
static FOREGROUND: AtomicBool = AtomicBool::new(false);

/// Blocks the signals that end a process and has a thread wait for them. Programs that are started later are not
/// affected: the standard library gives them an empty mask.
pub(crate) fn watch() -> anyhow::Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals.thread_block()?;
    thread::Builder::new().spawn(move || {
        while let Ok(signal) = signals.wait() {
            if signal == Signal::SIGINT && FOREGROUND.load(Ordering::Relaxed) {
                continue;
            }
            eprintln!("\n{signal}: taking the laboratory down");
            workplace::end_all();
            process::exit(128 + signal as i32);
        }
    })?;
    Ok(())
}

/// Leaves Ctrl-C to the program that runs meanwhile.
pub(crate) fn left_to<T>(program: impl FnOnce() -> T) -> T {
    FOREGROUND.store(true, Ordering::Relaxed);
    let result = program();
    FOREGROUND.store(false, Ordering::Relaxed);
    result
}
