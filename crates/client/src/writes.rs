//! Setting and deleting keys, and what every write has in common.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_proto::kv::v1 as wire;
use kvorum_proto::kv::v1::condition::Expect;

use crate::look::{Change, Finding, Guard, look};
use crate::options::CallOptions;
use crate::pool::Pool;
use crate::reads::Answer;
use crate::rpc::Rpc;
use crate::types::header;
use crate::{Error, Header, KeyRange, KeyValue};

/// How long a write waits after a look before it is sent again: a leader that fails takes longer than
/// that to be replaced, and a call is over within seconds.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Writes a key; await it.
///
/// Without a condition it is sent again only where the answer guarantees that nothing was proposed. With
/// [`if_revision`](Set::if_revision) it is sent again after a look at the key too, since it can be applied once
/// at most.
///
/// # Errors
/// Beside what [any call](Error#any-call) and [any write](Error#any-write) can end with: [`Error::ConditionFailed`],
/// where there is a condition.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use std::time::Duration;
///
/// let created = client.set("lock", "me").ttl(Duration::from_secs(30)).if_absent().await?.header.revision;
/// let renewed = client.set("lock", "me").ttl(Duration::from_secs(30)).if_revision(created).await?;
/// assert!(renewed.header.revision > created);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is awaited"]
pub struct Set {
    pool: Arc<Pool>,
    request: wire::SetRequest,
    timeout: Duration,
}

/// A key was written.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// client.set("greeting", "hello").await?;
/// let kvorum_client::SetResponse { header, previous, .. } = client.set("greeting", "hi").return_previous().await?;
/// assert_eq!(previous.map(|kv| kv.value), Some("hello".into()));
/// assert_eq!(client.get("greeting").await?.kv.map(|kv| kv.mod_revision), Some(header.revision));
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetResponse {
    /// Who answered, and the revision of the write.
    pub header: Header,
    /// What the key held before, if that was asked for and it existed.
    pub previous: Option<KeyValue>,
}

impl Set {
    pub(crate) fn new(pool: Arc<Pool>, key: Bytes, value: Bytes) -> Set {
        let timeout = pool.settings().timeout;
        let request = wire::SetRequest { key, value, ttl_ms: 0, condition: None, return_previous: false };
        Set { pool, request, timeout }
    }

    /// The key goes by itself after this time. Without it the key stays, and drops a TTL it had.
    pub fn ttl(mut self, ttl: Duration) -> Set {
        self.request.ttl_ms = millis(ttl);
        self
    }

    /// Only if the key does not exist, else [`Error::ConditionFailed`].
    pub fn if_absent(mut self) -> Set {
        self.request.condition = Some(condition(Bytes::new(), Expect::Absent(true)));
        self
    }

    /// Only if the key's last change has this revision, else [`Error::ConditionFailed`].
    pub fn if_revision(mut self, mod_revision: u64) -> Set {
        self.request.condition = Some(condition(Bytes::new(), Expect::ModRevision(mod_revision)));
        self
    }

    /// Answers what the key held before.
    pub fn return_previous(mut self) -> Set {
        self.request.return_previous = true;
        self
    }

    /// How long the call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Set {
        self.timeout = timeout;
        self
    }

    fn guard(&self) -> Option<Guard> {
        let mod_revision = expected_revision(self.request.condition.as_ref()?)?;
        let key = self.request.key.clone();
        Some(Guard { key, mod_revision, change: Change::Put(self.request.value.clone()) })
    }
}

impl IntoFuture for Set {
    type Output = Result<SetResponse, Error>;
    type IntoFuture = Answer<SetResponse>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answer = write(&self.pool, &self.request, self.timeout, || self.guard()).await?;
            Ok(SetResponse { header: header(answer.header), previous: answer.previous.map(KeyValue::from) })
        })
    }
}

/// Deletes a key or a range of keys; await it.
///
/// Keys that do not exist are no error; the answer says how many there were.
///
/// # Errors
/// Beside what [any call](Error#any-call) and [any write](Error#any-write) can end with: [`Error::ConditionFailed`],
/// where there is a condition. [`Error::TooLarge`] tells that the range holds too much for one write, a million keys or
/// 64 MiB: delete it in several.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use kvorum_client::KeyRange;
///
/// let written = client.set("session/1", "alice").await?.header.revision;
/// client.set("session/2", "bob").await?;
/// assert_eq!(client.delete("session/1").if_revision(written).await?.deleted, 1);
/// assert_eq!(client.delete_range(KeyRange::prefix("session/")).await?.deleted, 1);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is awaited"]
pub struct Delete {
    pool: Arc<Pool>,
    request: wire::DeleteRequest,
    timeout: Duration,
}

