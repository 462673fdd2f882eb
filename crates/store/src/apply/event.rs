//! What changed, as watchers are told.

use bytes::Bytes;

use crate::command::Record;

/// All that one revision changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: u64,
    /// Its changes, in the order of the command's operations.
    pub events: Vec<Event>,
    /// Whether some of them lack values, which would take too much memory: they are on the disk.
    pub is_cut: bool,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The record as it is now; of a deleted one only key and mod revision, which is the delete's.
    pub record: Record,
    /// The record before, if there was one.
    pub previous: Option<Record>,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted, or has expired.
    Delete,
}

/// The event of a deleted record.
pub(crate) fn delete_event(key: Bytes, revision: u64, previous: Option<Record>) -> Event {
    let record = Record { key, mod_revision: revision, ..Record::default() };
    Event { kind: EventKind::Delete, record, previous }
}
