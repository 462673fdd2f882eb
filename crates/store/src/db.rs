//! RocksDB: how it is opened, and with what options.
//!
//! Architecture invariant: nothing is ever written with RocksDB's own log. The raft log is the redo
//! log; what a crash takes from the memtables is applied again from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BlockBasedTablePinningTier, Cache, ColumnFamily,
    ColumnFamilyDescriptor, DB, DBCompressionType, InfoLogger, LogLevel, Options, WriteBatch,
    WriteBufferManager, WriteOptions,
};

use crate::error::StoreError;
use crate::feature::FEATURE_LEVEL_MAX;
use crate::layout::{CHANGES, CURRENT, DEADLINES, HISTORY, META};
use crate::limits::Limits;
use crate::manifest;

/// How large the store's memory and files may be.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes for blocks of table files, their indexes and filters, memtables, and records that were
    /// written lately, all together.
    pub cache_bytes: usize,
    /// Bytes that a compaction, beside a flush, may add to the disk before it gives its inputs back;
    /// about, as RocksDB never cuts a file in two.
    pub compaction_bytes: u64,
    /// A state of a higher feature level is refused, and so is an entry that raises the level above it.
    pub feature_level_max: u32,
    /// The bounds of apply: `Limits::default()` but in tests, as all members must have the same.
    pub limits: Limits,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            cache_bytes: 96 << 20,
            compaction_bytes: 256 << 20,
            feature_level_max: FEATURE_LEVEL_MAX,
            limits: Limits::default(),
        }
    }
}

/// The memtables' part of the cache: a larger one makes fewer and larger flushes, and dearer inserts.
const MEMTABLE_SHARE: usize = 3;
/// The part of the cache for records that were written lately.
const RECENT_SHARE: usize = 3;
/// No smaller memtables than this, or flushing never ends.
const MEMTABLE_BYTES_MIN: usize = 4 << 20;
/// No larger ones either: what is not flushed is applied again after a restart, before the node is ready.
const MEMTABLE_BYTES_MAX: usize = 128 << 20;
/// Open table files; RocksDB keeps a descriptor and a few kilobytes for each.
const OPEN_FILES_MAX: i32 = 512;
/// Files that are open at a time while a state is read through once: RocksDB takes no fewer.
const READ_THROUGH_FILES_MAX: i32 = 20;
/// All column families, in the order in which they are made.
pub(crate) const FAMILIES: [&str; 5] = [META, CURRENT, HISTORY, CHANGES, DEADLINES];
/// 16 KiB blocks halve the index of 4 KiB ones twice over, and compress better; a point read
/// unpacks one block more slowly, which the cache hides.
const BLOCK_BYTES: usize = 16 << 10;
/// A compaction into the upper of the sorted levels rewrites all of it, and what was flushed since:
/// the level takes this part of a compaction's bytes.
const LEVEL_SHARE: u64 = 2;
/// One of a deeper level rewrites a table file and the ten or so below it.
const TABLE_FILE_SHARE: u64 = 16;
/// A level is made of four memtables, or more and smaller ones.
const MEMTABLES_IN_LEVEL: u64 = 4;
/// About 1% false positives.
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// Half of so many neighbouring rows deleted: the file is compacted, so that scans and the search
/// for due keys do not wade through what is gone.
const TOMBSTONE_WINDOW: usize = 4096;

/// How RocksDB says that the disk is full.
const NO_SPACE: &str = "No space left on device";
/// How long a write waits for room on a full disk, and how often it tries: three times as long as
/// RocksDB waits between its attempts to flush. A leader must not hold up the others for longer.
const ROOM_PERIOD: Duration = Duration::from_millis(100);
const ROOM_ATTEMPTS_MAX: u32 = 150;

/// Memory that all states of one store share: while a snapshot is installed there are two.
pub(crate) struct Caches {
    pub(crate) blocks: Cache,
    pub(crate) memtables: WriteBufferManager,
    pub(crate) recent_bytes: u64,
    memtable_bytes: usize,
    compaction_bytes: u64,
}

impl Caches {
    pub(crate) fn new(options: &StoreOptions) -> Caches {
        let StoreOptions { cache_bytes, compaction_bytes, limits, .. } = *options;
        let of_level = (compaction_bytes / LEVEL_SHARE / MEMTABLES_IN_LEVEL) as usize;
        let memtable_bytes =
            (cache_bytes / MEMTABLE_SHARE).min(of_level).clamp(MEMTABLE_BYTES_MIN, MEMTABLE_BYTES_MAX);
        let recent_bytes = cache_bytes / RECENT_SHARE;
        let recent_bytes_max = limits.recent_bytes_max.min(recent_bytes as u64);
        let blocks = Cache::new_lru_cache((cache_bytes - recent_bytes).max(2 * memtable_bytes));
        // Memtables are charged to the block cache: `cache_bytes` bounds both together.
        let memtables =
            WriteBufferManager::new_write_buffer_manager_with_cache(memtable_bytes, false, blocks.clone());
        Caches { blocks, memtables, recent_bytes: recent_bytes_max, memtable_bytes, compaction_bytes }
    }
}

/// Makes an empty database in a directory that does not exist yet.
pub(crate) fn create(path: &Path, caches: &Caches) -> Result<DB, StoreError> {
    let mut options = database_options(caches);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_error_if_exists(true);
    DB::open_cf_descriptors(&options, path, families(caches))
        .map_err(StoreError::database("create state", path))
}

