//! The one place that makes servers and channels: their sizes, time-outs and keep-alive. TLS has
//! its door here: `Server::tls_config` in [`serve`], `Endpoint::tls_config` in [`peer_channel`].

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use hyper_util::rt::TokioIo;
use kvorum_proto::peer::v1::peer_client::PeerClient;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};

use super::{Router, resolve};

/// Connections a port takes at a time; the next ones wait to be accepted. Each costs tens of
/// kilobytes, and a client needs one.
const CONNECTIONS_MAX: usize = 10_000;

/// Calls and streams in flight on a connection. A client that multiplexes a thousand watches over
/// one connection fits; one that opens streams without end waits.
const STREAMS_PER_CONNECTION_MAX: u32 = 4096;

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
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let incoming = stream::unfold((listener, room()), async |(listener, room)| {
        let connection = accept(&listener, &room).await.serve_here();
        Some((Ok(connection), (listener, room)))
    });
    serve_connections(incoming, router, stop).await
}

/// Serves these connections until `stop`, then lets the calls in flight end.
pub async fn serve_connections(
    connections: impl Stream<Item = io::Result<Connection>>,
    router: Router,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .serve_with_incoming_shutdown(router, connections, stop)
        .await
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
    _permit: OwnedSemaphorePermit,
}

impl Accepted {
    /// The runtime that accepted the connection serves it too.
    fn serve_here(self) -> Connection {
        Connection { stream: self.stream, _permit: self.permit }
    }

    /// The runtime of the caller serves the connection, which another one accepted.
    pub fn take_over(self) -> io::Result<Connection> {
        let stream = TcpStream::from_std(self.stream.into_std()?)?;
        Ok(Connection { stream, _permit: self.permit })
    }
}

/// Where a connection comes from, if the system knows: an extension of each request on it.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub Option<IpAddr>);

impl Connected for Connection {
    type ConnectInfo = Remote;

    fn connect_info(&self) -> Remote {
        Remote(self.stream.peer_addr().ok().map(|address| address.ip()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
