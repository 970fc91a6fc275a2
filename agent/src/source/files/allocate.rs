//! Gives ClusterIPs out of the service ranges and remembers them over restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    fnv,
    model::{Family, ObjectName},
};

/// The ranges and what was given out of them.
#[derive(Debug)]
pub(super) struct Allocator {
    ranges: Vec<IpNet>,
    given: BTreeMap<ObjectName, Vec<IpAddr>>,
    file: PathBuf,
}

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// One address of each, in this order.
    pub(super) families: Vec<Family>,
}

#[derive(Serialize, Deserialize)]
struct State {
    /// By `namespace/name`.
    cluster_ips: BTreeMap<String, Vec<IpAddr>>,
}

impl Allocator {
    /// Reads what was given out before; nothing was where the file does not exist.
    pub(super) fn load(ranges: &[IpNet], folder: &Path) -> anyhow::Result<Self> {
        for (index, range) in ranges.iter().enumerate() {
            if ranges[..index].iter().any(|r| family(r) == family(range)) {
                bail!("two service ranges of one family: leave {range} or the one before it out");
            }
        }
        let file = folder.join("cluster-ips.json");
        let mut given = BTreeMap::new();
        match fs::read(&file) {
            Ok(content) => {
                let state: State = serde_json::from_slice(&content).with_context(|| {
                    format!(
                        "{} is damaged: mend it, or remove it to have all ClusterIPs given out anew",
                        file.display()
                    )
                })?;
                for (name, addresses) in state.cluster_ips {
                    if let Some((namespace, name)) = name.split_once('/') {
                        given.insert(ObjectName::new(namespace, name), addresses);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
        }
        let ranges = ranges.iter().map(IpNet::trunc).collect();
        Ok(Self {
            ranges,
            given,
            file,
        })
    }

    /// The families of the ranges, the primary one first.
    pub(super) fn families(&self) -> Vec<Family> {
        self.ranges.iter().map(family).collect()
    }

    /// Gives each Service the addresses that it wishes for and takes back those that nobody wishes for any more.
    /// `fixed` addresses are in manifests and never given out: a Service that has one already gets another one.
    /// While `keep` is set, Services that are not named keep theirs: it is not sure that they are gone.
    ///
    /// Returns the Services that are short of an address because a range is used up.
    pub(super) fn assign(
        &mut self,
        wishes: &BTreeMap<ObjectName, Wish>,
        fixed: &BTreeSet<IpAddr>,
        keep: bool,
    ) -> io::Result<BTreeSet<ObjectName>> {
        let before = self.given.clone();
        let ranges = &self.ranges;
        self.given.retain(|name, addresses| {
            let wish = wishes.get(name);
            addresses.retain(|address| {
                !fixed.contains(address)
                    && ranges.iter().any(|range| range.contains(address))
                    && wish.is_none_or(|w| w.families.contains(&Family::of(*address)))
            });
            !addresses.is_empty() && (wish.is_some() || keep)
        });
        let mut taken: BTreeSet<_> = fixed.clone();
        taken.extend(self.given.values().flatten());
        let mut used_up = BTreeSet::new();
        let mut short = BTreeSet::new();
        for (name, wish) in wishes {
            for &wanted in &wish.families {
                let has = |a: &IpAddr| Family::of(*a) == wanted;
                if self.given.get(name).is_some_and(|g| g.iter().any(has)) {
                    continue;
                }
                let free = self
                    .ranges
                    .iter()
                    .find(|range| family(range) == wanted && !used_up.contains(&wanted))
                    .and_then(|range| free_address(range, name, &taken));
                match free {
                    Some(address) => {
                        taken.insert(address);
                        self.given.entry(name.clone()).or_default().push(address);
                    }
                    None => {
                        used_up.insert(wanted);
                        short.insert(name.clone());
                    }
                }
            }
            if let Some(addresses) = self.given.get_mut(name) {
                let place = |a: &IpAddr| wish.families.iter().position(|f| *f == Family::of(*a));
                addresses.sort_by_key(place);
            }
        }
        if self.given != before {
            self.save()?;
        }
        Ok(short)
    }

    /// What a Service was given.
    pub(super) fn given(&self, name: &ObjectName) -> &[IpAddr] {
        self.given.get(name).map_or(&[], Vec::as_slice)
    }

    fn save(&self) -> io::Result<()> {
        let state = State {
            cluster_ips: self
                .given
                .iter()
                .map(|(name, addresses)| (name.to_string(), addresses.clone()))
                .collect(),
        };
        replace(&self.file, &serde_json::to_vec_pretty(&state)?)
    }
}

/// Replaces a file in one step: a crash leaves the old one or the new one.
pub(super) fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = file.with_extension("json.new");
    let mut new = fs::File::create(&temporary)?;
    new.write_all(content)?;
    new.sync_all()?;
    fs::rename(&temporary, file)
}

const fn family(range: &IpNet) -> Family {
    match range {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// An address that is free. The lower part of the range comes last: people choose fixed addresses there (KEP-3070).
/// The search begins at a place that follows from the name, so that a Service gets the same address again most times
/// even where the state was lost.
fn free_address(range: &IpNet, name: &ObjectName, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let host_bits = range.max_prefix_len() - range.prefix_len();
    let size = 1_u64.checked_shl(host_bits.min(32).into())?;
    // The first address is the network's, the last one of IPv4 is the broadcast address.
    let end = match range {
        IpNet::V4(_) => size.saturating_sub(1),
        IpNet::V6(_) => size,
    };
    let lower = (size / 16).clamp(16, 256).min(end).max(1);
    let upper = end - lower.min(end);
    let start = hash(name).checked_rem(upper).unwrap_or(0);
    let offsets = (start..upper).chain(0..start).map(|n| lower + n);
    offsets
        .chain(1..lower)
        .filter_map(|offset| at(range, offset))
        .find(|address| !taken.contains(address))
}

fn at(range: &IpNet, offset: u64) -> Option<IpAddr> {
    Some(match range.network() {
        IpAddr::V4(network) => {
            let bits = network.to_bits().checked_add(offset.try_into().ok()?)?;
            IpAddr::V4(Ipv4Addr::from_bits(bits))
        }
        IpAddr::V6(network) => {
            let bits = network.to_bits().checked_add(offset.into())?;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    })
}

/// The same in every build.
pub(super) fn hash(name: &ObjectName) -> u64 {
    let bytes = name
        .namespace
        .bytes()
        .chain([b'/'])
        .chain(name.name.bytes());
    fnv::hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn wishes<'a>(
        names: impl IntoIterator<Item = &'a str>,
        families: &[Family],
    ) -> BTreeMap<ObjectName, Wish> {
        let wish = || Wish {
            families: families.to_vec(),
        };
        names
            .into_iter()
            .map(|name| (ObjectName::new("a", name), wish()))
            .collect()
    }

    fn given(allocator: &Allocator, name: &str) -> Vec<IpAddr> {
        allocator.given(&ObjectName::new("a", name)).to_vec()
    }

    #[test]
    fn addresses_are_kept_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let ranges = ranges(&["10.96.0.0/12", "fd00:96::/108"]);
        let both = [Family::V4, Family::V6];
        let wishes = wishes(["x", "y"], &both);
        let mut allocator = Allocator::load(&ranges, folder.path()).unwrap();
        let short = allocator.assign(&wishes, &BTreeSet::new(), false).unwrap();
        assert_eq!(short, BTreeSet::new());
        let first = (given(&allocator, "x"), given(&allocator, "y"));
        assert_eq!(first.0.len(), 2);
        assert!(ranges[0].contains(&first.0[0]) && ranges[1].contains(&first.0[1]));

        let mut again = Allocator::load(&ranges, folder.path()).unwrap();
        again.assign(&wishes, &BTreeSet::new(), false).unwrap();
        assert_eq!((given(&again, "x"), given(&again, "y")), first);
    }

    #[test]
    fn every_address_of_a_small_range_is_given_out_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut allocator = Allocator::load(&ranges(&["10.0.0.0/27"]), folder.path()).unwrap();
        let names: Vec<_> = (0..40).map(|n| n.to_string()).collect();
        let wishes = wishes(names.iter().map(String::as_str), &[Family::V4]);
        let fixed: IpAddr = "10.0.0.20".parse().unwrap();
        let short = allocator.assign(&wishes, &[fixed].into(), false).unwrap();
        let all: BTreeSet<_> = names.iter().flat_map(|n| given(&allocator, n)).collect();
        assert_eq!((all.len(), short.len()), (29, 11));
        for address in ["10.0.0.0", "10.0.0.20", "10.0.0.31"] {
            assert!(!all.contains(&address.parse().unwrap()));
        }
    }

    #[test]
    fn a_range_of_one_address_has_none_to_give() {
        for range in ["10.0.0.0/32", "fd00::/128", "10.0.0.0/31"] {
            let net: IpNet = range.parse().unwrap();
            let free = free_address(&net, &ObjectName::new("a", "x"), &BTreeSet::new());
            assert!(free.is_none() || range.ends_with("/31"), "{free:?}");
        }
        let whole = "::/0".parse().unwrap();
        assert!(free_address(&whole, &ObjectName::new("a", "x"), &BTreeSet::new()).is_some());
    }

    #[test]
    fn an_address_that_a_manifest_fixes_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut allocator = Allocator::load(&ranges(&["10.96.0.0/16"]), folder.path()).unwrap();
        let wishes = wishes(["x"], &[Family::V4]);
        allocator.assign(&wishes, &BTreeSet::new(), false).unwrap();
        let first = given(&allocator, "x")[0];
        allocator.assign(&wishes, &[first].into(), false).unwrap();
        let second = given(&allocator, "x");
        assert_eq!(second.len(), 1);
        assert_ne!(second[0], first);
    }

    #[test]
    fn a_service_that_may_come_back_keeps_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let mut allocator = Allocator::load(&ranges(&["10.96.0.0/16"]), folder.path()).unwrap();
        allocator
            .assign(&wishes(["x"], &[Family::V4]), &BTreeSet::new(), false)
            .unwrap();
        allocator
            .assign(&BTreeMap::new(), &BTreeSet::new(), true)
            .unwrap();
        assert_eq!(given(&allocator, "x").len(), 1);
        allocator
            .assign(&BTreeMap::new(), &BTreeSet::new(), false)
            .unwrap();
        assert_eq!(given(&allocator, "x"), Vec::<IpAddr>::new());
    }

    #[test]
    fn two_ranges_of_a_family_and_a_damaged_state_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Allocator::load(&ranges(&["10.0.0.0/16", "10.1.0.0/16"]), folder.path()).is_err());
        fs::write(folder.path().join("cluster-ips.json"), "{").unwrap();
        assert!(Allocator::load(&ranges(&["10.0.0.0/16"]), folder.path()).is_err());
    }
}