/// Opens a database that must be there: without its CURRENT file RocksDB would otherwise begin an
/// empty one. Reads the metadata and the first block of every table file, so that a file that is
/// damaged there is found now rather than at some later read.
pub(crate) fn open(path: &Path, caches: &Caches) -> Result<DB, StoreError> {
    manifest::check(path)?;
    let opened = DB::open_cf_descriptors(&database_options(caches), path, families(caches));
    let db = opened.map_err(|error| unread(error, path))?;
    check_tables(&db, path)?;
    Ok(db)
}

/// Opens a database that is not to change by it.
pub(crate) fn open_read_only(path: &Path, caches: &Caches) -> Result<DB, StoreError> {
    manifest::check(path)?;
    DB::open_cf_descriptors_read_only(&database_options(caches), path, families(caches), false)
        .map_err(|error| unread(error, path))
}

/// Opens a database that is to be read through once. Whenever a table file is opened, and that is before
/// its first row is read, its index and all its filters are read and their checksums compared: no lookup
/// is needed to have seen them. The reads must fill the cache for that. Few files are open at a time, which
/// bounds what these take in memory.
pub(crate) fn open_to_read_through(path: &Path, caches: &Caches) -> Result<DB, StoreError> {
    manifest::check(path)?;
    let mut options = database_options(caches);
    options.set_max_open_files(READ_THROUGH_FILES_MAX);
    let mut table = table_options(caches);
    table.set_partition_pinning_tier(BlockBasedTablePinningTier::All);
    let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family_options(caches, &table)));
    DB::open_cf_descriptors_read_only(&options, path, families, false).map_err(|error| unread(error, path))
}

/// A column family that the database was opened with.
pub(crate) fn family<'db>(db: &'db DB, name: &str) -> &'db ColumnFamily {
    db.cf_handle(name).expect("the database was opened with all column families")
}

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

/// Why a database was not opened or read through, with the file that is to blame.
pub(crate) fn unread(error: rocksdb::Error, path: &Path) -> StoreError {
    match StoreError::database("read state", path)(error) {
        // RocksDB blames its MANIFEST, which has been checked, for whatever it meets on opening.
        StoreError::Damage { file, detail } if !is_table(&file) => {
            StoreError::Damage { file: find_table(&detail, path).unwrap_or(file), detail }
        }
        error => error,
    }
}

/// Of some damage to a table file's properties RocksDB does not say in which file it is. But it
/// says the same of that file alone, when asked to take it into another database; a sound one it
/// refuses for another reason, before it copies anything.
fn find_table(detail: &str, path: &Path) -> Option<PathBuf> {
    static SEARCHES: AtomicU64 = AtomicU64::new(0);
    let name = [std::process::id().into(), SEARCHES.fetch_add(1, Ordering::Relaxed)];
    let elsewhere = std::env::temp_dir().join(format!("kvorum-find-table-{}-{}", name[0], name[1]));
    let mut options = Options::default();
    options.create_if_missing(true);
    let db = DB::open(&options, &elsewhere).ok()?;
    let tables = fs::read_dir(path).ok()?.filter_map(|item| Some(item.ok()?.path()));
    let found = tables.filter(|file| is_table(file)).find(|file| {
        db.ingest_external_file(vec![file]).is_err_and(|error| detail.starts_with(error.as_ref()))
    });
    drop(db);
    // What stays behind is a small database in the directory for temporary files.
    fs::remove_dir_all(&elsewhere).ok();
    found
}

fn is_table(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "sst")
}

fn check_tables(db: &DB, path: &Path) -> Result<(), StoreError> {
    let damaged = |error| unread(error, path);
    for file in db.live_files().map_err(damaged)? {
        let Some(start) = file.start_key else { continue };
        let mut rows = db.raw_iterator_cf(family(db, &file.column_family_name));
        rows.seek(start);
        rows.status().map_err(damaged)?;
    }
    Ok(())
}

fn database_options(caches: &Caches) -> Options {
    let mut options = Options::default();
    options.set_paranoid_checks(true);
    options.set_atomic_flush(true);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_write_buffer_manager(&caches.memtables);
    // One thread writes: the machinery for concurrent inserts only costs.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_max_background_jobs(2);
    // Written back steadily, so that the log's next sync does not wait behind a whole table file.
    options.set_bytes_per_sync(1 << 20);
    options.set_max_manifest_file_size(4 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, |level, message| match level {
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "rocksdb", "{}", message.trim_end()),
        LogLevel::Warn => tracing::warn!(target: "rocksdb", "{}", message.trim_end()),
        // The header, all options at every start, comes whatever level is asked for.
        _ => {}
    }));
    options
}

fn families(caches: &Caches) -> Vec<ColumnFamilyDescriptor> {
    let table = table_options(caches);
    FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family_options(caches, &table))).into()
}

fn table_options(caches: &Caches) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&caches.blocks);
    table.set_block_size(BLOCK_BYTES);
    // Index and filters are in partitions, and these in the cache: memory is bounded by the cache
    // rather than by the number of keys.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    table.set_optimize_filters_for_memory(true);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table
}

fn family_options(caches: &Caches, table: &BlockBasedOptions) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(table);
    options.set_compression_type(DBCompressionType::Lz4);
    // The manager flushes before one memtable fills up to this.
    options.set_write_buffer_size(caches.memtable_bytes);
    options.set_max_write_buffer_number(4);
    options.set_max_bytes_for_level_base(caches.compaction_bytes / LEVEL_SHARE);
    options.set_target_file_size_base(caches.compaction_bytes / TABLE_FILE_SHARE);
    options.set_max_compaction_bytes(caches.compaction_bytes);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.add_compact_on_deletion_collector_factory(TOMBSTONE_WINDOW, TOMBSTONE_WINDOW / 2, 0.5);
    options
}
