//! `Watch`: every change of a range once, in order, with progress marks.
//!
//! A stream stands in one of two places: at the ring of recent changes, or, when it is behind that,
//! in the store's own record of changes. What it has read and not sent counts in the budget of what waits
//! to be sent; where there is no room for that it is let go, and read again when its turn comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use kvorum_proto::kv::v1 as pb;
use kvorum_store::command::{KeyRange, Record};
use kvorum_store::{Changes, Event, EventKind, RevisionEvents, Store};
use prometheus::IntGauge;
use tokio::time::timeout;
use tonic::Status;

use super::convert::key_value;
use crate::error::{RequestError, answered};
use crate::metrics::Metrics;
use crate::net::budget::Permit;
use crate::net::outbox::{Frame, Outbox, frame_bytes};
use crate::requests::Reads;
use crate::watch::{Look, Watcher, memory_bytes};

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
    /// The store's record of changes serves those who are behind.
    pub reads: Reads,
    /// Counts watchers and events.
    pub metrics: Arc<Metrics>,
    /// The header of every response, but for the revision.
    pub header: pb::Header,
    /// Whether events carry what was there before.
    pub previous: bool,
    /// Where the responses go.
    pub outbox: Outbox,
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
    /// Room for the pending events while they wait for the one before them to be sent.
    kept: Option<Permit>,
    /// Room that was waited for, for the next response.
    room: Option<Permit>,
    /// So many events of revision `next` were sent already.
    skip: usize,
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
        let compacted = source.reads.store().compacted();
        if from_revision != 0 && from_revision < compacted {
            return Err(RequestError::Compacted { requested: from_revision, compacted });
        }
        let next = if from_revision == 0 { current + 1 } else { from_revision };
        let _open = Gauged::new(&source.metrics.watch.watchers);
        let sent = current.min(next - 1);
        let pending = Pending::new(source.previous);
        let state = State::Opened;
        let (kept, room, skip) = (None, None, 0);
        Ok(Stream { source, watcher, next, sent, pending, kept, room, skip, state, _open })
    }

    /// The responses, until the client leaves, the node stops, or the watch fell behind compaction.
    pub fn responses(self) -> impl futures_util::Stream<Item = Result<Frame, Status>> {
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

    async fn response(&mut self) -> Result<Frame, RequestError> {
        if self.state == State::Opened {
            self.state = State::Reading;
            return self.mark().await;
        }
        loop {
            let position = self.pending.position();
            if let Some(response) = self.pending.response(self.watcher.range()) {
                match self.frame(response) {
                    Ok(frame) => return Ok(frame),
                    Err(bytes) => {
                        self.let_go(position);
                        self.room = Some(self.source.outbox.reserve(bytes).await?);
                        self.read().await?;
                        continue;
                    }
                }
            }
            self.sent = self.sent.max(self.pending.complete);
            self.kept = None;
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
                        return self.mark().await;
                    }
                }
            }
            self.read().await?;
        }
    }

    /// A response as it goes out, if there is room for it; else the bytes that it takes.
    fn frame(&mut self, (events, revision, fragment): Response) -> Result<Frame, usize> {
        let count = events.len() as u64;
        let header = Some(pb::Header { revision, ..self.source.header });
        let response = pb::WatchResponse { header, events, fragment };
        let bytes = frame_bytes(&response);
        let room = self.room.take().or_else(|| self.source.outbox.try_reserve(bytes)).ok_or(bytes)?;
        self.source.metrics.watch.events.inc_by(count);
        if !fragment {
            self.sent = revision;
        }
        let frame = Frame::encode(&response, room);
        self.kept = None;
        if let Some(position) = self.pending.position() {
            self.kept = self.source.outbox.try_reserve(self.pending.bytes());
            if self.kept.is_none() {
                self.let_go(Some(position));
            }
        }
        Ok(frame)
    }

    /// Forgets what was read and not sent, to read it again from this position on.
    fn let_go(&mut self, position: Option<(u64, usize)>) {
        (self.next, self.skip) = position.unwrap_or((self.next, 0));
        self.pending = Pending::new(self.source.previous);
        self.kept = None;
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
        self.pending.skip((self.next, std::mem::take(&mut self.skip)), self.watcher.range());
        self.next = next;
        // Once these are sent, everything before `next` was.
        self.pending.complete = next - 1;
    }

    async fn changes(&self) -> Result<Changes, RequestError> {
        let range = self.watcher.range().clone();
        let (from, previous) = (self.next, self.source.previous);
        let read = move |store: &Store| store.changes(from, &range, previous, READ_BYTES_MAX);
        answered(self.source.reads.read(read).await?)
    }

    async fn mark(&self) -> Result<Frame, RequestError> {
        let header = Some(pb::Header { revision: self.sent, ..self.source.header });
        let mark = pb::WatchResponse { header, events: Vec::new(), fragment: false };
        let room = self.source.outbox.reserve(frame_bytes(&mark)).await?;
        Ok(Frame::encode(&mark, room))
    }
}

/// Events, the revision they bring the client to, and whether more of that revision follows.
type Response = (Vec<pb::Event>, u64, bool);

/// Revisions that were read and are still to be sent.
struct Pending {
    revisions: VecDeque<Arc<RevisionEvents>>,
    /// Events of the first revision that were sent already.
    offset: usize,
    /// How many of those were in the range.
    sent: usize,
    /// Where the client stands once all of this is sent.
    complete: u64,
    previous: bool,
}

impl Pending {
    fn new(previous: bool) -> Pending {
        Pending { revisions: VecDeque::new(), offset: 0, sent: 0, complete: 0, previous }
    }

    fn extend(&mut self, found: Vec<Arc<RevisionEvents>>) {
        self.revisions.extend(found);
    }

    /// The first revision that is pending, and how many of its events were sent.
    fn position(&self) -> Option<(u64, usize)> {
        self.revisions.front().map(|first| (first.revision, self.sent))
    }

    /// Passes over the first events of a revision in the range, which were sent already.
    fn skip(&mut self, (revision, count): (u64, usize), range: &KeyRange) {
        let Some(first) = self.revisions.front().filter(|first| count > 0 && first.revision == revision)
        else {
            return;
        };
        let in_range = first.events.iter().enumerate().filter(|(_, event)| range.contains(&event.record.key));
        self.offset = in_range.map(|(at, _)| at).nth(count).unwrap_or(first.events.len());
        self.sent = count;
    }

    /// What the pending revisions take in memory, in bytes.
    fn bytes(&self) -> usize {
        self.revisions.iter().map(|revision| memory_bytes(revision)).sum()
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
            (self.offset, self.sent) = (0, 0);
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
            self.sent += 1;
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
