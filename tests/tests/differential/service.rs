//! Services with their endpoints, as scenarios write them.

use crate::place::{Backend, Family};

/// The ports that a Service has unless it says otherwise: 80 with both protocols.
const USUAL: [Port; 2] = [Port::tcp(80), Port::udp(80)];

/// A port of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: &'static str,
    /// The port of the endpoints.
    pub(crate) to: u16,
}

impl Port {
    pub(crate) const fn tcp(number: u16) -> Self {
        Self {
            number,
            protocol: "TCP",
            to: 8080,
        }
    }

    pub(crate) const fn udp(number: u16) -> Self {
        Self {
            protocol: "UDP",
            ..Self::tcp(number)
        }
    }

    pub(crate) const fn to(mut self, port: u16) -> Self {
        self.to = port;
        self
    }

    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.protocol.to_lowercase(), self.number)
    }
}

/// An endpoint. Conditions that are none are left out of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) at: Backend,
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
    pub(crate) zones: Vec<&'static str>,
    pub(crate) nodes: Vec<&'static str>,
}

impl Endpoint {
    const fn with(at: Backend, ready: bool, serving: bool, terminating: bool) -> Self {
        Self {
            at,
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
            zones: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// With hints to zones.
    pub(crate) fn zones(mut self, zones: &[&'static str]) -> Self {
        self.zones = zones.to_vec();
        self
    }

    /// With hints to nodes.
    pub(crate) fn nodes(mut self, nodes: &[&'static str]) -> Self {
        self.nodes = nodes.to_vec();
        self
    }
}

/// Ready, and so serving.
pub(crate) const fn ready(at: Backend) -> Endpoint {
    Endpoint::with(at, true, true, false)
}

/// Terminating, and still serving.
pub(crate) const fn serving(at: Backend) -> Endpoint {
    Endpoint::with(at, false, true, true)
}

/// Terminating, and no longer serving.
pub(crate) const fn terminating(at: Backend) -> Endpoint {
    Endpoint::with(at, false, false, true)
}

/// Neither ready nor serving nor terminating.
pub(crate) const fn unready(at: Backend) -> Endpoint {
    Endpoint::with(at, false, false, false)
}

/// Without any condition.
pub(crate) fn unknown(at: Backend) -> Endpoint {
    Endpoint {
        ready: None,
        serving: None,
        terminating: None,
        ..Endpoint::with(at, false, false, false)
    }
}

/// Ready although it terminates, as with `publishNotReadyAddresses`.
pub(crate) const fn published(at: Backend) -> Endpoint {
    Endpoint::with(at, true, true, true)
}

/// What kind of Service it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
    Headless,
}

/// An ingress address of a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpMode {
    Unset,
    Vip,
    Proxy,
}

/// A Service with its EndpointSlices. It has addresses of its own in each scenario.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) ports: Vec<Port>,
    pub(crate) families: Vec<Family>,
    pub(crate) internal: Option<&'static str>,
    pub(crate) external: Option<&'static str>,
    /// Seconds of session affinity by client address.
    pub(crate) affinity: Option<u32>,
    pub(crate) labels: Vec<(&'static str, &'static str)>,
    pub(crate) labels_of_slices: Vec<(&'static str, &'static str)>,
    pub(crate) external_ips: bool,
    pub(crate) ip_mode: Option<IpMode>,
    pub(crate) ranges: Vec<&'static str>,
    /// Each stands for one EndpointSlice of each family.
    pub(crate) slices: Vec<Vec<Endpoint>>,
}

impl Service {
    fn new(kind: Kind) -> Self {
        Self {
            name: "s",
            kind,
            ports: USUAL.to_vec(),
            families: Family::BOTH.to_vec(),
            internal: None,
            external: None,
            affinity: None,
            labels: Vec::new(),
            labels_of_slices: Vec::new(),
            external_ips: false,
            ip_mode: None,
            ranges: Vec::new(),
            slices: Vec::new(),
        }
    }

    /// The second Service of a scenario.
    pub(crate) const fn second(mut self) -> Self {
        self.name = "t";
        self
    }

    /// Instead of port 80 with both protocols.
    pub(crate) fn ports(mut self, ports: &[Port]) -> Self {
        self.ports = ports.to_vec();
        self
    }

    pub(crate) fn only(mut self, family: Family) -> Self {
        self.families = vec![family];
        self
    }

    /// `internalTrafficPolicy: Local`.
    pub(crate) const fn internal_local(mut self) -> Self {
        self.internal = Some("Local");
        self
    }

    /// `externalTrafficPolicy: Local`.
    pub(crate) const fn external_local(mut self) -> Self {
        self.external = Some("Local");
        self
    }

    /// Session affinity for so many seconds.
    pub(crate) const fn sticky(mut self, seconds: u32) -> Self {
        self.affinity = Some(seconds);
        self
    }

    pub(crate) fn label(mut self, name: &'static str, value: &'static str) -> Self {
        self.labels.push((name, value));
        self
    }

    pub(crate) fn label_of_slices(mut self, name: &'static str, value: &'static str) -> Self {
        self.labels_of_slices.push((name, value));
        self
    }

    /// With an external IP of each family.
    pub(crate) const fn external_ip(mut self) -> Self {
        self.external_ips = true;
        self
    }

    /// With the ingress addresses of its load balancer, of this mode.
    pub(crate) const fn ingress(mut self, mode: IpMode) -> Self {
        self.ip_mode = Some(mode);
        self
    }

    /// `loadBalancerSourceRanges`.
    pub(crate) fn from(mut self, ranges: &[&'static str]) -> Self {
        self.ranges = ranges.to_vec();
        self
    }

    /// One more EndpointSlice for each family.
    pub(crate) fn slice(mut self, endpoints: impl Into<Vec<Endpoint>>) -> Self {
        self.slices.push(endpoints.into());
        self
    }
}

pub(crate) fn cluster_ip() -> Service {
    Service::new(Kind::ClusterIp)
}

pub(crate) fn node_port() -> Service {
    Service::new(Kind::NodePort)
}

pub(crate) fn load_balancer() -> Service {
    Service::new(Kind::LoadBalancer).ingress(IpMode::Unset)
}

pub(crate) fn external_name() -> Service {
    Service::new(Kind::ExternalName)
}

pub(crate) fn headless() -> Service {
    Service::new(Kind::Headless)
}
