//! Waiting for what takes a moment.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The environment variable that says so.
const SLOWNESS: &str = "SIGNPOST_LAB_SLOWNESS";

/// Tries until it succeeds. The last error is told where it never does.
///
/// # Errors
/// After `patience`.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let patience = patience * slowness();
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("{what} did not come about in {patience:?}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// How many times slower than usual this machine is: `SIGNPOST_LAB_SLOWNESS`, on emulated processors.
pub fn slowness() -> u32 {
    let told = std::env::var(SLOWNESS).ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(1)
}
