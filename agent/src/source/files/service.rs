//! Services as manifests have them: some fields are the control plane's to fill in.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::util::intstr::IntOrString};

use crate::{
    model::{Family, Protocol, Service, ServiceKind},
    source::convert::{self, Addresses, Converted},
};

/// A Service whose ClusterIPs and EndpointSlices are not made yet.
#[derive(Clone, Debug)]
pub(super) struct ServiceDraft {
    /// With the ClusterIPs that the manifest fixes.
    pub(super) service: Arc<Service>,
    /// `spec.ipFamilies`.
    pub(super) families: Vec<Family>,
    /// `spec.ipFamilyPolicy`.
    pub(super) policy: Option<FamilyPolicy>,
    /// `spec.selector`; empty for none.
    pub(super) selector: BTreeMap<String, String>,
    /// `spec.ports`, where they lead to.
    pub(super) targets: Vec<Target>,
    /// Its ports get NodePorts where they have none: type NodePort, or LoadBalancer that does not say otherwise.
    pub(super) wants_node_ports: bool,
    /// It has a health check without a port: type LoadBalancer with `externalTrafficPolicy: Local`.
    pub(super) wants_health_check: bool,
    /// `spec.publishNotReadyAddresses`.
    pub(super) publish_not_ready: bool,
}

/// `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FamilyPolicy {
    Single,
    PreferDual,
    RequireDual,
}

/// Where a port of a Service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: Arc<str>,
    pub(super) protocol: Protocol,
    pub(super) port: TargetPort,
}

/// `targetPort`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TargetPort {
    Number(u16),
    /// Name of a container's port.
    Named(String),
}

/// Converts a Service.
pub(super) fn service(object: &core::Service) -> Converted<ServiceDraft> {
    let (service, mut problems) = convert::service(object, Addresses::GivenLater);
    let Some(service) = service else {
        return (None, problems);
    };
    let default = core::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&default);
    let mut report = convert::Report::new("Service", &service.name);
    let mut families = Vec::new();
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        match family.as_str() {
            "IPv4" => families.push(Family::V4),
            "IPv6" => families.push(Family::V6),
            other => report.add(
                format!("spec.ipFamilies[{index}]"),
                format!("{other:?} is not IPv4 or IPv6"),
            ),
        }
    }
    families.dedup();
    let policy = match spec.ip_family_policy.as_deref() {
        None | Some("") => None,
        Some("SingleStack") => Some(FamilyPolicy::Single),
        Some("PreferDualStack") => Some(FamilyPolicy::PreferDual),
        Some("RequireDualStack") => Some(FamilyPolicy::RequireDual),
        Some(other) => {
            report.add(
                "spec.ipFamilyPolicy",
                format!("{other:?} is not SingleStack, PreferDualStack or RequireDualStack"),
            );
            None
        }
    };
    let mut targets = Vec::with_capacity(service.ports.len());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let name = port.name.as_deref().unwrap_or_default();
        // Ports that cannot be used are named already.
        let Some(known) = service
            .ports
            .iter()
            .find(|p| *p.name == *name && i32::from(p.port) == port.port)
        else {
            continue;
        };
        let target = match &port.target_port {
            None | Some(IntOrString::Int(0)) => Some(TargetPort::Number(known.port)),
            Some(IntOrString::Int(number)) => report
                .port(|| format!("spec.ports[{index}].targetPort"), *number)
                .map(TargetPort::Number),
            Some(IntOrString::String(name)) => Some(TargetPort::Named(name.clone())),
        };
        targets.extend(target.map(|target| Target {
            name: known.name.clone(),
            protocol: known.protocol,
            port: target,
        }));
    }
    problems.append(&mut report.problems);
    let draft = ServiceDraft {
        service: Arc::new(service),
        families,
        policy,
        selector: spec.selector.clone().unwrap_or_default(),
        targets,
        wants_node_ports: match spec.type_.as_deref() {
            Some("NodePort") => true,
            Some("LoadBalancer") => spec.allocate_load_balancer_node_ports.unwrap_or(true),
            _ => false,
        },
        wants_health_check: spec.type_.as_deref() == Some("LoadBalancer")
            && spec.external_traffic_policy.as_deref() == Some("Local")
            && matches!(spec.health_check_node_port, None | Some(0)),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
    };
    (Some(draft), problems)
}

