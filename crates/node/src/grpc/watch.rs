//! `Watch`: every change of a range once, in order, with progress marks.
//!
//! A stream stands in one of two places: at the ring of recent changes, or, when it is behind that,
//! in the store's own record of changes. It holds at most one read of either in memory, and reads
//! on only when the connection took what it had.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use kvorum_proto::kv::v1 as pb;
use kvorum_store::command::{KeyRange, Record};
use kvorum_store::{Changes, Event, EventKind, RevisionEvents, Store};
use prometheus::IntGauge;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::Status;

use super::convert::key_value;
use crate::error::{RequestError, answered};
use crate::metrics::Metrics;
use crate::watch::{Look, Watcher};

/// Bytes of events in a response, beside its last event. A revision with more is sent in fragments.
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// What an event takes in a message beside keys and values, at most.
const EVENT_OVERHEAD_BYTES: usize = 64;

/// Bytes that one read of the store's changes brings into memory, beside its last revision.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// A stream without events says so often how far it is, so that whoever resumes it later need not
/// go far back, and what it missed is not compacted by then.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// What a watch is answered from.
pub struct Source {
    /// Its record of changes serves those who are behind.
    pub store: Store,
    /// Bounds the reads of it.
    pub reads: Arc<Semaphore>,
    /// Counts watchers and events.
    pub metrics: Arc<Metrics>,
    /// The header of every response, but for the revision.
    pub header: pb::Header,
    /// Whether events carry what was there before.
    pub previous: bool,
}

/// An open watch.
pub struct Stream {
    source: Source,
    watcher: Watcher,
    /// Everything that concerns the watch before this revision was taken into `pending`.
    next: u64,
    /// Everything up to this revision was sent.
    sent: u64,
    pending: Pending,
    state: State,
    _open: Gauged,
}

#[derive(PartialEq, Eq)]
enum State {
    /// Nothing was sent yet.
    Opened,
    /// Changes are looked for.
    Reading,
    /// All changes there are were sent.
    CaughtUp,
    Ended,
}

impl Stream {
    /// Opens a watch from a revision on; 0: after the current one.
    pub fn open(source: Source, watcher: Watcher, from_revision: u64) -> Result<Stream, RequestError> {
        let current = watcher.hub().revision();
        let compacted = source.store.compacted();
        if from_revision != 0 && from_revision < compacted {
            return Err(RequestError::Compacted { requested: from_revision, compacted });
        }
        let next = if from_revision == 0 { current + 1 } else { from_revision };
        let _open = Gauged::new(&source.metrics.watch.watchers);
        let sent = current.min(next - 1);
        let pending = Pending::new(source.previous);
        Ok(Stream { source, watcher, next, sent, pending, state: State::Opened, _open })
    }

    /// The responses, until the client leaves, the node stops, or the watch fell behind compaction.
    pub fn responses(self) -> impl futures_util::Stream<Item = Result<pb::WatchResponse, Status>> {
        unfold(self, |mut stream| async move {
            if stream.state == State::Ended {
                return None;
            }
            let response = stream.response().await;
            if response.is_err() {
                stream.state = State::Ended;
            }
            Some((response.map_err(Status::from), stream))
        })
    }

    async fn response(&mut self) -> Result<pb::WatchResponse, RequestError> {
        if self.state == State::Opened {
            self.state = State::Reading;
            return Ok(self.mark());
        }
        loop {
            if let Some(response) = self.pending.response(self.watcher.range()) {
                return Ok(self.send(response));
            }
            self.sent = self.sent.max(self.pending.complete);
            if self.watcher.hub().stopped() {
                return Err(RequestError::ShuttingDown);
            }
            if self.state == State::CaughtUp {
                match timeout(PROGRESS_INTERVAL, self.watcher.changed(self.next)).await {
                    Ok(next) => {
                        self.next = next;
                        self.state = State::Reading;
                    }
                    Err(_) => {
                        let quiet = self.watcher.quiet_until();
                        self.sent = quiet.map_or(self.sent, |revision| self.sent.max(revision));
                        return Ok(self.mark());
                    }
                }
            }
            self.read().await?;
        }
    }

    /// Takes in what comes next, from the ring or from disk.
    async fn read(&mut self) -> Result<(), RequestError> {
        match self.watcher.hub().look(self.next, self.watcher.range()) {
            Look::Read { found, next } => self.take(found, next),
            Look::CaughtUp => self.state = State::CaughtUp,
            Look::Behind => {
                let _lagging = Gauged::new(&self.source.metrics.watch.lagging);
                let Changes { events, next } = self.changes().await?;
                self.take(events, next);
            }
        }
        Ok(())
    }

