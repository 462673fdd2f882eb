//! Scans: a range of keys at one revision, as a stream that resumes by itself.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use kvorum_proto::kv::v1 as wire;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use crate::judge::{Fate, Setback, judge};
use crate::node::Node;
use crate::options::CallOptions;
use crate::pool::Pool;
use crate::reads::route;
use crate::{Error, KeyRange, KeyValue};

/// How long a scan waits before it is opened again after a disconnect.
const RESUME_PAUSE: Duration = Duration::from_millis(20);

/// Reads a range of keys at one revision.
///
/// Nothing is read before the [stream](ScanStream) is polled. A disconnect in between is seen to: the scan goes on
/// behind the last key, at the same revision.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use futures_util::TryStreamExt as _;
/// use kvorum_client::KeyRange;
///
/// for name in ["k/a", "k/b", "k/c"] {
///     client.set(name, "v").await?;
/// }
/// let mut keys = client.scan(KeyRange::prefix("k/")).keys_only().reverse().limit(2).start();
/// while let Some(kv) = keys.try_next().await? {
///     println!("{}", String::from_utf8_lossy(&kv.key));
/// }
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a scan does nothing until it is started"]
pub struct Scan {
    pool: Arc<Pool>,
    range: KeyRange,
    request: wire::ScanRequest,
    timeout: Duration,
}

/// The keys of a scan, in order, each once. Memory is bounded: a consumer that is slow slows the scan.
///
/// # Errors
/// The stream ends with its first one. Beside what [any call](Error#any-call) can end with: [`Error::Compacted`], where
/// the scan took so long that its revision was compacted meanwhile or was so from the start, and
/// [`Error::FutureRevision`].
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use futures_util::TryStreamExt as _;
/// use kvorum_client::KeyRange;
///
/// client.set("k/a", "v").await?;
/// let mut scan = client.scan(KeyRange::prefix("k/")).start();
/// let first = scan.try_next().await?;
/// assert_eq!(first.map(|kv| kv.key), Some("k/a".into()));
/// // A watch from the next revision on misses nothing of what the scan did not see.
/// let next = scan.revision().map(|revision| revision + 1);
/// assert!(next.is_some());
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
pub struct ScanStream {
    inner: Pin<Box<dyn Stream<Item = Result<KeyValue, Error>> + Send>>,
    revision: Arc<AtomicU64>,
}

impl Scan {
    pub(crate) fn new(pool: Arc<Pool>, range: KeyRange) -> Scan {
        let timeout = pool.settings().timeout;
        Scan { pool, range, request: wire::ScanRequest::default(), timeout }
    }

    /// Reads as of this revision; without it, as of the moment of the first answer.
    pub fn at_revision(mut self, revision: u64) -> Scan {
        self.request.revision = revision;
        self
    }

    /// Takes the answer from any node's own state, which may be stale.
    pub fn serializable(mut self) -> Scan {
        self.request.serializable = true;
        self
    }

    /// Leaves the values out.
    pub fn keys_only(mut self) -> Scan {
        self.request.keys_only = true;
        self
    }

    /// Goes from the last key to the first.
    pub fn reverse(mut self) -> Scan {
        self.request.reverse = true;
        self
    }

    /// Stops after so many keys; 0 is no limit.
    pub fn limit(mut self, keys: u64) -> Scan {
        self.request.limit = keys;
        self
    }

    /// How long the scan may go without an answer, disconnects included. The whole of it may take any
    /// time, as its consumer does.
    pub fn timeout(mut self, timeout: Duration) -> Scan {
        self.timeout = timeout;
        self
    }

    /// Starts the scan. It is opened when the stream is first polled.
    pub fn start(self) -> ScanStream {
        let revision = Arc::new(AtomicU64::new(self.request.revision));
        let cursor = Cursor {
            pool: self.pool,
            rest: Some(self.range),
            request: self.request,
            timeout: self.timeout,
            stream: None,
            ready: VecDeque::new(),
            silent_since: None,
            revision: Arc::clone(&revision),
            pinned: false,
        };
        let inner = stream::unfold(cursor, |mut cursor| async move {
            let item = cursor.next().await?;
            Some((item, cursor))
        });
        ScanStream { inner: Box::pin(inner), revision }
    }
}

