//! The interfaces of this node that get programs, followed over rtnetlink as they come and go: pods' host-side
//! interfaces, uplinks and tunnels.
//!
//! A pod's interface is a veth whose other end is in another network namespace and whose name matches; routed or a
//! bridge's port makes no difference. The kernel's notices only say that it is time to look; what is there is read from a
//! list of all links and addresses. So a notice that is lost, or an interface that is renamed, is no special case.

mod survey;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::mpsc;

pub use survey::Addresses;
use survey::Link;

use crate::{netlink::Watch, pattern};

/// What the kernel gives notice of.
const NEWS: [MulticastGroup; 3] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];
/// The list is read again after so long even without a notice.
const AGAIN: Duration = Duration::from_secs(10);

/// An interface of this node that gets programs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What is beyond it.
    pub place: Place,
    /// Its packets have an Ethernet header.
    pub ethernet: bool,
    /// What this namespace calls the one that the other end of a pod's interface is in.
    pub beyond: Option<i32>,
    /// The addresses that masqueraded packets get when they leave by it: its own, else those of the bridge that it is
    /// a port of. Where it has none the node's are used.
    pub addresses: Addresses,
}

/// What is beyond an interface, which says what programs it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A pod.
    Pod,
    /// Other machines: an uplink or a tunnel.
    Wire,
    /// The same where packets begin with the IP header: IPIP, WireGuard, a TUN device and such.
    Bare,
}

/// Names of interfaces; `*` stands for any letters.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    /// Those of pods' interfaces.
    pub pods: Vec<String>,
    /// Those of uplinks and tunnels; none lets them be found.
    pub wires: Vec<String>,
}

/// News of interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceEvent {
    /// An interface is there, or its addresses are others now.
    Added(Interface),
    /// The interface with this index is gone.
    Removed(u32),
    /// Every interface that was there at the start was reported.
    Listed,
}

/// Follows the interfaces in the network namespace of the thread that runs this first, until nobody listens.
///
/// # Errors
/// Where netlink cannot be used.
pub async fn follow(
    patterns: Patterns,
    events: mpsc::Sender<InterfaceEvent>,
) -> anyhow::Result<()> {
    const FAILED: &str = "network interfaces cannot be listed; does the agent have CAP_NET_ADMIN?";
    let mut watch = Watch::open(&NEWS).context(FAILED)?;
    let mut known = BTreeMap::new();
    let mut first = true;
    loop {
        let now = list(&watch.handle, &patterns).await.context(FAILED)?;
        let mut news = difference(&known, &now);
        if std::mem::take(&mut first) {
            news.push(InterfaceEvent::Listed);
        }
        known = now;
        for event in news {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            news = watch.news(AGAIN) => drop(news.context(FAILED)?),
            () = events.closed() => return Ok(()),
        }
    }
}

async fn list(
    handle: &Handle,
    patterns: &Patterns,
) -> Result<BTreeMap<u32, Interface>, rtnetlink::Error> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
    let links: Vec<Link> = links.iter().map(Link::of).collect();
    Ok(survey::survey(
        &links,
        &survey::addresses(&addresses),
        patterns,
    ))
}

/// What has to be said so that whoever knew `before` knows `after`. A renamed interface is a new one; one with other
/// addresses stays what it is.
fn difference(
    before: &BTreeMap<u32, Interface>,
    after: &BTreeMap<u32, Interface>,
) -> Vec<InterfaceEvent> {
    let is_same = |one: &Interface, other: &Interface| {
        (&one.name, one.place, one.ethernet) == (&other.name, other.place, other.ethernet)
    };
    let gone = before
        .values()
        .filter(|old| after.get(&old.index).is_none_or(|new| !is_same(old, new)))
        .map(|old| InterfaceEvent::Removed(old.index));
    let come = after
        .values()
        .filter(|new| before.get(&new.index) != Some(new))
        .map(|new| InterfaceEvent::Added(new.clone()));
    gone.chain(come).collect()
}

/// Whether a name matches one of the patterns.
fn matches_any(patterns: &[String], name: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| pattern::matches(pattern, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Interface {
        Interface {
            index: 7,
            name: name.to_owned(),
            place: Place::Pod,
            ethernet: true,
            beyond: Some(3),
            addresses: Addresses::default(),
        }
    }

    fn news(before: Interface, after: Interface) -> Vec<InterfaceEvent> {
        difference(
            &BTreeMap::from([(7, before)]),
            &BTreeMap::from([(7, after)]),
        )
    }

    #[test]
    fn an_interface_that_is_renamed_or_has_another_place_goes_and_comes() {
        let wire = Interface {
            place: Place::Wire,
            ..named("veth1")
        };
        for after in [named("veth2"), wire] {
            assert_eq!(
                news(named("veth1"), after.clone()),
                [InterfaceEvent::Removed(7), InterfaceEvent::Added(after)]
            );
        }
        assert_eq!(news(named("veth1"), named("veth1")), []);
    }

    #[test]
    fn an_interface_with_another_address_stays() {
        let after = Interface {
            addresses: Addresses {
                v4: Some([192, 0, 2, 1].into()),
                v6: None,
            },
            ..named("eth0")
        };
        assert_eq!(
            news(named("eth0"), after.clone()),
            [InterfaceEvent::Added(after)]
        );
    }
}
