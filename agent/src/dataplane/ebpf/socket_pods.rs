//! Pods that are served at their sockets: the map that tells the programs of sockets whose these are.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::PathBuf,
};

use anyhow::Context as _;
use signpost_common::{Address, socket::PodValue};
use tracing::info;

use super::{
    differ::Differ,
    host,
    program::Programs,
    tables::{KernelTables, SocketPods as Elements, Tables},
};
use crate::{
    dataplane::Refusal,
    namespaces::{PodNamespace, Served, SocketPod},
};

/// Who is served so.
#[derive(Debug, Default)]
pub(super) struct SocketPods {
    cgroup_root: Option<PathBuf>,
    /// An agent before this one served some.
    inherited: bool,
    /// By their inode numbers the namespaces whose sockets may have a backend, and whether those of UDP may: sockets
    /// keep theirs when the pod is not served so any more.
    looked_at: BTreeMap<u64, (PodNamespace, bool)>,
    /// Cookies of namespaces, by their inode numbers.
    cookies: BTreeMap<u64, u64>,
    written: BTreeMap<u64, PodValue>,
}

impl SocketPods {
    /// Finds those of an agent before this one, who stay until [`SocketPods::serve`].
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub(super) fn open(cgroup_root: Option<PathBuf>, tables: &KernelTables) -> io::Result<Self> {
        let mut written = BTreeMap::new();
        tables.for_each::<Elements>(&mut |namespace, pod| {
            written.insert(*namespace, *pod);
        })?;
        Ok(Self {
            cgroup_root,
            inherited: !written.is_empty(),
            written,
            ..Self::default()
        })
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// The namespaces whose sockets may have a backend.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &PodNamespace> {
        self.looked_at.values().map(|(namespace, _)| namespace)
    }

    /// Those of them whose sockets of UDP may.
    pub(super) fn with_datagrams(&self) -> impl Iterator<Item = &PodNamespace> {
        let with = self.looked_at.values().filter(|(_, datagrams)| *datagrams);
        with.map(|(namespace, _)| namespace)
    }

    /// Serves these pods and no others. Returns those that cannot be, with the reason.
    pub(super) fn serve(
        &mut self,
        pods: &[SocketPod],
        tables: &mut KernelTables,
        differ: &mut Differ,
        programs: &mut Programs,
    ) -> Vec<Refusal> {
        self.note(pods);
        let mut refused = Vec::new();
        let mut wanted = BTreeMap::new();
        for SocketPod { namespace, served } in pods {
            let flags = match served {
                Served::Nothing => continue,
                Served::Tcp => PodValue::TCP_ONLY,
                Served::Everything => 0,
            };
            match self.cookie(namespace, programs) {
                Ok(cookie) => drop(wanted.insert(cookie, value(cookie, namespace, flags))),
                Err(why) => refused.push(Refusal {
                    object: format!("pod {}", namespace.name),
                    reason: format!(
                        "no interface with programs leads to it, and at its sockets it cannot be served: {why}"
                    ),
                }),
            }
        }
        if let Err(error) = self.write(wanted, tables, differ) {
            refused.push(Refusal {
                object: "pods at their sockets".to_owned(),
                reason: format!("{error:#}"),
            });
        }
        refused
    }

    /// Takes in which namespaces there are, and forgets those that are gone.
    fn note(&mut self, pods: &[SocketPod]) {
        let before = std::mem::take(&mut self.looked_at);
        for SocketPod { namespace, served } in pods {
            let was = before.get(&namespace.inode);
            let datagrams = self.inherited
                || *served == Served::Everything
                || was.is_some_and(|(_, datagrams)| *datagrams);
            if datagrams || *served == Served::Tcp || was.is_some() {
                self.looked_at
                    .insert(namespace.inode, (namespace.clone(), datagrams));
            }
        }
        let open: BTreeSet<u64> = pods.iter().map(|pod| pod.namespace.inode).collect();
        self.cookies.retain(|inode, _| open.contains(inode));
    }

    fn write(
        &mut self,
        wanted: BTreeMap<u64, PodValue>,
        tables: &mut KernelTables,
        differ: &mut Differ,
    ) -> anyhow::Result<()> {
        let gone = |namespace: &u64| !wanted.contains_key(namespace);
        let gone: Vec<u64> = self.written.keys().copied().filter(gone).collect();
        tables
            .delete::<Elements>(&gone)
            .context("pods stay served at their sockets")?;
        self.written
            .retain(|namespace, _| !gone.contains(namespace));
        let new: Vec<_> = wanted
            .into_iter()
            .filter(|(namespace, pod)| self.written.get(namespace) != Some(pod))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let failed = tables.put::<Elements>(&new);
        let places: BTreeSet<usize> = failed.iter().map(|failed| failed.index).collect();
        let written = new.iter().enumerate();
        let written = written.filter(|(place, _)| !places.contains(place));
        self.written.extend(written.map(|(_, element)| *element));
        differ.look_at_pods_sockets(tables)?;
        info!(
            pods = self.written.len(),
            "pods are served at their sockets"
        );
        match failed.into_iter().next() {
            Some(failed) => Err(anyhow::anyhow!("{failed}")),
            None => Ok(()),
        }
    }

    /// The cookie of a pod's namespace, or why it is not known.
    fn cookie(&mut self, namespace: &PodNamespace, programs: &mut Programs) -> Result<u64, String> {
        if let Some(cookie) = self.cookies.get(&namespace.inode) {
            return Ok(*cookie);
        }
        let cookie = host::cookie(Some(namespace), self.cgroup_root.as_deref(), programs)?;
        self.cookies.insert(namespace.inode, cookie);
        Ok(cookie)
    }
}

fn value(cookie: u64, namespace: &PodNamespace, flags: u32) -> PodValue {
    let addresses = namespace.addresses;
    let v4 = addresses.v4.map(IpAddr::V4).map(Address::from);
    let v6 = addresses.v6.map(IpAddr::V6).map(Address::from);
    PodValue {
        namespace: cookie,
        v4: v4.unwrap_or(Address::v4([0; 4])),
        v6: v6.unwrap_or(Address::UNSPECIFIED),
        flags,
        pad: 0,
    }
}