impl ScanStream {
    /// The revision that the scan reads, once it has answered.
    pub fn revision(&self) -> Option<u64> {
        Some(self.revision.load(Ordering::Relaxed)).filter(|&revision| revision != 0)
    }
}

impl Stream for ScanStream {
    type Item = Result<KeyValue, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(cx)
    }
}

impl std::fmt::Debug for ScanStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScanStream").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

/// Where a scan stands.
struct Cursor {
    pool: Arc<Pool>,
    /// What was not received yet; `None` at the end, and after an error.
    rest: Option<KeyRange>,
    /// Its revision becomes the pinned one, and its limit counts down.
    request: wire::ScanRequest,
    timeout: Duration,
    stream: Option<(Streaming<wire::ScanResponse>, Arc<Node>)>,
    /// Keys of the last chunk that were not handed out yet.
    ready: VecDeque<wire::KeyValue>,
    /// Since when the scan has been without an answer.
    silent_since: Option<Instant>,
    revision: Arc<AtomicU64>,
    /// The revision is one that a node has answered with, so that it surely exists.
    pinned: bool,
}

impl Cursor {
    async fn next(&mut self) -> Option<Result<KeyValue, Error>> {
        loop {
            if let Some(kv) = self.ready.pop_front() {
                return Some(Ok(kv.into()));
            }
            self.rest.as_ref()?;
            if let Err(error) = self.advance().await {
                self.rest = None;
                return Some(Err(error));
            }
        }
    }

    /// Receives one chunk, or opens the stream, or finds the end.
    async fn advance(&mut self) -> Result<(), Error> {
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        let Some((stream, node)) = &mut self.stream else { return self.open(since).await };
        let left = self.timeout.saturating_sub(since.elapsed());
        let setback = match timeout(left, stream.message()).await {
            Ok(Ok(Some(chunk))) => {
                self.silent_since = None;
                return self.take(chunk);
            }
            Ok(Ok(None)) => {
                self.rest = None;
                return Ok(());
            }
            Ok(Err(status)) => judge(&status, node.address().as_str()),
            Err(_) => Setback::timed_out(),
        };
        let endpoint = node.address().to_string();
        let pool = Arc::clone(&self.pool);
        pool.avoid(node);
        self.stream = None;
        match setback.fate {
            Fate::Answered(error) => Err(error),
            Fate::Behind(error) if !self.pinned => Err(error),
            _ if since.elapsed() >= self.timeout => {
                let tried = vec![crate::Tried { endpoint, problem: setback.problem }];
                Err(Error::Unanswered { within: self.timeout, tried })
            }
            _ => {
                tokio::time::sleep(RESUME_PAUSE).await;
                Ok(())
            }
        }
    }

    async fn open(&mut self, since: Instant) -> Result<(), Error> {
        let Some(rest) = self.rest.clone() else { return Ok(()) };
        self.request.range = Some(rest.into_wire());
        let options = CallOptions {
            deadline: since + self.timeout,
            revision_exists: self.pinned,
            ..CallOptions::read(self.timeout, route(self.request.serializable))
        };
        self.stream = Some(self.pool.call_on(&self.request, options).await?);
        Ok(())
    }

    fn take(&mut self, chunk: wire::ScanResponse) -> Result<(), Error> {
        if let (Some(header), Some((_, node))) = (&chunk.header, &self.stream) {
            self.pool.learn(node, header)?;
            self.request.revision = header.revision;
            self.revision.store(header.revision, Ordering::Relaxed);
            self.pinned = true;
        }
        let count = chunk.kvs.len() as u64;
        if let Some(last) = chunk.kvs.last() {
            self.rest = self.rest.take().and_then(|rest| rest_of(&rest, &last.key, self.request.reverse));
        }
        if self.request.limit != 0 {
            self.request.limit = self.request.limit.saturating_sub(count);
            if self.request.limit == 0 {
                self.rest = None;
            }
        }
        self.ready = chunk.kvs.into();
        if self.rest.is_none() {
            self.stream = None;
        }
        Ok(())
    }
}

/// What remains of a range once `last` was received.
fn rest_of(range: &KeyRange, last: &Bytes, reverse: bool) -> Option<KeyRange> {
    if reverse { range.before(last) } else { range.after(last) }
}
