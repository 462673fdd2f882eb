//! Changes from disk: how a watch resumes that has fallen behind what is in memory.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::ReadOptions;

use super::view::View;
use crate::apply::{Event, EventKind, RevisionEvents, delete_event};
use crate::command::KeyRange;
use crate::error::{ReadError, StoreError};
use crate::layout::{CHANGES, Change, ChangeKind, change_key, decode_change_key};
use crate::store::Store;

/// Whole revisions of changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In order of revision; only revisions that changed something in the range.
    pub events: Vec<Arc<RevisionEvents>>,
    /// Everything below this revision is in `events`: the next call's `from`. Above the store's
    /// revision: there is nothing more for now.
    pub next: u64,
}

impl Store {
    /// The changes of the range from a revision on, in whole revisions, until they hold `bytes_max`
    /// bytes or the work for one call is done. With `previous`, events carry the record before, but for
    /// those of the compacted revision: what was before that is gone.
    pub fn changes(
        &self,
        from: u64,
        range: &KeyRange,
        previous: bool,
        bytes_max: usize,
    ) -> Result<Changes, ReadError> {
        let state = self.state();
        let view = View::new(&state)?;
        let compacted = view.head.compacted;
        if from < compacted {
            return Err(ReadError::Compacted { requested: from, compacted });
        }
        if from > view.head.revision {
            return Ok(Changes { events: Vec::new(), next: from });
        }
        read(&view, from, range, previous, bytes_max).map_err(ReadError::Store)
    }
}

fn read(
    view: &View<'_>,
    from: u64,
    range: &KeyRange,
    previous: bool,
    bytes_max: usize,
) -> Result<Changes, StoreError> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(change_key(from, 0));
    let mut rows = view.iterator(CHANGES, options);
    let malformed = |_| StoreError::malformed(view.state.path(), "a row of `changes` is no change");
    let mut changes = Changes { events: Vec::new(), next: view.head.revision + 1 };
    let mut events: Vec<Event> = Vec::new();
    let (mut revision, mut bytes, mut looked_at) = (from, 0, 0);
    rows.seek_to_first();
    while let Some((key, row)) = rows.item() {
        let (at, _) = decode_change_key(key).map_err(malformed)?;
        if at != revision {
            changes.push(revision, &mut events);
            if bytes >= bytes_max || looked_at >= view.state.limits.looked_at_changes_max {
                changes.next = at;
                return Ok(changes);
            }
            revision = at;
        }
        let change = Change::decode(row).map_err(malformed)?;
        looked_at += 1;
        if range.contains(change.key) {
            let event = event(view, at, &change, previous)?;
            let size = |r: &crate::command::Record| r.key.len() + r.value.len();
            bytes += size(&event.record) + event.previous.as_ref().map_or(0, size);
            events.push(event);
        }
        rows.next();
    }
    rows.status().map_err(StoreError::database("read changes", view.state.path()))?;
    changes.push(revision, &mut events);
    Ok(changes)
}

impl Changes {
    fn push(&mut self, revision: u64, events: &mut Vec<Event>) {
        if !events.is_empty() {
            self.events.push(Arc::new(RevisionEvents { revision, events: std::mem::take(events) }));
        }
    }
}

fn event(view: &View<'_>, revision: u64, change: &Change<'_>, previous: bool) -> Result<Event, StoreError> {
    let before = match change.previous_revision {
        at if previous && at != 0 && revision > view.head.compacted => view.superseded(change.key, at)?,
        _ => None,
    };
    match change.kind {
        ChangeKind::Delete => Ok(delete_event(Bytes::copy_from_slice(change.key), revision, before)),
        ChangeKind::Put => {
            let record = view.record_of(change.key, revision)?.ok_or_else(|| {
                StoreError::malformed(
                    view.state.path(),
                    format!("the record that revision {revision} wrote is missing"),
                )
            })?;
            Ok(Event { kind: EventKind::Put, record, previous: before })
        }
    }
}
