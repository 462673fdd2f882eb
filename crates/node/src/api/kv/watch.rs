//! `Watch`: every change of a range once, in order, with progress marks.
//!
//! A stream stands in one of two places: at the ring of recent changes, or, when it is behind that,
//! in the store's own record of changes, which it reads together with others (`shared_reads.rs`). What it has
//! read and not sent counts in the budget of what waits to be sent; where there is no room for that it is let
//! go, and read again when its turn comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use kvorum_proto::kv::v1 as pb;
use kvorum_store::command::{KeyRange, Record};
use kvorum_store::{Event, EventKind, Place, Reader, RevisionEvents};
use prometheus::IntGauge;
use tokio::time::timeout;
use tonic::Status;

use super::convert::key_value;
use crate::access::Grant;
use crate::error::RequestError;
use crate::metrics::Metrics;
use crate::net::budget::Permit;
use crate::net::outbox::{Frame, Outbox, frame_bytes};
use crate::shared_reads::{Changes, SharedReads};
use crate::watch::{Look, Watcher, memory_bytes};

/// What an event takes in a message beside keys and values, at most.
const EVENT_OVERHEAD_BYTES: usize = 64;

/// A stream without events says so often how far it is, so that whoever resumes it later need not
/// go far back, and what it missed is not compacted by then.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// What a watch is answered from.
pub struct Source {
    /// It must hold before each response: rights change before what is written after that can be read.
    pub grant: Grant,
    /// The store's record of changes serves those who are behind.
    pub reads: Arc<SharedReads>,
    /// Counts watchers and events.
    pub metrics: Arc<Metrics>,
    /// The header of every response, but for the revision.
    pub header: pb::Header,
    /// Whether events carry what was there before.
    pub previous: bool,
    /// Bytes of events in a response, see [`Limits`](crate::limits::Limits).
    pub response_bytes_max: usize,
    /// Where the responses go.
    pub outbox: Outbox,
}

