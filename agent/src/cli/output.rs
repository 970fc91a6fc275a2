//! How commands print: an aligned table for people, JSON for programs.

use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use serde::Serialize;

/// Flags of a command that prints.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutputArgs {
    /// How the result is printed. The fields of `json` are only ever added to
    #[arg(
        short,
        long,
        env = "SIGNPOST_OUTPUT",
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub output: Format,
}

/// Forms of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns with a heading.
    Table,
    /// One JSON value.
    Json,
}

/// A row of a table.
pub trait Row: Serialize {
    /// Headings, in upper case.
    const HEADINGS: &'static [&'static str];

    /// The cells, as many as headings.
    fn cells(&self) -> Vec<String>;
}

/// Rows in the form that was asked for, each line ended.
///
/// # Errors
/// Where a row cannot be written as JSON.
pub fn rows<R: Row>(format: Format, rows: &[R]) -> anyhow::Result<String> {
    match format {
        Format::Json => json(rows),
        Format::Table => Ok(table(R::HEADINGS, rows.iter().map(Row::cells))),
    }
}

/// A value as JSON, ended by a line break.
///
/// # Errors
/// Where it cannot be written as JSON.
pub fn json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Aligned columns without lines between them, as kubectl prints them.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let lines = table.lines().map(|l| l.trim_end().to_owned() + "\n");
    lines.collect()
}

/// `yes` or `-`: what is not so should not catch the eye.
pub fn yes(is: bool) -> String {
    if is { "yes" } else { "-" }.to_owned()
}

/// A text, or `-` for none.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Pod {
        name: &'static str,
        ready: bool,
    }

    impl Row for Pod {
        const HEADINGS: &'static [&'static str] = &["NAME", "READY"];

        fn cells(&self) -> Vec<String> {
            vec![self.name.to_owned(), yes(self.ready)]
        }
    }

    const PODS: [Pod; 2] = [
        Pod {
            name: "jump",
            ready: true,
        },
        Pod {
            name: "enterprise-0",
            ready: false,
        },
    ];

    #[test]
    fn a_table_has_aligned_columns_and_no_blanks_at_the_end() {
        let text = rows(Format::Table, &PODS).unwrap();
        assert_eq!(
            text,
            "NAME           READY\njump           yes\nenterprise-0   -\n"
        );
    }

    #[test]
    fn no_rows_leave_the_heading_or_an_empty_list() {
        assert_eq!(rows::<Pod>(Format::Table, &[]).unwrap(), "NAME   READY\n");
        assert_eq!(rows::<Pod>(Format::Json, &[]).unwrap(), "[]\n");
    }

    #[test]
    fn json_is_a_list_of_the_rows() {
        let text = rows(Format::Json, &PODS).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value[1]["name"], "enterprise-0");
        assert_eq!(value[1]["ready"], false);
    }
}
