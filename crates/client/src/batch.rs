//! Many conditions and operations as one atomic write.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;
use kvorum_proto::kv::v1::condition::Expect;

use crate::look::{Change, Guard};
use crate::pool::Pool;
use crate::reads::Answer;
use crate::types::header;
use crate::writes::{condition, expected_revision, millis, write};
use crate::{Error, Header, KeyRange};

/// Many conditions and operations as one atomic write; await it. The operations are applied in order,
/// in one revision, if all conditions hold; no key may be written twice.
///
/// # Errors
/// Beside what [any call](Error#any-call) and [any write](Error#any-write) can end with: [`Error::ConditionFailed`]
/// with the key of the first condition that did not hold, [`Error::Invalid`] where a key is written twice, and
/// [`Error::TooLarge`] where what it replaces and deletes takes more than 64 MiB, keys and values: make it several.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use std::time::Duration;
/// use kvorum_client::KeyRange;
///
/// let account = client.set("account/alice", "10").await?.header.revision;
/// client
///     .batch()
///     .if_revision("account/alice", account)
///     .if_absent("transfer/7")
///     .set("account/alice", "3")
///     .set_with_ttl("transfer/7", "7 to bob", Duration::from_secs(3600))
///     .delete(KeyRange::prefix("draft/7/"))
///     .await?;
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is awaited"]
pub struct Batch {
    pool: Arc<Pool>,
    request: wire::BatchRequest,
    timeout: Duration,
}

/// A batch was applied.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// client.set("a", "1").await?;
/// let batch = client.batch().delete(kvorum_client::KeyRange::key("a")).set("b", "2");
/// let kvorum_client::BatchResponse { deleted, .. } = batch.await?;
/// assert_eq!(deleted, [1, 0]);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchResponse {
    /// Who answered, and the revision of the write.
    pub header: Header,
    /// For each operation, how many keys it deleted; 0 for a set.
    pub deleted: Vec<u64>,
}

impl Batch {
    pub(crate) fn new(pool: Arc<Pool>) -> Batch {
        let timeout = pool.settings().timeout;
        Batch { pool, request: wire::BatchRequest::default(), timeout }
    }

    /// Requires that the key does not exist.
    pub fn if_absent(mut self, key: impl Into<Bytes>) -> Batch {
        self.request.conditions.push(condition(key.into(), Expect::Absent(true)));
        self
    }

    /// Requires that the key's last change has this revision.
    pub fn if_revision(mut self, key: impl Into<Bytes>, mod_revision: u64) -> Batch {
        self.request.conditions.push(condition(key.into(), Expect::ModRevision(mod_revision)));
        self
    }

    /// Writes a key.
    pub fn set(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Batch {
        self.put(key.into(), value.into(), 0)
    }

    /// Writes a key that goes by itself after this time.
    pub fn set_with_ttl(self, key: impl Into<Bytes>, value: impl Into<Bytes>, ttl: Duration) -> Batch {
        self.put(key.into(), value.into(), millis(ttl))
    }

    /// Deletes a key or a range of keys.
    pub fn delete(mut self, range: KeyRange) -> Batch {
        let op = wire::batch_op::Op::Delete(range.into_wire());
        self.request.ops.push(wire::BatchOp { op: Some(op) });
        self
    }

    /// How long the call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Batch {
        self.timeout = timeout;
        self
    }

    /// How many conditions and operations there are.
    pub fn len(&self) -> usize {
        self.request.conditions.len() + self.request.ops.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put(mut self, key: Bytes, value: Bytes, ttl_ms: u64) -> Batch {
        let op = wire::batch_op::Op::Put(wire::batch_op::Put { key, value, ttl_ms });
        self.request.ops.push(wire::BatchOp { op: Some(op) });
        self
    }

    /// A revision condition on a key that the batch changes itself.
    fn guard(&self) -> Option<Guard> {
        self.request.conditions.iter().find_map(|condition| {
            let mod_revision = expected_revision(condition)?;
            let key = condition.key.clone();
            let change = self.request.ops.iter().find_map(|op| match op.op.as_ref()? {
                wire::batch_op::Op::Put(put) if put.key == key => Some(Change::Put(put.value.clone())),
                wire::batch_op::Op::Delete(range) if is_key(range, &key) => Some(Change::Delete),
                _ => None,
            })?;
            Some(Guard { key, mod_revision, change })
        })
    }
}

impl IntoFuture for Batch {
    type Output = Result<BatchResponse, Error>;
    type IntoFuture = Answer<BatchResponse>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answer = write(&self.pool, &self.request, self.timeout, || self.guard()).await?;
            Ok(BatchResponse { header: header(answer.header), deleted: answer.deleted })
        })
    }
}

fn is_key(range: &wire::KeyRange, key: &Bytes) -> bool {
    range.start == key && range.end.is_empty() && !range.unbounded
}
