//! Changes from disk: how a watch resumes that has fallen behind what is in memory.
//!
//! Many watches fall behind at the same moment, so that a read has many readers: each row is read once,
//! and given to those whom it concerns.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::ReadOptions;

use super::interests::{Interests, Place, Reader};
use super::view::View;
use crate::apply::{Event, EventKind, RevisionEvents, delete_event};
use crate::command::Record;
use crate::error::{ReadError, StoreError};
use crate::layout::{CHANGES, Change, ChangeKind, change_key, decode_change_key};
use crate::store::Store;

/// What an event takes in memory for each of its readers, beside the keys and values that they share.
const EVENT_BYTES: usize = 256;

/// How much a read may bring into memory. The change that reaches a limit is the last one.
#[derive(Debug, Clone, Copy)]
pub struct ReadBytes {
    /// For one of the readers.
    pub reader_max: usize,
    /// For all of them together.
    pub all_max: usize,
}

/// What one read found for its readers.
#[derive(Debug, Default)]
pub struct SharedChanges {
    /// For each reader what concerns him before `next`, by revision, if he reads from before that.
    pub found: Vec<Vec<Arc<RevisionEvents>>>,
    /// Where the read ended. Within a revision, what was found of that is only a part.
    pub next: Place,
    /// Whether that is the end of all changes.
    pub complete: bool,
}

impl Store {
    /// The changes that concern these readers, from the first place at which one of them stands. With
    /// `previous`, events carry the record before, but for those of the compacted revision: what was
    /// before that is gone.
    pub fn changes_for(
        &self,
        readers: &[Reader],
        previous: bool,
        bytes: ReadBytes,
    ) -> Result<SharedChanges, ReadError> {
        let state = self.state();
        let view = View::new(&state)?;
        let compacted = view.head.compacted;
        let end = Place::before(view.head.revision + 1);
        let Some(from) = readers.iter().map(|reader| reader.from).min() else {
            return Ok(SharedChanges { next: end, complete: true, ..SharedChanges::default() });
        };
        if from.revision < compacted {
            return Err(ReadError::Compacted { requested: from.revision, compacted });
        }
        let mut finding = Finding::new(readers, previous, bytes);
        let next = read(&view, from, &mut finding)?;
        Ok(SharedChanges { found: finding.finish(), next: next.unwrap_or(end), complete: next.is_none() })
    }
}

/// Reads on until there is enough, and answers where that was; None: at the end.
fn read(view: &View<'_>, from: Place, finding: &mut Finding<'_>) -> Result<Option<Place>, StoreError> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(change_key(from.revision, from.number));
    let mut rows = view.iterator(CHANGES, options);
    let malformed = |_| StoreError::malformed(view.state.path(), "a row of `changes` is no change");
    let looked_at_max = view.state.limits.looked_at_changes_max.max(1);
    let mut looked_at = 0;
    rows.seek_to_first();
    while let Some((key, row)) = rows.item() {
        let (revision, number) = decode_change_key(key).map_err(malformed)?;
        let at = Place { revision, number };
        if looked_at >= looked_at_max || finding.has_enough() {
            return Ok(Some(at));
        }
        looked_at += 1;
        finding.take(view, at, &Change::decode(row).map_err(malformed)?)?;
        rows.next();
    }
    rows.status().map_err(StoreError::database("read changes", view.state.path()))?;
    Ok(None)
}

/// What was found so far.
struct Finding<'r> {
    readers: &'r [Reader],
    interests: Interests<'r>,
    previous: bool,
    bytes: ReadBytes,
    /// The revision that is being read, and for each reader what concerns him of that.
    revision: u64,
    events: Vec<Vec<Event>>,
    /// Who has any.
    touched: Vec<usize>,
    found: Vec<Vec<Arc<RevisionEvents>>>,
    reader_bytes: Vec<usize>,
    reader_bytes_most: usize,
    all_bytes: usize,
}

impl<'r> Finding<'r> {
    fn new(readers: &'r [Reader], previous: bool, bytes: ReadBytes) -> Finding<'r> {
        Finding {
            readers,
            interests: Interests::new(readers),
            previous,
            bytes,
            revision: 0,
            events: vec![Vec::new(); readers.len()],
            touched: Vec::new(),
            found: vec![Vec::new(); readers.len()],
            reader_bytes: vec![0; readers.len()],
            reader_bytes_most: 0,
            all_bytes: 0,
        }
    }

    fn has_enough(&self) -> bool {
        self.reader_bytes_most >= self.bytes.reader_max || self.all_bytes >= self.bytes.all_max
    }

    fn take(&mut self, view: &View<'_>, at: Place, change: &Change<'_>) -> Result<(), StoreError> {
        if at.revision != self.revision {
            self.end_revision();
            self.revision = at.revision;
        }
        let mut concerned = self.interests.concerned(change.key);
        concerned.retain(|reader| self.readers[*reader].from <= at);
        if concerned.is_empty() {
            return Ok(());
        }
        let event = event(view, at.revision, change, self.previous)?;
        let size = |record: &Record| record.key.len() + record.value.len();
        let shared = size(&event.record) + event.previous.as_ref().map_or(0, size);
        self.all_bytes += shared;
        for reader in concerned {
            if self.events[reader].is_empty() {
                self.touched.push(reader);
            }
            self.events[reader].push(event.clone());
            self.all_bytes += EVENT_BYTES;
            self.reader_bytes[reader] += EVENT_BYTES + shared;
            self.reader_bytes_most = self.reader_bytes_most.max(self.reader_bytes[reader]);
        }
        Ok(())
    }

    fn end_revision(&mut self) {
        for reader in self.touched.drain(..) {
            let events = std::mem::take(&mut self.events[reader]);
            self.found[reader].push(Arc::new(RevisionEvents {
                revision: self.revision,
                events,
                is_cut: false,
            }));
        }
    }

    fn finish(mut self) -> Vec<Vec<Arc<RevisionEvents>>> {
        self.end_revision();
        self.found
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
