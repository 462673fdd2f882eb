//! The operator's own port: `/metrics`, `/livez`, `/readyz`, `/version`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// What the port tells.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Counted so far.
    pub metrics: Metrics,
    /// The API server has been reached; set once, and taken back on the way out. A replica that waits
    /// for the lease is ready: it takes over at any time.
    pub ready: Arc<AtomicBool>,
}

/// Serves the port until `stop`.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/version", get(version))
        .with_state(health);
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn metrics(State(health): State<Health>) -> Response {
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], health.metrics.encode()).into_response()
}

async fn ready(State(health): State<Health>) -> Response {
    match health.ready.load(Ordering::Relaxed) {
        true => "ok\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the API server was not reached yet\n").into_response(),
    }
}

async fn version() -> Response {
    let text = concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}\n");
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
