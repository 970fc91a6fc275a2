//! Names that the kernel must not answer, because the server would not answer them out of the zone alone.
//!
//! The kernel proves that a name does not exist by what is missing: a namespace, a Service, a label. So a name that an
//! operator's rules concern needs an entry that says nothing, and where rules concern everything below a name, the
//! entries on the way to it must not prove anything either.

use std::collections::{BTreeMap, BTreeSet};

use regex_syntax::hir::{
    Look,
    literal::{ExtractKind, Extractor},
};

use super::{
    Name, NameEntry, ZoneConfig,
    options::longest,
    rewrite::{Rule, text_of},
};

/// What is kept from the kernel.
#[derive(Debug, Default)]
pub(super) struct Guard {
    config: Option<ZoneConfig>,
    /// Names that must have an entry.
    pins: BTreeMap<Name, Pin>,
    /// The names at or below these may exist, whatever the zone says.
    open: BTreeSet<Name>,
    /// Any name of the zone may.
    open_all: bool,
}

/// What an entry must not prove.
#[derive(Clone, Copy, Debug, Default)]
struct Pin {
    /// That Services are missing.
    opens_namespace: bool,
    /// That names below it are missing.
    opens_service: bool,
}

impl Guard {
    /// What a configuration asks for.
    pub(super) fn new(config: &ZoneConfig) -> Self {
        let options = &config.options;
        let mut guard = Self {
            config: Some(config.clone()),
            ..Self::default()
        };
        for zone in options.fallthrough.iter().chain(options.hosts.closed()) {
            guard.open(&config.domain, zone);
        }
        for zone in options.elsewhere.iter().chain(&options.aliases) {
            if zone.below(&config.domain).is_some() {
                guard.open(&config.domain, zone);
            }
        }
        for name in options.hosts.names() {
            guard.pin_name(&config.domain, name);
        }
        for rewrite in &options.rewrites {
            match open_of(&rewrite.rule, &config.domain) {
                Concerned::Nothing => {}
                Concerned::Name(name) => guard.pin_name(&config.domain, &name),
                Concerned::Below(zones) => {
                    zones
                        .iter()
                        .for_each(|zone| guard.open(&config.domain, zone));
                }
            }
        }
        guard
    }

    /// Whether the kernel may deny names at all.
    pub(super) const fn may_deny(&self) -> bool {
        !self.open_all
    }

    /// Whether nothing is kept from the kernel.
    pub(super) fn is_idle(&self) -> bool {
        self.pins.is_empty() && self.open.is_empty() && !self.open_all
    }

    /// Names that have an entry even where the zone has none.
    pub(super) fn pinned(&self) -> impl Iterator<Item = &Name> {
        self.pins.keys()
    }

    /// The entry that the kernel gets for one of the zone's.
    pub(super) fn cover(&self, name: &Name, entry: Option<NameEntry>) -> Option<NameEntry> {
        let pin = self.pins.get(name);
        if entry.is_none() && pin.is_none() {
            return None;
        }
        let concerned = self.concerns(name);
        let open = self.open_all || name.is_in(&self.open);
        let mut entry = match entry {
            None => {
                // It proves what the zone would prove without it.
                let depth = self.depth_below_svc(name);
                NameEntry {
                    complete: true,
                    absent: true,
                    namespace: depth == Some(1),
                    service: depth == Some(2),
                    listed: depth == Some(2),
                    ..NameEntry::default()
                }
            }
            Some(entry) => entry,
        };
        if concerned {
            entry = NameEntry {
                namespace: entry.namespace,
                service: entry.service,
                listed: entry.listed,
                ttl: entry.ttl,
                ..NameEntry::default()
            };
        }
        if open && entry.absent {
            entry.complete = false;
            entry.absent = false;
        }
        if let Some(pin) = pin {
            entry.namespace &= !pin.opens_namespace;
            entry.service &= !pin.opens_service;
            entry.listed &= !pin.opens_service;
        }
        Some(entry)
    }

    /// Whether somebody else than the zone may be asked first for a name.
    fn concerns(&self, name: &Name) -> bool {
        let Some(config) = &self.config else {
            return false;
        };
        let options = &config.options;
        let nested = |zones: &[Name]| {
            let zone = longest(name, zones);
            zone.is_some_and(|zone| {
                zone.below(&config.domain).is_some() || name.below(&config.domain).is_none()
            })
        };
        if nested(&options.elsewhere) || nested(&options.aliases) || options.hosts.concerns(name) {
            return true;
        }
        let matches = |text: &str| options.rewrites.iter().any(|r| r.rule.matches(text));
        !options.rewrites.is_empty() && matches(&text_of(name))
    }

