//! The operator's own port: `/metrics`, `/livez`, `/readyz`, `/version`.

use std::fmt;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What the port tells.
#[derive(Clone, Debug)]
pub struct Health {
    /// Counted so far.
    pub metrics: Metrics,
    duty: watch::Sender<Duty>,
}

/// What the operator does at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It has not reached the API server yet.
    Starts,
    /// Another one holds the Lease of this name. It is ready: it takes over at any time.
    StandsBy {
        /// Namespace and name.
        lease: String,
    },
    /// It holds the Lease.
    Works,
    /// It is on its way out.
    Stops,
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Duty::Starts => f.write_str("the API server was not reached yet"),
            Duty::StandsBy { lease } => {
                write!(f, "ok: it stands by, another operator holds the Lease {lease}")
            }
            Duty::Works => f.write_str("ok: it holds the Lease and works"),
            Duty::Stops => f.write_str("it stops"),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Health { metrics: Metrics::new(), duty: watch::Sender::new(Duty::Starts) }
    }
}

impl Health {
    /// From now on it does this.
    pub fn does(&self, duty: Duty) {
        self.metrics.holds_lease(duty == Duty::Works);
        self.duty.send_replace(duty);
    }
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
    let duty = health.duty.borrow().clone();
    let code = match duty {
        Duty::StandsBy { .. } | Duty::Works => StatusCode::OK,
        Duty::Starts | Duty::Stops => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, format!("{duty}\n")).into_response()
}

async fn version() -> Response {
    let text = concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}\n");
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
