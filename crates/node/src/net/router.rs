//! The router in front of the services of a port.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::TryFutureExt as _;
use kvorum_tls::Identity;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Method;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tower::ServiceExt as _;

use super::budget::Budget;
use super::call::{Call, Held, HttpResponse};
use super::inbox::Room;
use super::open_calls::{CALLS_BYTES_MAX, OpenCall, OpenCalls};
use super::remote::Remote;
use super::sizes::decoding_limit;
use crate::audit::{Auditor, Trail};
use crate::error::{AuthError, RequestError};
use crate::metrics::Metrics;
use crate::place::StatusOnly;

type HttpRequest = http::Request<Body>;
/// Whether somebody may call a path; nobody is who has shown no certificate.
pub type Rights = Box<dyn Fn(Option<&Identity>, &str) -> bool + Send + Sync>;
type Handler = Box<dyn Fn(HttpRequest) -> BoxFuture<HttpResponse, Infallible> + Send + Sync>;

/// The calls that a node takes whose disk is set aside: what it holds, and that it is all there is left.
const SET_ASIDE_PATHS: [&str; 2] = ["/admin.v1.Admin/Status", "/admin.v1.Admin/Recover"];

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
    budget: Budget,
    receive_budget: Budget,
    calls: Arc<OpenCalls>,
    rights: Rights,
    auditor: Option<Auditor>,
    /// What is answered to GET, which no call is.
    pages: axum::Router,
}

impl Router {
    /// A router without services. Once `stopping` is set, calls are answered SHUTTING_DOWN; what waits to
    /// be sent counts in one budget, and what was received in the other.
    pub fn builder(
        metrics: Arc<Metrics>,
        stopping: Arc<AtomicBool>,
        request_bytes_max: usize,
        budget: Budget,
        receive_budget: Budget,
    ) -> RouterBuilder {
        RouterBuilder(Inner {
            services: Vec::new(),
            metrics,
            stopping,
            status_only: None,
            request_bytes_max,
            budget,
            receive_budget,
            calls: OpenCalls::new(CALLS_BYTES_MAX),
            rights: Box::new(|_, _| true),
            auditor: None,
            pages: axum::Router::new(),
        })
    }

    /// What may wait to be sent.
    pub fn budget(&self) -> &Budget {
        &self.inner.budget
    }

    /// What calls may have received.
    pub fn receive_budget(&self) -> &Budget {
        &self.inner.receive_budget
    }

    /// The largest message that is decoded, in bytes.
    pub fn message_bytes_max(&self) -> usize {
        decoding_limit(self.inner.request_bytes_max)
    }

    /// The calls that are open.
    pub fn calls(&self) -> &Arc<OpenCalls> {
        &self.inner.calls
    }

    /// What is answered to whoever speaks HTTP/1.1.
    pub fn pages(&self) -> axum::Router {
        self.inner.pages.clone()
    }

    /// Answers a call that has this room for what it brings. Without a place it is refused.
    pub fn answer(&self, mut request: HttpRequest, room: Room, place: Option<OpenCall>) -> Call {
        let method = self.inner.metrics.method(request.uri().path()).clone();
        let trail = self.inner.begin_trail(method.name(), &mut request);
        let response = match &place {
            Some(_) => self.inner.call(request),
            None => ready(RequestError::Busy.into()),
        };
        let held = place.map(|place| Held { place, room });
        Call::new(response, method, trail, self.inner.request_bytes_max, held)
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

    /// Who may call what on this port. Without it everybody may call everything.
    pub fn rights(
        mut self,
        rights: impl Fn(Option<&Identity>, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.0.rights = Box::new(rights);
        self
    }

    /// Who is told of each call.
    pub fn audit(mut self, auditor: Option<&Auditor>) -> Self {
        self.0.auditor = auditor.cloned();
        self
    }

    /// Pages beside the services.
    pub fn pages(mut self, pages: axum::Router) -> Self {
        self.0.pages = pages;
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
    /// What is known of a call from its begin, for the door to add to.
    fn begin_trail(&self, method: &str, request: &mut HttpRequest) -> Trail {
        let auditor = self.auditor.as_ref().filter(|_| request.method() != Method::GET);
        let Some(auditor) = auditor else { return Trail::default() };
        let Some(remote) = request.extensions_mut().get_mut::<Remote>() else { return Trail::default() };
        remote.trail = auditor.begin(method, remote.address, remote.peer.as_deref());
        remote.trail.clone()
    }

    fn call(&self, request: HttpRequest) -> BoxFuture<HttpResponse, Infallible> {
        if request.method() == Method::GET {
            return Box::pin(self.pages.clone().oneshot(request).map_ok(|page| page.map(Body::new)));
        }
        let path = request.uri().path();
        let service =
            path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        let handler = service.and_then(|name| self.services.iter().find(|(known, _)| *known == name));
        let Some((name, handler)) = handler else {
            return ready(Status::unimplemented("there is no such service on this port"));
        };
        if let Some(error) = self.refusal(name, path) {
            return ready(error.into());
        }
        let peer = request.extensions().get::<Remote>().and_then(|remote| remote.peer.as_ref());
        let identity = peer.map(|peer| &peer.identity);
        if !(self.rights)(identity, path) {
            return ready(match identity {
                Some(identity) => Status::permission_denied(format!("{identity} does not call {path}")),
                None => RequestError::from(AuthError::PermissionDenied).into(),
            });
        }
        handler(request)
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
