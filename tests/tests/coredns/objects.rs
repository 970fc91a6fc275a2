//! Objects as the API server takes them.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::{Value, json};

/// What kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Namespace,
    Service,
    Slice,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Objects by their keys.
pub(crate) type Objects = BTreeMap<Key, Value>;

/// Name (which may be empty), number and protocol.
pub(crate) type Port = (&'static str, u16, &'static str);

/// What a Service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// ClusterIPs, one for each family at most.
    Addresses(Vec<IpAddr>),
    /// Its endpoints.
    Endpoints,
    /// A name.
    Name(String),
}

/// A Service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) to: To,
    /// `NodePort` and `LoadBalancer` are ClusterIPs with more to them.
    pub(crate) kind: &'static str,
    pub(crate) ports: Vec<Port>,
}

/// An endpoint of one address.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) hostname: Option<String>,
    /// Nothing is said where this is `None`.
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
    pub(crate) node: Option<String>,
}

/// An EndpointSlice. `service` need not exist.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Endpoint {
    pub(crate) const fn ready(address: IpAddr) -> Self {
        Self {
            address,
            hostname: None,
            ready: Some(true),
            serving: None,
            terminating: None,
            node: None,
        }
    }

    /// Whether it has names.
    pub(crate) fn is_published(&self) -> bool {
        self.ready != Some(false)
    }

    /// The label that it has below its Service's name.
    pub(crate) fn label(&self) -> String {
        if let Some(hostname) = &self.hostname {
            return hostname.clone();
        }
        let dashed = self.address.to_string().replace(['.', ':'], "-");
        if dashed.ends_with('-') {
            dashed + "0"
        } else {
            dashed
        }
    }
}

/// Labels by which some Corefiles choose: some of whatever has such a name, and all of what the laboratory needs itself.
fn labels(name: &str) -> Value {
    let number: u32 = name.bytes().map(u32::from).sum();
    if ["marker", "kube-"].iter().any(|own| name.starts_with(own)) {
        return json!({"tier": "front", "team": "a"});
    }
    let mut labels = json!({});
    match number % 5 {
        0 | 1 => labels["tier"] = json!("front"),
        2 => labels["tier"] = json!("edge"),
        3 => labels["tier"] = json!("back"),
        _ => {}
    }
    if number.is_multiple_of(7) {
        labels["hidden"] = json!("");
    }
    if number.is_multiple_of(3) {
        labels["team"] = json!("b");
    }
    labels
}

/// A namespace.
pub(crate) fn namespace(name: &str) -> (Key, Value) {
    let key = Key {
        kind: Kind::Namespace,
        namespace: String::new(),
        name: name.to_owned(),
    };
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels(name)},
    });
    (key, object)
}

/// A Service.
pub(crate) fn service(service: &Service) -> (Key, Value) {
    let key = Key {
        kind: Kind::Service,
        namespace: service.namespace.clone(),
        name: service.name.clone(),
    };
    let mut spec = json!({"type": service.kind, "ports": ports(&service.ports)});
    match &service.to {
        To::Addresses(addresses) => {
            let families = families(addresses);
            spec["clusterIP"] = json!(addresses[0]);
            spec["clusterIPs"] = json!(addresses);
            spec["ipFamilies"] = json!(families);
            spec["ipFamilyPolicy"] = json!(policy(families.len()));
        }
        To::Endpoints => {
            spec["clusterIP"] = json!("None");
            spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
            spec["ipFamilyPolicy"] = json!(policy(2));
        }
        To::Name(name) => spec["externalName"] = json!(name),
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": service.namespace, "name": service.name, "labels": labels(&service.name),
        },
        "spec": spec,
    });
    (key, object)
}

/// An EndpointSlice, of the family of its first endpoint.
pub(crate) fn slice(slice: &Slice) -> (Key, Value) {
    let key = Key {
        kind: Kind::Slice,
        namespace: slice.namespace.clone(),
        name: slice.name.clone(),
    };
    let v6 = slice.endpoints.first().is_some_and(|e| e.address.is_ipv6());
    let endpoints: Vec<Value> = slice
        .endpoints
        .iter()
        .map(|endpoint| {
            let mut conditions = json!({});
            for (name, value) in [
                ("ready", endpoint.ready),
                ("serving", endpoint.serving),
                ("terminating", endpoint.terminating),
            ] {
                if let Some(value) = value {
                    conditions[name] = json!(value);
                }
            }
            let mut object = json!({"addresses": [endpoint.address], "conditions": conditions});
            if let Some(hostname) = &endpoint.hostname {
                object["hostname"] = json!(hostname);
            }
            if let Some(node) = &endpoint.node {
                object["nodeName"] = json!(node);
            }
            object
        })
        .collect();
    let mut labels = labels(&slice.name);
    labels["kubernetes.io/service-name"] = json!(slice.service);
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": slice.namespace, "name": slice.name, "labels": labels},
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": ports(&slice.ports),
        "endpoints": endpoints,
    });
    (key, object)
}

fn ports(ports: &[Port]) -> Vec<Value> {
    ports
        .iter()
        .map(|(name, number, protocol)| {
            let mut port = json!({"port": number, "protocol": protocol});
            if !name.is_empty() {
                port["name"] = json!(name);
            }
            port
        })
        .collect()
}

fn families(addresses: &[IpAddr]) -> Vec<&'static str> {
    let family = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    addresses.iter().map(family).collect()
}

const fn policy(families: usize) -> &'static str {
    if families == 1 {
        "SingleStack"
    } else {
        "RequireDualStack"
    }
}
