//! Pods' host-side interfaces of this node, followed over rtnetlink as they come and go.
//!
//! A pod's interface is a veth whose other end is in another network namespace and whose name matches; routed or a
//! bridge's port makes no difference. The kernel's notices only say that it is time to look; what is there is read from a list of all links. So a notice
//! that is lost, or an interface that is renamed, is no special case.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::{sync::mpsc, time::sleep};

use crate::netlink::connect;

/// A container's network is set up in several steps; each of them is a notice.
const SETTLE: Duration = Duration::from_millis(2);
/// The list is read again after so long even without a notice.
const AGAIN: Duration = Duration::from_secs(10);

/// A pod's host-side interface of this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// News of interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceEvent {
    /// A pod's interface is there.
    Added(Interface),
    /// The interface with this index is gone.
    Removed(u32),
    /// Every interface that was there at the start was reported.
    Listed,
}

/// Follows the interfaces whose names match one of the patterns (`*` stands for any letters), in the network
/// namespace of the thread that runs this first, until nobody listens.
///
/// # Errors
/// Where netlink cannot be used.
pub async fn follow(
    patterns: Vec<String>,
    events: mpsc::Sender<InterfaceEvent>,
) -> anyhow::Result<()> {
    const FAILED: &str = "network interfaces cannot be listed; does the agent have CAP_NET_ADMIN?";
    let (mut handle, mut notices) = connect(&[MulticastGroup::Link]).context(FAILED)?;
    let mut known = BTreeMap::new();
    let mut first = true;
    loop {
        let now = list(&handle, &patterns).await.context(FAILED)?;
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
            notice = notices.next() => {
                if notice.is_none() {
                    // The kernel dropped notices that were not read in time, which ends the connection.
                    (handle, notices) = connect(&[MulticastGroup::Link]).context(FAILED)?;
                    continue;
                }
                sleep(SETTLE).await;
                while futures::FutureExt::now_or_never(notices.next()).flatten().is_some() {}
            }
            () = sleep(AGAIN) => {}
            () = events.closed() => return Ok(()),
        }
    }
}

async fn list(
    handle: &Handle,
    patterns: &[String],
) -> Result<BTreeMap<u32, String>, rtnetlink::Error> {
    let mut links = handle.link().get().execute();
    let mut found = BTreeMap::new();
    while let Some(link) = links.try_next().await? {
        if let Some(name) = pod_interface(&link)
            && patterns.iter().any(|pattern| matches(pattern, name))
        {
            found.insert(link.header.index, name.to_owned());
        }
    }
    Ok(found)
}

/// The name of a link that may be a pod's host-side interface. The kernel numbers the other end's namespace where it is
/// not this one.
fn pod_interface(link: &LinkMessage) -> Option<&str> {
    let mut name = None;
    let (mut veth, mut elsewhere) = (false, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.as_str()),
            LinkAttribute::LinkInfo(infos) => {
                veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            _ => {}
        }
    }
    name.filter(|_| veth && elsewhere)
}

/// What has to be said so that whoever knew `before` knows `after`. A renamed interface is a new one.
fn difference(
    before: &BTreeMap<u32, String>,
    after: &BTreeMap<u32, String>,
) -> Vec<InterfaceEvent> {
    let gone = before
        .iter()
        .filter(|(index, name)| after.get(index) != Some(name))
        .map(|(index, _)| InterfaceEvent::Removed(*index));
    let come = after
        .iter()
        .filter(|(index, name)| before.get(index) != Some(name))
        .map(|(index, name)| {
            InterfaceEvent::Added(Interface {
                index: *index,
                name: name.clone(),
            })
        });
    gone.chain(come).collect()
}

/// Whether a name matches a pattern in which `*` stands for any letters, also none.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            let mut starts = tail.char_indices().map(|(at, _)| at).chain([tail.len()]);
            starts.any(|at| matches(rest, &tail[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_letters() {
        for (pattern, name, is) in [
            ("veth*", "veth1a2b", true),
            ("veth*", "veth", true),
            ("veth*", "eth0", false),
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("*pod*", "my-pod-1", true),
            ("a*b", "ab", true),
            ("a*b", "abc", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn an_interface_that_is_renamed_goes_and_comes() {
        let named = |name: &str| BTreeMap::from([(7, name.to_owned())]);
        assert_eq!(
            difference(&named("veth1"), &named("veth2")),
            [
                InterfaceEvent::Removed(7),
                InterfaceEvent::Added(Interface {
                    index: 7,
                    name: "veth2".to_owned()
                })
            ]
        );
        assert_eq!(difference(&named("veth1"), &named("veth1")), []);
    }
}
