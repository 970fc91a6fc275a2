//! docs/kernels.md, out of what runs on the kernels have shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::record::{Feature, Record, Suite};

/// Where it is, from the root.
pub(crate) const FILE: &str = "docs/kernels.md";

const BEGINNING: &str = "\
# Kernels

This page is written by `cargo xtask vm --all --docs`: what is in it was run on Debian's kernels in virtual machines, and is
not promised of others. `signpost doctor` says the same of the node that it runs on, with what to do about it, and
`signpost_kernel_feature` exports it.

Mode eBPF takes Linux 5.10 or later. What a kernel lacks beyond that is done in another way, one thing at a time; nothing
of it has to be configured.
";

/// The whole page. Kernels that were never run are left out.
pub(crate) fn page(records: &[(&str, Record)]) -> String {
    let mut text = BEGINNING.to_owned();
    let ran: Vec<_> = records
        .iter()
        .filter(|(_, record)| !record.release.is_empty())
        .collect();
    text += "\n## What ran\n\n";
    text += &head("", ran.iter().map(|(name, _)| *name));
    row(
        &mut text,
        "release",
        ran.iter()
            .map(|(_, record)| format!("`{}`", record.release)),
    );
    for suite in names(ran.iter().map(|(_, record)| record.suites.keys())) {
        let cells = ran
            .iter()
            .map(|(_, record)| match record.suites.get(&suite) {
                None => "not run".to_owned(),
                Some(came) => summed_up(came),
            });
        row(&mut text, &format!("`{suite}`"), cells);
    }
    text += &chosen(&ran);
    text += "\n## What they have\n\n";
    text += "√ is there, ‼ is not and something is done in a lesser way, × is not and a mode is impossible.\n\n";
    text += &head("", ran.iter().map(|(name, _)| *name));
    let features = ran.first().map_or(&[][..], |(_, record)| &record.features);
    for feature in features {
        let cells = ran.iter().map(|(_, record)| {
            let found = record.features.iter().find(|f| f.title == feature.title);
            found.map_or("", sign).to_owned()
        });
        row(&mut text, &feature.title, cells);
    }
    text += "\nWhat follows where one is not there:\n\n";
    let missing = ran.iter().flat_map(|(_, record)| &record.features);
    let follows: BTreeSet<String> = missing
        .filter(|feature| !feature.there)
        .map(|feature| format!("- {}: {}\n", feature.title, feature.follows))
        .collect();
    text.extend(follows);
    text += "\n## What the verifier looks at\n\n";
    text += "Instructions of each program, and the milliseconds that loading it took; the verifier's limit is a million, a \
             test keeps each below half of it. The machines are emulated and share processors with others: the milliseconds say \
             what was run, not how fast a kernel is, which on a processor of its own takes a tenth and less.\n\n";
    text += &head("program", ran.iter().map(|(name, _)| *name));
    for program in names(ran.iter().map(|(_, record)| record.programs.keys())) {
        let cells = ran
            .iter()
            .map(|(_, record)| match record.programs.get(&program) {
                None => "not run".to_owned(),
                Some(found) => format!("{} ({} ms)", thousands(found.verified), found.milliseconds),
            });
        row(&mut text, &format!("`{program}`"), cells);
    }
    text
}

fn summed_up(came: &Suite) -> String {
    let mut text = format!("{} passed", came.passed);
    if came.failed > 0 {
        let _ = write!(text, ", {} failed", came.failed);
    }
    if came.left_out > 0 {
        let _ = write!(text, " of {}", came.passed + came.failed + came.left_out);
    }
    text
}

/// Which tests ran of the suites that did not run whole.
fn chosen(ran: &[&(&str, Record)]) -> String {
    let mut suites: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, came) in ran.iter().flat_map(|(_, record)| &record.suites) {
        // Of what is left out of many it is shorter to say that it is.
        if came.left_out > came.tests.len() {
            let tests = came.tests.iter().map(String::as_str);
            suites.entry(name).or_default().extend(tests);
        }
    }
    if suites.is_empty() {
        return String::new();
    }
    let mut text = "\nWhere a suite did not run whole, that is because processors are emulated, or because kernels do not differ in \
                    the rest (`xtask/src/vm/suite.rs`; `--full` runs all that runs there at all). These ran:\n\n"
        .to_owned();
    for (suite, tests) in suites {
        let tests: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
        let _ = writeln!(text, "- `{suite}`: {}", tests.join(", "));
    }
    text
}

fn names<'a>(of_each: impl Iterator<Item = impl Iterator<Item = &'a String>>) -> BTreeSet<String> {
    of_each.flatten().cloned().collect()
}

fn head<'a>(first: &str, kernels: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut text = String::new();
    row(&mut text, first, kernels.clone().map(str::to_owned));
    row(&mut text, "---", kernels.map(|_| "---".to_owned()));
    text
}

fn row(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(text, "| {first} |");
    for cell in cells {
        let _ = write!(text, " {cell} |");
    }
    text.push('\n');
}

fn sign(feature: &Feature) -> &'static str {
    match (feature.there, &*feature.level) {
        (true, _) => "√",
        (false, "broken") => "×",
        (false, _) => "‼",
    }
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::record::Program;

    #[test]
    fn each_kernel_has_a_column() {
        let feature = |there| Feature {
            title: "TCX".to_owned(),
            there,
            level: if there { "fine" } else { "less" }.to_owned(),
            follows: "links".to_owned(),
        };
        let record = |there, verified| Record {
            release: "x".to_owned(),
            features: vec![feature(there)],
            programs: [(
                "to_pod".to_owned(),
                Program {
                    verified,
                    milliseconds: 5,
                },
            )]
            .into(),
            suites: [(
                "tests/it".to_owned(),
                Suite {
                    passed: 1,
                    failed: 0,
                    left_out: 2,
                    tests: vec!["host::reached".to_owned()],
                },
            )]
            .into(),
        };
        let records = [
            ("5.10", record(false, 81_321)),
            ("6.1", Record::default()),
            ("6.12", record(true, 999)),
        ];
        let page = page(&records);
        for line in [
            "|  | 5.10 | 6.12 |",
            "| `tests/it` | 1 passed of 3 | 1 passed of 3 |",
            "- `tests/it`: `host::reached`",
            "| TCX | ‼ | √ |",
            "- TCX: links",
            "| `to_pod` | 81,321 (5 ms) | 999 (5 ms) |",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }

    #[test]
    fn figures_are_grouped() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
