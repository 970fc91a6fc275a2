//! The cluster's DNS zone: one source of truth for the kernel's maps and for `signpost dns`. Pure.

mod entries;
mod guard;
mod hosts;
#[cfg(test)]
mod kernel_rule;
mod lookup;
pub mod name;
mod options;
mod resolve;
mod reverse;
pub mod rewrite;
mod selector;
mod service;
#[cfg(test)]
mod tests;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    model::ObjectName,
    registry::{Changes, Registry},
};

use guard::Guard;
use reverse::{Held, Reverse};
use service::{Kind, ServiceRecords};
use told::Told;

pub use hosts::{Hosts, HostsAnswer};
pub use lookup::NS;
pub use name::Name;
pub use options::{Options, Pods};
pub use resolve::Resolved;
pub use rewrite::Rewrite;
pub use selector::{NoSelector, Selector};

/// What building the zone has to know beside the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneConfig {
    /// The cluster domain, such as `cluster.local`.
    pub domain: Name,
    /// TTL of every record, in seconds (kubeadm's Corefile: 30).
    pub ttl: u32,
    /// The cluster DNS addresses: what `ns.dns.<zone>` leads to.
    pub dns: Vec<IpAddr>,
    /// What an operator says of it.
    pub options: Arc<Options>,
}

/// What is at a name, as the kernel may know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NameEntry {
    /// The zone's own name, which has the zone's SOA record.
    pub apex: bool,
    /// A namespace: Services that the zone has not do not exist.
    pub namespace: bool,
    /// A Service: more than two labels to its left do not exist.
    pub service: bool,
    /// Every name of one label to the left of this Service is an entry as well: another one does not exist.
    pub listed: bool,
    /// Every type that exists is in `a`, `aaaa`, `records` or `user`: another type is NODATA.
    pub complete: bool,
    /// The name above Pods' namespaces: names of Pods are the addresses that they spell, whatever Pods there are.
    pub pods: bool,
    /// With `complete`: another type is NXDOMAIN (CoreDNS, for names that it knows for one type only).
    pub absent: bool,
    /// A records, in order; rotated where there are several.
    pub a: Vec<std::net::Ipv4Addr>,
    /// AAAA records, likewise.
    pub aaaa: Vec<std::net::Ipv6Addr>,
    /// Answers to other questions, ordered by type: always the same. Aliases have theirs to A and AAAA here.
    pub records: Vec<(u16, Records)>,
    /// Types (numbers of RFC 1035) that exist and that only user space answers.
    pub user: Vec<u16>,
    /// TTL of the records, in seconds.
    pub ttl: u32,
}

/// The records of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Records {
    /// The answer section.
    pub answers: Vec<Record>,
    /// The additional section.
    pub additional: Vec<Record>,
}

/// A record of an answer. The owner is the question's name unless `owner` says another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Owner, where it is not the question's name.
    pub owner: Option<Name>,
    /// TTL in seconds.
    pub ttl: u32,
    /// Type and data.
    pub data: RecordData,
}

impl Record {
    /// Whether it is an A or an AAAA record.
    pub const fn is_address(&self) -> bool {
        matches!(self.data, RecordData::Address(_))
    }
}

/// Type and data of a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RecordData {
    /// Address.
    Address(IpAddr),
    /// Canonical name.
    Cname(Name),
    /// Server selection.
    Srv {
        /// Always 0.
        priority: u16,
        /// 100 divided by the number of records, at least 1.
        weight: u16,
        /// Port of the service.
        port: u16,
        /// Name of the host.
        target: Name,
    },
    /// Pointer.
    Ptr(Name),
    /// Text.
    Txt(String),
    /// Name server.
    Ns(Name),
    /// Start of authority, with the serial in the zone.
    Soa,
}

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The name is not in the zone (nor a reverse name that the zone knows): ask upstream.
    Outside,
    /// Records.
    Answer {
        /// The answer section.
        answers: Vec<Record>,
        /// The additional section.
        additional: Vec<Record>,
    },
    /// An alias of a name outside the zone: this CNAME, then what upstream says of its target.
    Alias {
        /// The CNAME records so far.
        answers: Vec<Record>,
        /// The name to ask upstream for.
        target: Name,
    },
    /// The name exists, the type does not.
    NoData,
    /// The name does not exist.
    NxDomain,
}

