//! iptables, by its own programs: rules are read and written as text, a table at a time and all or none of it.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use super::program::{feed, output};
use crate::model::Family;

/// How long another program may keep the lock of iptables, in seconds.
const WAIT: &str = "5";

/// A form of iptables: where there are several, each has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Behind the name of the program, such as `-legacy`.
    suffix: &'static str,
}

impl Form {
    /// All, the one first that needs no nftables.
    pub const ALL: [Self; 3] = [
        Self { suffix: "-legacy" },
        Self { suffix: "" },
        Self { suffix: "-nft" },
    ];

    /// The first whose programs are there.
    pub fn first() -> Option<Self> {
        Self::ALL.into_iter().find(|form| {
            let program = form.program(Family::V4, "-restore");
            output(&program, &["--version"]).is_some()
        })
    }

    /// All that are there, each once.
    pub fn there() -> Vec<Self> {
        let mut forms = Self::ALL.to_vec();
        forms.retain(|form| {
            let program = form.program(Family::V4, "-save");
            output(&program, &["--version"]).is_some()
        });
        if forms.len() > 1 {
            // Where there are others this one is another name of one of them.
            forms.retain(|form| !form.suffix.is_empty());
        }
        forms
    }

    /// Name of a program, such as `ip6tables-legacy-save`.
    pub fn program(self, family: Family, what: &str) -> String {
        let name = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        format!("{name}{}{what}", self.suffix)
    }

    /// All rules of a family; `None` where they cannot be read.
    pub fn save(self, family: Family) -> Option<String> {
        output(&self.program(family, "-save"), &[])
    }

    /// Carries out a script of `iptables-restore`, each table of it all or none. What it does not name stays.
    ///
    /// # Errors
    /// What the program says.
    pub fn restore(self, family: Family, script: &str) -> anyhow::Result<()> {
        let program = self.program(family, "-restore");
        feed(&program, &["--wait", WAIT, "--noflush"], script)
    }
}

/// The families that this network namespace has.
pub fn families() -> impl Iterator<Item = Family> {
    let has_v6 = Path::new("/proc/thread-self/net/if_inet6").exists();
    [Family::V4, Family::V6]
        .into_iter()
        .filter(move |family| *family == Family::V4 || has_v6)
}

/// Chains of one owner in saved rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned<'a> {
    /// By table: their names,
    pub chains: BTreeMap<&'a str, Vec<&'a str>>,
    /// the rules of other chains that lead to them, without `-A`,
    pub jumps: BTreeMap<&'a str, Vec<&'a str>>,
    /// and all lines with either, as they are.
    pub lines: Vec<&'a str>,
}

impl<'a> Owned<'a> {
    /// Finds the chains whose names begin in this way.
    pub fn find(saved: &'a str, prefix: &str) -> Self {
        let mut owned = Self::default();
        let mut table = "";
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(rest) = line.strip_prefix(':') {
                let name = rest.split(' ').next().unwrap_or_default();
                if name.starts_with(prefix) {
                    owned.chains.entry(table).or_default().push(name);
                    // The counters behind it change.
                    owned.lines.push(name);
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let to = rule.rsplit_once("-j ").map_or("", |(_, to)| to);
                if rule.starts_with(prefix) {
                    owned.lines.push(line);
                } else if to.starts_with(prefix) {
                    owned.jumps.entry(table).or_default().push(rule);
                    owned.lines.push(line);
                }
            }
        }
        owned
    }

    /// How many chains there are.
    pub fn count(&self) -> usize {
        self.chains.values().map(Vec::len).sum()
    }

    /// What removes them, for [`Form::restore`].
    pub fn removal(&self) -> String {
        let mut script = String::new();
        for (table, chains) in &self.chains {
            let _ = writeln!(script, "*{table}");
            for chain in chains {
                let _ = writeln!(script, ":{chain} - [0:0]");
            }
            for jump in self.jumps.get(table).into_iter().flatten() {
                let _ = writeln!(script, "-D {jump}");
            }
            for chain in chains {
                let _ = writeln!(script, "-X {chain}");
            }
            script.push_str("COMMIT\n");
        }
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save v1.8.9
*filter
:INPUT ACCEPT [7:420]
:OURS-INPUT - [0:0]
:THEIRS - [0:0]
-A INPUT -j OURS-INPUT
-A INPUT -j THEIRS
-A OURS-INPUT -m conntrack --ctstate ESTABLISHED -j RETURN
-A THEIRS -j DROP
COMMIT
*nat
:OUTPUT ACCEPT [0:0]
:OURS-MARK - [3:9]
-A OUTPUT -j OURS-MARK
COMMIT
";

    #[test]
    fn chains_are_found_with_what_leads_to_them() {
        let owned = Owned::find(SAVED, "OURS-");
        assert_eq!(owned.count(), 2);
        assert_eq!(owned.jumps["filter"], ["INPUT -j OURS-INPUT"]);
        let later = SAVED.replace("[3:9]", "[5:10]");
        assert_eq!(Owned::find(&later, "OURS-"), owned);
        let without = SAVED.replace("-A OUTPUT -j OURS-MARK\n", "");
        assert_ne!(Owned::find(&without, "OURS-").lines, owned.lines);
    }

    #[test]
    fn only_the_owners_chains_are_removed() {
        assert_eq!(
            Owned::find(SAVED, "OURS-").removal(),
            "\
*filter
:OURS-INPUT - [0:0]
-D INPUT -j OURS-INPUT
-X OURS-INPUT
COMMIT
*nat
:OURS-MARK - [0:0]
-D OUTPUT -j OURS-MARK
-X OURS-MARK
COMMIT
"
        );
        assert_eq!(Owned::find(SAVED, "NOBODYS-").removal(), "");
    }

    #[test]
    fn programs_have_their_usual_names() {
        let [legacy, plain, _] = Form::ALL;
        assert_eq!(legacy.program(Family::V6, "-save"), "ip6tables-legacy-save");
        assert_eq!(plain.program(Family::V4, "-restore"), "iptables-restore");
    }
}
