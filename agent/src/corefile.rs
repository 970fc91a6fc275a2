//! Reads CoreDNS's configuration and writes it as ours. Synchronous: no I/O.

mod blocks;
mod cluster;
mod forward;
mod parse;
mod plugins;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::parse::{CorefileError, Directive};
use crate::config::dns::DnsConfig;

/// A Corefile in our words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The same, as far as it could be converted.
    pub config: DnsConfig,
    /// What could not, in the order of the file.
    pub left_out: Vec<LeftOut>,
}

/// Something that was not converted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftOut {
    /// Counted from 1.
    pub line: usize,
    /// What it is, and what can be done instead.
    pub text: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

/// Converts a Corefile. `variable` gives the values of environment variables.
///
/// # Errors
/// Where it is no Corefile.
pub fn import(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Imported, CorefileError> {
    let blocks = parse::parse(text, variable)?;
    let mut notes = Notes::default();
    let config = blocks::convert(&blocks, &mut notes);
    let mut left_out = notes.0;
    if let Err((key, why)) = config.check() {
        left_out.push(LeftOut {
            line: 1,
            text: format!("what became of the file is refused until {key} is mended: {why}"),
        });
    }
    left_out.sort();
    left_out.dedup();
    Ok(Imported { config, left_out })
}

/// Collects what is left out.
#[derive(Debug, Default)]
struct Notes(Vec<LeftOut>);

impl Notes {
    fn add(&mut self, directive: &Directive, why: impl fmt::Display) {
        let words = directive.words.join(" ");
        self.0.push(LeftOut {
            line: directive.line,
            text: format!("{words:?} is not converted: {why}"),
        });
    }
}
