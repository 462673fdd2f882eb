//! One HTTP/2 connection as the transport of a generated client.
//!
//! tonic's own channel passes a request through a queue to a worker task and from there through a second queue to the
//! connection's task, so that it may reconnect, balance and limit. A load generator wants none of that: here the
//! caller's task opens its stream itself, and only the connection's task does I/O.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use kvorum_tls::{Bytes as Bidirectional, Fault};
use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::caller::Caller;
use crate::endpoint::Endpoint;

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server may send before it waits for us, on each stream and on the connection: at a round trip of 1 ms it
/// allows 1 GB/s, so that a scan or a watch is never held up by the window.
const WINDOW_BYTES: u32 = 1 << 20;

/// The metadata of a token, by etcd's name.
const TOKEN: HeaderName = HeaderName::from_static("token");

/// Why no connection came about.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody accepted it.
    #[error("connect to {endpoint}: is a server listening there?")]
    Socket {
        /// Whom we called.
        endpoint: Endpoint,
        /// What the system said.
        source: io::Error,
    },
    /// TLS was not agreed on.
    #[error("speak TLS with {endpoint}: {source}")]
    Tls {
        /// Whom we called.
        endpoint: Endpoint,
        /// What is wrong.
        source: Fault,
    },
    /// Whoever accepted it does not speak HTTP/2.
    #[error("greet {endpoint}: it accepts connections but does not speak HTTP/2 in clear text")]
    Handshake {
        /// Whom we called.
        endpoint: Endpoint,
        /// What went wrong.
        source: h2::Error,
    },
}

/// A handle of one connection; clones share it. It is not opened again when it breaks: every later request of its
/// clients fails, and the run says so.
#[derive(Clone)]
pub struct Transport {
    streams: SendRequest<Bytes>,
    token: Option<HeaderValue>,
}

impl Transport {
    /// Opens a connection, which lives as long as a handle of it does.
    pub async fn connect(endpoint: &Endpoint, caller: &Caller) -> Result<Transport, ConnectError> {
        Transport::over(endpoint, TcpStream::connect(endpoint.address()), caller).await
    }

    /// The same from an address of this machine's choice.
    pub async fn connect_from(
        endpoint: &Endpoint,
        address: SocketAddr,
        from: Option<Ipv4Addr>,
        caller: &Caller,
    ) -> Result<Transport, ConnectError> {
        let connecting = async {
            let socket = TcpSocket::new_v4()?;
            if let Some(from) = from {
                socket.bind((from, 0).into())?;
            }
            socket.connect(address).await
        };
        Transport::over(endpoint, connecting, caller).await
    }

    async fn over(
        endpoint: &Endpoint,
        connecting: impl Future<Output = io::Result<TcpStream>>,
        caller: &Caller,
    ) -> Result<Transport, ConnectError> {
        let socket = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s")))
            .and_then(|socket| socket.set_nodelay(true).map(|()| socket))
            .map_err(|source| ConnectError::Socket { endpoint: endpoint.clone(), source })?;
        let socket: Box<dyn Bidirectional> = match &caller.tls {
            None => Box::new(socket),
            Some(tls) => Box::new(
                tls.connect(socket, endpoint.host())
                    .await
                    .map_err(|source| ConnectError::Tls { endpoint: endpoint.clone(), source })?,
            ),
        };
        let (streams, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .enable_push(false)
            .handshake(socket)
            .await
            .map_err(|source| ConnectError::Handshake { endpoint: endpoint.clone(), source })?;
        // Its error needs no care of its own: every request that it breaks reports it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Transport { streams, token: caller.token.clone() })
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<ResponseBody>;
    type Error = h2::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, h2::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.streams.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        if let Some(token) = &self.token {
            head.headers.insert(TOKEN, token.clone());
        }
        let opened = self.streams.send_request(Request::from_parts(head, ()), false);
        Box::pin(async move {
            let (response, upload) = opened?;
            exchange(response, body, upload).await
        })
    }
}

/// Sends `body` while it waits for the head of the response: a two-way stream is answered before its request ends.
async fn exchange(
    response: ResponseFuture,
    body: Body,
    upload: SendStream<Bytes>,
) -> Result<Response<ResponseBody>, h2::Error> {
    let upload = Box::pin(send(body, upload));
    let head = match select(upload, response).await {
        Either::Left((sent, response)) => {
            sent?;
            response.await?
        }
        Either::Right((response, upload)) => {
            tokio::spawn(async move { drop(upload.await) });
            response?
        }
    };
    Ok(head.map(|stream| ResponseBody { stream, data_ended: false }))
}

/// Sends a request's body. What the peer's window does not take yet waits in the connection's memory, which the
/// number of clients times the size of one request bounds.
async fn send(body: Body, mut upload: SendStream<Bytes>) -> Result<(), h2::Error> {
    let mut body = pin!(body);
    while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => upload.send_data(data, body.is_end_stream())?,
            // Requests have no trailers.
            Ok(Err(_)) => {}
            Err(_) => {
                upload.send_reset(h2::Reason::CANCEL);
                return Ok(());
            }
        }
        if body.is_end_stream() {
            return Ok(());
        }
    }
    upload.send_data(Bytes::new(), true)
}

/// A response's body as it comes in.
pub struct ResponseBody {
    stream: RecvStream,
    data_ended: bool,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    // The reader has it now, and the server may send as much again.
                    self.stream.flow_control().release_capacity(data.len())?;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(context))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use kvorum_proto::kv::v1::{GetRequest, kv_client::KvClient};
    use tokio::net::TcpListener;

    use super::*;
    use crate::echo;

    /// Goal: one message may be larger than the window, both ways. Method: a key of three windows, which comes back.
    #[tokio::test]
    async fn a_message_may_exceed_the_window() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let server = tokio::spawn(echo::serve(listener));
        let transport = Transport::connect(&endpoint, &Caller::default()).await.unwrap();
        let key = Bytes::from(vec![b'k'; 3 * WINDOW_BYTES as usize]);
        let request = GetRequest { key: key.clone(), ..Default::default() };
        let call = async move { KvClient::with_origin(transport, endpoint.origin()).get(request).await };
        let response = timeout(Duration::from_secs(20), call).await.expect("it does not hang").unwrap();
        assert!(response.into_inner().kv.unwrap().key == key);
        server.abort();
    }
}
