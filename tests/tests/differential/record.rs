//! What kube-proxy showed where a scenario says no more than that signpost shows the same. The run beside kube-proxy
//! compares it with what kube-proxy shows, so that a run without one can go by it; with `RECORD` set it writes it anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    run::Look,
    scenario::{Expect, Observed},
    world::Provider,
};

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/differential/record.json"
);
const TEXT: &str = include_str!("record.json");

/// By scenario and case.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record(BTreeMap<String, BTreeMap<String, Vec<Same>>>);

/// What was the same with some families and protocols.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Same {
    with: Vec<String>,
    seen: BTreeSet<Observed>,
}

impl Record {
    /// The one that is kept.
    pub(crate) fn kept() -> Result<Self> {
        serde_json::from_str(TEXT).context(FILE)
    }

    /// What these looks showed with kube-proxy.
    pub(crate) fn of(looks: &[Look<'_>]) -> Self {
        let mut all = Self::default();
        for look in looks.iter().filter(|l| l.case.expect == Expect::TheSame) {
            let of_scenario = all.0.entry(look.scenario.name.clone()).or_default();
            let of_case = of_scenario.entry(case(look)).or_default();
            let seen = &look.seen[&Provider::KubeProxy];
            match of_case.iter_mut().find(|same| same.seen == *seen) {
                Some(same) => same.with.push(with(look)),
                None => of_case.push(Same {
                    with: vec![with(look)],
                    seen: seen.clone(),
                }),
            }
        }
        all
    }

    /// What kube-proxy showed in place of this look.
    pub(crate) fn seen(&self, look: &Look<'_>) -> Option<&BTreeSet<Observed>> {
        let of_case = self.0.get(&look.scenario.name)?.get(&case(look))?;
        let with = with(look);
        let same = of_case.iter().find(|same| same.with.contains(&with))?;
        Some(&same.seen)
    }

    /// Says where this is not what was kept of the same scenarios; nothing where it is.
    pub(crate) fn differs_from(&self, kept: &Self) -> String {
        let mut text = String::new();
        for (scenario, cases) in &self.0 {
            for (case, seen) in cases {
                let known = kept.0.get(scenario).and_then(|cases| cases.get(case));
                if known != Some(seen) {
                    let _ = writeln!(
                        text,
                        "kube-proxy in “{scenario}”, {case}\n  recorded: {known:?}\n  shows:    {seen:?}\n"
                    );
                }
            }
        }
        text
    }

    /// Keeps it: a line for each case.
    pub(crate) fn keep(&self) -> Result<()> {
        let mut scenarios = Vec::new();
        for (scenario, cases) in &self.0 {
            let mut lines = Vec::new();
            for (case, seen) in cases {
                let (case, seen) = (serde_json::to_string(case)?, serde_json::to_string(seen)?);
                lines.push(format!("    {case}: {seen}"));
            }
            let scenario = serde_json::to_string(scenario)?;
            scenarios.push(format!("  {scenario}: {{\n{}\n  }}", lines.join(",\n")));
        }
        fs::write(FILE, format!("{{\n{}\n}}\n", scenarios.join(",\n"))).context(FILE)
    }
}

fn case(look: &Look<'_>) -> String {
    let target = look.case.target;
    format!(
        "step {}: {:?} to {:?} of Service {}, port {}",
        look.step, look.case.client, target.at, target.service, target.port
    )
}

fn with(look: &Look<'_>) -> String {
    format!("{:?} {:?}", look.family, look.protocol)
}
