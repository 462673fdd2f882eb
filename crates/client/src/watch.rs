//! Watches: every change of a range, once and in order, as a stream that resumes by itself.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use kvorum_proto::kv::v1 as wire;
use prost::Message as _;
use tonic::Streaming;

use crate::judge::{Fate, judge};
use crate::node::Node;
use crate::options::{CallOptions, Route};
use crate::pool::Pool;
use crate::{Error, Event, KeyRange};

/// How much of one revision is gathered before it is handed out in parts. A revision is larger only
/// when one write changed very many keys, such as the deletion of a range.
const REVISION_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The pauses before a watch is opened again after disconnects with nothing received in between.
const RESUME_PAUSE_MIN: Duration = Duration::from_millis(20);
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Follows the changes of a range of keys.
///
/// [`start`](Watch::start) opens it.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use futures_util::TryStreamExt as _;
/// use kvorum_client::KeyRange;
///
/// let mut changes = client.watch(KeyRange::prefix("k/")).start().await?;
/// client.set("k/a", "v").await?;
/// while let Some(change) = changes.try_next().await? {
///     for event in &change.events {
///         println!("{:?} {:?} at revision {}", event.kind, event.kv.key, change.revision);
///     }
/// #   if !change.events.is_empty() { break }
/// }
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone)]
#[must_use = "a watch does nothing until it is started"]
pub struct Watch {
    pool: Arc<Pool>,
    request: wire::WatchRequest,
    timeout: Duration,
}

/// What happened up to a revision.
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use futures_util::TryStreamExt as _;
/// use kvorum_client::{Changes, KeyRange};
///
/// client.set("k", "v").await?;
/// let mut changes = client.watch(KeyRange::key("k")).from_revision(1).start().await?;
/// while let Some(Changes { revision, events, partial, .. }) = changes.try_next().await? {
///     // Whoever begins anew with `from_revision` of this misses nothing.
///     let resume_at = if partial { revision } else { revision + 1 };
/// #   let _ = resume_at;
///     if !events.is_empty() {
///         break;
///     }
/// }
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// The revision of the events. Without events this is a progress mark: every event up to this
    /// revision has been handed out.
    pub revision: u64,
    /// Everything that the revision changed in the range, in order; empty for a progress mark.
    pub events: Vec<Event>,
    /// More of this revision follows. Only a revision of more than 16 MiB comes in parts.
    pub partial: bool,
}

/// The changes of a watch, in order, each once. It ends only with an error, [`Error::Compacted`] above
/// all; while no node can be reached, it waits for one.
///
/// # Errors
/// The stream ends with its first one: [`Error::Compacted`] where it was away for so long that what it missed is
/// compacted, [`Error::ClusterChanged`], [`Error::IncarnationWentBack`] or [`Error::Rpc`].
///
/// ```
/// # kvorum_mock::example(async |endpoint| {
/// # let client = kvorum_client::Client::connect([endpoint]).await?;
/// use futures_util::StreamExt as _;
/// use kvorum_client::{KeyRange, WatchStream};
///
/// let mut changes: WatchStream = client.watch(KeyRange::all()).start().await?;
/// client.set("k", "v").await?;
/// let change = changes.next().await.expect("it ends with an error only")?;
/// assert!(change.revision > 0);
/// # Ok::<(), kvorum_client::Error>(())
/// # });
/// ```
pub struct WatchStream {
    inner: Pin<Box<dyn Stream<Item = Result<Changes, Error>> + Send>>,
}

impl Watch {
    pub(crate) fn new(pool: Arc<Pool>, range: KeyRange) -> Watch {
        let timeout = pool.settings().timeout;
        let request =
            wire::WatchRequest { range: Some(range.into_wire()), from_revision: 0, previous: false };
        Watch { pool, request, timeout }
    }

    /// The first revision to report. Without it, everything after the start of the watch.
    pub fn from_revision(mut self, revision: u64) -> Watch {
        self.request.from_revision = revision;
        self
    }

    /// Events carry what the key held before, where that is not compacted.
    pub fn with_previous(mut self) -> Watch {
        self.request.previous = true;
        self
    }

    /// How long the start may take.
    pub fn timeout(mut self, timeout: Duration) -> Watch {
        self.timeout = timeout;
        self
    }

    /// Starts the watch. When this returns, it sees every change from here on.
    ///
    /// # Errors
    /// What [any call](Error#any-call) can end with, and [`Error::Compacted`] where the first revision is no longer
    /// there. One that does not exist yet is waited for.
    pub async fn start(self) -> Result<WatchStream, Error> {
        let mut follower = Follower {
            pool: self.pool,
            progress: Progress::new(self.request.from_revision),
            request: self.request,
            timeout: self.timeout,
            stream: None,
            over: false,
            pause: RESUME_PAUSE_MIN,
        };
        follower.begin().await?;
        let inner = stream::unfold(follower, |mut follower| async move {
            let item = follower.next().await?;
            Some((item, follower))
        });
        Ok(WatchStream { inner: Box::pin(inner) })
    }
}

impl Stream for WatchStream {
    type Item = Result<Changes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(cx)
    }
}

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchStream").finish_non_exhaustive()
    }
}

/// A watch and its connection.
struct Follower {
    pool: Arc<Pool>,
    progress: Progress,
    request: wire::WatchRequest,
    timeout: Duration,
    stream: Option<(Streaming<wire::WatchResponse>, Arc<Node>)>,
    over: bool,
    pause: Duration,
}

