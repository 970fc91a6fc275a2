//! What the agent says of itself over HTTP: liveness, readiness, metrics.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderName, StatusCode, header},
    response::IntoResponse,
    routing::{any, get},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub mod answers;
pub mod health;
pub mod kernel;
pub mod metrics;
pub mod proxy_health;
mod proxy_metrics;
pub mod service_health;

pub use health::{Guard, Health};
pub use metrics::Metrics;
pub use proxy_health::ProxyHealth;
pub use service_health::ServiceHealth;

/// Routes for probes. `/healthz` and `/livez` are kube-proxy's ([`ProxyHealth`]); `/readyz` answers 200 once nothing is
/// pending, else 503 with one line for each thing that is.
pub fn health_routes(health: Arc<Health>, metrics: Arc<Metrics>) -> Router {
    let healthz = {
        let (health, metrics) = (Arc::clone(&health), Arc::clone(&metrics));
        move || {
            let (code, body) = health.proxy().healthz();
            metrics.proxy().healthz(code.as_u16());
            async move { proxy_health::json(code, body) }
        }
    };
    let livez = {
        let health = Arc::clone(&health);
        move || {
            let (code, body) = health.proxy().livez();
            metrics.proxy().livez(code.as_u16());
            async move { proxy_health::json(code, body) }
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
        .route("/healthz", any(healthz))
        .route("/livez", any(livez))
        .route("/readyz", get(ready))
}

/// What an agent says of how it works, at kube-proxy's places.
#[derive(Clone, Debug)]
pub struct About {
    /// How the data path is made: `/proxyMode`.
    pub mode: &'static str,
    /// The configuration in effect: `/configz`.
    pub config: serde_json::Value,
}

/// Routes that say how the agent works.
pub fn about_routes(about: About) -> Router {
    let About { mode, config } = about;
    let nosniff = (HeaderName::from_static("x-content-type-options"), "nosniff");
    let text = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
    let config = config.to_string();
    Router::new()
        .route(
            "/proxyMode",
            get(move || async move { ([text, nosniff], mode) }),
        )
        .route(
            "/configz",
            get(move || async move { proxy_health::json(StatusCode::OK, config) }),
        )
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

    fn routes(health: &Arc<Health>) -> Router {
        health_routes(Arc::clone(health), Arc::new(Metrics::new(None)))
    }

    #[tokio::test]
    async fn probes_are_counted_by_their_code() {
        let health = Arc::new(Health::default());
        let metrics = Arc::new(Metrics::new(None));
        health.set_node_eligible(false);
        let routes = || health_routes(Arc::clone(&health), Arc::clone(&metrics));
        let answer = get_from(routes(), "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.contains("x-content-type-options: nosniff"),
            "{answer}"
        );
        let answer = get_from(routes(), "/livez").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let text = metrics.text().unwrap();
        for line in [
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
            "kubeproxy_proxy_livez_total{code=\"200\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn mode_and_configuration_are_told() {
        let about = About {
            mode: "ebpf",
            config: serde_json::json!({"signpost": {"a": 1}}),
        };
        let answer = get_from(about_routes(about.clone()), "/proxyMode").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nebpf"), "{answer}");
        let answer = get_from(about_routes(about), "/configz").await;
        assert!(answer.ends_with("{\"signpost\":{\"a\":1}}"), "{answer}");
    }

    #[tokio::test]
    async fn an_agent_is_ready_when_nothing_is_pending() {
        let health = Arc::new(Health::default());
        let services = health.guard("the list of Services");
        let attach = health.guard("programs on the pods' interfaces");
        let answer = get_from(routes(&health), "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("pending: the list of Services\n"));
        services.done();
        attach.done();
        let answer = get_from(routes(&health), "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn an_agent_that_starts_is_alive() {
        let answer = get_from(routes(&Arc::default()), "/healthz").await;
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
