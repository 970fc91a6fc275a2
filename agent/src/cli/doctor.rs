//! `signpost doctor`: what this node's kernel can do, what follows, and what to do about it.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::output::{Format, OutputArgs, json};
use crate::{
    config::Instance,
    probe::{Choice, Level, Mode, NetfilterWish, Row, Wish, choose, node},
};

/// Flags of `signpost doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    instance: Instance,

    /// The mode that the agent is asked for
    #[arg(long, env = "SIGNPOST_MODE", value_name = "MODE", default_value_t = Wish::Auto, value_enum)]
    mode: Wish,

    /// What the agent is asked to filter and masquerade with in IPVS mode; iptables is only tried where it would be taken
    #[arg(long, env = "SIGNPOST_NETFILTER", value_name = "KIND", default_value_t = NetfilterWish::Auto, value_enum)]
    netfilter: NetfilterWish,

    /// Root of the cgroup2 hierarchy of this node [default: found in /proc/self/mountinfo]
    #[arg(long, env = "SIGNPOST_CGROUP_ROOT", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,

    #[command(flatten)]
    output: OutputArgs,
}

/// What `signpost doctor -o json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// `uname -r`.
    pub kernel: String,
    /// The mode that an agent would run in, and why.
    #[serde(flatten)]
    pub choice: Choice,
    /// What was probed, what was found, what follows.
    pub features: Vec<Row>,
}

/// Asks the kernel and prints. The exit status is 1 where no mode is possible.
///
/// # Errors
/// Where the result cannot be written as JSON.
pub fn run(args: &DoctorArgs) -> anyhow::Result<(String, ExitCode)> {
    let probes = node::probe(
        &args.instance.bpffs_root,
        args.cgroup_root.as_deref(),
        args.netfilter,
    );
    let choice = choose(&probes, args.mode);
    let diagnosis = Diagnosis {
        features: probes.table(choice.mode),
        kernel: probes.kernel,
        choice,
    };
    let text = match args.output.output {
        Format::Json => json(&diagnosis)?,
        Format::Table => diagnosis.text(),
    };
    let code = match diagnosis.choice.mode {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    };
    Ok((text, code))
}

impl Diagnosis {
    /// For people.
    pub fn text(&self) -> String {
        let mode = match self.choice.mode {
            Some(Mode::Ebpf) => "eBPF",
            Some(Mode::Ipvs) => "IPVS",
            None => "none",
        };
        let mut text = format!(
            "kernel  {}\nmode    {mode}: {}\n",
            self.kernel, self.choice.reason
        );
        if let Some(netfilter) = self.choice.netfilter {
            let _ = writeln!(text, "filter  {}", netfilter.text());
        }
        text.push('\n');
        let width = |cell: fn(&Row) -> &String| {
            let lengths = self.features.iter().map(|row| cell(row).chars().count());
            lengths.max().unwrap_or(0)
        };
        let (titles, found) = (width(|row| &row.title), width(|row| &row.found).min(40));
        for row in &self.features {
            let _ = writeln!(
                text,
                "{} {:titles$}   {:found$}   {}",
                row.level.sign(),
                row.title,
                row.found,
                row.follows
            );
            if row.level != Level::Fine {
                let _ = writeln!(text, "  {:titles$}   → {}", "", row.todo);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Feature, Netfilter};

    fn row(feature: Feature, level: Level, todo: &str) -> Row {
        Row {
            feature,
            title: feature.name().to_owned(),
            there: level == Level::Fine,
            level,
            found: "found".to_owned(),
            follows: "follows".to_owned(),
            todo: todo.to_owned(),
        }
    }

    fn diagnosis() -> Diagnosis {
        Diagnosis {
            kernel: "6.1.0".to_owned(),
            choice: Choice {
                mode: Some(Mode::Ebpf),
                netfilter: None,
                reason: "the kernel has what it needs".to_owned(),
            },
            features: vec![
                row(Feature::Bpf, Level::Fine, ""),
                row(Feature::Tcx, Level::Less, "nothing has to be done"),
                row(Feature::IpVs, Level::Broken, "modprobe ip_vs"),
            ],
        }
    }

    #[test]
    fn people_get_a_sign_for_each_row_and_what_to_do() {
        assert_eq!(
            diagnosis().text(),
            "\
kernel  6.1.0
mode    eBPF: the kernel has what it needs

√ bpf     found   follows
‼ tcx     found   follows
          → nothing has to be done
× ip_vs   found   follows
          → modprobe ip_vs
"
        );
    }

    #[test]
    fn in_ipvs_mode_people_are_told_what_filters() {
        let mut diagnosis = diagnosis();
        diagnosis.choice.mode = Some(Mode::Ipvs);
        diagnosis.choice.netfilter = Some(Netfilter::Iptables);
        assert!(
            diagnosis
                .text()
                .contains("\nfilter  iptables and ipset\n\n")
        );
        let value = serde_json::to_value(diagnosis).unwrap();
        assert_eq!(value["netfilter"], "iptables");
    }

    #[test]
    fn programs_get_the_mode_and_every_row() {
        let value = serde_json::to_value(diagnosis()).unwrap();
        assert_eq!(value["mode"], "ebpf");
        assert_eq!(value["features"][1]["feature"], "tcx");
        assert_eq!(value["features"][1]["level"], "less");
        assert_eq!(value["features"][1]["there"], false);
    }
}
