//! The tables that say which test shows a behaviour name tests that exist.

use std::{fs, path::Path};

use anyhow::Context as _;

/// Where the tables are, and the heading above each.
const PAGES: [&str; 2] = ["docs/services.md", "docs/ipvs.md"];
const HEADING: &str = "## What shows it";

/// Every test that a table names and the sources do not have. `sources` are the paths and texts of all of them.
pub(super) fn check<'a>(
    root: &Path,
    sources: impl Iterator<Item = (&'a Path, &'a str)> + Clone,
) -> anyhow::Result<Vec<String>> {
    let rust = sources.filter(|(path, _)| path.extension().is_some_and(|e| e == "rs"));
    let mut breaches = Vec::new();
    for page in PAGES {
        breaches.extend(missing(root, page, &rust)?);
    }
    Ok(breaches)
}

/// Those of one page.
fn missing<'a>(
    root: &Path,
    page: &str,
    rust: &(impl Iterator<Item = (&'a Path, &'a str)> + Clone),
) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(root.join(page)).with_context(|| page.to_owned())?;
    let (_, section) = text
        .split_once(HEADING)
        .with_context(|| format!("{page} has no {HEADING:?}"))?;
    let mut breaches = Vec::new();
    for name in named(section) {
        let exists = match &name {
            Named::Function(name) => {
                let signature = format!("fn {name}(");
                rust.clone().any(|(_, text)| text.contains(&signature))
            }
            Named::Scenario(name) => {
                let literal = format!("\"{name}\"");
                let mut scenarios = rust
                    .clone()
                    .filter(|(path, _)| path.starts_with("tests/tests/differential"));
                scenarios.any(|(_, text)| text.contains(&literal))
            }
        };
        if !exists {
            breaches.push(format!("{page}: there is no test {name:?}"));
        }
    }
    Ok(breaches)
}

#[derive(Debug, PartialEq, Eq)]
enum Named {
    Function(String),
    Scenario(String),
}

/// The names in the second column of a table.
fn named(section: &str) -> Vec<Named> {
    let cells = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|');
        cells.nth(1)
    });
    let mut names = Vec::new();
    for cell in cells {
        let function = |part: &str| part.contains('_').then(|| Named::Function(part.to_owned()));
        names.extend(cell.split('`').skip(1).step_by(2).filter_map(function));
        let scenarios = cell.split('"').skip(1).step_by(2);
        names.extend(scenarios.map(|part| Named::Scenario(part.to_owned())));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_and_scenarios_of_the_second_column_are_found() {
        let section =
            "text with `a_word`\n| `not_this` | \"it's one\", `two_of_them`; `word` |\n|---|---|\n";
        let function = Named::Function("two_of_them".to_owned());
        assert_eq!(
            named(section),
            [function, Named::Scenario("it's one".to_owned())]
        );
    }
}
