//! What the handles and the writer share.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use super::cache::{Cache, entry_bytes};
use super::options::LogOptions;
use super::queue::{Batch, Change, Op, Written, take};
use super::record::RECORD_BYTES;
use super::recovery::Recovered;
use super::segment::{Piece, Segment, Segments};
use super::state::{Done, LogState, Vote};
use super::view::{View, next_index};
use crate::entry::{Entry, LogId};

/// One mutex over everything: it is held for moments, never across I/O. The entries of an append
/// are queued and cached under one hold, so the queue's order is the log's order.
pub(super) struct Shared {
    state: Mutex<State>,
    /// The index after the durable part, for readers without the lock.
    durable_next: AtomicU64,
    cache_bytes: usize,
    queue_bytes: usize,
    frame_bytes_max: usize,
}

pub(super) struct State {
    /// The log as callers see it: with everything in the queue.
    view: View,
    /// What the callers say is committed, which may be ahead of this log.
    committed: Option<LogId>,
    /// What of it frames may say: in this log, and durable before the frame.
    saved: Option<LogId>,
    durable: Option<LogId>,
    cache: Cache,
    queue: VecDeque<Op>,
    queued_bytes: usize,
    /// To be woken when the queue becomes shorter: as many as there are callers of [`Log::room`](super::Log::room).
    for_room: Vec<Waker>,
    /// The writer, while it waits for a change.
    writer: Option<Waker>,
    /// To be woken when the entry at an index is durable: as many as there are callers of [`Log::durable`](super::Log::durable).
    for_durable: Vec<(u64, Waker)>,
    /// How many changes were queued and completed ever.
    queued_ops: u64,
    completed_ops: u64,
    /// Truncations that are not durable yet: which change, and the index from which on the disk
    /// holds what is not in the log any more. What lies above is not durable, whatever is synced.
    cuts: VecDeque<(u64, u64)>,
    segments: Segments,
    closing: bool,
}

/// What to read from where, as of one moment.
pub(super) struct Plan {
    pub(super) pieces: Vec<Piece>,
    pub(super) cached: Vec<Entry>,
}

impl Shared {
    pub(super) fn new(log: Recovered, options: &LogOptions) -> Shared {
        let durable = log.view.last();
        let committed = committed_id(&log.view, log.committed_next);
        Shared {
            state: Mutex::new(State {
                cache: Cache::new(log.view.next_index()),
                view: log.view,
                committed,
                saved: committed,
                durable,
                queue: VecDeque::new(),
                queued_bytes: 0,
                for_room: Vec::new(),
                writer: None,
                for_durable: Vec::new(),
                queued_ops: 0,
                completed_ops: 0,
                cuts: VecDeque::new(),
                segments: log.segments,
                closing: false,
            }),
            durable_next: AtomicU64::new(next_index(durable)),
            cache_bytes: options.cache_bytes,
            queue_bytes: options.queue_bytes,
            frame_bytes_max: options.limits.frame_bytes_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the log's lock")
    }

    // The handles' side.

    pub(super) fn append(&self, entries: Vec<Entry>, done: Done) -> Result<(), &'static str> {
        let bytes = entries.iter().map(entry_bytes).sum();
        let mut guard = self.lock();
        let state = &mut *guard;
        for entry in &entries {
            state.view.append(entry.log_id)?;
            state.cache.push(entry.clone());
        }
        state.cache.evict(self.cache_bytes, next_index(state.durable));
        push(guard, Change::Append(entries), bytes, done);
        Ok(())
    }

    /// Ready while the queue is below its bound; else the task is woken when it has become shorter.
    pub(super) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.queued_bytes < self.queue_bytes {
            return Poll::Ready(());
        }
        if !state.for_room.iter().any(|waker| waker.will_wake(context.waker())) {
            state.for_room.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// How many changes were completed ever, while any is not.
    pub(super) fn pending(&self) -> Option<u64> {
        let state = self.lock();
        (state.completed_ops < state.queued_ops).then_some(state.completed_ops)
    }

    pub(super) fn save_vote(&self, vote: Vote, done: Done) {
        let mut state = self.lock();
        state.view.set_vote(vote);
        push(state, Change::Vote(vote), RECORD_BYTES, done);
    }

    pub(super) fn truncate_after(&self, last: Option<LogId>, done: Done) -> Result<(), &'static str> {
        let mut state = self.lock();
        check_committed(&state, last)?;
        state.view.truncate_after(last)?;
        let next = state.view.next_index();
        state.cache.truncate(next);
        self.cut(&mut state, next);
        push(state, Change::Truncate(last), RECORD_BYTES, done);
        Ok(())
    }

