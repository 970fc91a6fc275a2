//! Long work shows that it goes on.

use std::{borrow::Cow, process::Command, time::Duration};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

/// A line with a spinner and the time taken, which goes away when it is dropped.
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    /// Starts to spin beside the text.
    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        let bar = ProgressBar::new_spinner();
        if bar.is_hidden() {
            // No terminal: a log shall say what goes on as well.
            println!("{text}");
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(text);
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    /// Changes the text.
    pub(crate) fn say(&self, text: impl Into<Cow<'static, str>>) {
        self.0.set_message(text);
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Runs a command beside a spinner. Its output is shown only where it fails.
pub(crate) fn quietly(text: &str, command: &mut Command) -> anyhow::Result<()> {
    let spinner = Spinner::new(text.to_owned());
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", crate::project::line(command)))?;
    drop(spinner);
    if output.status.success() {
        return Ok(());
    }
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    anyhow::bail!(
        "{} failed: {}",
        crate::project::line(command),
        output.status
    )
}
