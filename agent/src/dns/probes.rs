//! Health, readiness and metrics over HTTP, on the ports where CoreDNS has them.

use std::sync::Arc;

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse as _,
    routing::get,
};
use tokio_util::sync::CancellationToken;

use super::{metrics::Metrics, state::State};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Routes for probes, the same on every port: `/health` (also `/healthz`, `/livez`) answers 200 while the process
/// turns; `/ready` (also `/readyz`) answers 200 once the zone is complete and until the process is told to end.
pub(super) fn routes(state: Arc<State>, ending: CancellationToken) -> Router {
    let health = || async { "OK" };
    let ready = move || {
        let text = if ending.is_cancelled() {
            Some("the server is about to end\n")
        } else if state.is_synced() {
            None
        } else {
            Some("the zone is not complete yet: the source has not listed everything\n")
        };
        async move {
            match text {
                None => (StatusCode::OK, "OK"),
                Some(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
            }
        }
    };
    Router::new()
        .route("/health", get(health))
        .route("/healthz", get(health))
        .route("/livez", get(health))
        .route("/ready", get(ready.clone()))
        .route("/readyz", get(ready))
}

/// The route for Prometheus.
pub(super) fn metrics(metrics: Arc<Metrics>) -> Router {
    Router::new().route(
        "/metrics",
        get(move || {
            let text = metrics.text();
            async move {
                match text {
                    Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
                    Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                }
            }
        }),
    )
}