/// The zone.
#[derive(Debug)]
pub struct Zone {
    config: ZoneConfig,
    guard: Guard,
    serial: u32,
    told: Option<Told>,
    namespaces: BTreeSet<Arc<str>>,
    services: BTreeMap<ObjectName, ServiceRecords>,
    /// Addresses of Pods by namespace, where names of Pods are verified and answered.
    pods: HashMap<Arc<str>, HashSet<IpAddr>>,
    reverse: Reverse,
    /// A Service, and an alias that leads over it.
    aliases: BTreeSet<(ObjectName, ObjectName)>,
    /// An alias, and the Services that it leads over.
    ways: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
}

/// Addresses whose reverse names may have changed, and whether the kernel may have known them.
type Pointers = BTreeMap<IpAddr, bool>;

impl Zone {
    /// An empty zone that tells what the kernel may know of it: not even of an apex before the first update.
    pub fn new(config: ZoneConfig) -> Self {
        Self {
            told: Some(Told::default()),
            ..Self::answering(config)
        }
    }

    /// An empty zone that only answers: of its changes it tells nothing.
    pub fn answering(config: ZoneConfig) -> Self {
        Self {
            guard: Guard::new(&config),
            config,
            serial: 0,
            told: None,
            namespaces: BTreeSet::new(),
            services: BTreeMap::new(),
            pods: HashMap::new(),
            reverse: Reverse::default(),
            aliases: BTreeSet::new(),
            ways: BTreeMap::new(),
        }
    }

    /// Takes over what changed. `serial` is the SOA serial from now on (seconds since 1970). Returns the names whose
    /// entry changed, with their new entry (`None`: gone).
    pub fn update(
        &mut self,
        registry: &Registry,
        changes: &Changes,
        serial: u32,
    ) -> BTreeMap<Name, Option<NameEntry>> {
        self.serial = serial;
        let mut changed = BTreeMap::new();
        if self.told.as_ref().is_some_and(Told::is_empty) {
            let pinned: Vec<Name> = self.guard.pinned().cloned().collect();
            for name in pinned {
                self.set(name, None, &mut changed);
            }
            for (name, entry) in self.fixed() {
                self.set(name, Some(entry), &mut changed);
            }
        }
        let mut services = changes.services.clone();
        for namespace in &changes.namespaces {
            let options = &self.config.options;
            let labels = registry.namespace_labels(namespace);
            let exists = labels.is_some_and(|labels| options.namespace_labels.matches(labels))
                && options.exposes(namespace);
            let differs = if exists {
                self.namespaces.insert(namespace.clone())
            } else {
                self.namespaces.remove(namespace)
            };
            if !differs {
                continue;
            }
            if let Some(name) = self.namespace_name(namespace) {
                let entry = self.namespace();
                self.set(name, exists.then_some(entry), &mut changed);
            }
            let first = ObjectName::new(namespace.clone(), "");
            let known = self.services.range(first..).map(|(name, _)| name);
            services.extend(
                known
                    .take_while(|name| name.namespace == *namespace)
                    .cloned(),
            );
        }
        self.update_pods(registry, changes);
        let mut pointers = Pointers::default();
        let mut aliases = BTreeSet::new();
        for service in services {
            let led_over = (service.clone(), ObjectName::new("", ""))..;
            let led_over = self.aliases.range(led_over);
            let of_this = led_over.take_while(|(over, _)| *over == service);
            aliases.extend(of_this.map(|(_, alias)| alias.clone()));
            self.update_service(registry, service, &mut changed, &mut pointers);
        }
        for alias in aliases {
            self.update_service(registry, alias, &mut changed, &mut pointers);
        }
        if self.told.is_none() {
            return changed;
        }
        if self.config.dns.iter().any(|a| pointers.contains_key(a)) {
            let apex = self.apex();
            self.set(self.config.domain.clone(), Some(apex), &mut changed);
        }
        for (address, was_known) in pointers {
            let is_known = self.has_pointer(address);
            if (is_known || was_known)
                && let Some(name) = reverse::name(address)
            {
                let entry = is_known.then(|| self.pointer(&name));
                self.set(name, entry, &mut changed);
            }
        }
        changed
    }

