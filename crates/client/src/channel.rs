//! The one place that makes channels, out of what a [`Connector`](crate::Connector) connects.
//!
//! A channel is one HTTP/2 connection and nothing more: it is never made anew behind its owner's back,
//! so that its owner can tell a request that was not sent from one that may have been, and knows when
//! there is a new connection whose other end is to be checked. Nor is there a queue or a task between
//! a call and its connection.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::header::{HeaderValue, USER_AGENT};
use tonic::codegen::http::uri::{Authority, Scheme, Uri};
use tonic::codegen::http::{Request, Response};

use crate::Error;
use crate::address::Address;
use crate::connect::{ByteStream, ConnectOptions};
use crate::credentials::{Credentials, TOKEN};
use crate::tls::Tls;

/// How much of one stream a server may send before the caller has taken it: a few chunks of a scan.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// How much all streams of a connection together may have in flight. It is many times one stream's
/// share, since streams whose consumer is slow must not starve the calls beside them.
const CONNECTION_WINDOW_BYTES: u32 = 64 * STREAM_WINDOW_BYTES;
/// How long a connection with open calls may be silent before it is probed, and how long the probe
/// may take. Together they bound how long a call or a watch hangs on a machine that is gone: by then
/// the others have elected a leader.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The largest answer that is taken: well above the largest request a node takes, since an answer may
/// hold the previous values of a deleted range.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("kvorum-client/", env!("CARGO_PKG_VERSION")));

/// A connection. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    requests: SendRequest<Body>,
    authority: Authority,
    scheme: Scheme,
    /// What goes with each call; nothing on a connection without TLS.
    credentials: Credentials,
}

/// Connects to an endpoint. The caller bounds the time.
pub(crate) async fn connect(address: &Address, options: &ConnectOptions) -> io::Result<Channel> {
    let tls = security(address, options).map_err(io::Error::other)?;
    let connecting = options.connector.connect(address.as_str());
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "cannot be connected to in time");
    let stream = timeout(options.timeout, connecting).await.map_err(late)?;
    let (stream, scheme): (Box<dyn ByteStream>, Scheme) = match tls {
        None => (stream?, Scheme::HTTP),
        Some(tls) => (Box::new(tls.inner().connect(stream?, address.host()).await?), Scheme::HTTPS),
    };
    let (requests, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // It ends with the last clone of the channel and the last call on it. Each call learns by itself
    // how the connection ended.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let credentials = match scheme == Scheme::HTTPS {
        true => options.credentials.clone(),
        false => Credentials::None,
    };
    Ok(Channel { requests, authority: address.authority(), scheme, credentials })
}

/// What an endpoint is spoken to with: what its address says, or else what this client has.
fn security(address: &Address, options: &ConnectOptions) -> Result<Option<Tls>, Error> {
    match address.is_secure() {
        Some(false) => Ok(None),
        None => options.security.tls(),
        Some(true) => match options.security.tls()? {
            Some(tls) => Ok(Some(tls)),
            None => Err(Error::Tls("https:// wants the CA of the cluster, and none was given".to_owned())),
        },
    }
}

impl Channel {
    /// The same connection for calls without a token.
    pub(crate) fn without_token(&self) -> Channel {
        Channel { credentials: Credentials::None, ..self.clone() }
    }

    /// Who its calls say they are from.
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Nothing can be sent any more, because the other end has left or is about to.
    pub(crate) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = SendError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, SendError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        // Whether the connection still stands is seen when the request is handed over.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        *request.uri_mut() =
            Uri::from_parts(uri).expect("a scheme, an authority and a method's path make a URI");
        request.headers_mut().insert(USER_AGENT, AGENT);
        if let Some(token) = self.credentials.token() {
            request.headers_mut().insert(TOKEN, token);
        }
        let sent = self.requests.try_send_request(request);
        Box::pin(async move {
            sent.await.map_err(|mut error| {
                let unsent = error.take_message().is_some();
                SendError { unsent, cause: error.into_error() }
            })
        })
    }
}

/// A request without a response.
#[derive(Debug)]
pub(crate) struct SendError {
    /// The request never left this machine.
    pub(crate) unsent: bool,
    cause: hyper::Error,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unsent {
            true => f.write_str("the connection was closed before the request was sent"),
            false => f.write_str("the connection broke"),
        }
    }
}

impl StdError for SendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.cause)
    }
}
