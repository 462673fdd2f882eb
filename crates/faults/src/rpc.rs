//! The raw API of one node: no retry, no look for the leader, no second opinion.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper_util::rt::TokioIo;
use kvorum_proto::kv::v1 as wire;
use kvorum_proto::kv::v1::kv_client::KvClient;
use kvorum_tls::{Bytes as ByteStream, ClientTls, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::journal::FIRST_REVISION;
use crate::{Context as _, Result};

/// A node of this machine accepts at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// Longer than an election takes, so that a request in its midst is answered and not abandoned.
const CALL_LIMIT: Duration = Duration::from_secs(3);

/// A connection that is made when it is first needed, and made anew when it broke.
pub fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint.connect_timeout(CONNECT_LIMIT).tcp_nodelay(true).connect_lazy())
}

/// The same by TLS, to a node that is reached at `127.0.0.1`; without it where the node does not speak it, as one that
/// is yet to be restarted.
pub fn secured_channel(address: &str, tls: ClientTls) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let address: Arc<str> = address.into();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let reach = async || timeout(CONNECT_LIMIT, TcpStream::connect(&*address)).await?;
            let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
            let stream: Box<dyn ByteStream> = match tls.connect(reach().await?, host).await {
                Ok(stream) => Box::new(stream),
                Err(fault) if fault.reason == Reason::Plain => Box::new(reach().await?),
                Err(fault) => return Err(fault.into()),
            };
            std::io::Result::Ok(TokioIo::new(stream))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// A client of one node.
#[derive(Clone, Debug)]
pub struct RawClient {
    kv: KvClient<Channel>,
}

impl RawClient {
    /// A client of the node with this client address.
    pub fn new(address: &str) -> Result<RawClient> {
        Ok(RawClient { kv: KvClient::new(channel(address)?) })
    }

    /// The same over a channel of the caller's.
    pub fn on(channel: Channel) -> RawClient {
        RawClient { kv: KvClient::new(channel) }
    }

    /// A client of each of these nodes.
    pub fn of_each(addresses: &[String]) -> Result<Vec<RawClient>> {
        addresses.iter().map(|address| RawClient::new(address)).collect()
    }

    /// Reads one key.
    pub async fn get(&self, key: Bytes, consistency: Consistency) -> Result<wire::GetResponse, Status> {
        let serializable = consistency == Consistency::Serializable;
        let request = wire::GetRequest { key, revision: 0, serializable };
        Ok(self.kv.clone().get(limited(request)).await?.into_inner())
    }

    /// Writes one key, and answers the revision.
    pub async fn set(&self, key: Bytes, value: Bytes, condition: Option<Expect>) -> Result<u64, Status> {
        let condition = condition.map(|expect| wire::Condition { key: Bytes::new(), expect: Some(expect) });
        let request = wire::SetRequest { key, value, ttl_ms: 0, condition, return_previous: false };
        let response = self.kv.clone().set(limited(request)).await?.into_inner();
        Ok(response.header.map_or(0, |header| header.revision))
    }

    /// Opens a watch of every key; it has no deadline.
    pub async fn watch(&self, from_revision: u64) -> Result<Streaming<wire::WatchResponse>, Status> {
        let request = wire::WatchRequest { range: Some(everything()), from_revision, previous: false };
        Ok(self.kv.clone().watch(request).await?.into_inner())
    }

    /// Every event of a range up to a revision that this node has, in order.
    pub async fn history(&self, range: wire::KeyRange, upto: u64) -> Result<Vec<wire::Event>, Status> {
        let request =
            wire::WatchRequest { range: Some(range), from_revision: FIRST_REVISION, previous: false };
        let mut stream = self.kv.clone().watch(request).await?.into_inner();
        let mut events = Vec::new();
        // Marks come with the events, and every 30 s where there are none.
        while let Some(response) = stream.message().await? {
            events.extend(response.events);
            if !response.fragment && response.header.is_some_and(|header| header.revision >= upto) {
                break;
            }
        }
        Ok(events)
    }

    /// Every key of this node at a revision, from its own state.
    pub async fn scan(&self, revision: u64) -> Result<Vec<wire::KeyValue>, Status> {
        self.scan_range(everything(), revision).await
    }

    /// The keys of a range that this node has at a revision, from its own state.
    pub async fn scan_range(
        &self,
        range: wire::KeyRange,
        revision: u64,
    ) -> Result<Vec<wire::KeyValue>, Status> {
        let range = Some(range);
        let request = wire::ScanRequest { range, revision, serializable: true, ..Default::default() };
        let mut pages = self.kv.clone().scan(request).await?.into_inner();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            found.extend(page?.kvs);
        }
        Ok(found)
    }
}

pub use wire::KeyValue;
pub use wire::condition::Expect;

/// Whether a call was not begun, since its connection had just ended in order. Either the node says so: gRPC has
/// clients send such a call once more by themselves, and tonic's channel does not; hyper goes on using a connection
/// after the first word of its end, and so may be late for the last one. Or hyper does, of a call that it still had
/// when the connection was closed.
pub fn is_unprocessed(status: &Status) -> bool {
    let said = format!("{status:?}");
    said.contains(r#"GoAway(b"", NO_ERROR, Remote)"#) || said.contains(r#"Canceled, "connection closed""#)
}

/// The keys from `start` on, up to and without `end`.
pub fn range(start: &'static str, end: &'static str) -> wire::KeyRange {
    wire::KeyRange { start: start.into(), end: end.into(), unbounded: false }
}

/// What a read may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// The present.
    Linearizable,
    /// What the asked node has.
    Serializable,
}

fn everything() -> wire::KeyRange {
    wire::KeyRange { start: Bytes::new(), end: Bytes::new(), unbounded: true }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_LIMIT);
    request
}

/// One metric without labels, as a node shows it on its HTTP port.
pub async fn metric(http_address: &str, name: &str) -> Result<f64> {
    let text = tokio::time::timeout(CALL_LIMIT, page(http_address, "/metrics")).await??;
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    let value = line.and_then(|line| line.split(' ').nth(1)).context(format!("{name} is no metric"))?;
    value.parse().context(format!("read {name}"))
}

/// Whether a node says that it is ready for requests.
pub async fn is_ready(http_address: &str) -> Result<bool> {
    Ok(health(http_address, "/readyz").await?.is_ok())
}

/// What a node says on a page of its health; an error is what it says when it is not well.
pub async fn health(http_address: &str, path: &str) -> Result<Result<(), String>> {
    let answer = tokio::time::timeout(CALL_LIMIT, page(http_address, path)).await??;
    let (head, text) = answer.split_once("\r\n\r\n").context("the answer is no page")?;
    Ok(if head.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(text.to_owned()) })
}

/// The page as HTTP/1.0 answers it: one answer, then the end of the connection.
async fn page(address: &str, path: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
