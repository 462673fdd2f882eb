//! The HTTP port: `/metrics`, `/livez`, `/readyz` and `/version`.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::health::Health;
use crate::net::listen::accept_any;
use crate::net::network::{Listener, Stream};

/// The port, as axum wants it.
struct Port(Box<dyn Listener>);

impl axum::serve::Listener for Port {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        accept_any(&mut *self.0).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.address()
    }
}

/// Serves the port until `stop`.
pub async fn serve(
    listener: Box<dyn Listener>,
    health: Health,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async |State(health): State<Health>| answer(health.alive())))
        .route("/readyz", get(async |State(health): State<Health>| answer(health.ready())))
        .route("/version", get(version))
        .with_state(health);
    axum::serve(Port(listener), router).with_graceful_shutdown(stop).await
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
