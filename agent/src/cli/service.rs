//! `signpost service list`: what is in the maps `services` and `frontends`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;
use signpost_common::service::{FrontendKey, FrontendValue, ServiceValue};

use super::output::{Row, or_dash};
use crate::model::Protocol;

/// A service port of one family, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceRow {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port, empty for an unnamed one.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Where clients send to.
    pub frontends: Vec<FrontendRow>,
    /// Backends in the cluster set.
    pub backends: u32,
    /// Backends in the set of this node.
    pub local_backends: u32,
    /// Clients inside the cluster only use the set of this node.
    pub internal_local: bool,
    /// Clients outside the cluster only use the set of this node.
    pub external_local: bool,
    /// Seconds for which a client stays with its backend, 0 for not at all.
    pub affinity_timeout: u32,
    /// It is the cluster's DNS.
    pub dns: bool,
    /// The service port's number in the maps.
    pub id: u32,
    /// The generation of its slots.
    pub generation: u32,
}

/// A way to a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FrontendRow {
    /// Which way it is.
    pub kind: Kind,
    /// Address and port, such as `10.96.0.10:53`; the address of a NodePort is the unspecified one.
    pub address: SocketAddr,
}

/// The kinds of ways that the kernel tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// The Service's own address.
    ClusterIP,
    /// A port at the node's addresses.
    NodePort,
    /// An external IP, or a load balancer's.
    External,
}

impl FrontendRow {
    fn new(key: &FrontendKey, value: &FrontendValue) -> Self {
        let address = IpAddr::from(key.address);
        let kind = if address.is_unspecified() {
            Kind::NodePort
        } else if value.flags & FrontendValue::EXTERNAL != 0 {
            Kind::External
        } else {
            Kind::ClusterIP
        };
        Self {
            kind,
            address: SocketAddr::new(address, key.port.get()),
        }
    }

    fn text(&self) -> String {
        match self.kind {
            Kind::ClusterIP => self.address.to_string(),
            Kind::NodePort => format!("nodeport {}", self.address.port()),
            Kind::External => format!("external {}", self.address),
        }
    }
}

impl Row for ServiceRow {
    const HEADINGS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "PORT",
        "PROTOCOL",
        "FRONTEND",
        "BACKENDS",
        "LOCAL",
        "POLICY",
    ];

    fn cells(&self) -> Vec<String> {
        let frontends: Vec<String> = self.frontends.iter().map(FrontendRow::text).collect();
        let policy = [
            (self.internal_local, "internal-local".to_owned()),
            (self.external_local, "external-local".to_owned()),
            (
                self.affinity_timeout > 0,
                format!("affinity {}s", self.affinity_timeout),
            ),
            (self.dns, "dns".to_owned()),
        ];
        let policy: Vec<String> = policy.into_iter().filter(|p| p.0).map(|p| p.1).collect();
        vec![
            self.namespace.clone(),
            self.name.clone(),
            or_dash(&self.port_name),
            self.protocol.clone(),
            or_dash(&frontends.join(", ")),
            self.backends.to_string(),
            self.local_backends.to_string(),
            or_dash(&policy.join(", ")),
        ]
    }
}

