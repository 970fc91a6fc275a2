//! This node's own addresses, followed over rtnetlink as they come and go.
//!
//! As for interfaces, the kernel's notices only say that it is time to look; what is there is read from a list.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;

use crate::{dataplane::ipvs::INTERFACE, netlink::Watch};

/// The list is read again after so long even without a notice.
const AGAIN: Duration = Duration::from_secs(10);
/// Destinations that no packet is sent to: their way leads by the default route (RFC 5737, RFC 3849).
const FAR: [(&str, &str); 2] = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];

/// What changes addresses, and which of them is preferred.
const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// What the node's interfaces have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    /// All addresses, those of the loopback included.
    pub all: BTreeSet<IpAddr>,
    /// The addresses that packets by the default routes come from, as the kubelet finds a node's addresses.
    pub preferred: BTreeSet<IpAddr>,
}

/// Follows the addresses of the network namespace of the thread that runs this first, until nobody listens.
///
/// # Errors
/// Where netlink cannot be used.
pub async fn follow(addresses: watch::Sender<Option<LocalAddresses>>) -> anyhow::Result<()> {
    const FAILED: &str =
        "this node's addresses cannot be listed; does the agent have CAP_NET_ADMIN?";
    let mut watch = Watch::open(&GROUPS).context(FAILED)?;
    loop {
        let now = Some(list(&watch.handle).await.context(FAILED)?);
        addresses.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        tokio::select! {
            news = watch.news(AGAIN) => drop(news.context(FAILED)?),
            () = addresses.closed() => return Ok(()),
        }
    }
}

async fn list(handle: &Handle) -> Result<LocalAddresses, rtnetlink::Error> {
    // Those of Services are not the node's own.
    let services = nix::net::if_::if_nametoindex(INTERFACE).ok();
    let mut listed = handle.address().get().execute();
    let mut all = BTreeSet::new();
    while let Some(message) = listed.try_next().await? {
        if services != Some(message.header.index) {
            all.extend(address(&message));
        }
    }
    Ok(LocalAddresses {
        all,
        preferred: preferred(),
    })
}

/// The addresses that packets by the default routes come from, in the network namespace of the calling thread.
pub(crate) fn preferred() -> BTreeSet<IpAddr> {
    FAR.iter()
        .filter_map(|(from, to)| source(from, to))
        .collect()
}

/// The interface's own address; on a point-to-point link the other attribute is the peer's.
pub(crate) fn address(message: &AddressMessage) -> Option<IpAddr> {
    let mut of_link = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => of_link = Some(*address),
            _ => {}
        }
    }
    of_link
}

/// The address that the kernel would choose; connecting a UDP socket sends nothing.
fn source(from: &str, to: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    let address = socket.local_addr().as_ref().map(SocketAddr::ip).ok()?;
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.attributes = attributes;
        message
    }

    #[test]
    fn an_address_of_a_point_to_point_link_is_its_own() {
        let [own, peer]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|a| a.parse().unwrap());
        let both = message(vec![
            AddressAttribute::Address(peer),
            AddressAttribute::Local(own),
        ]);
        assert_eq!(address(&both), Some(own));
        assert_eq!(
            address(&message(vec![AddressAttribute::Address(own)])),
            Some(own)
        );
        assert_eq!(address(&message(vec![])), None);
    }

    #[tokio::test]
    async fn the_loopback_is_among_the_addresses() {
        let (sender, mut addresses) = watch::channel(None);
        tokio::spawn(follow(sender));
        let known = addresses
            .wait_for(Option::is_some)
            .await
            .unwrap()
            .clone()
            .unwrap();
        assert!(
            known.all.contains(&IpAddr::from([127, 0, 0, 1])),
            "{known:?}"
        );
        assert!(known.preferred.is_subset(&known.all), "{known:?}");
    }
}