    /// How many labels a name has left of `svc.<zone>`.
    fn depth_below_svc(&self, name: &Name) -> Option<usize> {
        let below = name.below(&self.config.as_ref()?.domain)?;
        (below.first() == Some(&&b"svc"[..])).then(|| below.len() - 1)
    }

    /// One name of the zone is not the zone's.
    fn pin_name(&mut self, domain: &Name, name: &Name) {
        let Some(below) = name.below(domain) else {
            return;
        };
        self.pins.entry(name.clone()).or_default();
        // What is below a Service that is not there is not looked at.
        if below.first() == Some(&&b"svc"[..]) && below.len() > 3 {
            self.pins.entry(ancestor(domain, &below, 3)).or_default();
        }
    }

    /// What is at or below a name may not be the zone's.
    fn open(&mut self, domain: &Name, zone: &Name) {
        if domain.below(zone).is_some() {
            self.open_all = true;
            return;
        }
        let Some(below) = zone.below(domain) else {
            return;
        };
        self.open.insert(zone.clone());
        let pins = &mut self.pins;
        let mut pin = |count: usize, pin: Pin| {
            let at = pins.entry(ancestor(domain, &below, count)).or_default();
            at.opens_namespace |= pin.opens_namespace;
            at.opens_service |= pin.opens_service;
        };
        let (nothing, mut namespace, mut service) =
            (Pin::default(), Pin::default(), Pin::default());
        namespace.opens_namespace = true;
        service.opens_service = true;
        match (below[0], below.len()) {
            (b"svc", 1) => self.open_all = true,
            (b"svc", 2) => pin(2, namespace),
            (b"svc", _) => {
                pin(2, nothing);
                pin(3, service);
            }
            (_, count) => {
                pin(1, nothing);
                pin(count, nothing);
            }
        }
    }
}

/// The name of the first so many labels from the right, under the zone.
fn ancestor(domain: &Name, below: &[&[u8]], count: usize) -> Name {
    let labels = below.iter().take(count);
    // Part of a name is a name.
    labels.fold(domain.clone(), |name, label| {
        name.child(label).unwrap_or(name)
    })
}

enum Concerned {
    Nothing,
    Name(Name),
    /// Names at or below these.
    Below(Vec<Name>),
}

/// Which names of the zone a rule may be for.
fn open_of(rule: &Rule, domain: &Name) -> Concerned {
    let below = |zones: Vec<Name>| {
        if zones.is_empty() {
            Concerned::Nothing
        } else {
            Concerned::Below(zones)
        }
    };
    match rule {
        Rule::Exact(from, _) => Name::from_text(from).map_or(Concerned::Nothing, Concerned::Name),
        Rule::Suffix(from, _) => below(around(from, domain).into_iter().collect()),
        Rule::Prefix(..) | Rule::Substring(..) => Concerned::Below(vec![domain.clone()]),
        Rule::Regex(pattern, _) => match endings(pattern.as_str()) {
            Some(endings) => below(
                endings
                    .iter()
                    .filter_map(|text| around(text, domain))
                    .collect(),
            ),
            None => Concerned::Below(vec![domain.clone()]),
        },
    }
}

/// The name at or below which all names of the zone are that end so; `None` where no name of the zone does.
fn around(ending: &str, domain: &Name) -> Option<Name> {
    let zone = text_of(domain);
    if zone.ends_with(ending) {
        return Some(domain.clone());
    }
    let inside = ending.strip_suffix(&zone)?;
    if !inside.ends_with('.') {
        // The ending is of a zone with a longer last label.
        return None;
    }
    // The leftmost label may be only a part of one.
    let (_, rest) = ending.split_once('.')?;
    Name::from_text(rest)
}

/// The endings of everything that an expression matches, where they can be had.
fn endings(pattern: &str) -> Option<Vec<String>> {
    let hir = regex_syntax::parse(pattern).ok()?;
    if !hir.properties().look_set_suffix().contains(Look::End) {
        return None;
    }
    let endings = Extractor::new()
        .kind(ExtractKind::Suffix)
        .clone()
        .extract(&hir);
    let endings = endings.literals()?.iter();
    endings
        .map(|literal| String::from_utf8(literal.as_bytes().to_vec()).ok())
        .map(|ending| ending.filter(|ending| !ending.is_empty()))
        .collect()
}
