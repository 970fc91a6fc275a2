//! Ways to SCTP ports that cannot be served.
//!
//! The checksum of SCTP (CRC32c) is over the whole packet but neither addresses nor a pseudo-header (RFC 9260 §6.8): other
//! addresses are no matter to it, another port would have it worked out anew over every byte.

use std::collections::BTreeSet;

use crate::{
    model::{Problem, Protocol},
    plan::{FrontendKind, PortName, PortPlan},
};

/// The ways at which associations are refused, and why.
pub(super) fn problem(name: &PortName, plan: &PortPlan) -> Option<Problem> {
    if name.protocol != Protocol::Sctp {
        return None;
    }
    let backends = || plan.cluster.iter().chain(&plan.local);
    let targets: BTreeSet<u16> = backends().map(|backend| backend.port).collect();
    let mut reasons = BTreeSet::new();
    for frontend in &plan.frontends {
        let way = match frontend.kind {
            FrontendKind::ClusterIp => "the ClusterIP",
            FrontendKind::NodePort => "the node port",
            FrontendKind::ExternalIp => "the external IPs",
            FrontendKind::LoadBalancer => "the load balancer's IPs",
        };
        if let Some(target) = targets.iter().find(|port| **port != frontend.port) {
            let port = frontend.port;
            reasons.insert(format!(
                "refused at {way}, where port {port} would become target port {target}"
            ));
        } else if frontend.kind != FrontendKind::ClusterIp && !plan.external_local {
            reasons.insert(format!(
                "refused at {way} to clients outside the cluster, whose port would change, without \
                 externalTrafficPolicy: Local"
            ));
        }
    }
    if reasons.is_empty() {
        return None;
    }
    let port = if name.port.is_empty() {
        "unnamed"
    } else {
        &name.port
    };
    let reasons: Vec<String> = reasons.into_iter().collect();
    Some(Problem {
        kind: "Service".to_owned(),
        object: name.service.clone(),
        field: format!("spec.ports[{port}]"),
        reason: format!(
            "the checksum of SCTP does not allow another port: {}",
            reasons.join("; ")
        ),
    })
}
