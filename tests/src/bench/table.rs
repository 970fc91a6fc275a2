//! The figures as a table for people.

use comfy_table::{CellAlignment, Table, presets};

use super::{
    figure::{Figure, Reach, Report, Verdict},
    statistics::Estimate,
};

/// The table.
pub fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "suite",
        "what",
        "measured",
        "against",
        "ratio (95 %)",
        "CPU ratio (95 %)",
        "to reach",
        "",
    ]);
    for figure in &report.figures {
        table.add_row(row(figure));
    }
    for column in 2..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!(
        "{}, {}, load {:.2}\n\n{table}\n",
        report.kernel, report.processors, report.load
    )
}

fn row(figure: &Figure) -> [String; 8] {
    let unit = &figure.unit;
    let measured = match figure.against {
        Some(_) => format!("{} {unit}", number(figure.measured.median)),
        None => format!("{} {unit}", bounded(&figure.measured)),
    };
    let (mut against, mut ratio, mut cpu) = (String::new(), String::new(), String::new());
    if let Some(other) = &figure.against {
        against = format!("{} {unit} ({})", number(other.measured.median), other.what);
        ratio = bounded(&other.ratio);
        cpu = other
            .cpu
            .as_ref()
            .map(|cpu| bounded(&cpu.ratio))
            .unwrap_or_default();
    }
    let reach = match figure.reach {
        Some(Reach::AtMost(limit)) => format!("≤ {limit}"),
        Some(Reach::AtLeast(limit)) => format!("≥ {limit}"),
        None => String::new(),
    };
    let verdict = match figure.verdict() {
        Some(Verdict::Reached) => "reached",
        Some(Verdict::Missed) => "MISSED",
        Some(Verdict::Open) => "open",
        None => "",
    };
    [
        figure.suite.clone(),
        figure.what.clone(),
        measured,
        against,
        ratio,
        cpu,
        reach,
        verdict.to_owned(),
    ]
}

fn bounded(estimate: &Estimate) -> String {
    let Estimate { median, low, high } = *estimate;
    format!("{} ({}–{})", number(median), number(low), number(high))
}

/// With three digits or a few more.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.3}"),
        10.0..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::Against;

    #[test]
    fn a_comparison_shows_its_ratio_and_whether_it_was_reached() {
        let one = Estimate {
            median: 3.0,
            low: 2.9,
            high: 3.1,
        };
        let ratio = Estimate {
            median: 1.2,
            low: 1.19,
            high: 1.21,
        };
        let figure = Figure {
            suite: "dns".to_owned(),
            what: "A".to_owned(),
            unit: "µs".to_owned(),
            measured: one,
            against: Some(Against {
                what: "floor".to_owned(),
                measured: Estimate { median: 2.5, ..one },
                ratio,
                cpu: None,
            }),
            reach: Some(Reach::AtMost(1.5)),
            samples: Vec::new(),
        };
        assert_eq!(
            row(&figure),
            [
                "dns",
                "A",
                "3.000 µs",
                "2.500 µs (floor)",
                "1.200 (1.190–1.210)",
                "",
                "≤ 1.5",
                "reached",
            ]
        );
    }
}