/// Keys were deleted.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// let kvorum_client::DeleteResponse { deleted, previous, .. } = client.delete("no such key").await?;
/// assert_eq!((deleted, previous), (0, Vec::new()));
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeleteResponse {
    /// Who answered, and the revision of the write.
    pub header: Header,
    /// How many keys there were.
    pub deleted: u64,
    /// What was deleted, if that was asked for.
    pub previous: Vec<KeyValue>,
}

impl Delete {
    pub(crate) fn new(pool: Arc<Pool>, range: KeyRange) -> Delete {
        let timeout = pool.settings().timeout;
        let request =
            wire::DeleteRequest { range: Some(range.into_wire()), return_previous: false, condition: None };
        Delete { pool, request, timeout }
    }

    /// Only if the last change of the key, or of a range's first key, has this revision, else
    /// [`Error::ConditionFailed`].
    pub fn if_revision(mut self, mod_revision: u64) -> Delete {
        let key = self.start();
        self.request.condition = Some(condition(key, Expect::ModRevision(mod_revision)));
        self
    }

    /// Answers what was deleted.
    pub fn return_previous(mut self) -> Delete {
        self.request.return_previous = true;
        self
    }

    /// How long the call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Delete {
        self.timeout = timeout;
        self
    }

    fn start(&self) -> Bytes {
        self.request.range.as_ref().map(|range| range.start.clone()).unwrap_or_default()
    }

    fn guard(&self) -> Option<Guard> {
        let mod_revision = expected_revision(self.request.condition.as_ref()?)?;
        Some(Guard { key: self.start(), mod_revision, change: Change::Delete })
    }
}

impl IntoFuture for Delete {
    type Output = Result<DeleteResponse, Error>;
    type IntoFuture = Answer<DeleteResponse>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answer = write(&self.pool, &self.request, self.timeout, || self.guard()).await?;
            Ok(DeleteResponse {
                header: header(answer.header),
                deleted: answer.deleted,
                previous: answer.previous.into_iter().map(KeyValue::from).collect(),
            })
        })
    }
}

/// Makes a write: repeated while surely nothing was proposed and, if it has a guard, after a look.
pub(crate) async fn write<R: Rpc>(
    pool: &Arc<Pool>,
    request: &R,
    timeout: Duration,
    guard: impl FnOnce() -> Option<Guard> + Send,
) -> Result<R::Answer, Error> {
    let options = CallOptions::write(timeout);
    let unknown = match pool.call(request, options).await {
        Err(unknown @ Error::OutcomeUnknown { .. }) => unknown,
        outcome => return outcome,
    };
    match guard() {
        Some(guard) => write_after_look(pool, request, options, &guard, unknown).await,
        None => Err(unknown),
    }
}

/// Goes on with a write of which an attempt had an unknown outcome. The call's deadline bounds it.
async fn write_after_look<R: Rpc>(
    pool: &Arc<Pool>,
    request: &R,
    options: CallOptions,
    guard: &Guard,
    unknown: Error,
) -> Result<R::Answer, Error> {
    let mut refusal = None;
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        match (look(pool, guard, &options).await, refusal.take()) {
            (Ok(Finding::Untouched), _) => {}
            (Ok(Finding::Failed { .. }), Some(refusal)) => return Err(refusal),
            (Ok(Finding::Failed { actual }), None) => {
                return Err(Error::ConditionFailed { key: guard.key.clone(), actual: Some(actual) });
            }
            // A look that fails tells nothing, and what went wrong with it is not the caller's concern.
            (Ok(Finding::Untold) | Err(_), _) => return Err(unknown),
        }
        match pool.call(request, options).await {
            Ok(answer) => return Ok(answer),
            Err(Error::OutcomeUnknown { .. }) => {}
            // Either attempt may have been the one that changed the key.
            Err(error @ Error::ConditionFailed { .. }) => refusal = Some(error),
            Err(_) => return Err(unknown),
        }
    }
}

pub(crate) fn condition(key: Bytes, expect: Expect) -> wire::Condition {
    wire::Condition { key, expect: Some(expect) }
}

pub(crate) fn expected_revision(condition: &wire::Condition) -> Option<u64> {
    match condition.expect? {
        Expect::ModRevision(revision) => Some(revision),
        Expect::Absent(_) => None,
    }
}

/// A TTL on the wire: a positive one is never rounded down to none.
pub(crate) fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}
