//! Rows of one WriteBatch, and the accounting that goes with them.

use rocksdb::{ColumnFamily, DB, WriteBatch};

use crate::db;
use crate::layout::{
    self, CHANGES, CURRENT, Change, ChangeKind, DEADLINES, HISTORY, Head, META, RecordHead, Superseded, meta,
    record_bytes,
};

/// The rows that the commands at hand write, and the head as they leave it.
pub(crate) struct Rows<'db> {
    pub(crate) head: Head,
    batch: WriteBatch,
    /// About how many bytes of `current` are still to come into the batch.
    current_bytes: usize,
    /// Changes of the revision that is being made.
    changes: u32,
    families: Families<'db>,
    /// Reused for every row: RocksDB copies what it is given.
    key: Vec<u8>,
    value: Vec<u8>,
}

struct Families<'db> {
    meta: &'db ColumnFamily,
    current: &'db ColumnFamily,
    history: &'db ColumnFamily,
    changes: &'db ColumnFamily,
    deadlines: &'db ColumnFamily,
}

impl<'db> Rows<'db> {
    pub(crate) fn new(db: &'db DB, head: Head, bytes_expected: usize) -> Self {
        let family = |name| db::family(db, name);
        let families = Families {
            meta: family(META),
            current: family(CURRENT),
            history: family(HISTORY),
            changes: family(CHANGES),
            deadlines: family(DEADLINES),
        };
        let batch = WriteBatch::with_capacity_bytes(bytes_expected);
        Rows { head, batch, current_bytes: 0, changes: 0, families, key: Vec::new(), value: Vec::new() }
    }

    /// The revision that the command at hand makes if it changes something.
    pub(crate) fn next_revision(&self) -> u64 {
        self.head.revision + 1
    }

    /// How many keys the command at hand has changed.
    pub(crate) fn changes(&self) -> usize {
        self.changes as usize
    }

    /// Ends a command: if it changed something, its revision is now the store's.
    pub(crate) fn end_revision(&mut self) {
        if self.changes > 0 {
            self.head.revision += 1;
            self.changes = 0;
        }
    }

    /// Writes a record over what the key held.
    pub(crate) fn put(
        &mut self,
        key: &[u8],
        old: Option<(RecordHead, &[u8])>,
        new: RecordHead,
        value: &[u8],
    ) {
        assert_eq!(new.mod_revision, self.next_revision(), "a record is written at its own revision");
        self.change(ChangeKind::Put, key, old.map(|(head, value)| (head, Some(value))));
        self.head.logical_bytes += record_bytes(key.len(), value.len());
        if old.is_none() {
            self.head.keys += 1;
        }
        self.begin(key, new, value);
    }

    /// Writes a record over one with the same value, which goes over to it: the old one's row in
    /// `history` counts without.
    pub(crate) fn put_same_value(&mut self, key: &[u8], old: RecordHead, new: RecordHead, value: &[u8]) {
        assert_eq!(new.mod_revision, self.next_revision(), "a record is written at its own revision");
        self.change(ChangeKind::Put, key, Some((old, None)));
        self.head.logical_bytes += record_bytes(key.len(), 0);
        self.begin(key, new, value);
    }

    fn begin(&mut self, key: &[u8], new: RecordHead, value: &[u8]) {
        self.current_bytes += key.len() + value.len();
        if new.deadline_ms != 0 {
            layout::deadline_key(new.deadline_ms, key, &mut self.key);
            layout::encode_deadline(new.mod_revision, &mut self.value);
            self.batch.put_cf(self.families.deadlines, &self.key, &self.value);
            self.head.deadlines += 1;
        }
    }

    /// Deletes a record.
    pub(crate) fn delete(&mut self, key: &[u8], old: (RecordHead, &[u8])) {
        self.change(ChangeKind::Delete, key, Some((old.0, Some(old.1))));
        self.current_bytes += key.len();
        self.head.keys -= 1;
    }

    /// Records the change, and moves what the key held to `history`, where its bytes go on to count:
    /// without a value, if the new record takes that over.
    fn change(&mut self, kind: ChangeKind, key: &[u8], old: Option<(RecordHead, Option<&[u8]>)>) {
        let revision = self.next_revision();
        let change = Change {
            kind,
            previous_revision: old.map_or(0, |(head, _)| head.mod_revision),
            previous_value_bytes: old.map_or(0, |(_, value)| value.unwrap_or_default().len() as u64),
            key,
        };
        change.encode(&mut self.value);
        self.batch.put_cf(self.families.changes, layout::change_key(revision, self.changes), &self.value);
        self.changes += 1;
        self.head.logical_bytes += record_bytes(key.len(), 0);

        let Some((head, value)) = old else { return };
        assert!(head.mod_revision < revision, "a revision changes a key once");
        layout::history_key(key, head.mod_revision, &mut self.key);
        Superseded { end_revision: revision, head, value }.encode(&mut self.value);
        self.batch.put_cf(self.families.history, &self.key, &self.value);
        if head.deadline_ms != 0 {
            layout::deadline_key(head.deadline_ms, key, &mut self.key);
            self.batch.delete_cf(self.families.deadlines, &self.key);
            self.head.deadlines -= 1;
        }
    }

    /// Removes a change that compaction has come to. Each row of `changes` and `history` is written
    /// once, so that RocksDB may drop row and tombstone as soon as they meet.
    pub(crate) fn forget(&mut self, at: (u64, u32), change: &Change<'_>) {
        self.batch.single_delete_cf(self.families.changes, layout::change_key(at.0, at.1));
        self.head.logical_bytes -= record_bytes(change.key.len(), 0);
    }

    /// Removes the record that a change superseded.
    pub(crate) fn forget_superseded(&mut self, change: &Change<'_>) {
        if change.previous_revision != 0 {
            layout::history_key(change.key, change.previous_revision, &mut self.key);
            self.batch.single_delete_cf(self.families.history, &self.key);
            self.head.logical_bytes -= record_bytes(change.key.len(), change.previous_value_bytes as usize);
        }
    }

    /// Writes the row of `current` that the commands at hand have left of a key; none: they deleted it.
    pub(crate) fn set_current(&mut self, key: &[u8], record: Option<(RecordHead, &[u8])>) {
        match record {
            Some((head, value)) => {
                head.encode(value, &mut self.value);
                self.batch.put_cf(self.families.current, key, &self.value);
            }
            None => self.batch.delete_cf(self.families.current, key),
        }
    }

    pub(crate) fn put_meta(&mut self, key: &[u8], value: &[u8]) {
        self.batch.put_cf(self.families.meta, key, value);
    }

    /// Writes a row of `default`, or removes it.
    pub(crate) fn set_meta(&mut self, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => self.put_meta(key, value),
            None => self.batch.delete_cf(self.families.meta, key),
        }
    }

    pub(crate) fn batch_bytes(&self) -> usize {
        self.batch.size_in_bytes() + self.current_bytes
    }

    /// Takes the batch with the head in it, and begins an empty one.
    pub(crate) fn take(&mut self) -> WriteBatch {
        assert_eq!(self.changes, 0, "a batch ends between commands");
        self.current_bytes = 0;
        let head = self.head.encode();
        assert_eq!(Head::decode(&head), Ok(self.head), "a head is read as it was written");
        self.batch.put_cf(self.families.meta, meta::HEAD, head);
        std::mem::take(&mut self.batch)
    }
}
