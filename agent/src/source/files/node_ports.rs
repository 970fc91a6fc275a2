//! Gives NodePorts out of the range that API servers have by default, and remembers them over restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::allocate::{hash, replace};
use crate::model::ObjectName;

/// `--service-node-port-range` of an API server that is not told otherwise.
const RANGE: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// Ports below this one come last: people choose fixed ones there (KEP-3668).
const UPPER: u16 = 30_086;

/// What a NodePort is for.
pub(super) type Purpose = String;

/// The health check of a load balancer.
pub(super) const HEALTH_CHECK: &str = "healthCheck";

/// What was given out.
#[derive(Debug)]
pub(super) struct NodePorts {
    /// Of each Service, by purpose.
    given: BTreeMap<ObjectName, BTreeMap<Purpose, u16>>,
    file: PathBuf,
}

impl NodePorts {
    /// Reads what was given out before; nothing was where the file does not exist.
    pub(super) fn load(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join("node-ports.json");
        let given: BTreeMap<String, BTreeMap<Purpose, u16>> = match fs::read(&file) {
            Ok(content) => serde_json::from_slice(&content).with_context(|| {
                format!(
                    "{} is damaged: mend it, or remove it to have all NodePorts given out anew",
                    file.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
        };
        let name = |(name, ports): (String, _)| {
            let (namespace, name) = name.split_once('/')?;
            Some((ObjectName::new(namespace, name), ports))
        };
        Ok(Self {
            given: given.into_iter().filter_map(name).collect(),
            file,
        })
    }

    /// Gives each Service a port for each of its purposes, and takes back those that nobody wishes for any more.
    /// `fixed` ports are in manifests and never given out: a Service that has one already gets another one. While
    /// `keep` is set, Services that are not named keep theirs.
    ///
    /// Returns the Services that are short of a port because all are given out.
    pub(super) fn assign(
        &mut self,
        wishes: &BTreeMap<ObjectName, BTreeSet<Purpose>>,
        fixed: &BTreeSet<u16>,
        keep: bool,
    ) -> io::Result<BTreeSet<ObjectName>> {
        let before = self.given.clone();
        self.given.retain(|name, ports| {
            let wish = wishes.get(name);
            ports.retain(|purpose, port| {
                !fixed.contains(port)
                    && RANGE.contains(port)
                    && wish.is_none_or(|wish| wish.contains(purpose))
            });
            !ports.is_empty() && (wish.is_some() || keep)
        });
        let mut taken = fixed.clone();
        taken.extend(self.given.values().flat_map(BTreeMap::values));
        let mut short = BTreeSet::new();
        for (name, purposes) in wishes {
            for purpose in purposes {
                if self
                    .given
                    .get(name)
                    .is_some_and(|g| g.contains_key(purpose))
                {
                    continue;
                }
                match free_port(name, purpose, &taken) {
                    Some(port) => {
                        taken.insert(port);
                        let given = self.given.entry(name.clone()).or_default();
                        given.insert(purpose.clone(), port);
                    }
                    None => {
                        short.insert(name.clone());
                    }
                }
            }
        }
        if self.given != before {
            self.save()?;
        }
        Ok(short)
    }

    /// What a Service was given for a purpose, 0 for nothing.
    pub(super) fn given(&self, name: &ObjectName, purpose: &str) -> u16 {
        let port = self.given.get(name).and_then(|given| given.get(purpose));
        port.copied().unwrap_or(0)
    }

    fn save(&self) -> io::Result<()> {
        let state: BTreeMap<String, &BTreeMap<Purpose, u16>> = self
            .given
            .iter()
            .map(|(name, ports)| (name.to_string(), ports))
            .collect();
        replace(&self.file, &serde_json::to_vec_pretty(&state)?)
    }
}

/// A port that is free. The search begins at a place that follows from the name and the purpose, so that a Service gets
/// the same port again most times even where the state was lost.
fn free_port(name: &ObjectName, purpose: &str, taken: &BTreeSet<u16>) -> Option<u16> {
    let number = hash(&ObjectName::new(name.to_string(), purpose));
    let start = UPPER + (number % u64::from(*RANGE.end() - UPPER + 1)) as u16;
    let upper = (start..=*RANGE.end()).chain(UPPER..start);
    let mut all = upper.chain(*RANGE.start()..UPPER);
    all.find(|port| !taken.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(names: impl IntoIterator<Item = String>) -> BTreeMap<ObjectName, BTreeSet<Purpose>> {
        let wish = || BTreeSet::from(["80".to_owned(), HEALTH_CHECK.to_owned()]);
        let names = names.into_iter().map(|name| ObjectName::new("a", name));
        names.map(|name| (name, wish())).collect()
    }

    #[test]
    fn ports_are_kept_over_a_restart_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let wishes = wishes(["x".to_owned()]);
        let name = ObjectName::new("a", "x");
        let mut ports = NodePorts::load(folder.path()).unwrap();
        ports.assign(&wishes, &BTreeSet::new(), false).unwrap();
        let first = (ports.given(&name, "80"), ports.given(&name, HEALTH_CHECK));
        assert!(RANGE.contains(&first.0) && RANGE.contains(&first.1) && first.0 != first.1);

        let mut again = NodePorts::load(folder.path()).unwrap();
        again.assign(&wishes, &BTreeSet::new(), false).unwrap();
        assert_eq!(
            (again.given(&name, "80"), again.given(&name, HEALTH_CHECK)),
            first
        );
        let none = BTreeMap::new();
        again.assign(&none, &BTreeSet::new(), true).unwrap();
        assert_eq!(again.given(&name, "80"), first.0);
        again.assign(&none, &BTreeSet::new(), false).unwrap();
        assert_eq!(again.given(&name, "80"), 0);
    }

    #[test]
    fn a_port_that_a_manifest_fixes_is_given_to_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let wishes = wishes(["x".to_owned()]);
        let name = ObjectName::new("a", "x");
        let mut ports = NodePorts::load(folder.path()).unwrap();
        ports.assign(&wishes, &BTreeSet::new(), false).unwrap();
        let fixed = ports.given(&name, "80");
        ports.assign(&wishes, &[fixed].into(), false).unwrap();
        assert_ne!(ports.given(&name, "80"), fixed);
    }

    #[test]
    fn every_port_of_the_range_is_given_out_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut ports = NodePorts::load(folder.path()).unwrap();
        let wishes = wishes((0..1400).map(|n| n.to_string()));
        let short = ports.assign(&wishes, &BTreeSet::new(), false).unwrap();
        let all: BTreeSet<u16> = ports
            .given
            .values()
            .flat_map(BTreeMap::values)
            .copied()
            .collect();
        assert_eq!(all.len(), RANGE.count());
        assert_eq!(short.len(), 1400 - RANGE.count() / 2);
    }
}