/// An open watch.
pub struct Stream {
    source: Source,
    watcher: Watcher,
    /// Everything that concerns the watch before this place was taken into `pending`.
    next: Place,
    /// Everything up to this revision was sent.
    sent: u64,
    /// The revision of which a part was sent that more may follow.
    unfinished: Option<u64>,
    pending: Pending,
    /// Room for the pending events while they wait for the one before them to be sent.
    kept: Option<Permit>,
    /// Room that was waited for, for the next response.
    room: Option<Permit>,
    /// So many events from `next` on were sent already.
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
        let pending = Pending::new(source.previous, source.response_bytes_max);
        let (next, state) = (Place::before(next), State::Opened);
        let (unfinished, kept, room, skip) = (None, None, None, 0);
        Ok(Stream { source, watcher, next, sent, unfinished, pending, kept, room, skip, state, _open })
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
            self.source.grant.holds()?;
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
            if self.unfinished.take_if(|revision| *revision <= self.sent).is_some() {
                // Nothing more of it followed.
                self.room = None;
                return self.mark().await;
            }
            if self.watcher.hub().stopped() {
                return Err(RequestError::ShuttingDown);
            }
            if self.state == State::CaughtUp {
                match timeout(PROGRESS_INTERVAL, self.watcher.changed(self.next.revision)).await {
                    Ok(next) => {
                        self.next = Place::before(next);
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
        self.unfinished = fragment.then_some(revision);
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
    fn let_go(&mut self, position: Option<(Place, usize)>) {
        (self.next, self.skip) = position.unwrap_or((self.next, 0));
        self.pending = Pending::new(self.source.previous, self.source.response_bytes_max);
        self.kept = None;
    }

    /// Takes in what comes next, from the ring or from disk.
    async fn read(&mut self) -> Result<(), RequestError> {
        if self.next.number == 0 {
            match self.watcher.hub().look(self.next.revision, self.watcher.range()) {
                Look::Read { found, next } => {
                    self.take(found, Place::before(next));
                    return Ok(());
                }
                Look::CaughtUp => {
                    self.state = State::CaughtUp;
                    return Ok(());
                }
                Look::Behind => {}
            }
        }
        tracing::debug!("a watch reads from disk, as it is behind the ring");
        let _lagging = Gauged::new(&self.source.metrics.watch.lagging);
        let reader = Reader { from: self.next, range: self.watcher.range().clone() };
        let Source { reads, previous, outbox, .. } = &self.source;
        let Changes { events, next, room } = reads.read(reader, *previous, outbox, self.room.take()).await?;
        self.room = room;
        self.take(events, next);
        Ok(())
    }

    fn take(&mut self, found: Vec<Arc<RevisionEvents>>, next: Place) {
        self.pending.fill(self.next, found, next);
        self.skip = self.pending.skip(self.skip, self.watcher.range());
        self.next = next;
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
    /// Where the first of them was read from: its begin, or a place within it.
    from: Place,
    /// Events of the first revision that were sent already.
    offset: usize,
    /// How many of those were in the range.
    sent: usize,
    /// Where the client stands once all of this is sent.
    complete: u64,
    /// A revision that was read in part. It is the last one, if any of it is pending.
    partial: Option<u64>,
    previous: bool,
    response_bytes_max: usize,
}

impl Pending {
    fn new(previous: bool, response_bytes_max: usize) -> Pending {
        let (revisions, from, partial) = (VecDeque::new(), Place::default(), None);
        Pending { revisions, from, offset: 0, sent: 0, complete: 0, partial, previous, response_bytes_max }
    }

    /// Takes in what was found from one place to another, when nothing is pending any more.
    fn fill(&mut self, from: Place, found: Vec<Arc<RevisionEvents>>, next: Place) {
        debug_assert!(self.revisions.is_empty(), "what was read before is sent first");
        self.revisions = found.into();
        self.from = from;
        self.partial = (next.number > 0).then_some(next.revision);
        // Once these are sent, everything before `next` was.
        self.complete = next.revision.saturating_sub(1);
    }

    /// Where the first revision that is pending was read from, and how many of its events were sent.
    fn position(&self) -> Option<(Place, usize)> {
        let first = self.revisions.front()?.revision;
        let from = if first == self.from.revision { self.from } else { Place::before(first) };
        Some((from, self.sent))
    }

    /// Passes over so many events in the range, which were sent already: the first ones from the place that
    /// was read from. It answers how many are left to be passed over, where the revision was read in part.
    fn skip(&mut self, count: usize, range: &KeyRange) -> usize {
        if count == 0 {
            return 0;
        }
        let Some(first) = self.revisions.front().filter(|first| first.revision == self.from.revision) else {
            return if self.partial == Some(self.from.revision) { count } else { 0 };
        };
        let in_range = first.events.iter().enumerate().filter(|(_, event)| range.contains(&event.record.key));
        let in_range: Vec<usize> = in_range.map(|(at, _)| at).take(count + 1).collect();
        if let Some(at) = in_range.get(count) {
            (self.offset, self.sent) = (*at, count);
            return 0;
        }
        let all_of_it = self.partial != Some(first.revision);
        self.pop();
        if all_of_it { 0 } else { count - in_range.len() }
    }

    /// Goes on to the next revision.
    fn pop(&mut self) {
        self.revisions.pop_front();
        (self.offset, self.sent) = (0, 0);
    }

    /// What the pending revisions take in memory, in bytes.
    fn bytes(&self) -> usize {
        self.revisions.iter().map(|revision| memory_bytes(revision)).sum()
    }

    /// The next response: whole revisions as they fit, or part of one that is too large, or that was read in
    /// part.
    fn response(&mut self, range: &KeyRange) -> Option<Response> {
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut upto = 0;
        while let Some(revision) = self.revisions.front().cloned() {
            let rest =
                revision.events[self.offset..].iter().filter(|event| range.contains(&event.record.key));
            let rest_bytes: usize = rest.clone().map(|event| self.bytes_of(event)).sum();
            let partial = self.partial == Some(revision.revision);
            if bytes > 0 && (partial || bytes + rest_bytes > self.response_bytes_max) {
                return Some((events, upto, false));
            }
            if rest_bytes > self.response_bytes_max && self.fragment(&revision, range, &mut events) {
                return Some((events, revision.revision, true));
            }
            if rest_bytes <= self.response_bytes_max {
                events.extend(rest.map(|event| self.event(event)));
            }
            bytes += rest_bytes;
            upto = revision.revision;
            self.pop();
            if partial {
                return (!events.is_empty()).then_some((events, upto, true));
            }
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
            if bytes > 0 && bytes + self.bytes_of(event) > self.response_bytes_max {
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
