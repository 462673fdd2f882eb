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
    /// As it is in the database, where its value, of so many bytes, was left.
    Left(RecordHead, usize),
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

    /// What the record is beside its key and value, and how many bytes that value has.
    pub(crate) fn head(&self) -> Option<(RecordHead, usize)> {
        match self {
            Slot::Left(head, value_bytes) => Some((*head, *value_bytes)),
            _ => self.record().map(|(head, value)| (head, value.len())),
        }
    }

    /// The record without its key, of a slot to be changed.
    pub(crate) fn record(&self) -> Option<(RecordHead, &[u8])> {
        match self {
            Slot::Absent | Slot::Deleted => None,
            Slot::Left(..) => unreachable!("the value of a slot that is to be changed was read"),
            Slot::Read(head, value_at, row) => Some((*head, &row[*value_at..])),
            Slot::Recent(record) => Some((record.head, &record.value)),
            Slot::Written(head, value) => Some((*head, value)),
        }
    }

    /// The value, shared where it can be.
    pub(crate) fn value(&self) -> Bytes {
        match self {
            Slot::Absent | Slot::Deleted | Slot::Left(..) => Bytes::new(),
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
        self.head().map_or(0, |(head, _)| head.mod_revision)
    }
}

/// The keys that a run has touched, over the database as it was before.
pub(crate) struct Overlay<'db> {
    db: &'db DB,
    current: &'db ColumnFamily,
    recent: &'db mut Recent,
    slots: HashMap<Bytes, Slot<'db>>,
    /// What the rows in them take, in bytes, and may.
    held: usize,
    held_max: usize,
}

/// Keys that are read at a time, which is what RocksDB looks up in one go: their values are in memory together.
const READ_TOGETHER: usize = 32;

impl<'db> Overlay<'db> {
    pub(crate) fn new(
        db: &'db DB,
        current: &'db ColumnFamily,
        recent: &'db mut Recent,
        held_max: usize,
    ) -> Self {
        Overlay { db, current, recent, slots: HashMap::new(), held: 0, held_max }
    }

    /// Reads many keys at once, as far as there is room to hold them.
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
        for keys in keys.chunks(READ_TOGETHER) {
            if self.held >= self.held_max {
                break;
            }
            let options = ReadOptions::default();
            let rows = self.db.batched_multi_get_cf_opt(self.current, keys.iter(), true, &options);
            assert_eq!(rows.len(), keys.len(), "each key that was asked for has an answer");
            for (key, row) in keys.iter().zip(rows) {
                let row = row.map_err(StoreError::database("read keys", self.db.path()))?;
                let slot = held(Slot::decode(row, self.db)?, &mut self.held, self.held_max);
                self.slots.insert(key.clone(), slot);
            }
        }
        Ok(())
    }

    /// The key as the run has it, to be looked at; read from the database if the run has not.
    pub(crate) fn look(&mut self, key: &Bytes) -> Result<&Slot<'db>, StoreError> {
        match self.slots.entry(key.clone()) {
            hash_map::Entry::Occupied(slot) => Ok(slot.into_mut()),
            hash_map::Entry::Vacant(vacant) => {
                let slot = read(self.db, self.current, self.recent, key)?;
                Ok(vacant.insert(held(slot, &mut self.held, self.held_max)))
            }
        }
    }

    /// The key as the run has it, to be changed: with its value, which nobody else counts until it is.
    pub(crate) fn slot(&mut self, key: &Bytes) -> Result<&mut Slot<'db>, StoreError> {
        match self.slots.entry(key.clone()) {
            hash_map::Entry::Occupied(slot) => {
                let slot = slot.into_mut();
                if matches!(slot, Slot::Left(..)) {
                    *slot = read(self.db, self.current, self.recent, key)?;
                }
                Ok(slot)
            }
            hash_map::Entry::Vacant(vacant) => {
                Ok(vacant.insert(read(self.db, self.current, self.recent, key)?))
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
        self.held = 0;
        for (key, slot) in self.slots.drain() {
            match slot {
                Slot::Absent | Slot::Read(..) | Slot::Left(..) | Slot::Recent(_) => {}
                Slot::Written(head, value) => self.recent.written(&key, head, &value),
                Slot::Deleted => self.recent.deleted(&key),
            }
        }
    }
}

/// A key as the database has it.
fn read<'db>(
    db: &'db DB,
    current: &'db ColumnFamily,
    recent: &Recent,
    key: &[u8],
) -> Result<Slot<'db>, StoreError> {
    if let Some(record) = recent.get(key) {
        return Ok(Slot::Recent(record.clone()));
    }
    let row = db.get_pinned_cf(current, key).map_err(StoreError::database("read key", db.path()))?;
    Slot::decode(row, db)
}

/// Leaves the value in the database where there is no room to hold it.
fn held<'db>(slot: Slot<'db>, held: &mut usize, held_max: usize) -> Slot<'db> {
    match slot {
        Slot::Read(head, value_at, row) if *held + row.len() > held_max => {
            Slot::Left(head, row.len() - value_at)
        }
        Slot::Read(_, _, ref row) => {
            *held += row.len();
            slot
        }
        _ => slot,
    }
}
