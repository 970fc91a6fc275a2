//! The `signpost` binary.

use std::{ffi::c_char, process::ExitCode};

/// After a start, glibc keeps half as much again as is in use, and musl's allocator is slow with several threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads when it starts (`malloc_conf` in its manual): pages that are free go back at once, and few threads
/// need few arenas.
// SAFETY: nothing else has this name, and the type is jemalloc's: a pointer to a text that ends with a zero.
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONFIGURATION: Option<&'static c_char> = Some({
    let text = c"narenas:2,dirty_decay_ms:0,muzzy_decay_ms:0";
    // SAFETY: the text has at least its final zero.
    unsafe { &*text.as_ptr() }
});

fn main() -> ExitCode {
    signpost::cli::main()
}
