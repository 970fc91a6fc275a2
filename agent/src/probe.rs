//! What this node's kernel can do, and what follows from it: one table for `signpost doctor`, the metrics, the log, and
//! for the choice of the mode. Pure; [`node`] asks the kernel.

mod choice;
mod feature;
mod netlink;
pub mod node;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::feature::Need;

pub use choice::{Choice, Mode, Netfilter, NetfilterWish, Wish, choose};
pub use feature::Feature;

/// What came of one probe: what was found, or why it is not there.
pub type Probe = Result<String, String>;

/// Everything that was probed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// `uname -r`.
    pub kernel: String,
    /// What the operator asks for to filter and masquerade in IPVS mode.
    pub netfilter: NetfilterWish,
    /// By feature. One that was not probed counts as missing.
    pub features: BTreeMap<Feature, Probe>,
}

/// How much a row of the table matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// All is well.
    Fine,
    /// Something is done in a lesser way, or is not possible that this node does not need.
    Less,
    /// The node cannot be served so.
    Broken,
}

impl Level {
    /// Its sign.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Fine => "√",
            Self::Less => "‼",
            Self::Broken => "×",
        }
    }
}

/// A row: what was probed, what was found, what follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The feature.
    pub feature: Feature,
    /// The feature for people.
    pub title: String,
    /// It is there.
    pub there: bool,
    /// How much that matters in the mode of this node.
    pub level: Level,
    /// What the probe found.
    pub found: String,
    /// What follows.
    pub follows: String,
    /// What to do about it; empty where all is well.
    pub todo: String,
}

impl Probes {
    /// Whether a feature is there.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.get(&feature).is_some_and(Result::is_ok)
    }

    /// What would filter and masquerade in IPVS mode; none where nothing can that was asked for.
    pub fn netfilter(&self) -> Option<Netfilter> {
        let kinds = match self.netfilter {
            NetfilterWish::Auto => &[Netfilter::Nftables, Netfilter::Iptables][..],
            NetfilterWish::Nftables => &[Netfilter::Nftables],
            NetfilterWish::Iptables => &[Netfilter::Iptables],
        };
        let mut kinds = kinds.iter().copied();
        kinds.find(|kind| self.has(feature_of(*kind)))
    }

    /// The table, for a node in this mode.
    pub fn table(&self, mode: Option<Mode>) -> Vec<Row> {
        Feature::ALL
            .into_iter()
            .map(|feature| self.row(feature, mode))
            .collect()
    }

    /// Why a mode is not possible; nothing where it is.
    pub fn obstacles(&self, mode: Mode) -> Vec<String> {
        let needed = Feature::ALL.into_iter().filter(|feature| match mode {
            Mode::Ebpf => feature.about().need == Need::Ebpf,
            Mode::Ipvs => feature.about().need == Need::Ipvs,
        });
        let mut obstacles: Vec<String> = needed
            .filter_map(|feature| {
                let why = self.why_not(feature)?;
                Some(format!("{}: {why}", feature.about().title))
            })
            .collect();
        if mode == Mode::Ebpf
            && obstacles.is_empty()
            && let (Some(_), Some(why)) =
                (self.why_not(Feature::Tcx), self.why_not(Feature::Clsact))
        {
            obstacles.push(format!("neither TCX nor clsact: {why}"));
        }
        if mode == Mode::Ipvs && self.netfilter().is_none() {
            let kinds = match self.netfilter {
                NetfilterWish::Auto => vec![Feature::Nftables, Feature::Iptables],
                NetfilterWish::Nftables => vec![Feature::Nftables],
                NetfilterWish::Iptables => vec![Feature::Iptables],
            };
            obstacles.extend(kinds.into_iter().filter_map(|feature| {
                let why = self.why_not(feature)?;
                let about = feature.about();
                Some(format!("{}: {why} ({})", about.title, about.todo))
            }));
        }
        obstacles
    }

    fn why_not(&self, feature: Feature) -> Option<&str> {
        match self.features.get(&feature) {
            None => Some("not probed"),
            Some(Ok(_)) => None,
            Some(Err(why)) => Some(why),
        }
    }

    fn row(&self, feature: Feature, mode: Option<Mode>) -> Row {
        let about = feature.about();
        let why = self.why_not(feature);
        let level = match (why, about.need, mode) {
            (None, ..) => Level::Fine,
            (_, Need::Ebpf, Some(Mode::Ebpf) | None) | (_, Need::Ipvs, Some(Mode::Ipvs) | None) => {
                Level::Broken
            }
            // One of the two is enough.
            (..) if feature == Feature::Clsact && self.has(Feature::Tcx) => Level::Fine,
            (..) if feature == Feature::Clsact && mode == Some(Mode::Ebpf) => Level::Broken,
            (..) if [Feature::Nftables, Feature::Iptables].contains(&feature) => {
                match self.netfilter() {
                    Some(Netfilter::Nftables) => Level::Fine,
                    Some(Netfilter::Iptables) => Level::Less,
                    None if mode == Some(Mode::Ebpf) => Level::Less,
                    None => Level::Broken,
                }
            }
            (_, Need::EbpfLess, Some(Mode::Ipvs)) => Level::Fine,
            _ => Level::Less,
        };
        let there = why.is_none();
        Row {
            feature,
            title: about.title.to_owned(),
            there,
            level,
            found: match self.features.get(&feature) {
                Some(Ok(found)) => found.clone(),
                _ => why.unwrap_or_default().to_owned(),
            },
            follows: if there { about.with } else { about.without }.to_owned(),
            todo: if level == Level::Fine { "" } else { about.todo }.to_owned(),
        }
    }
}

const fn feature_of(kind: Netfilter) -> Feature {
    match kind {
        Netfilter::Nftables => Feature::Nftables,
        Netfilter::Iptables => Feature::Iptables,
    }
}
