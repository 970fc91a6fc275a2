//! What the agent says of itself over HTTP: liveness, readiness, metrics.

use std::sync::Arc;

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub mod health;
pub mod kernel;
pub mod metrics;

pub use health::{Guard, Health};
pub use metrics::Metrics;

/// Routes for probes. `/healthz` and `/livez` answer 200 while the agent's loop turns, else 503; `/readyz` answers
/// 200 once nothing is pending, else 503 with one line for each thing that is.
pub fn health_routes(health: Arc<Health>) -> Router {
    let alive = {
        let health = Arc::clone(&health);
        move || {
            let alive = health.is_alive();
            async move {
                if alive {
                    (StatusCode::OK, "ok\n")
                } else {
                    (
                        StatusCode::SERVICE_UNAVAILABLE,
                        "the agent's loop hangs; see its log\n",
                    )
                }
            }
        }
    };
    let ready = move || {
        let pending = health.pending();
        async move {
            if pending.is_empty() {
                (StatusCode::OK, "ok\n".to_owned())
            } else {
                let lines = pending.iter().map(|what| format!("pending: {what}\n"));
                (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
            }
        }
    };
    Router::new()
        .route("/healthz", get(alive.clone()))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
}

/// The route for Prometheus: `/metrics`, in the OpenMetrics text format that it prefers.
pub fn metrics_routes(metrics: Arc<Metrics>) -> Router {
    let scrape = move || {
        let metrics = Arc::clone(&metrics);
        async move {
            // Reading the kernel's maps blocks.
            let text = tokio::task::spawn_blocking(move || metrics.text()).await;
            match text {
                Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
                _ => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the metrics cannot be read; see the agent's log\n",
                )
                    .into_response(),
            }
        }
    };
    Router::new().route("/metrics", get(scrape))
}

/// Serves routes until `stop`.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn get_from(routes: Router, path: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, routes, stop.clone()));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        stop.cancel();
        server.await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn an_agent_is_ready_when_nothing_is_pending() {
        let health = Arc::new(Health::default());
        let services = health.guard("the list of Services");
        let attach = health.guard("programs on the pods' interfaces");
        let answer = get_from(health_routes(Arc::clone(&health)), "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("pending: the list of Services\n"));
        services.done();
        attach.done();
        let answer = get_from(health_routes(health), "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn an_agent_that_starts_is_alive() {
        let answer = get_from(health_routes(Arc::default()), "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn metrics_are_served_as_text() {
        let answer = get_from(metrics_routes(Arc::new(Metrics::new(None))), "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("application/openmetrics-text"));
        assert!(answer.contains("signpost_build_info{version="), "{answer}");
        assert!(answer.ends_with("# EOF\n"));
    }
}
