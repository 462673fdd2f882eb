//! What rows count for in the logical size of the store.

/// What logical accounting adds to the bytes of key and value of each record, for the numbers
/// beside them and RocksDB's own overhead. Part of the replicated state: it must stay.
pub(crate) const RECORD_OVERHEAD_BYTES: u64 = 64;

/// What a record counts for in the logical size of the store.
pub(crate) fn record_bytes(key: usize, value: usize) -> u64 {
    key as u64 + value as u64 + RECORD_OVERHEAD_BYTES
}