impl ServiceDraft {
    /// The families that the Service has, the primary one first, as the API server defaults them, given the families
    /// of the service ranges.
    ///
    /// # Errors
    /// Field and reason where a family is asked for that there is no range of; what there is comes with it.
    pub(super) fn resolve_families(
        &self,
        ranges: &[Family],
    ) -> (Vec<Family>, Option<(&'static str, String)>) {
        let fixed: Vec<_> = match &self.service.kind {
            ServiceKind::ClusterIp(addresses) => addresses.iter().map(|a| Family::of(*a)).collect(),
            ServiceKind::Headless => Vec::new(),
            ServiceKind::ExternalName(_) => return (Vec::new(), None),
        };
        let mut families = match (fixed.as_slice(), self.families.as_slice()) {
            ([], []) => ranges.iter().take(1).copied().collect(),
            ([], listed) => listed.to_vec(),
            (fixed, _) => fixed.to_vec(),
        };
        let dual = fixed.len() > 1 || self.families.len() > 1;
        let policy = self.policy.unwrap_or(if dual {
            FamilyPolicy::RequireDual
        } else {
            FamilyPolicy::Single
        });
        match policy {
            FamilyPolicy::Single => families.truncate(fixed.len().max(1)),
            FamilyPolicy::PreferDual => {
                families.extend(
                    ranges
                        .iter()
                        .filter(|f| !families.contains(f))
                        .copied()
                        .collect::<Vec<_>>(),
                );
            }
            FamilyPolicy::RequireDual => {
                for family in [Family::V4, Family::V6] {
                    if !families.contains(&family) {
                        families.push(family);
                    }
                }
            }
        }
        let missing = families
            .iter()
            .find(|f| !ranges.contains(f) && !fixed.contains(f))
            .copied();
        families.retain(|f| ranges.contains(f) || fixed.contains(f));
        let problem = missing.map(|family| {
            let field = if policy == FamilyPolicy::RequireDual && self.families.len() < 2 {
                "spec.ipFamilyPolicy"
            } else {
                "spec.ipFamilies"
            };
            let name = match family {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            };
            (
                field,
                format!("there is no {name} service range to take an address from"),
            )
        });
        (families, problem)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const V4: Family = Family::V4;
    const V6: Family = Family::V6;

    fn draft(spec: Value) -> ServiceDraft {
        let object = json!({"metadata": {"namespace": "a", "name": "x"}, "spec": spec});
        let (draft, problems) = service(&serde_json::from_value(object).unwrap());
        assert_eq!(problems, []);
        draft.unwrap()
    }

    #[rstest]
    #[case::default(json!({}), &[V4, V6], &[V4], false)]
    #[case::primary_is_the_first_range(json!({}), &[V6, V4], &[V6], false)]
    #[case::family(json!({"ipFamilies": ["IPv6"]}), &[V4, V6], &[V6], false)]
    #[case::prefer(json!({"ipFamilyPolicy": "PreferDualStack"}), &[V4, V6], &[V4, V6], false)]
    #[case::prefer_where_there_is_one(json!({"ipFamilyPolicy": "PreferDualStack"}), &[V4], &[V4], false)]
    #[case::order(json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}), &[V4, V6], &[V6, V4], false)]
    #[case::require(json!({"ipFamilyPolicy": "RequireDualStack"}), &[V4, V6], &[V4, V6], false)]
    #[case::require_in_vain(json!({"ipFamilyPolicy": "RequireDualStack"}), &[V4], &[V4], true)]
    #[case::two_families(json!({"ipFamilies": ["IPv6", "IPv4"]}), &[V4, V6], &[V6, V4], false)]
    #[case::family_in_vain(json!({"ipFamilies": ["IPv6"]}), &[V4], &[], true)]
    #[case::fixed(json!({"clusterIP": "fd00::1"}), &[V4], &[V6], false)]
    #[case::fixed_and_more(json!({"clusterIP": "10.0.0.1", "ipFamilyPolicy": "PreferDualStack"}), &[V4, V6], &[V4, V6], false)]
    #[case::external_name(json!({"type": "ExternalName", "externalName": "a.b"}), &[V4], &[], false)]
    fn families_are_those_that_the_api_server_would_give(
        #[case] spec: Value,
        #[case] ranges: &[Family],
        #[case] expected: &[Family],
        #[case] problem: bool,
    ) {
        let (families, said) = draft(spec).resolve_families(ranges);
        assert_eq!(families, expected);
        assert_eq!(said.is_some(), problem, "{said:?}");
    }

    #[test]
    fn targets_are_numbers_or_names() {
        let draft = draft(json!({"ports": [
            {"name": "a", "port": 80}, {"name": "b", "port": 81, "targetPort": 8081},
            {"name": "c", "port": 82, "targetPort": "http"},
        ]}));
        let targets: Vec<_> = draft.targets.into_iter().map(|t| t.port).collect();
        assert_eq!(
            targets,
            [
                TargetPort::Number(80),
                TargetPort::Number(8081),
                TargetPort::Named("http".to_owned())
            ]
        );
    }
}
