//! Which pods are served at their sockets: those that no interface with programs leads to, or all.

use std::collections::BTreeSet;

use clap::ValueEnum;

use super::{Agent, AtInterfaces};
use crate::{
    dataplane::Refusal,
    namespaces::{Namespaces, PodNamespace, Served, SocketPod},
};

/// Which pods are served at their sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PodSockets {
    /// Those that no interface with programs leads to.
    Missing,
    /// The same, and all others for TCP.
    All,
    /// None.
    None,
}

impl std::fmt::Display for PodSockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::All => "all",
            Self::None => "none",
        })
    }
}

/// What the loop knows of them.
#[derive(Debug)]
pub(super) struct SocketPods {
    which: PodSockets,
    namespaces: Namespaces,
    /// What the dataplane was told last.
    told: Option<Vec<SocketPod>>,
    /// What it could not carry out.
    refused: Vec<Refusal>,
}

impl Default for SocketPods {
    fn default() -> Self {
        Self {
            which: PodSockets::None,
            namespaces: Namespaces::default(),
            told: None,
            refused: Vec::new(),
        }
    }
}

impl SocketPods {
    /// What the dataplane could not carry out.
    pub(super) fn refused(&self) -> impl Iterator<Item = Refusal> {
        self.refused.iter().cloned()
    }

    /// For operators.
    pub(super) fn text(&self) -> String {
        let pods = self.told.as_deref().unwrap_or_default();
        text(self.which, &self.namespaces, pods)
    }
}

impl<D: AtInterfaces> Agent<D> {
    /// Lets pods be served at their sockets as well; without this none is.
    #[must_use]
    pub fn with_pod_sockets(mut self, which: PodSockets) -> Self {
        self.socket_pods.which = which;
        self
    }

    /// Takes in the pods' namespaces.
    pub(super) fn namespaces(&mut self, namespaces: Namespaces) {
        self.socket_pods.namespaces = namespaces;
        self.serve_sockets();
    }

    /// Tells the dataplane who is served at their sockets, where that changed or it could not carry it out. At the start
    /// every pod seems to have no interface, so that waits for these.
    pub(super) fn serve_sockets(&mut self) {
        if !self.missing.is_empty() {
            return;
        }
        let attached = self
            .interfaces
            .values()
            .filter(|interface| !self.unattached.contains_key(&interface.index));
        let attached = attached.filter_map(|interface| interface.beyond).collect();
        let pods = choose(
            self.socket_pods.which,
            &self.socket_pods.namespaces,
            &attached,
        );
        let known = self.socket_pods.told.as_ref();
        if known == Some(&pods) && self.socket_pods.refused.is_empty() {
            return;
        }
        self.socket_pods.refused = self.dataplane.serve_at_sockets(&pods);
        self.socket_pods.told = Some(pods);
    }
}

/// What is served of each pod. `at_interfaces` are the namespaces that interfaces with programs lead to.
fn choose(
    which: PodSockets,
    namespaces: &Namespaces,
    at_interfaces: &BTreeSet<i32>,
) -> Vec<SocketPod> {
    let served = |pod: &PodNamespace| {
        let at_interface = pod.id.is_some_and(|id| at_interfaces.contains(&id));
        let has_address = pod.addresses.v4.is_some() || pod.addresses.v6.is_some();
        match which {
            PodSockets::None => Served::Nothing,
            _ if !has_address => Served::Nothing,
            PodSockets::All if at_interface => Served::Tcp,
            PodSockets::Missing if at_interface => Served::Nothing,
            PodSockets::All | PodSockets::Missing => Served::Everything,
        }
    };
    let pods = namespaces.pods.iter().map(|pod| SocketPod {
        namespace: pod.clone(),
        served: served(pod),
    });
    pods.collect()
}

/// For operators: who is served so, and why nobody can be.
fn text(which: PodSockets, namespaces: &Namespaces, pods: &[SocketPod]) -> String {
    if which == PodSockets::None {
        return "none (--pod-sockets none)".to_owned();
    }
    let mut parts = Vec::new();
    let of = |served: Served| -> Vec<&str> {
        let some = pods.iter().filter(|pod| pod.served == served);
        some.map(|pod| pod.namespace.name.as_str()).collect()
    };
    let everything = of(Served::Everything);
    if !everything.is_empty() {
        let names = everything.join(", ");
        parts.push(format!("no interface with programs leads to {names}"));
    }
    let tcp = of(Served::Tcp).len();
    if tcp > 0 {
        parts.push(format!("TCP of {tcp} others"));
    }
    if let Some(trouble) = &namespaces.trouble {
        parts.push(trouble.clone());
    } else if namespaces.pods.is_empty() {
        parts.push("no pod's network namespace is seen here (--netns-folders)".to_owned());
    }
    if parts.is_empty() {
        parts.push("none needed".to_owned());
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::Addresses;

    fn node() -> Namespaces {
        let some = Addresses {
            v4: Some([10, 244, 1, 9].into()),
            v6: None,
        };
        let pods = vec![
            PodNamespace::known(1, "veth", Some(7), some),
            PodNamespace::known(2, "foreign", Some(8), some),
            PodNamespace::known(3, "macvlan", None, some),
            PodNamespace::known(4, "unfinished", None, Addresses::default()),
        ];
        Namespaces {
            pods,
            trouble: None,
        }
    }

    #[test]
    fn pods_that_no_interface_with_programs_leads_to_are_served_at_their_sockets() {
        use Served::{Everything, Nothing, Tcp};
        for (which, expected) in [
            (
                PodSockets::Missing,
                [Nothing, Everything, Everything, Nothing],
            ),
            (PodSockets::All, [Tcp, Everything, Everything, Nothing]),
            (PodSockets::None, [Nothing; 4]),
        ] {
            let chosen = choose(which, &node(), &BTreeSet::from([7]));
            let served: Vec<Served> = chosen.iter().map(|pod| pod.served).collect();
            assert_eq!(served, expected, "{which}");
        }
    }

    #[test]
    fn operators_are_told_who_is_served_so_and_why_nobody_can_be() {
        let node = node();
        let said = |which, namespaces: &Namespaces, at: &[i32]| {
            let at = at.iter().copied().collect();
            text(which, namespaces, &choose(which, namespaces, &at))
        };
        assert_eq!(
            said(PodSockets::Missing, &node, &[7]),
            "no interface with programs leads to foreign, macvlan"
        );
        assert_eq!(
            said(PodSockets::All, &node, &[7, 8]),
            "no interface with programs leads to macvlan; TCP of 2 others"
        );
        let none = Namespaces::default();
        let nobody = "no pod's network namespace is seen here (--netns-folders)";
        assert_eq!(said(PodSockets::Missing, &none, &[]), nobody);
        let denied = Namespaces {
            trouble: Some("/run/netns/x cannot be entered: EPERM".to_owned()),
            ..none
        };
        assert_eq!(
            said(PodSockets::Missing, &denied, &[]),
            "/run/netns/x cannot be entered: EPERM"
        );
    }
}
