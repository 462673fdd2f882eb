//! What the run of entries at hand has read and written so far: later commands see it before it is
//! in the database.

use std::collections::HashMap;
use std::collections::hash_map;

use bytes::Bytes;
use rocksdb::{ColumnFamily, DB, DBPinnableSlice, ReadOptions};

use crate::command::{KeyRange, Record};
use crate::db::{Recent, RecentRecord};
use crate::error::StoreError;
use crate::layout::RecordHead;

/// A key as the run has it.
pub(crate) enum Slot<'db> {
    /// There is no such key.
    Absent,
    /// As it was read from the database: a row of `current`.
    Read(RecordHead, usize, DBPinnableSlice<'db>),
    /// As a run before this one wrote it.
    Recent(RecentRecord),
    /// As a command of this run wrote it.
    Written(RecordHead, Bytes),
    /// A command of this run deleted it.
    Deleted,
}

impl<'db> Slot<'db> {
    fn decode(row: Option<DBPinnableSlice<'db>>, db: &DB) -> Result<Slot<'db>, StoreError> {
        let Some(row) = row else { return Ok(Slot::Absent) };
        let (head, value) = RecordHead::decode(&row)
            .map_err(|_| StoreError::malformed(db.path(), "a row of `current` is no record"))?;
        let value_at = row.len() - value.len();
        Ok(Slot::Read(head, value_at, row))
    }

    /// The record without its key.
    pub(crate) fn record(&self) -> Option<(RecordHead, &[u8])> {
        match self {
            Slot::Absent | Slot::Deleted => None,
            Slot::Read(head, value_at, row) => Some((*head, &row[*value_at..])),
            Slot::Recent(record) => Some((record.head, &record.value)),
            Slot::Written(head, value) => Some((*head, value)),
        }
    }

    /// The value, shared where it can be.
    fn value(&self) -> Bytes {
        match self {
            Slot::Absent | Slot::Deleted => Bytes::new(),
            Slot::Read(_, value_at, row) => Bytes::copy_from_slice(&row[*value_at..]),
            Slot::Recent(record) => Bytes::copy_from_slice(&record.value),
            Slot::Written(_, value) => value.clone(),
        }
    }

    /// The record as clients and watchers get it.
    pub(crate) fn to_record(&self, key: &Bytes) -> Option<Record> {
        let (head, _) = self.record()?;
        Some(head.into_record(key.clone(), self.value()))
    }

    /// The key's last change; 0 if it does not exist.
    pub(crate) fn mod_revision(&self) -> u64 {
        self.record().map_or(0, |(head, _)| head.mod_revision)
    }
}

/// The keys that a run has touched, over the database as it was before.
pub(crate) struct Overlay<'db> {
    db: &'db DB,
    current: &'db ColumnFamily,
    recent: &'db mut Recent,
    slots: HashMap<Bytes, Slot<'db>>,
}

impl<'db> Overlay<'db> {
    pub(crate) fn new(db: &'db DB, current: &'db ColumnFamily, recent: &'db mut Recent) -> Self {
        Overlay { db, current, recent, slots: HashMap::new() }
    }

    /// Reads many keys at once.
    pub(crate) fn load(&mut self, mut keys: Vec<Bytes>) -> Result<(), StoreError> {
        keys.sort_unstable();
        keys.dedup();
        self.slots.reserve(keys.len());
        keys.retain(|key| match self.recent.get(key) {
            Some(record) => {
                self.slots.insert(key.clone(), Slot::Recent(record.clone()));
                false
            }
            None => true,
        });
        if keys.is_empty() {
            return Ok(());
        }
        let rows = self.db.batched_multi_get_cf_opt(self.current, keys.iter(), true, &ReadOptions::default());
        assert_eq!(rows.len(), keys.len(), "each key that was asked for has an answer");
        for (key, row) in keys.into_iter().zip(rows) {
            let row = row.map_err(StoreError::database("read keys", self.db.path()))?;
            self.slots.insert(key, Slot::decode(row, self.db)?);
        }
        Ok(())
    }

    /// The key as the run has it; read from the database if the run has not.
    pub(crate) fn slot(&mut self, key: &Bytes) -> Result<&mut Slot<'db>, StoreError> {
        match self.slots.entry(key.clone()) {
            hash_map::Entry::Occupied(slot) => Ok(slot.into_mut()),
            hash_map::Entry::Vacant(vacant) => {
                if let Some(record) = self.recent.get(key) {
                    return Ok(vacant.insert(Slot::Recent(record.clone())));
                }
                let row = self
                    .db
                    .get_pinned_cf(self.current, key)
                    .map_err(StoreError::database("read key", self.db.path()))?;
                Ok(vacant.insert(Slot::decode(row, self.db)?))
            }
        }
    }

    /// What the run has touched in a range, in order of keys.
    pub(crate) fn slots_in(&self, range: &KeyRange) -> Vec<(&Bytes, &Slot<'db>)> {
        let mut slots: Vec<_> = self.slots.iter().filter(|(key, _)| range.contains(key)).collect();
        slots.sort_unstable_by_key(|(key, _)| *key);
        slots
    }

    /// What the run's commands have left of the keys that they changed, in order of keys: each key is
    /// written once, and neighbours are cheaper to insert.
    pub(crate) fn changed(&self) -> Vec<(&Bytes, &Slot<'db>)> {
        let is_changed = |slot: &Slot<'_>| matches!(slot, Slot::Written(..) | Slot::Deleted);
        let mut changed: Vec<_> = self.slots.iter().filter(|(_, slot)| is_changed(slot)).collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        changed
    }

    /// The database now holds what the run wrote.
    pub(crate) fn written(&mut self) {
        for (key, slot) in self.slots.drain() {
            match slot {
                Slot::Absent | Slot::Read(..) | Slot::Recent(_) => {}
                Slot::Written(head, value) => self.recent.written(&key, head, &value),
                Slot::Deleted => self.recent.deleted(&key),
            }
        }
    }
}
