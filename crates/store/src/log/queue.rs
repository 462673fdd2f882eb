//! The queue of changes, and what the writer takes of it at once.

use std::collections::VecDeque;

use super::state::{Done, Vote};
use crate::entry::{Entry, LogId};

/// One change in the queue.
pub(super) struct Op {
    pub(super) change: Change,
    /// Called when the change is durable.
    pub(super) done: Done,
    /// Its part of what is queued.
    pub(super) bytes: usize,
}

pub(super) enum Change {
    Append(Vec<Entry>),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    Reset(LogId),
}

/// What the writer takes at once.
pub(super) struct Batch {
    pub(super) ops: Vec<Op>,
    /// Known to be committed and durable, so that no torn frame ever takes it away.
    pub(super) committed: Option<LogId>,
}

/// What the writer did with a batch.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The frame; no bytes if there was nothing to write.
    pub(super) offset: u64,
    pub(super) frame_bytes: u64,
    pub(super) first_index: Option<u64>,
    pub(super) entries: usize,
    /// Entries from here on went, before the frame's own came.
    pub(super) truncated_next: Option<u64>,
}

/// Takes changes from the queue, at least one. Within a frame truncations stand before entries, so
/// that no entry of a frame is undone by the same frame.
pub(super) fn take(queue: &mut VecDeque<Op>, frame_bytes_max: usize) -> Vec<Op> {
    let mut ops = Vec::with_capacity(queue.len());
    let (mut bytes, mut has_entries) = (0, false);
    while let Some(op) = queue.front() {
        let cuts = matches!(op.change, Change::Truncate(_) | Change::Reset(_));
        if (cuts && has_entries) || (bytes > 0 && bytes + op.bytes > frame_bytes_max) {
            break;
        }
        has_entries |= matches!(&op.change, Change::Append(entries) if !entries.is_empty());
        bytes += op.bytes;
        ops.extend(queue.pop_front());
    }
    ops
}
