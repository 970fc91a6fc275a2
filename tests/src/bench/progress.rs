//! Shows how far the benchmarks are.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line on the terminal, which goes away when it is dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// For so many steps.
    pub fn new(what: &'static str, steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64);
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {msg} {bar:30} {pos}/{len} ({elapsed})")
        {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// That shows nothing.
    pub fn silent() -> Self {
        Self(ProgressBar::hidden())
    }

    /// One step further.
    pub fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
