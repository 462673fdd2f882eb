//! The one place that makes servers and channels: their sizes, time-outs and keep-alive. TLS has
//! its door here: around the stream of a [`Connection`], and `Endpoint::tls_config` in [`peer_channel`].
//!
//! hyper serves the connections, without tonic's server in between: only so does each answer have a task
//! that this node can end, and with it the memory of an answer that nobody reads.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use kvorum_proto::peer::v1::peer_client::PeerClient;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::{Channel, Endpoint};

use super::budget::Account;
use super::call::Call;
use super::outbox::Progress;
use super::resolve;
use super::router::{HttpResponse, Router};

/// Connections a port takes at a time; the next ones wait to be accepted. Each costs tens of
/// kilobytes, and a client needs one.
const CONNECTIONS_MAX: usize = 10_000;

/// Calls and streams in flight on a connection. A client that multiplexes a thousand watches over
/// one connection fits; one that opens streams without end waits.
const STREAMS_PER_CONNECTION_MAX: u32 = 4096;

/// Calls of a connection that were cancelled before the node looked at them. A node that stood still for
/// seconds finds so many at once, of a client that gave up all it had in flight, and its watches are to
/// live through that; each takes a kilobyte or two. A connection that brings more at once is closed: it
/// opens streams only to cancel them.
const CANCELLED_CALLS_MAX: usize = STREAMS_PER_CONNECTION_MAX as usize;

/// Bytes of one stream that the connection takes before they are sent. They count in the budget of what
/// waits to be sent.
const SEND_BUFFER_BYTES_MAX: usize = 400 * 1024;

/// What a peer may send on one stream before it has to wait: a whole largest request, so that it
/// needs no round trip.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// What a peer may send on one connection before it has to wait, and so the memory that the
/// unread requests of a connection can take.
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// The largest message between members: one log entry of the largest request, and room.
pub const PEER_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a request's message takes beside key and value, and room to tell one that is a little too
/// large that it is.
pub const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;

/// A connection that was silent for so long is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// One that does not answer within this is closed, and its watches with it.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Members notice sooner, since a request that waits for a dead leader waits for all of it.
const PEER_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// See [`PEER_KEEPALIVE_INTERVAL`].
const PEER_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection to a member may take to be made. Where a pod was replaced a moment ago, the DNS
/// still names an address where nobody answers; a packet that was lost is repeated after a second at the
/// earliest, so that a little more patience would not help.
const PEER_CONNECT_TIMEOUT: Duration = Duration::from_millis(400);

/// After an error of `accept`, the next attempt waits so long: out of file descriptors, it would
/// fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{flag} {address} cannot be listened on: {source}; {}", hint(.source))]
pub struct BindError {
    flag: &'static str,
    address: String,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop the process that uses the port, or choose another one",
        io::ErrorKind::PermissionDenied => "choose a port above 1023",
        _ => "choose an address of this machine",
    }
}

/// An address that cannot be one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("'{0}' is no host:port")]
pub struct AddressError(String);

/// Listens on the address of a flag.
pub async fn bind(flag: &'static str, address: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { flag, address: address.to_owned(), source })
}

/// Serves a port until `stop`, then lets the calls in flight end.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let incoming = stream::unfold((listener, room()), async |(listener, room)| {
        let connection = accept(&listener, &room).await.serve_here();
        Some((Ok(connection), (listener, room)))
    });
    serve_connections(incoming, router, stop).await;
}

/// Serves these connections until `stop`, then lets the calls in flight end.
pub async fn serve_connections(
    connections: impl Stream<Item = io::Result<Connection>>,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let (drain, draining) = watch::channel(false);
    {
        let (mut connections, mut stop) = (pin!(connections), pin!(stop));
        loop {
            tokio::select! {
                () = &mut stop => break,
                next = connections.next() => match next {
                    Some(Ok(connection)) => {
                        tokio::spawn(serve_connection(connection, router.clone(), draining.clone()));
                    }
                    Some(Err(error)) => tracing::debug!(%error, "a connection could not be taken over"),
                    None => break,
                }
            }
        }
        // Here the listener is dropped: who comes now is refused, and does not wait.
    }
    drain.send_replace(true);
    drop(draining);
    drain.closed().await;
}

