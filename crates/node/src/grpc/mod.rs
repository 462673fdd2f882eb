//! The gRPC services, and the router in front of them.

pub mod admin;
pub mod budget;
mod call;
pub mod cluster;
pub mod convert;
pub mod error;
pub mod kv;
mod outbox;
pub mod peer;
pub mod resolve;
mod scan;
mod shared_reads;
pub mod transport;
mod watch;
pub mod workers;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::{Duration, Instant};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;

use crate::error::RequestError;
use crate::metrics::Metrics;
use crate::raft::StatusOnly;
use budget::SendBudget;
use call::Call;
use transport::REQUEST_OVERHEAD_BYTES;

type HttpRequest = http::Request<Body>;
type HttpResponse = http::Response<Body>;
type Handler = Box<dyn Fn(HttpRequest) -> BoxFuture<HttpResponse, Infallible> + Send + Sync>;

/// The calls that a node takes whose disk is set aside: what it holds, and that it is all there is left.
const SET_ASIDE_PATHS: [&str; 2] = ["/admin.v1.Admin/Status", "/admin.v1.Admin/Recover"];

/// The time a call has when its caller names none.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
/// The most time a unary call gets, so that nothing waits for ever for a leader.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// The server answers so much earlier than the caller gives up, or an eighth of the caller's time
/// if that is less: only an answer can say whether a write may have happened.
const DEADLINE_MARGIN: Duration = Duration::from_millis(20);

/// The services of one port. Calls are counted here, and refused once the port is stopping.
///
/// It finds the service by a look at a short list, the busiest first: each call passes here.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    services: Vec<(&'static str, Handler)>,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
    status_only: Option<StatusOnly>,
    request_bytes_max: usize,
    budget: SendBudget,
}

impl Router {
    /// A router without services. Once `stopping` is set, calls are answered SHUTTING_DOWN; what waits to
    /// be sent counts in the budget.
    pub fn builder(
        metrics: Arc<Metrics>,
        stopping: Arc<AtomicBool>,
        request_bytes_max: usize,
        budget: SendBudget,
    ) -> RouterBuilder {
        let services = Vec::new();
        RouterBuilder(Inner { services, metrics, stopping, status_only: None, request_bytes_max, budget })
    }

    /// What may wait to be sent.
    pub fn budget(&self) -> &SendBudget {
        &self.inner.budget
    }

    /// Answers a call.
    pub fn answer(&self, request: HttpRequest) -> Call {
        let method = self.inner.metrics.method(request.uri().path()).clone();
        let response = self.inner.call(request);
        Call::new(response, method, self.inner.request_bytes_max)
    }
}

/// A router that is being put together.
pub struct RouterBuilder(Inner);

impl RouterBuilder {
    /// With a reason, everything but the node's status, its recovery and health is refused.
    pub fn status_only(mut self, reason: Option<&StatusOnly>) -> Self {
        self.0.status_only = reason.cloned();
        self
    }

    /// Adds a service; the busiest come first.
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<
                HttpRequest,
                Response = HttpResponse,
                Error = Infallible,
                Future = BoxFuture<HttpResponse, Infallible>,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.0.services.push((S::NAME, Box::new(move |request| service.clone().call(request))));
        self
    }

    /// The router.
    pub fn build(self) -> Router {
        Router { inner: Arc::new(self.0) }
    }
}

impl Inner {
    fn call(&self, request: HttpRequest) -> BoxFuture<HttpResponse, Infallible> {
        let path = request.uri().path();
        let service =
            path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        let handler = service.and_then(|name| self.services.iter().find(|(known, _)| *known == name));
        let Some((name, handler)) = handler else {
            return ready(Status::unimplemented("there is no such service on this port"));
        };
        match self.refusal(name, path) {
            None => handler(request),
            Some(error) => ready(error.into()),
        }
    }

    /// Why this port does not take a call. Health is always told, so that load balancers learn of it.
    fn refusal(&self, service: &str, path: &str) -> Option<RequestError> {
        if service == "grpc.health.v1.Health" {
            return None;
        }
        if self.stopping.load(Ordering::Relaxed) {
            return Some(RequestError::ShuttingDown);
        }
        let reason = self.status_only.as_ref().filter(|_| !SET_ASIDE_PATHS.contains(&path))?;
        Some(RequestError::StatusOnly(reason.clone()))
    }
}

fn ready(status: Status) -> BoxFuture<HttpResponse, Infallible> {
    Box::pin(std::future::ready(Ok(status.into_http())))
}

/// The largest message that a service on the client port decodes.
pub fn decoding_limit(request_bytes_max: usize) -> usize {
    request_bytes_max + REQUEST_OVERHEAD_BYTES
}

/// When a call must have been answered, by its `grpc-timeout`.
pub fn deadline(metadata: &MetadataMap) -> Instant {
    Instant::now() + time_to_answer(metadata)
}

/// The time there is to answer each of `count` writes that a member forwarded in one call, by the
/// milliseconds that its caller had left; by the call's own deadline where the member says none.
pub fn times_to_answer(
    metadata: &MetadataMap,
    timeout_ms: &[u32],
    count: usize,
) -> Result<Vec<Duration>, Status> {
    if timeout_ms.is_empty() {
        return Ok(vec![time_to_answer(metadata); count]);
    }
    if timeout_ms.len() != count {
        let times = timeout_ms.len();
        return Err(Status::invalid_argument(format!("{count} commands came with {times} time-outs")));
    }
    Ok(timeout_ms.iter().map(|ms| within(Duration::from_millis(u64::from(*ms)))).collect())
}

fn time_to_answer(metadata: &MetadataMap) -> Duration {
    let asked = metadata.get("grpc-timeout").and_then(|value| parse_timeout(value.as_bytes()));
    asked.map_or(DEADLINE_DEFAULT, within)
}

/// The time there is for an answer that the caller waits for so long.
fn within(asked: Duration) -> Duration {
    asked.min(DEADLINE_MAX) - DEADLINE_MARGIN.min(asked / 8)
}

/// At most eight digits and a unit, see gRPC over HTTP/2.
fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_of(header: Option<&str>) -> Duration {
        let mut metadata = MetadataMap::new();
        if let Some(header) = header {
            metadata.insert("grpc-timeout", header.parse().unwrap());
        }
        time_to_answer(&metadata)
    }

    /// The caller's deadline is kept, with a margin to tell what happened, and never without bound.
    #[test]
    fn the_deadline_is_the_callers() {
        assert_eq!(wait_of(None), DEADLINE_DEFAULT);
        assert_eq!(wait_of(Some("nonsense")), DEADLINE_DEFAULT);
        assert_eq!(wait_of(Some("123456789S")), DEADLINE_DEFAULT);
        assert_eq!(wait_of(Some("1S")), Duration::from_millis(980));
        assert_eq!(wait_of(Some("80m")), Duration::from_millis(70));
        assert_eq!(wait_of(Some("99999999H")), DEADLINE_MAX - DEADLINE_MARGIN);
    }
}
