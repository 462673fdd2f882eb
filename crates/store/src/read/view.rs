//! The database at one moment, and what its rows say of a key then.

use bytes::Bytes;
use rocksdb::{ColumnFamily, DBPinnableSlice, DBRawIterator, ReadOptions, Snapshot};

use crate::command::Record;
use crate::db;
use crate::error::{ReadError, StoreError};
use crate::layout::{self, CURRENT, HISTORY, Head, META, RecordHead, Superseded, meta};
use crate::state::State;

/// The database at one moment, with the head of that moment.
pub(crate) struct View<'a> {
    pub(crate) state: &'a State,
    pub(crate) head: Head,
    snapshot: Snapshot<'a>,
}

impl<'a> View<'a> {
    pub(crate) fn new(state: &'a State) -> Result<Self, StoreError> {
        let snapshot = state.db.snapshot();
        let row = snapshot
            .get_pinned_cf(db::family(&state.db, META), meta::HEAD)
            .map_err(StoreError::database("read head", state.path()))?;
        let head = row.and_then(|row| Head::decode(&row).ok());
        let head = head.ok_or_else(|| StoreError::malformed(state.path(), "it has no `head` row"))?;
        state.show(head.revision);
        Ok(View { state, head, snapshot })
    }

    /// The revision that a read at `requested` means, if it can be read.
    pub(crate) fn revision_at(&self, requested: u64) -> Result<u64, ReadError> {
        let Head { revision: current, compacted, .. } = self.head;
        match requested {
            0 => Ok(current),
            _ if requested < compacted => Err(ReadError::Compacted { requested, compacted }),
            _ if requested > current => Err(ReadError::Future { requested, current }),
            _ => Ok(requested),
        }
    }

    /// The record of a key at a revision that can be read.
    pub(crate) fn record_at(&self, key: &[u8], revision: u64) -> Result<Option<Record>, StoreError> {
        if let Some(row) = self.row(CURRENT, key)? {
            let record = decode_record(self.state, key, &row)?;
            if record.mod_revision <= revision {
                return Ok(Some(record));
            }
        }
        if revision == self.head.revision {
            return Ok(None);
        }
        let mut rows = self.iterator(HISTORY, ReadOptions::default());
        let mut found = None;
        seek_history(&mut rows, self, key, revision, |head, value| {
            found = Some(head.into_record(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        })?;
        Ok(found)
    }

    /// The record that was written to a key at just this revision, if it is not compacted.
    pub(crate) fn record_of(&self, key: &[u8], mod_revision: u64) -> Result<Option<Record>, StoreError> {
        if let Some(row) = self.row(CURRENT, key)? {
            let record = decode_record(self.state, key, &row)?;
            if record.mod_revision == mod_revision {
                return Ok(Some(record));
            }
        }
        self.superseded(key, mod_revision)
    }

    /// The record that was written at just this revision and is no longer the current one, if it is
    /// not compacted.
    pub(crate) fn superseded(&self, key: &[u8], mod_revision: u64) -> Result<Option<Record>, StoreError> {
        let mut history_key = Vec::new();
        layout::history_key(key, mod_revision, &mut history_key);
        let Some(row) = self.row(HISTORY, &history_key)? else { return Ok(None) };
        let superseded = Superseded::decode(&row).map_err(|_| malformed_history(self.state))?;
        let value = match superseded.value {
            Some(value) => Bytes::copy_from_slice(value),
            None => {
                let mut rows = self.iterator(HISTORY, ReadOptions::default());
                rows.seek(&history_key);
                let mut value = Bytes::new();
                self.shared_value(&mut rows, key, superseded.end_revision, |shared| {
                    value = Bytes::copy_from_slice(shared);
                })?;
                value
            }
        };
        Ok(Some(superseded.head.into_record(Bytes::copy_from_slice(key), value)))
    }

    /// Hands over the value that the row of `history` which an iterator is on shares with newer records
    /// of its key, the next of them written at `end_revision`. Leaves the iterator somewhere above.
    fn shared_value(
        &self,
        rows: &mut DBRawIterator<'_>,
        key: &[u8],
        mut end_revision: u64,
        found: impl FnOnce(&[u8]),
    ) -> Result<(), StoreError> {
        let mut expected = Vec::new();
        loop {
            layout::history_key(key, end_revision, &mut expected);
            rows.prev();
            let Some((_, row)) = rows.item().filter(|(found, _)| *found == expected) else { break };
            let newer = Superseded::decode(row).map_err(|_| malformed_history(self.state))?;
            match newer.value {
                Some(value) => {
                    found(value);
                    return Ok(());
                }
                None => end_revision = newer.end_revision,
            }
        }
        rows.status().map_err(StoreError::database("read history", self.state.path()))?;
        let row = self.row(CURRENT, key)?;
        let record = row.as_deref().map(RecordHead::decode).transpose();
        match record
            .map_err(|_| StoreError::malformed(self.state.path(), "a row of `current` is no record"))?
        {
            Some((head, value)) if head.mod_revision == end_revision => found(value),
            _ => {
                return Err(StoreError::malformed(
                    self.state.path(),
                    "a value that `history` shares is missing",
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn iterator(&self, family: &str, options: ReadOptions) -> DBRawIterator<'_> {
        self.snapshot.raw_iterator_cf_opt(self.family(family), options)
    }

    fn row(&self, family: &str, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, StoreError> {
        self.snapshot
            .get_pinned_cf(self.family(family), key)
            .map_err(StoreError::database("read key", self.state.path()))
    }

    fn family(&self, name: &str) -> &'a ColumnFamily {
        db::family(&self.state.db, name)
    }
}

/// Puts an iterator over `history` on the key's newest row that is not above the revision, and
/// hands over the record if it is visible there.
pub(crate) fn seek_history(
    rows: &mut DBRawIterator<'_>,
    view: &View<'_>,
    key: &[u8],
    revision: u64,
    visible: impl FnOnce(RecordHead, &[u8]),
) -> Result<(), StoreError> {
    let state = view.state;
    let mut from = Vec::new();
    layout::history_key(key, revision, &mut from);
    rows.seek(&from);
    let Some((found, row)) = rows.item() else {
        return rows.status().map_err(StoreError::database("read history", state.path()));
    };
    let prefix = &from[..from.len() - size_of::<u64>()];
    if !found.starts_with(prefix) || found.len() != from.len() {
        return Ok(());
    }
    let superseded = Superseded::decode(row).map_err(|_| malformed_history(state))?;
    let Superseded { end_revision, head, value } = superseded;
    match value {
        _ if end_revision <= revision => {}
        Some(value) => visible(head, value),
        None => view.shared_value(rows, key, end_revision, |value| visible(head, value))?,
    }
    Ok(())
}

pub(crate) fn decode_record(state: &State, key: &[u8], row: &[u8]) -> Result<Record, StoreError> {
    let (head, value) = RecordHead::decode(row)
        .map_err(|_| StoreError::malformed(state.path(), "a row of `current` is no record"))?;
    Ok(head.into_record(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
}

pub(crate) fn malformed_history(state: &State) -> StoreError {
    StoreError::malformed(state.path(), "a row of `history` is no record")
}
