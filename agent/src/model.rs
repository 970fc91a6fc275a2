//! The objects that signpost knows, reduced to what it uses of them. Pure data: no I/O, no Kubernetes types.
//!
//! A source turns what it reads into these types and says with [`Problem`]s what it had to leave out. The types
//! serialise, because the agent hands them on to `signpost dns` over a socket.

mod endpoint;
mod labels;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::{
    endpoint::{Addresses, Endpoint, Hints},
    labels::Labels,
};

/// Namespace and name of an object; the namespace is empty for cluster-wide ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// The namespace, a DNS label.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// From its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The kinds of object that sources emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node; only this node's own.
    Node,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidr,
    /// `v1` Pod; only where their names are verified.
    Pod,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Namespace,
        Self::Node,
        Self::ServiceCidr,
        Self::Pod,
    ];

    /// Those that must be listed before anything can be done. Clusters before Kubernetes 1.33 have no ServiceCIDRs.
    pub const NEEDED: [Self; 4] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Namespace,
        Self::Node,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a source says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A full list of a kind begins: what is not applied before [`Event::End`] does not exist any more.
    Begin(Kind),
    /// The object is there, new or changed, with what had to be left out of it.
    Apply(Object, Vec<Problem>),
    /// The object is gone.
    Delete(Kind, ObjectName),
    /// The full list is complete.
    End(Kind),
    /// What is wrong with something that is no object of ours: a file, a Pod, an object that cannot be used at all.
    /// Replaces what was said of it before; empty once it is mended or gone. Where `kind` is a [`Kind`], a full list
    /// that does not say it again makes it void.
    Problems {
        /// As in [`Problem::kind`].
        kind: String,
        /// As in [`Problem::object`].
        object: ObjectName,
        /// What is wrong.
        problems: Vec<Problem>,
    },
}

/// An object of any kind. Those of which there are many are shared by all who keep them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Object {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A Namespace.
    Namespace(Namespace),
    /// This node.
    Node(Node),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
    /// A Pod.
    Pod(Arc<Pod>),
}

impl Object {
    /// The object's kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
            Self::Pod(_) => Kind::Pod,
        }
    }

    /// The object's name.
    pub fn name(&self) -> &ObjectName {
        match self {
            Self::Service(o) => &o.name,
            Self::EndpointSlice(o) => &o.name,
            Self::Namespace(o) => &o.name,
            Self::Node(o) => &o.name,
            Self::ServiceCidr(o) => &o.name,
            Self::Pod(o) => &o.name,
        }
    }
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// The name; no namespace. Sent as it was when a Namespace had nothing else.
    #[serde(flatten)]
    pub name: ObjectName,
    /// `metadata.labels`.
    #[serde(default)]
    pub labels: Labels,
}

/// Without labels.
impl From<ObjectName> for Namespace {
    fn from(name: ObjectName) -> Self {
        Self {
            name,
            labels: Labels::default(),
        }
    }
}

/// A Pod that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its name.
    pub name: ObjectName,
    /// `status.podIPs`.
    pub addresses: Addresses,
    /// `metadata.labels`.
    #[serde(default)]
    pub labels: Labels,
}

impl From<Pod> for Object {
    fn from(pod: Pod) -> Self {
        Self::Pod(Arc::new(pod))
    }
}

impl From<Service> for Object {
    fn from(service: Service) -> Self {
        Self::Service(Arc::new(service))
    }
}

impl From<EndpointSlice> for Object {
    fn from(slice: EndpointSlice) -> Self {
        Self::EndpointSlice(Arc::new(slice))
    }
}

/// Something in an object that cannot be used, said so that its author can mend it. The rest of the object is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// Kind of the object, such as `Service`; a string because it may be a kind that we do not know.
    pub kind: String,
    /// The object.
    pub object: ObjectName,
    /// The field, such as `spec.ports[1].port`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}: {}",
            self.kind, self.object, self.field, self.reason
        )
    }
}

/// A transport protocol of Service ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of an IP protocol number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.creationTimestamp` in seconds since 1970: who was first keeps a ClusterIP that two claim.
    pub created: i64,
    /// What kind of Service it is.
    pub kind: ServiceKind,
    /// `spec.ports`, those that can be used.
    pub ports: Vec<ServicePort>,
    /// The ways in for clients outside the cluster, beside the ports' NodePorts.
    pub ways_in: WaysIn,
    /// `spec.internalTrafficPolicy` is `Local`.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy` is `Local`.
    pub external_local: bool,
    /// `spec.sessionAffinity` is `ClientIP`: for so many seconds.
    pub affinity_timeout: Option<u32>,
    /// Carries neither `service.kubernetes.io/service-proxy-name` nor `service.kubernetes.io/headless`: ours to proxy.
    /// Names exist for it all the same.
    pub proxied: bool,
    /// `metadata.labels`.
    #[serde(default)]
    pub labels: Labels,
}

/// Where clients outside the cluster find a Service, and which of them are let in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaysIn {
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// The IPs of `status.loadBalancer.ingress` that a node has to serve: `ipMode` is `VIP` or absent (KEP-1860).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`: who may use the load balancer's IPs. Of a family without any, everybody.
    pub source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort` of a Service of type LoadBalancer with `externalTrafficPolicy: Local`, else 0.
    pub health_check_node_port: u16,
}

/// Where clients of a Service are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    /// `spec.clusterIPs`: one or two virtual addresses.
    ClusterIp(Vec<IpAddr>),
    /// `spec.clusterIP: None`: no virtual address, the names lead to the endpoints.
    Headless,
    /// `type: ExternalName`: the name is an alias of this name (without final dot, lower case kept as written).
    ExternalName(String),
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// `name`; empty for an unnamed one. EndpointSlices' ports are matched by it.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`, never 0.
    pub port: u16,
    /// `nodePort`, 0 for none.
    pub node_port: u16,
}

/// An EndpointSlice of addresses (FQDN slices are left out by the source).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// Label `kubernetes.io/service-name`: the Service in the same namespace.
    pub service: Option<Arc<str>>,
    /// `addressType`.
    pub family: Family,
    /// `ports`, those with a number.
    pub ports: Vec<EndpointPort>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// Carries neither `service.kubernetes.io/service-proxy-name` nor `service.kubernetes.io/headless`.
    pub proxied: bool,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`, in milliseconds since 1970.
    pub triggered: Option<i64>,
    /// `metadata.labels`.
    #[serde(default)]
    pub labels: Labels,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointPort {
    /// `name`, empty for none.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`, never 0.
    pub port: u16,
}

/// Networks that ClusterIPs are given out of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// The name; no namespace.
    pub name: ObjectName,
    /// `spec.cidrs`, those that can be used.
    pub networks: Vec<IpNet>,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The name; no namespace.
    pub name: ObjectName,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `status.addresses` of type InternalIP, then those of type ExternalIP.
    pub addresses: Vec<IpAddr>,
    /// `metadata.deletionTimestamp` is set, or the cluster autoscaler has tainted the node for deletion: load
    /// balancers are to leave it (KEP-3836).
    pub leaving: bool,
}

impl Node {
    /// The node's primary address of a family, as kube-proxy finds it: the first one.
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|address| Family::of(*address) == family)
    }
}
