//! Writing to RocksDB, which is to its memtables alone, and flushing those.

use rocksdb::{DB, WriteBatch, WriteOptions};

use super::families::{FAMILIES, family};
use crate::error::StoreError;

/// How RocksDB says that the disk is full.
const NO_SPACE: &str = "No space left on device";

/// Writes go to the memtables alone, see the module's documentation.
pub(crate) fn write_options() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

/// The same for a write that is refused where it would be held back: with its memtables full RocksDB holds
/// writes back for as long as they cannot be flushed, which on a full disk is for ever.
pub(crate) fn impatient_write_options() -> WriteOptions {
    let mut options = write_options();
    options.set_no_slowdown(true);
    options
}

/// Writes a batch to the memtables. After a flush that met a full disk RocksDB takes no writes until it
/// has flushed after all, which it tries again and again by itself. A batch that was refused has left nothing behind.
pub(crate) fn write(db: &DB, batch: WriteBatch, options: &WriteOptions) -> Result<(), StoreError> {
    db.write_opt(batch, options).map_err(|error| {
        if error.as_ref().contains(NO_SPACE) || error.kind() == rocksdb::ErrorKind::Incomplete {
            return StoreError::Full { path: db.path().to_owned(), detail: error.into_string() };
        }
        StoreError::database("apply entries", db.path())(error)
    })
}

/// Writes all memtables to table files, in one atomic step.
pub(crate) fn flush(db: &DB) -> Result<(), StoreError> {
    flush_families(db, &FAMILIES)
}

/// The same family by family. RocksDB takes those of one step in the order of their addresses, and numbers their files by
/// it; such a number is in the file, and a longer one makes it longer. No crash may come between.
pub(crate) fn flush_in_order(db: &DB) -> Result<(), StoreError> {
    FAMILIES.iter().try_for_each(|name| flush_families(db, &[name]))
}

fn flush_families(db: &DB, names: &[&str]) -> Result<(), StoreError> {
    let families: Vec<_> = names.iter().map(|name| family(db, name)).collect();
    db.flush_cfs_opt(&families, &rocksdb::FlushOptions::default())
        .map_err(StoreError::database("flush state", db.path()))
}