/// Joins both maps, ordered by namespace, name and port.
pub fn service_rows(
    services: impl IntoIterator<Item = (u32, ServiceValue)>,
    frontends: impl IntoIterator<Item = (FrontendKey, FrontendValue)>,
) -> Vec<ServiceRow> {
    let mut by_service = BTreeMap::<u32, (Vec<FrontendRow>, FrontendValue)>::new();
    for (key, value) in frontends {
        let entry = by_service.entry(value.service).or_default();
        entry.0.push(FrontendRow::new(&key, &value));
        entry.1 = value;
    }
    let mut rows: Vec<ServiceRow> = services
        .into_iter()
        .map(|(id, service)| {
            let (mut frontends, value) = by_service.remove(&id).unwrap_or_default();
            frontends.sort();
            let flag = |flag| value.flags & flag != 0;
            let [namespace, name, port_name] =
                service.names().unwrap_or_default().map(str::to_owned);
            ServiceRow {
                namespace,
                name,
                port_name,
                protocol: protocol(service.protocol),
                frontends,
                backends: value.cluster,
                local_backends: value.local,
                internal_local: flag(FrontendValue::INTERNAL_LOCAL),
                external_local: flag(FrontendValue::EXTERNAL_LOCAL),
                affinity_timeout: value.affinity_timeout,
                dns: flag(FrontendValue::DNS),
                id,
                generation: service.generation,
            }
        })
        .collect();
    rows.sort_by(|a, b| {
        let key = |r: &ServiceRow| (r.namespace.clone(), r.name.clone(), r.port_name.clone());
        (key(a), &a.protocol, &a.frontends).cmp(&(key(b), &b.protocol, &b.frontends))
    });
    rows
}

/// Name of an IP protocol number.
pub fn protocol(number: u8) -> String {
    Protocol::from_number(number).map_or_else(|| number.to_string(), |p| p.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use bytemuck::Zeroable as _;
    use signpost_common::{Address, Port};

    use super::*;
    use crate::cli::output::{Format, rows};

    pub(in crate::cli) fn service(namespace: &str, name: &str, port: &str) -> ServiceValue {
        let pad = |text: &str| {
            let mut bytes = [0; 64];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            bytes
        };
        ServiceValue {
            namespace: pad(namespace),
            name: pad(name),
            port_name: pad(port),
            protocol: 6,
            family: 4,
            generation: 3,
            ..ServiceValue::zeroed()
        }
    }

    fn frontend(address: &str, port: u16, value: FrontendValue) -> (FrontendKey, FrontendValue) {
        let address: IpAddr = address.parse().unwrap();
        let key = FrontendKey {
            address: Address::from(address),
            port: Port::new(port),
            protocol: 6,
            pad: 0,
        };
        (key, value)
    }

    fn example() -> Vec<ServiceRow> {
        let value = FrontendValue {
            service: 7,
            generation: 3,
            cluster: 2,
            local: 1,
            flags: FrontendValue::INTERNAL_LOCAL | FrontendValue::ANY_ENDPOINTS,
            affinity_timeout: 60,
            ..FrontendValue::default()
        };
        let external = FrontendValue {
            flags: value.flags | FrontendValue::EXTERNAL,
            ..value
        };
        service_rows(
            [
                (7, service("prod", "ent", "http")),
                (2, service("dev", "ent", "")),
            ],
            [
                frontend("10.96.0.7", 8080, value),
                frontend("192.0.2.1", 8080, external),
                frontend("0.0.0.0", 30_080, external),
            ],
        )
    }

    #[test]
    fn services_are_listed_by_name_with_all_their_frontends() {
        assert_eq!(
            rows(Format::Table, &example()).unwrap(),
            "\
NAMESPACE   NAME   PORT   PROTOCOL   FRONTEND                                                  BACKENDS   LOCAL   POLICY
dev         ent    -      TCP        -                                                         0          0       -
prod        ent    http   TCP        10.96.0.7:8080, nodeport 30080, external 192.0.2.1:8080   2          1       internal-local, affinity 60s
"
        );
    }

    #[test]
    fn json_has_every_field() {
        let text = rows(Format::Json, &example()[1..]).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!([{
                "namespace": "prod",
                "name": "ent",
                "port_name": "http",
                "protocol": "TCP",
                "frontends": [
                    {"kind": "ClusterIP", "address": "10.96.0.7:8080"},
                    {"kind": "NodePort", "address": "0.0.0.0:30080"},
                    {"kind": "External", "address": "192.0.2.1:8080"},
                ],
                "backends": 2,
                "local_backends": 1,
                "internal_local": true,
                "external_local": false,
                "affinity_timeout": 60,
                "dns": false,
                "id": 7,
                "generation": 3,
            }])
        );
    }
}
