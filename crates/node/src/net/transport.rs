//! Serves connections: who is let in, their sizes, time-outs and keep-alive.
//!
//! hyper serves the connections, without tonic's server in between: only so does each answer have a task
//! that this node can end, and with it the memory of an answer that nobody reads.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tonic::body::Body;
use tonic::codegen::http;

use super::call::{Call, HttpResponse};
use super::greeting::{GREETING_MAX, Greeted};
use super::http as pages;
use super::inbox::{Inbox, Room};
use super::listen::{Connection, Port, accept, room};
use super::network::Listener;
use super::progress::Progress;
use super::remote::Remote;
use super::router::Router;
use super::sizes::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use super::tls::{Admitted, Door, FAREWELL_MAX};
use crate::access::LastToken;
use crate::audit::Trail;

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

/// A connection that was silent for so long is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// One that does not answer within this is closed, and its watches with it.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a handshake that is under way may take after a stop: whoever finishes it hears in order that the node
/// goes, and the others have asked for nothing.
const LAST_HANDSHAKES_MAX: Duration = Duration::from_millis(300);

/// Serves a port until `stop`, then lets the calls in flight end. Dropped, it cuts them off.
pub async fn serve(
    listener: Box<dyn Listener>,
    port: Port,
    door: Door,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let incoming = stream::unfold((listener, room(port)), async |(mut listener, room)| {
        let connection = accept(&mut *listener, &room).await.serve_here();
        Some((Ok(connection), (listener, room)))
    });
    serve_connections(incoming, door, router, stop).await;
}

/// Serves these connections until `stop`, then lets the calls in flight end. Dropped, it cuts them off.
pub async fn serve_connections(
    connections: impl Stream<Item = io::Result<Connection>>,
    door: Door,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let (drain, draining) = watch::channel(false);
    let mut served = JoinSet::new();
    {
        let (mut connections, mut stop) = (pin!(connections), pin!(stop));
        loop {
            tokio::select! {
                () = &mut stop => break,
                next = connections.next() => match next {
                    Some(Ok(connection)) => {
                        let (door, router) = (door.clone(), router.clone());
                        served.spawn(serve_connection(connection, door, router, draining.clone()));
                    }
                    Some(Err(error)) => tracing::debug!(%error, "a connection could not be taken over"),
                    None => break,
                },
                // One that has ended is taken note of, so that they do not pile up.
                Some(_) = served.join_next() => {}
            }
        }
        // Here the listener is dropped: who comes now is refused, and does not wait.
    }
    drain.send_replace(true);
    while served.join_next().await.is_some() {}
}

/// Lets a connection in, and serves it to its end. All of that is this task's: one that is slow to say who it is
/// keeps nobody waiting.
async fn serve_connection(
    connection: Connection,
    door: Door,
    router: Router,
    draining: watch::Receiver<bool>,
) {
    let Connection { stream, from, permit: _permit } = connection;
    let stopping = async {
        stopped(draining.clone()).await;
        sleep(LAST_HANDSHAKES_MAX).await;
    };
    let admitted = tokio::select! {
        biased;
        admitted = door.admit(stream, from) => admitted,
        // Whoever is not in yet has asked for nothing.
        () = stopping => return,
    };
    let Some(Admitted { io, secured, http1, peer, mut held }) = admitted else { return };
    if http1 {
        let over = async {
            tokio::select! {
                () = stopped(draining) => {}
                () = door.until_over(peer.as_ref(), &mut held) => {}
            }
        };
        return pages::serve_pages(io, router.pages(), over).await;
    }
    let (account, received) = (router.budget().account(), router.receive_budget().account());
    let calls = router.calls().connection();
    let (last_token, trail) = (LastToken::default(), Trail::default());
    let remote =
        Remote { address: from, account, received, calls, secured, peer: peer.clone(), last_token, trail };
    let io = Greeted::new(io);
    let overdue = io.overdue(GREETING_MAX);
    let served = http2::Builder::new(Answering)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_pending_accept_reset_streams(CANCELLED_CALLS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(Some(KEEPALIVE_INTERVAL))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(io), Calls { router, remote });
    let mut served = pin!(served);
    let rest = tokio::select! {
        ended = &mut served => return log_end(ended),
        () = overdue => return tracing::debug!(%from, "a connection said nothing, and is closed"),
        () = stopped(draining) => None,
        () = door.until_over(peer.as_ref(), &mut held) => Some(FAREWELL_MAX),
    };
    served.as_mut().graceful_shutdown();
    match rest {
        None => log_end(served.await),
        // What is not over by then is cut off: its right has ended.
        Some(rest) => {
            if let Ok(ended) = timeout(rest, served).await {
                log_end(ended);
            }
        }
    }
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
        let (received, room) = (self.remote.received.clone(), Room::default());
        let limit = self.router.message_bytes_max();
        let mut request = request.map(|body| Body::new(Inbox::new(body, received, room.clone(), limit)));
        request.extensions_mut().insert(self.remote.clone());
        let place = self.remote.calls.open(request.headers());
        self.router.answer(request, room, place)
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

/// Becomes true, or its sender goes: whatever listens to it is to stop.
pub async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone means that the node is.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests;
