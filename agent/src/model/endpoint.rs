//! Endpoints: there are ten times as many of them as of anything else, so that each byte counts.

use std::{fmt, net::IpAddr, ops::Deref, sync::Arc};

use serde::{Deserialize, Serialize};

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `addresses`, those that can be used, all of the slice's family.
    pub addresses: Addresses,
    /// `conditions.ready`; absent means true.
    pub ready: bool,
    /// `conditions.serving`; absent means true, as in kube-proxy.
    pub serving: bool,
    /// `conditions.terminating`; absent means false.
    pub terminating: bool,
    /// `hostname`, a DNS label.
    pub hostname: Option<Arc<str>>,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `hints`, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<Box<Hints>>,
    /// `targetRef.name` where it is a Pod.
    pub pod: Option<Arc<str>>,
}

impl Endpoint {
    /// `hints.forZones`.
    pub fn zone_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    /// `hints.forNodes`.
    pub fn node_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }
}

/// For whom the control plane has meant an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones`.
    pub zones: Vec<Arc<str>>,
    /// `forNodes`.
    pub nodes: Vec<Arc<str>>,
}

impl Hints {
    /// As an endpoint has them: none where both lists are empty.
    pub fn of(zones: Vec<Arc<str>>, nodes: Vec<Arc<str>>) -> Option<Box<Self>> {
        let hints = Self { zones, nodes };
        (hints != Self::default()).then(|| Box::new(hints))
    }
}

/// The addresses of an endpoint. Kubernetes' controllers write one, which takes no memory of its own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<IpAddr>", into = "Vec<IpAddr>")]
pub struct Addresses(Few);

#[derive(Clone, PartialEq, Eq)]
enum Few {
    One(IpAddr),
    Several(Box<[IpAddr]>),
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Few::One(address) => std::slice::from_ref(address),
            Few::Several(addresses) => addresses,
        }
    }
}

impl From<Vec<IpAddr>> for Addresses {
    fn from(addresses: Vec<IpAddr>) -> Self {
        Self(match addresses[..] {
            [address] => Few::One(address),
            _ => Few::Several(addresses.into()),
        })
    }
}

impl From<IpAddr> for Addresses {
    fn from(address: IpAddr) -> Self {
        Self(Few::One(address))
    }
}

impl From<Addresses> for Vec<IpAddr> {
    fn from(addresses: Addresses) -> Self {
        addresses.to_vec()
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_the_same_however_it_came() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let one = Addresses::from(vec![address]);
        assert_eq!(one, Addresses::from(address));
        assert_eq!(&*one, [address]);
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(text, r#"["10.0.0.1"]"#);
        assert_eq!(serde_json::from_str::<Addresses>(&text).unwrap(), one);
    }

    #[test]
    fn several_addresses_keep_their_order() {
        let several = vec![IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 1])];
        assert_eq!(*Addresses::from(several.clone()), several);
        assert!(Addresses::from(Vec::new()).is_empty());
    }

    #[test]
    fn an_endpoint_without_hints_has_none() {
        assert_eq!(Hints::of(Vec::new(), Vec::new()), None);
        assert!(Hints::of(vec!["z".into()], Vec::new()).is_some());
    }
}
