//! Compaction.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use kvorum_proto::kv::v1 as wire;

use crate::pool::Pool;
use crate::reads::Answer;
use crate::types::header;
use crate::writes::write;
use crate::{Error, Header};

/// Makes a revision the oldest one that can be read; await it.
///
/// Reads and watches below that revision end with [`Error::Compacted`] from then on.
///
/// # Errors
/// What [any call](Error#any-call) and [any write](Error#any-write) can end with; [`Error::Compacted`] where the store is
/// compacted at this revision or a later one already, and [`Error::FutureRevision`] where there is no such revision
/// yet.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// let revision = client.set("greeting", "hello").await?.header.revision;
/// client.compact(revision).await?;
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is awaited"]
pub struct Compact {
    pool: Arc<Pool>,
    request: wire::CompactRequest,
    timeout: Duration,
}

/// The store was compacted.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// let revision = client.set("greeting", "hello").await?.header.revision;
/// let kvorum_client::CompactResponse { header, .. } = client.compact(revision).await?;
/// assert!(header.revision >= revision, "a compaction changes no key and makes no revision");
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactResponse {
    /// Who answered, and at which revision.
    pub header: Header,
}

impl Compact {
    pub(crate) fn new(pool: Arc<Pool>, revision: u64) -> Compact {
        let timeout = pool.settings().timeout;
        Compact { pool, request: wire::CompactRequest { revision }, timeout }
    }

    /// How long the call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Compact {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for Compact {
    type Output = Result<CompactResponse, Error>;
    type IntoFuture = Answer<CompactResponse>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answer = write(&self.pool, &self.request, self.timeout, || None).await?;
            Ok(CompactResponse { header: header(answer.header) })
        })
    }
}