    /// Every name that was told of and is not gone.
    ///
    /// The kernel's rule for a name that is not in here: NXDOMAIN where the label below the zone, the namespace or the
    /// Service is not in here either, or where more than two labels are left of a Service, or one of a Service that is
    /// `listed`; else it asks user space. Of reverse names it knows those that are in here, and nothing of others.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &Name> {
        static NONE: BTreeMap<Name, u64> = BTreeMap::new();
        let told = self.told.as_ref().map(|told| &told.digests);
        told.unwrap_or(&NONE).keys()
    }

    /// Whether the kernel may deny names. Where it may not, an operator's rules can make any name exist.
    pub const fn may_deny(&self) -> bool {
        self.guard.may_deny()
    }

    /// The Service that a name belongs to: names wait for it, and go before it.
    pub fn service_of(&self, name: &Name) -> Option<ObjectName> {
        let labels = name.below(&self.config.domain)?;
        let [b"svc", namespace, service, ..] = labels.as_slice() else {
            return None;
        };
        let text = |label| std::str::from_utf8(label).ok();
        Some(ObjectName::new(text(namespace)?, text(service)?))
    }

    /// The configuration.
    pub fn config(&self) -> &ZoneConfig {
        &self.config
    }

    /// The SOA serial.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Every Service that the zone knows, also those of which only EndpointSlices exist.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.services.keys()
    }

    /// Takes over the addresses of Pods. The kernel is told nothing of them: it passes such names on.
    fn update_pods(&mut self, registry: &Registry, changes: &Changes) {
        if self.told.is_some() || self.config.options.pods != Pods::Verified {
            return;
        }
        for at in &changes.pods {
            let (namespace, address) = at;
            let labels = &self.config.options.labels;
            if registry.pods_at(at).any(|pod| labels.matches(&pod.labels)) {
                let of_namespace = self.pods.entry(namespace.clone()).or_default();
                of_namespace.insert(*address);
            } else if let Some(of_namespace) = self.pods.get_mut(namespace) {
                of_namespace.remove(address);
                if of_namespace.is_empty() {
                    self.pods.remove(namespace);
                }
            }
        }
    }

    /// Takes over a Service. The addresses whose reverse names may have changed go to `pointers`.
    fn update_service(
        &mut self,
        registry: &Registry,
        name: ObjectName,
        changed: &mut BTreeMap<Name, Option<NameEntry>>,
        pointers: &mut Pointers,
    ) {
        let own = self.service_name(&name);
        let old = self.services.remove(&name).unwrap_or_default();
        let mut before: BTreeSet<Held> = old.held().collect();
        for held in &before {
            let known = matches!(held, Held::Own(_)) || old.kind == Kind::Headless;
            *pointers.entry(held.address()).or_default() |= known;
        }
        let known_as = old.number;
        for over in self.ways.remove(&name).unwrap_or_default() {
            self.aliases.remove(&(over, name.clone()));
        }
        let mut entries: BTreeMap<Name, Option<NameEntry>> = BTreeMap::new();
        if self.told.is_some() {
            let gone = own.iter().flat_map(|own| old.names(own));
            entries.extend(gone.map(|name| (name, None)));
        }
        drop(old);

        let records = ServiceRecords::new(registry, &name, &self.config.options);
        if let Some(mut records) = records {
            let number = known_as.unwrap_or_else(|| self.reverse.enter(name.clone()));
            records.number = Some(number);
            for held in records.held() {
                pointers.entry(held.address()).or_default();
                if !before.remove(&held) {
                    self.reverse.insert(held, number);
                }
            }
            self.services.insert(name.clone(), records);
        }
        if let Some(number) = known_as {
            for held in before {
                self.reverse.remove(held, number);
            }
            if !self.services.contains_key(&name) {
                self.reverse.leave(number);
            }
        }
        if let (Some(records), Some(own)) = (self.services.get(&name), &own) {
            let way = self.way_of(Some(records));
            if !way.is_empty() {
                let led_over = way.iter().map(|over| (over.clone(), name.clone()));
                self.aliases.extend(led_over);
                self.ways.insert(name.clone(), way);
            }
            if self.told.is_some() && self.namespaces.contains(&name.namespace) {
                let new = self.entries_of(own, records).into_iter();
                entries.extend(new.map(|(name, entry)| (name, Some(entry))));
            }
        }
        for (name, entry) in entries {
            self.set(name, entry, changed);
        }
    }

    fn set(
        &mut self,
        name: Name,
        entry: Option<NameEntry>,
        changed: &mut BTreeMap<Name, Option<NameEntry>>,
    ) {
        let Some(told) = &mut self.told else {
            return;
        };
        let entry = self.guard.cover(&name, entry);
        if told.tell(&name, entry.as_ref()) {
            changed.insert(name, entry);
        }
    }

    fn namespace_name(&self, namespace: &str) -> Option<Name> {
        self.config.domain.child("svc")?.child(namespace)
    }

    fn service_name(&self, service: &ObjectName) -> Option<Name> {
        self.namespace_name(&service.namespace)?
            .child(&*service.name)
    }

    fn ns_dns(&self) -> Option<Name> {
        self.config.domain.child("dns")?.child("ns")
    }
}
