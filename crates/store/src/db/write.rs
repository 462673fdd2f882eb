//! Writing to RocksDB, which is to its memtables alone, and flushing those.

use std::thread;
use std::time::Duration;

use rocksdb::{DB, WriteBatch, WriteOptions};

use super::families::{FAMILIES, family};
use crate::error::StoreError;

/// How RocksDB says that the disk is full.
const NO_SPACE: &str = "No space left on device";
/// How long a write waits for room on a full disk, and how often it tries: three times as long as
/// RocksDB waits between its attempts to flush. A leader must not hold up the others for longer.
const ROOM_PERIOD: Duration = Duration::from_millis(100);
const ROOM_ATTEMPTS_MAX: u32 = 150;

/// Writes go to the memtables alone, see the module's documentation.
pub(crate) fn write_options() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

/// Writes a batch to the memtables. After a flush that met a full disk RocksDB takes no writes until it
/// has flushed after all, which it tries again and again by itself; this waits for that, for a while.
/// A batch that was refused has left nothing behind.
pub(crate) fn write(db: &DB, batch: WriteBatch, options: &WriteOptions) -> Result<(), rocksdb::Error> {
    let rows = batch.data().to_vec();
    let Err(mut error) = db.write_opt(batch, options) else { return Ok(()) };
    // With its memtables full RocksDB would hold the write back for as long as they cannot be flushed.
    let mut impatient = write_options();
    impatient.set_no_slowdown(true);
    for attempt in 0..ROOM_ATTEMPTS_MAX {
        if !error.as_ref().contains(NO_SPACE) {
            break;
        }
        if attempt == 0 {
            tracing::error!(%error, "the disk is full: writes to the store wait; free space on this disk");
        }
        thread::sleep(ROOM_PERIOD);
        match db.write_opt(WriteBatch::from_data(&rows), &impatient) {
            Ok(()) => {
                tracing::info!("the disk has room again: writes to the store go on");
                return Ok(());
            }
            Err(again) if again.kind() == rocksdb::ErrorKind::Incomplete => {}
            Err(again) => error = again,
        }
    }
    Err(error)
}

/// Writes all memtables to table files, in one atomic step.
pub(crate) fn flush(db: &DB) -> Result<(), StoreError> {
    let families = FAMILIES.map(|name| family(db, name));
    db.flush_cfs_opt(&families, &rocksdb::FlushOptions::default())
        .map_err(StoreError::database("flush state", db.path()))
}
