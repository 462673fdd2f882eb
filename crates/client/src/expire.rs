//! Calls that set and drop the TTL of an existing key.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;

use crate::pool::Pool;
use crate::reads::Answer;
use crate::types::header;
use crate::writes::{millis, write};
use crate::{Error, Header};

/// Sets the TTL of an existing key; await it.
///
/// Sent again only where nothing was proposed. A key that does not exist is no error; the answer says so.
///
/// # Errors
/// What [any call](Error#any-call) and [any write](Error#any-write) can end with.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use std::time::Duration;
///
/// client.set("session/1", "alice").await?;
/// assert!(client.expire("session/1", Duration::from_secs(60)).await?.found);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is awaited"]
pub struct Expire {
    pool: Arc<Pool>,
    request: wire::ExpireRequest,
    timeout: Duration,
}

/// Whether there was a key whose TTL could be set.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// let answer = client.expire("no such key", std::time::Duration::from_secs(60)).await?;
/// assert!(!answer.found);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpireResponse {
    /// Who answered, and the revision of the write.
    pub header: Header,
    /// Whether the key exists.
    pub found: bool,
}

impl Expire {
    pub(crate) fn new(pool: Arc<Pool>, key: Bytes, ttl: Duration) -> Expire {
        let timeout = pool.settings().timeout;
        Expire { pool, request: wire::ExpireRequest { key, ttl_ms: millis(ttl) }, timeout }
    }

    /// How long the call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Expire {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for Expire {
    type Output = Result<ExpireResponse, Error>;
    type IntoFuture = Answer<ExpireResponse>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answer = write(&self.pool, &self.request, self.timeout, || None).await?;
            Ok(ExpireResponse { header: header(answer.header), found: answer.found })
        })
    }
}

/// Drops the TTL of an existing key; await it.
///
/// A key that does not exist, or that has no TTL, is no error; the answer says so.
///
/// # Errors
/// What [any call](Error#any-call) and [any write](Error#any-write) can end with.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// client.set("greeting", "hello").await?;
/// client.persist("greeting").await?;
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is awaited"]
pub struct Persist {
    pool: Arc<Pool>,
    request: wire::PersistRequest,
    timeout: Duration,
}

/// Whether there was a TTL to be dropped.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// client.set("greeting", "hello").await?;
/// let answer = client.persist("greeting").await?;
/// assert!(answer.found && !answer.had_ttl, "it stayed as it was");
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PersistResponse {
    /// Who answered, and the revision of the write.
    pub header: Header,
    /// Whether the key exists.
    pub found: bool,
    /// Whether it had a TTL; without one nothing changed.
    pub had_ttl: bool,
}

impl Persist {
    pub(crate) fn new(pool: Arc<Pool>, key: Bytes) -> Persist {
        let timeout = pool.settings().timeout;
        Persist { pool, request: wire::PersistRequest { key }, timeout }
    }

    /// How long the call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Persist {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for Persist {
    type Output = Result<PersistResponse, Error>;
    type IntoFuture = Answer<PersistResponse>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answer = write(&self.pool, &self.request, self.timeout, || None).await?;
            let (found, had_ttl) = (answer.found, answer.had_ttl);
            Ok(PersistResponse { header: header(answer.header), found, had_ttl })
        })
    }
}
