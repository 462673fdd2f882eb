//! Calls that read one key.

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;

use crate::options::{CallOptions, Route};
use crate::pool::Pool;
use crate::types::header;
use crate::{Error, Header, KeyValue};

/// What a call's builder turns into when it is awaited.
pub(crate) type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// Reads a key; await it. Without more it reads the present, linearizably.
///
/// # Errors
/// Beside what [any call](Error#any-call) can end with, and only where a revision is asked for:
/// [`Error::Compacted`] and [`Error::FutureRevision`].
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// let written = client.set("greeting", "hello").await?.header.revision;
/// client.set("greeting", "hi").await?;
///
/// let now = client.get("greeting").await?;
/// assert_eq!(now.kv.map(|kv| kv.value), Some("hi".into()));
/// let then = client.get("greeting").at_revision(written).serializable().await?;
/// assert_eq!(then.kv.map(|kv| kv.value), Some("hello".into()));
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is awaited"]
pub struct Get {
    pool: Arc<Pool>,
    request: wire::GetRequest,
    timeout: Duration,
}

/// What a key holds.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// let kvorum_client::GetResponse { header, kv, .. } = client.get("no such key").await?;
/// assert_eq!(kv, None);
/// assert!(header.revision > 0, "it did not exist at this revision");
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GetResponse {
    /// Who answered, and at which revision.
    pub header: Header,
    /// The key; `None` if it does not exist.
    pub kv: Option<KeyValue>,
}

impl Get {
    pub(crate) fn new(pool: Arc<Pool>, key: Bytes) -> Get {
        let timeout = pool.settings().timeout;
        Get { pool, request: wire::GetRequest { key, revision: 0, serializable: false }, timeout }
    }

    /// Reads as of this revision.
    pub fn at_revision(mut self, revision: u64) -> Get {
        self.request.revision = revision;
        self
    }

    /// Takes the answer from any node's own state, which is cheap and may be stale.
    pub fn serializable(mut self) -> Get {
        self.request.serializable = true;
        self
    }

    /// How long the call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Get {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for Get {
    type Output = Result<GetResponse, Error>;
    type IntoFuture = Answer<GetResponse>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let options = CallOptions::read(self.timeout, route(self.request.serializable));
            let answer = self.pool.call(&self.request, options).await?;
            let kv = if answer.found { answer.kv.map(KeyValue::from) } else { None };
            Ok(GetResponse { header: header(answer.header), kv })
        })
    }
}

/// Asks how long a key has left to live; await it.
///
/// # Errors
/// What [any call](Error#any-call) can end with.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use kvorum_client::KeyTtl;
///
/// client.set("greeting", "hello").await?;
/// assert_eq!(client.ttl("greeting").await?.ttl, KeyTtl::Forever);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is awaited"]
pub struct Ttl {
    pool: Arc<Pool>,
    request: wire::TtlRequest,
    timeout: Duration,
}

/// How long a key has left to live.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// let answer = client.ttl("no such key").await?;
/// assert_eq!(answer.ttl, kvorum_client::KeyTtl::NoKey);
/// assert!(answer.header.revision > 0, "it did not exist at this revision");
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TtlResponse {
    /// Who answered, and at which revision.
    pub header: Header,
    /// The answer.
    pub ttl: KeyTtl,
}

/// How long a key has left to live.
///
/// ```
/// use std::time::Duration;
/// use kvorum_client::KeyTtl;
///
/// /// When a lock is to be renewed: in time, and at once where it is due.
/// fn renew_after(ttl: KeyTtl) -> Option<Duration> {
///     match ttl {
///         KeyTtl::NoKey | KeyTtl::Forever => None,
///         KeyTtl::Left(left) => Some(left / 3),
///     }
/// }
/// assert_eq!(renew_after(KeyTtl::Left(Duration::from_secs(30))), Some(Duration::from_secs(10)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyTtl {
    /// There is no such key.
    NoKey,
    /// It stays until it is deleted.
    Forever,
    /// It goes by itself; zero when it is due and about to be deleted.
    Left(Duration),
}

impl Ttl {
    pub(crate) fn new(pool: Arc<Pool>, key: Bytes) -> Ttl {
        let timeout = pool.settings().timeout;
        Ttl { pool, request: wire::TtlRequest { key, serializable: false }, timeout }
    }

    /// Takes the answer from any node's own state, which is cheap and may be stale.
    pub fn serializable(mut self) -> Ttl {
        self.request.serializable = true;
        self
    }

    /// How long the call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Ttl {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for Ttl {
    type Output = Result<TtlResponse, Error>;
    type IntoFuture = Answer<TtlResponse>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let options = CallOptions::read(self.timeout, route(self.request.serializable));
            let answer = self.pool.call(&self.request, options).await?;
            let ttl = match (answer.found, answer.has_ttl) {
                (false, _) => KeyTtl::NoKey,
                (true, false) => KeyTtl::Forever,
                (true, true) => KeyTtl::Left(Duration::from_millis(answer.remaining_ms)),
            };
            Ok(TtlResponse { header: header(answer.header), ttl })
        })
    }
}

/// A stale read spreads over the nodes; one that must be confirmed is cheapest at the leader.
pub(crate) fn route(serializable: bool) -> Route {
    if serializable { Route::Home } else { Route::Leader }
}
