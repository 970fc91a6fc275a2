//! `signpost backend list`: what is in the map `members`, with the flows that are there.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;
use signpost_common::{
    flow::{FlowKey, FlowValue},
    service::{MemberKey, MemberValue, ServiceValue},
};

use super::{
    output::{Row, or_dash, yes},
    service::protocol,
};

/// An endpoint of a service port, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BackendRow {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port, empty for an unnamed one.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The endpoint, such as `10.1.0.5:8080`.
    pub backend: SocketAddr,
    /// New flows may go there.
    pub chosen: bool,
    /// Flows that are there may stay.
    pub serving: bool,
    /// It is on this node.
    pub local: bool,
    /// Flows from pods of this node that are there, those that ended a moment ago included.
    pub flows: u32,
}

impl Row for BackendRow {
    const HEADINGS: &'static [&'static str] = &[
        "NAMESPACE",
        "NAME",
        "PORT",
        "PROTOCOL",
        "BACKEND",
        "CHOSEN",
        "SERVING",
        "LOCAL",
        "FLOWS",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.namespace.clone(),
            self.name.clone(),
            or_dash(&self.port_name),
            self.protocol.clone(),
            self.backend.to_string(),
            yes(self.chosen),
            yes(self.serving),
            yes(self.local),
            self.flows.to_string(),
        ]
    }
}

/// Joins the maps, ordered by Service, port and endpoint.
pub fn backend_rows(
    services: impl IntoIterator<Item = (u32, ServiceValue)>,
    members: impl IntoIterator<Item = (MemberKey, MemberValue)>,
    flows: impl IntoIterator<Item = (FlowKey, FlowValue)>,
) -> Vec<BackendRow> {
    let services: BTreeMap<u32, ServiceValue> = services.into_iter().collect();
    let mut counts = BTreeMap::<MemberKey, u32>::new();
    for (_, flow) in flows {
        if flow.flags & FlowValue::FORWARD != 0 {
            let backend = MemberKey {
                service: flow.service,
                address: flow.destination,
                port: flow.destination_port,
                pad: 0,
            };
            *counts.entry(backend).or_default() += 1;
        }
    }
    let mut rows: Vec<BackendRow> = members
        .into_iter()
        // A member without its service port is being removed at this moment.
        .filter_map(|(key, value)| {
            let service = services.get(&key.service)?;
            let [namespace, name, port_name] =
                service.names().unwrap_or_default().map(str::to_owned);
            let flag = |flag| value.flags & flag != 0;
            Some(BackendRow {
                namespace,
                name,
                port_name,
                protocol: protocol(service.protocol),
                backend: SocketAddr::new(IpAddr::from(key.address), key.port.get()),
                chosen: flag(MemberValue::CHOSEN),
                serving: flag(MemberValue::SERVING),
                local: flag(MemberValue::LOCAL),
                flows: counts.get(&key).copied().unwrap_or(0),
            })
        })
        .collect();
    rows.sort();
    rows
}

#[cfg(test)]
mod tests {
    use signpost_common::{Address, Port};

    use super::*;
    use crate::cli::{
        output::{Format, rows},
        service::tests::service,
    };

    fn member(service: u32, address: [u8; 4], flags: u32) -> (MemberKey, MemberValue) {
        let key = MemberKey {
            service,
            address: Address::v4(address),
            port: Port::new(8080),
            pad: 0,
        };
        (key, MemberValue { flags })
    }

    #[test]
    fn backends_are_listed_with_the_flows_towards_them() {
        let forward = FlowValue {
            destination: Address::v4([10, 1, 0, 5]),
            destination_port: Port::new(8080),
            service: 7,
            flags: FlowValue::FORWARD,
            ..FlowValue::default()
        };
        let reverse = FlowValue {
            flags: 0,
            ..forward
        };
        let found = backend_rows(
            [(7, service("prod", "ent", ""))],
            [
                member(7, [10, 1, 0, 6], MemberValue::SERVING),
                member(
                    7,
                    [10, 1, 0, 5],
                    MemberValue::SERVING | MemberValue::CHOSEN | MemberValue::LOCAL,
                ),
                member(8, [10, 1, 0, 5], MemberValue::SERVING),
            ],
            [(FlowKey::default(), forward), (FlowKey::default(), reverse)],
        );
        assert_eq!(
            rows(Format::Table, &found).unwrap(),
            "\
NAMESPACE   NAME   PORT   PROTOCOL   BACKEND         CHOSEN   SERVING   LOCAL   FLOWS
prod        ent    -      TCP        10.1.0.5:8080   yes      yes       yes     1
prod        ent    -      TCP        10.1.0.6:8080   -        yes       -       0
"
        );
    }

    #[test]
    fn json_has_every_field() {
        let found = backend_rows(
            [(7, service("prod", "ent", "http"))],
            [member(7, [10, 1, 0, 6], MemberValue::SERVING)],
            [],
        );
        let value = serde_json::to_value(&found[0]).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "namespace": "prod", "name": "ent", "port_name": "http", "protocol": "TCP",
                "backend": "10.1.0.6:8080", "chosen": false, "serving": true, "local": false, "flows": 0,
            })
        );
    }
}
