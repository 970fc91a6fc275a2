//! Waiting for what takes a moment.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Tries until it succeeds. The last error is told where it never does.
///
/// # Errors
/// After `patience`.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
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