impl Follower {
    /// Opens the watch and receives its first mark, which says where it begins.
    async fn begin(&mut self) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        loop {
            self.open(deadline).await?;
            let received = tokio::time::timeout_at(deadline, self.receive()).await;
            match received {
                Ok(Ok(())) if self.stream.is_some() => return Ok(()),
                Ok(Ok(())) => tokio::time::sleep(RESUME_PAUSE_MIN).await,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(self.silent()),
            }
        }
    }

    fn silent(&self) -> Error {
        let endpoint = self.stream.as_ref().map(|(_, node)| node.address().to_string());
        let tried =
            endpoint.map(|endpoint| crate::Tried { endpoint, problem: "the watch did not start".to_owned() });
        Error::Unanswered { within: self.timeout, tried: tried.into_iter().collect() }
    }

    async fn next(&mut self) -> Option<Result<Changes, Error>> {
        loop {
            if let Some(changes) = self.progress.ready.pop_front() {
                return Some(Ok(changes));
            }
            if self.over {
                return None;
            }
            if let Err(error) = self.advance().await {
                self.over = true;
                return Some(Err(error));
            }
        }
    }

    async fn advance(&mut self) -> Result<(), Error> {
        if self.stream.is_some() {
            return self.receive().await;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RESUME_PAUSE_MAX);
        match self.open(tokio::time::Instant::now() + self.timeout).await {
            // Nobody can be reached: the watch goes on when somebody can.
            Err(Error::Unanswered { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    async fn open(&mut self, deadline: tokio::time::Instant) -> Result<(), Error> {
        self.request.from_revision = self.progress.next;
        let options = CallOptions {
            deadline,
            revision_exists: self.progress.started,
            ..CallOptions::read(self.timeout, Route::Home)
        };
        self.stream = Some(self.pool.call_on(&self.request, options).await?);
        self.progress.reopened();
        Ok(())
    }

    /// Receives one response. A disconnect leaves the watch without a stream.
    async fn receive(&mut self) -> Result<(), Error> {
        let Some((stream, node)) = &mut self.stream else { return Ok(()) };
        let setback = match stream.message().await {
            Ok(Some(response)) => {
                self.pause = RESUME_PAUSE_MIN;
                if let Some(header) = &response.header {
                    self.pool.learn(node, header)?;
                }
                self.progress.take(response);
                return Ok(());
            }
            Ok(None) => None,
            Err(status) => Some(judge(&status, node.address().as_str())),
        };
        self.pool.avoid(node);
        self.stream = None;
        match setback.map(|setback| setback.fate) {
            Some(Fate::Answered(error)) => Err(error),
            Some(Fate::Behind(error)) if !self.progress.started => Err(error),
            _ => Ok(()),
        }
    }
}

/// What was received and handed out: pure bookkeeping.
struct Progress {
    /// The first revision that is not complete yet; 0 before the first mark.
    next: u64,
    /// How many events of `next` were received already. Nodes report a revision's events in the same
    /// order, so that a stream opened anew can be told to skip these.
    received: usize,
    /// How many events of `next` the present stream has still to repeat.
    skip: usize,
    /// The part of `next` that was received and not handed out, and its size.
    gathered: Vec<Event>,
    gathered_bytes: usize,
    /// What can be handed out.
    ready: VecDeque<Changes>,
    /// A node has answered.
    started: bool,
    /// The present stream has not answered yet.
    first: bool,
}

impl Progress {
    fn new(next: u64) -> Progress {
        Progress {
            next,
            received: 0,
            skip: 0,
            gathered: Vec::new(),
            gathered_bytes: 0,
            ready: VecDeque::new(),
            started: false,
            first: true,
        }
    }

    fn reopened(&mut self) {
        self.skip = self.received;
        self.first = true;
    }

    fn take(&mut self, response: wire::WatchResponse) {
        let mark = response.header.map_or(0, |header| header.revision);
        let opening = std::mem::take(&mut self.first) && response.events.is_empty();
        self.started = true;
        let marks_only = response.events.is_empty();
        for event in response.events {
            self.take_event(event);
        }
        if response.fragment {
            // Everything before the unfinished revision is complete.
            self.complete_before(mark);
            return;
        }
        if opening && self.next != 0 {
            // The stream has answered; nothing of what it was asked for has been sent.
            return;
        }
        self.complete_before(mark.saturating_add(1));
        if marks_only && mark != 0 && mark + 1 == self.next {
            self.ready.push_back(Changes { revision: mark, events: Vec::new(), partial: false });
        }
    }

    fn take_event(&mut self, event: wire::Event) {
        let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        if revision < self.next {
            return;
        }
        self.complete_before(revision);
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.received += 1;
        self.gathered_bytes += event.encoded_len();
        self.gathered.push(event.into());
        if self.gathered_bytes >= REVISION_BYTES_MAX {
            self.hand_out(true);
        }
    }

    /// Every event of a revision below `revision` has been received.
    fn complete_before(&mut self, revision: u64) {
        if revision <= self.next {
            return;
        }
        if self.received > 0 {
            self.hand_out(false);
        }
        self.next = revision;
        self.received = 0;
        self.skip = 0;
    }

    fn hand_out(&mut self, partial: bool) {
        self.gathered_bytes = 0;
        let events = std::mem::take(&mut self.gathered);
        self.ready.push_back(Changes { revision: self.next, events, partial });
    }
}