    fn take(&mut self, found: Vec<Arc<RevisionEvents>>, next: u64) {
        self.pending.extend(found);
        self.next = next;
        // Once these are sent, everything before `next` was.
        self.pending.complete = next - 1;
    }

    async fn changes(&self) -> Result<Changes, RequestError> {
        let _permit = self.source.reads.acquire().await.map_err(|_| RequestError::ShuttingDown)?;
        let (store, range) = (self.source.store.clone(), self.watcher.range().clone());
        let (from, previous) = (self.next, self.source.previous);
        let read = move || store.changes(from, &range, previous, READ_BYTES_MAX);
        let changes = tokio::task::spawn_blocking(read).await.map_err(|_| RequestError::ShuttingDown)?;
        answered(changes)
    }

    fn send(&mut self, (events, revision, fragment): Response) -> pb::WatchResponse {
        self.source.metrics.watch.events.inc_by(events.len() as u64);
        if !fragment {
            self.sent = revision;
        }
        let header = Some(pb::Header { revision, ..self.source.header });
        pb::WatchResponse { header, events, fragment }
    }

    fn mark(&self) -> pb::WatchResponse {
        let header = Some(pb::Header { revision: self.sent, ..self.source.header });
        pb::WatchResponse { header, events: Vec::new(), fragment: false }
    }
}

/// Events, the revision they bring the client to, and whether more of that revision follows.
type Response = (Vec<pb::Event>, u64, bool);

/// Revisions that were read and are still to be sent.
struct Pending {
    revisions: VecDeque<Arc<RevisionEvents>>,
    /// Events of the first revision that were sent already.
    offset: usize,
    /// Where the client stands once all of this is sent.
    complete: u64,
    previous: bool,
}

impl Pending {
    fn new(previous: bool) -> Pending {
        Pending { revisions: VecDeque::new(), offset: 0, complete: 0, previous }
    }

    fn extend(&mut self, found: Vec<Arc<RevisionEvents>>) {
        self.revisions.extend(found);
    }

    /// The next response: whole revisions as they fit, or part of one that is too large.
    fn response(&mut self, range: &KeyRange) -> Option<Response> {
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut upto = 0;
        while let Some(revision) = self.revisions.front().cloned() {
            let rest =
                revision.events[self.offset..].iter().filter(|event| range.contains(&event.record.key));
            let rest_bytes: usize = rest.clone().map(|event| self.bytes_of(event)).sum();
            if bytes + rest_bytes > RESPONSE_BYTES_MAX && bytes > 0 {
                return Some((events, upto, false));
            }
            if rest_bytes > RESPONSE_BYTES_MAX && self.fragment(&revision, range, &mut events) {
                return Some((events, revision.revision, true));
            }
            if rest_bytes <= RESPONSE_BYTES_MAX {
                events.extend(rest.map(|event| self.event(event)));
            }
            bytes += rest_bytes;
            upto = revision.revision;
            self.revisions.pop_front();
            self.offset = 0;
        }
        (!events.is_empty()).then_some((events, self.complete.max(upto), false))
    }

    /// Takes events of a large revision until a response is full; true when some are left.
    fn fragment(&mut self, revision: &RevisionEvents, range: &KeyRange, events: &mut Vec<pb::Event>) -> bool {
        let mut bytes = 0;
        for (at, event) in revision.events.iter().enumerate().skip(self.offset) {
            if !range.contains(&event.record.key) {
                continue;
            }
            if bytes > 0 && bytes + self.bytes_of(event) > RESPONSE_BYTES_MAX {
                self.offset = at;
                return true;
            }
            bytes += self.bytes_of(event);
            events.push(self.event(event));
        }
        false
    }

    fn event(&self, event: &Event) -> pb::Event {
        let kind = match event.kind {
            EventKind::Put => pb::event::Kind::Put,
            EventKind::Delete => pb::event::Kind::Delete,
        };
        let previous = event.previous.as_ref().filter(|_| self.previous).cloned().map(key_value);
        pb::Event { kind: kind.into(), kv: Some(key_value(event.record.clone())), previous }
    }

    fn bytes_of(&self, event: &Event) -> usize {
        let record = |record: &Record| record.key.len() + record.value.len() + EVENT_OVERHEAD_BYTES;
        let previous = event.previous.as_ref().filter(|_| self.previous);
        record(&event.record) + previous.map_or(0, record)
    }
}

/// Counts in a gauge for as long as it lives.
struct Gauged(IntGauge);

impl Gauged {
    fn new(gauge: &IntGauge) -> Gauged {
        gauge.inc();
        Gauged(gauge.clone())
    }
}

impl Drop for Gauged {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
