//! Where signpost differs from kube-proxy on purpose, and what it shows instead. A scenario says what kube-proxy shows.

use std::collections::BTreeSet;

use signpost_tests::lab::probe::Protocol;

use crate::{
    place::THE_WORLD,
    run::Look,
    scenario::{At, Expect, Observed, Source},
    world::Mode,
};

mod ebpf;
mod ipvs;

/// A difference.
pub(crate) struct Difference {
    pub(crate) why: &'static str,
    instead: Instead,
}

/// What signpost shows instead; nothing where both show the same.
enum Instead {
    /// In place of each that kube-proxy shows.
    Each(fn(&Look<'_>, &Observed) -> Option<Observed>),
    /// Any of these.
    AnyOf(fn(&Look<'_>) -> Option<BTreeSet<Observed>>),
}

/// All differences of a mode. The first that says something counts.
pub(crate) const fn of(mode: Mode) -> &'static [Difference] {
    match mode {
        Mode::Ebpf => ebpf::ALL,
        Mode::Ipvs => ipvs::ALL,
    }
}

// Of both modes.

const OF_ANOTHER_PROXY: Difference = Difference {
    why: "the address of a Service that another proxy serves is left to that proxy; kube-proxy drops what is for it",
    instead: Instead::Each(|look, kube_proxy| {
        (*kube_proxy == Observed::Silence && look.is_for_another_proxy()).then(|| {
            Observed::Answer {
                by: THE_WORLD.to_owned(),
                to: Source::Own,
            }
        })
    }),
};

const REFUSED_TO_DATAGRAMS: Difference = Difference {
    why: "a process of the host that is refused learns so from its datagrams too; kube-proxy's rule keeps these \
          from leaving, which says EPERM before the refusal is there",
    instead: Instead::Each(|look, kube_proxy| {
        let refused = BTreeSet::from([Observed::Refused]);
        (look.is_of_host()
            && look.protocol == Protocol::Udp
            && *kube_proxy == Observed::Denied
            && look.with_tcp.as_ref() == Some(&refused))
        .then_some(Observed::Refused)
    }),
};

const REFUSED_TO_PINGS: Difference = Difference {
    why: "a process of the host that pings a Service is refused; kube-proxy's rule keeps its packet from leaving, \
          which says EPERM",
    instead: Instead::Each(|look, kube_proxy| {
        (look.is_of_host()
            && look.protocol == Protocol::Ping
            && *kube_proxy == Observed::Denied
            && look.case.target.at == At::ClusterIp)
            .then_some(Observed::Refused)
    }),
};

/// What signpost shows where kube-proxy shows this.
pub(crate) fn instead(look: &Look<'_>, kube_proxy: &Expect) -> Expect {
    if let Some((_, any)) = any_of(look) {
        return Expect::AnyOf(any);
    }
    let change = |set: &BTreeSet<Observed>| -> BTreeSet<Observed> {
        set.iter().map(|seen| changed(look, seen).1).collect()
    };
    match kube_proxy {
        Expect::All(all) => Expect::All(change(all)),
        Expect::One(some) => Expect::One(change(some)),
        Expect::AnyOf(any) => Expect::AnyOf(change(any)),
        Expect::TheSame => Expect::TheSame,
    }
}

/// The differences that count for a look, by their place in the list.
pub(crate) fn counting(look: &Look<'_>, seen: &BTreeSet<Observed>) -> BTreeSet<usize> {
    if let Some((number, _)) = any_of(look) {
        return BTreeSet::from([number]);
    }
    seen.iter()
        .filter_map(|seen| changed(look, seen).0)
        .collect()
}

fn any_of(look: &Look<'_>) -> Option<(usize, BTreeSet<Observed>)> {
    let mut list = of(look.mode).iter().enumerate();
    list.find_map(|(number, difference)| match difference.instead {
        Instead::AnyOf(any) => Some((number, any(look)?)),
        Instead::Each(_) => None,
    })
}

fn changed(look: &Look<'_>, seen: &Observed) -> (Option<usize>, Observed) {
    let mut list = of(look.mode).iter().enumerate();
    list.find_map(|(number, difference)| {
        let Instead::Each(instead) = difference.instead else {
            return None;
        };
        let instead = instead(look, seen)?;
        let differs = instead != *seen;
        Some((differs.then_some(number), instead))
    })
    .unwrap_or_else(|| (None, seen.clone()))
}
