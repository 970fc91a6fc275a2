//! `signpost counters`: what the programs did with packets, by cause.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;
use signpost_common::Cause;

use super::output::Row;

/// A cause and how often it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterRow {
    /// The cause, as in the label of metric `signpost_packets_total`.
    pub cause: &'static str,
    /// Packets since the maps were made.
    pub packets: u64,
    /// What it means.
    pub help: &'static str,
}

impl Row for CounterRow {
    const HEADINGS: &'static [&'static str] = &["CAUSE", "PACKETS", "MEANING"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.cause.to_owned(),
            self.packets.to_string(),
            self.help.to_owned(),
        ]
    }
}

/// One row for each cause, in the order of the table of causes.
pub fn counter_rows(counters: &[(Cause, u64)]) -> Vec<CounterRow> {
    let row = |&(cause, packets): &(Cause, u64)| CounterRow {
        cause: cause.label(),
        packets,
        help: cause.help(),
    };
    counters.iter().map(row).collect()
}

/// What changed between two readings, one line for each cause, with its rate.
pub fn changes(before: &[(Cause, u64)], after: &[(Cause, u64)], apart: Duration) -> String {
    let mut text = String::new();
    for ((cause, before), (_, after)) in before.iter().zip(after) {
        // Fewer than before: the maps were made anew.
        let more = after.checked_sub(*before).unwrap_or(*after);
        if more > 0 {
            let rate = more as f64 / apart.as_secs_f64();
            let label = cause.label();
            let _ = writeln!(text, "{label:<22} {after:>14} {rate:>12.0}/s");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, rows};

    #[test]
    fn every_counter_is_explained() {
        let found = counter_rows(&[(Cause::Translated, 12), (Cause::Hairpin, 0)]);
        assert_eq!(
            rows(Format::Table, &found).unwrap(),
            "\
CAUSE        PACKETS   MEANING
translated   12        A packet of a known flow was sent to its backend.
hairpin      0         A pod reached itself through its own Service.
"
        );
    }

    #[test]
    fn only_what_changed_is_watched() {
        let before = [(Cause::Translated, 10), (Cause::Hairpin, 5)];
        let after = [(Cause::Translated, 30), (Cause::Hairpin, 5)];
        let text = changes(&before, &after, Duration::from_secs(2));
        assert_eq!(
            text,
            "translated                         30           10/s\n"
        );
        let again = changes(&after, &before, Duration::from_secs(1));
        assert!(again.contains("translated"), "{again}");
    }
}
