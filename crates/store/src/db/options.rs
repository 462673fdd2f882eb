//! What RocksDB is opened with: its memory, its files, its tables.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, InfoLogger,
    LogLevel, Options, WriteBufferManager,
};

use super::families::FAMILIES;
use crate::feature::FEATURE_LEVEL_MAX;
use crate::limits::Limits;
use crate::machine::Machine;

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
    /// Where states and snapshots are. RocksDB opens its own files in the same directories.
    pub machine: Machine,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            cache_bytes: 96 << 20,
            compaction_bytes: 256 << 20,
            feature_level_max: FEATURE_LEVEL_MAX,
            limits: Limits::default(),
            machine: Machine::system(),
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

/// Memory that all states of one store share: while a snapshot is installed there are two.
pub(crate) struct Caches {
    pub(crate) blocks: Cache,
    pub(crate) memtables: WriteBufferManager,
    pub(crate) recent_bytes: u64,
    memtable_bytes: usize,
    compaction_bytes: u64,
    repeatable: bool,
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
        Caches {
            blocks,
            memtables,
            recent_bytes: recent_bytes_max,
            memtable_bytes,
            compaction_bytes,
            repeatable: limits.repeatable,
        }
    }
}

pub(super) fn database_options(caches: &Caches) -> Options {
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

pub(super) fn families(caches: &Caches) -> Vec<ColumnFamilyDescriptor> {
    let table = table_options(caches);
    FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, family_options(caches, &table))).into()
}

pub(super) fn table_options(caches: &Caches) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&caches.blocks);
    table.set_block_size(BLOCK_BYTES);
    // Index and filters are in partitions, and these in the cache: memory is bounded by the cache
    // rather than by the number of keys.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    // It asks the allocator, whose answer is another in each process.
    table.set_optimize_filters_for_memory(!caches.repeatable);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table
}

pub(super) fn family_options(caches: &Caches, table: &BlockBasedOptions) -> Options {
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
    options.set_disable_auto_compactions(caches.repeatable);
    options.add_compact_on_deletion_collector_factory(TOMBSTONE_WINDOW, TOMBSTONE_WINDOW / 2, 0.5);
    options
}
