//! What an operator does not let Services have.

use std::sync::Arc;

use crate::model::{Event, Object, Problem};

/// Takes the external IPs out of a Service, with a problem that says so: whoever may write a Service can draw any
/// address to it by them (CVE-2020-8554).
pub fn without_external_ips(event: Event) -> Event {
    let Event::Apply(Object::Service(mut service), mut problems) = event else {
        return event;
    };
    if !service.ways_in.external_ips.is_empty() {
        Arc::make_mut(&mut service).ways_in.external_ips.clear();
        problems.push(Problem {
            kind: "Service".to_owned(),
            object: service.name.clone(),
            field: "spec.externalIPs".to_owned(),
            reason: "this node serves no external IPs (--external-ips=false)".to_owned(),
        });
    }
    Event::Apply(Object::Service(service), problems)
}