async fn serve_connection(connection: Connection, router: Router, draining: watch::Receiver<bool>) {
    let Connection { stream, permit: _permit } = connection;
    let address = stream.peer_addr().ok().map(|address| address.ip());
    let remote = Remote { address, account: router.budget().account() };
    let served = http2::Builder::new(Answering)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_pending_accept_reset_streams(CANCELLED_CALLS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(Some(KEEPALIVE_INTERVAL))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), Calls { router, remote });
    let mut served = pin!(served);
    tokio::select! {
        ended = &mut served => return log_end(ended),
        () = stopped(draining.clone()) => served.as_mut().graceful_shutdown(),
    }
    log_end(served.await);
    // Until here the stop waits for this connection.
    drop(draining);
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::debug!(%error, cause, "a connection ended");
    }
}

/// The calls of one connection.
struct Calls {
    router: Router,
    remote: Remote,
}

impl hyper::service::Service<http::Request<hyper::body::Incoming>> for Calls {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, request: http::Request<hyper::body::Incoming>) -> Call {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.remote.clone());
        self.router.answer(request)
    }
}

/// Runs a connection's answers, each in a task, and ends one whose client takes nothing.
#[derive(Clone)]
struct Answering;

impl<F> hyper::rt::Executor<F> for Answering
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, answer: F) {
        tokio::spawn(watched(answer));
    }
}

/// An answer, until it is over or its client has taken nothing for too long. hyper asks a body for nothing
/// while the client's window is closed, so that only from outside can it be ended. Dropped, it is reset
/// with CANCEL, and what the connection has buffered of it is gone: a status would come only after that.
async fn watched(answer: impl Future<Output = ()>) {
    let mut answer = pin!(answer);
    let mut progress: Option<Arc<Progress>> = None;
    let mut tick: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        if answer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        progress = Progress::watched().or(progress.take());
        let Some(progress) = progress.as_ref().filter(|progress| progress.waits() || tick.is_some()) else {
            return Poll::Pending;
        };
        loop {
            let sleep = tick.get_or_insert_with(|| Box::pin(sleep(progress.tick())));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if progress.stalled() {
                return Poll::Ready(());
            }
            if !progress.waits() {
                // An idle watch costs no timer. What comes next is polled by this task, and seen here.
                tick = None;
                return Poll::Pending;
            }
            sleep.as_mut().reset(Instant::now() + progress.tick());
        }
    })
    .await;
}

/// A lazily made connection to a member's peer port, which makes itself anew when it breaks.
pub fn peer_channel(address: &str) -> Result<Channel, AddressError> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|_| AddressError(address.to_owned()))?;
    let name: Arc<str> = address.into();
    let connector = tower::service_fn(move |_| {
        let name = name.clone();
        // The limit is here and not the endpoint's own, whose error does not tell that nothing was sent.
        async move { timeout(PEER_CONNECT_TIMEOUT, resolve::connect(&name)).await?.map(TokioIo::new) }
    });
    Ok(endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(PEER_KEEPALIVE_INTERVAL)
        .keep_alive_timeout(PEER_KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector))
}

/// A client of the peer service with its limits.
pub fn peer_client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}

/// Becomes true, or its sender goes: whatever listens to it is to stop.
pub async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone means that the node is.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The room of a port, for [`CONNECTIONS_MAX`] connections at a time.
pub fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS_MAX))
}

/// Waits for room, and accepts the next connection.
pub async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Accepted {
    let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it a small response would wait for the acknowledgement of the last one.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY was refused");
                }
                return Accepted { stream, permit };
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that no runtime serves yet, with its place among those that a port takes.
pub struct Accepted {
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
}

/// A connection that is served.
pub struct Connection {
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
}

impl Accepted {
    /// The runtime that accepted the connection serves it too.
    fn serve_here(self) -> Connection {
        Connection { stream: self.stream, permit: self.permit }
    }

    /// The runtime of the caller serves the connection, which another one accepted.
    pub fn take_over(self) -> io::Result<Connection> {
        let stream = TcpStream::from_std(self.stream.into_std()?)?;
        Ok(Connection { stream, permit: self.permit })
    }
}

/// The connection that a request came over: an extension of each.
#[derive(Clone)]
pub struct Remote {
    /// Where it comes from, if the system knows.
    pub address: Option<IpAddr>,
    /// What it may have waiting to be sent.
    pub account: Account,
}

#[cfg(test)]
mod tests;
