//! `/healthz` and `/livez`, byte for byte as kube-proxy answers them (KEP-3836): cloud load balancers and operators'
//! probes read them.

use std::collections::BTreeMap;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::IntoResponse,
};
use jiff::Timestamp;
use serde::Serialize;

use crate::model::Family;

/// How Go writes the time that was never set.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What the probes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHealth {
    /// When the last change was carried out; `None` before the first turn of the loop.
    pub last_updated: Option<Timestamp>,
    /// Changes are carried out in time.
    pub healthy: bool,
    /// New connections from outside may come to this node.
    pub node_eligible: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<String, FamilyStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyStatus {
    last_updated: String,
    healthy: bool,
}

impl ProxyHealth {
    /// The answer of `/healthz`: whether connections from outside are to come here.
    pub fn healthz(&self) -> (StatusCode, String) {
        self.answer(self.healthy && self.node_eligible, Some(self.node_eligible))
    }

    /// The answer of `/livez`: whether the agent works, whatever becomes of the node.
    pub fn livez(&self) -> (StatusCode, String) {
        self.answer(self.healthy, None)
    }

    /// Where all is well, the last update is now: older readers took an old time for a proxy that hangs.
    fn answer(&self, well: bool, node_eligible: Option<bool>) -> (StatusCode, String) {
        let updated = self
            .last_updated
            .map_or_else(|| NEVER.to_owned(), |at| at.to_string());
        let now = Timestamp::now().to_string();
        let of_family = |family| {
            let status = FamilyStatus {
                last_updated: updated.clone(),
                healthy: self.healthy,
            };
            (family_name(family).to_owned(), status)
        };
        let families = [Family::V4, Family::V6].into_iter();
        let body = Body {
            last_updated: if well { now.clone() } else { updated.clone() },
            current_time: now,
            node_eligible,
            healthy: self.healthy,
            status: families
                .filter(|_| self.last_updated.is_some())
                .map(of_family)
                .collect(),
        };
        let code = if well {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        // Texts, booleans and maps of these always have a JSON form.
        (code, serde_json::to_string(&body).unwrap_or_default())
    }
}

/// What Kubernetes calls a family.
pub const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// A JSON document with the headers that kube-proxy gives it.
pub fn json(code: StatusCode, body: String) -> impl IntoResponse {
    let mut headers = HeaderMap::new();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(HeaderName::from_static("x-content-type-options"), nosniff);
    (code, headers, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> ProxyHealth {
        ProxyHealth {
            last_updated: Some("2026-01-02T03:04:05.25Z".parse().unwrap()),
            healthy: true,
            node_eligible: true,
        }
    }

    /// With the times of now taken out.
    fn without_now(body: &str) -> String {
        let value: serde_json::Value = serde_json::from_str(body).unwrap();
        let now = value["currentTime"].as_str().unwrap().to_owned();
        now.parse::<Timestamp>().unwrap();
        body.replace(&now, "NOW")
    }

    #[test]
    fn healthz_of_a_healthy_proxy() {
        let (code, body) = health().healthz();
        assert_eq!(code, StatusCode::OK);
        assert_eq!(
            without_now(&body),
            r#"{"lastUpdated":"NOW","currentTime":"NOW","nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-01-02T03:04:05.25Z","healthy":true},"IPv6":{"lastUpdated":"2026-01-02T03:04:05.25Z","healthy":true}}}"#
        );
    }

    #[test]
    fn healthz_of_a_node_that_leaves_sends_load_balancers_away_and_livez_does_not() {
        let leaving = ProxyHealth {
            node_eligible: false,
            ..health()
        };
        let (code, body) = leaving.healthz();
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        let start = r#"{"lastUpdated":"2026-01-02T03:04:05.25Z","currentTime":"NOW","nodeEligible":false,"healthy":true,"#;
        assert!(without_now(&body).starts_with(start), "{body}");
        let (code, body) = leaving.livez();
        assert_eq!(code, StatusCode::OK);
        let start = r#"{"lastUpdated":"NOW","currentTime":"NOW","healthy":true,"status":{"#;
        assert!(without_now(&body).starts_with(start), "{body}");
    }

    #[test]
    fn a_proxy_that_is_late_is_neither_healthy_nor_alive() {
        let late = ProxyHealth {
            healthy: false,
            ..health()
        };
        for (code, body) in [late.healthz(), late.livez()] {
            assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
            assert!(
                body.contains(r#""healthy":false,"status":{"IPv4":{"#),
                "{body}"
            );
            assert!(
                body.starts_with(r#"{"lastUpdated":"2026-01-02T03:04:05.25Z""#),
                "{body}"
            );
        }
    }

    #[test]
    fn before_the_first_turn_there_is_no_status() {
        let starting = ProxyHealth {
            last_updated: None,
            healthy: false,
            ..health()
        };
        let (_, body) = starting.livez();
        let expected =
            r#"{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"NOW","healthy":false}"#;
        assert_eq!(without_now(&body), expected);
    }
}
