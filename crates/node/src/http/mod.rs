//! The HTTP port: `/metrics`, `/livez`, `/readyz` and `/version`.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::health::Health;

/// What the port answers.
pub fn routes(health: Health) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async |State(health): State<Health>| answer(health.alive())))
        .route("/readyz", get(async |State(health): State<Health>| answer(health.ready())))
        .route("/version", get(version))
        .with_state(health)
}

/// What the client port answers beside its services, to who wants it encrypted. Nobody need say who he is for it: there are
/// no keys, users or addresses in it.
pub fn metrics_page(health: Health) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(health)
}

fn answer(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    // Asking RocksDB for its sizes takes its locks and may wait.
    let blocking = health.raft().blocking().clone();
    let text = blocking.run(move || {
        let raft = health.raft();
        raft.metrics().observe(raft.store(), &raft.status());
        raft.metrics().encode()
    });
    match text.await {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn version() -> Response {
    let text = concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}\n");
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