    pub(super) fn purge(&self, upto: LogId, done: Done) -> Result<(), &'static str> {
        let mut state = self.lock();
        let change = if state.view.purge_resets(upto) {
            check_committed(&state, Some(upto))?;
            state.view.reset(upto);
            let next = upto.index + 1;
            state.cache.reset(next);
            self.cut(&mut state, next);
            Change::Reset(upto)
        } else {
            state.view.purge(upto)?;
            let next = state.view.first_index();
            state.cache.purge(next);
            Change::Purge(upto)
        };
        push(state, change, RECORD_BYTES, done);
        Ok(())
    }

    pub(super) fn set_committed(&self, id: LogId) {
        let mut state = self.lock();
        state.committed = state.committed.max(Some(id));
    }

    pub(super) fn state(&self) -> LogState {
        let state = self.lock();
        LogState {
            purged: state.view.purged(),
            last: state.view.last(),
            durable: state.durable,
            vote: state.view.vote(),
            committed: state.committed,
        }
    }

    pub(super) fn durable_next(&self) -> u64 {
        self.durable_next.load(Ordering::Acquire)
    }

    /// Ready when the entry at an index is durable; else the waker is woken then.
    pub(super) fn poll_durable(&self, index: u64, waker: &Waker) -> Poll<()> {
        if index < self.durable_next() {
            return Poll::Ready(());
        }
        let mut state = self.lock();
        if index < next_index(state.durable) {
            return Poll::Ready(());
        }
        if !state.for_durable.iter().any(|(at, other)| *at == index && other.will_wake(waker)) {
            state.for_durable.push((index, waker.clone()));
        }
        Poll::Pending
    }

    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        self.lock().view.term_of(index)
    }

    /// Where to find the entries of the range that exist.
    pub(super) fn plan(&self, range: Range<u64>, bytes_max: usize) -> Plan {
        let state = self.lock();
        let from = range.start.max(state.view.first_index());
        let to = range.end.min(state.view.next_index());
        let cache_first = state.cache.first_index();
        let pieces = if from < to.min(cache_first) {
            state.segments.pieces(from, to.min(cache_first))
        } else {
            vec![]
        };
        let cached = if from < to { state.cache.read(from.max(cache_first), to, bytes_max) } else { vec![] };
        Plan { pieces, cached }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let state = self.lock();
        state.segments.used_bytes() + state.queued_bytes as u64
    }

    pub(super) fn bytes_between(&self, from: u64, to: u64) -> u64 {
        let state = self.lock();
        let position = |index| {
            if index < state.view.next_index() {
                state.segments.position(index)
            } else {
                state.segments.end_position() + state.queued_bytes as u64
            }
        };
        position(to).saturating_sub(position(from))
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.lock().queued_bytes
    }

    pub(super) fn cached_bytes(&self) -> usize {
        self.lock().cache.bytes()
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        wake(state);
    }

    /// The entries from `next` on are not in the log any more, but still on disk.
    fn cut(&self, state: &mut State, next: u64) {
        let this_op = state.queued_ops;
        state.cuts.push_back((this_op, next));
        if next < next_index(state.durable) {
            state.durable = next.checked_sub(1).and_then(|index| state.view.id_of(index));
            self.durable_next.store(next_index(state.durable), Ordering::Release);
        }
    }

    // The writer's side.

    /// Takes what goes into the next frame; `None` when the log is closed and nothing is left. Without a
    /// change the waker is woken at the next one.
    pub(super) fn poll_batch(&self, writer: &Waker) -> Poll<Option<Batch>> {
        let mut state = self.lock();
        if state.queue.is_empty() {
            if state.closing {
                return Poll::Ready(None);
            }
            state.writer = Some(writer.clone());
            return Poll::Pending;
        }
        let ops = take(&mut state.queue, self.frame_bytes_max);
        state.queued_bytes -= ops.iter().map(|op| op.bytes).sum::<usize>();
        state.for_room.drain(..).for_each(Waker::wake);
        // An entry of ours at the committed position is the committed one only if the terms agree,
        // and then all before it are, too.
        if let Some(committed) = state.committed
            && state.view.term_of(committed.index) == Some(committed.term)
        {
            state.saved = state.saved.max(Some(committed).min(state.durable));
        }
        let is_durable = next_index(state.saved) <= next_index(state.durable);
        assert!(is_durable, "no frame says committed of what a torn one takes away");
        Poll::Ready(Some(Batch { ops, committed: state.saved }))
    }

    /// Takes note of what became durable. Answers the segments that are not needed any more.
    pub(super) fn complete(&self, batch: &Batch, written: &Written, on_disk: &View) -> Vec<PathBuf> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.completed_ops += batch.ops.len() as u64;
        assert!(state.completed_ops <= state.queued_ops, "a change is completed once");
        if let Some(next) = written.truncated_next {
            state.segments.note_truncation(next);
        }
        if written.frame_bytes > 0 {
            state.segments.note_frame(written.offset, written.frame_bytes, written.first_index);
        }
        while state.cuts.front().is_some_and(|(op, _)| *op < state.completed_ops) {
            state.cuts.pop_front();
        }
        let next = state.cuts.iter().map(|(_, next)| *next).fold(on_disk.next_index(), u64::min);
        state.durable = next.checked_sub(1).and_then(|i| state.view.id_of(i).or_else(|| on_disk.id_of(i)));
        self.durable_next.store(next_index(state.durable), Ordering::Release);
        state.cache.evict(self.cache_bytes, next);
        let is_durable = |(index, _): &mut (u64, Waker)| *index < next;
        state.for_durable.extract_if(.., is_durable).for_each(|(_, waker)| waker.wake());
        state.segments.take_purged(on_disk.purged())
    }

    pub(super) fn push_segment(&self, segment: Segment) {
        self.lock().segments.push(segment);
    }
}

/// Queues a change.
fn push(mut state: MutexGuard<'_, State>, change: Change, bytes: usize, done: Done) {
    state.queue.push_back(Op { change, done, bytes });
    state.queued_bytes += bytes;
    state.queued_ops += 1;
    wake(state);
}

/// Wakes the writer, if it waits, when it can have the lock.
fn wake(mut state: MutexGuard<'_, State>) {
    let writer = state.writer.take();
    drop(state);
    if let Some(writer) = writer {
        writer.wake();
    }
}

/// Entries that are known to be committed stay in the log until they are purged.
fn check_committed(state: &State, last: Option<LogId>) -> Result<(), &'static str> {
    if next_index(last) < next_index(state.saved) {
        return Err("the change would undo committed entries");
    }
    Ok(())
}

/// The id of the last entry below an index that was committed. What was purged was committed too.
fn committed_id(view: &View, committed_next: u64) -> Option<LogId> {
    let id = committed_next.checked_sub(1).and_then(|index| view.id_of(index));
    id.max(view.purged())
}
