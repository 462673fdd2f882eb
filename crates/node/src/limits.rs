//! Every bound of a node that only much at once reaches.

/// The bounds that bite only where something is large, or much is under way. They are no flags: a node has the
/// default ones, and tests and simulations make them so small that ordinary histories reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Those of store and log. Some must be the same on all members, see there.
    pub store: kvorum_store::Limits,
    /// Bytes of entries that the log keeps in memory although they are on disk.
    pub log_cache_bytes: usize,
    /// Bytes of entries that may wait to be written to the log.
    pub log_queue_bytes: usize,
    /// Bytes of entries that one append to another member carries, but for a single larger one: well below the
    /// transport's limit, and enough to fill a fast link.
    pub append_bytes_max: usize,
    /// Bytes of changes that watchers find in memory: several seconds of a busy cluster's small writes. Who is
    /// further behind reads from disk.
    pub ring_bytes_max: usize,
    /// Bytes in a page of a scan, beside its last key: enough that the cost of a message does not show, and little
    /// enough that thousands of scans fit into memory.
    pub page_bytes_max: usize,
    /// Bytes of events in a response of a watch, beside its last event. A revision with more is sent in fragments.
    pub response_bytes_max: usize,
    /// Keys that one command expires: few enough that writes beside a backlog wait only milliseconds.
    pub expired_keys_max: usize,
    /// Changes that one compaction step works off: short enough that no write waits long.
    pub step_changes: u32,
}

impl Default for Limits {
    /// The limits of every node.
    fn default() -> Self {
        Limits {
            store: kvorum_store::Limits::default(),
            log_cache_bytes: 32 << 20,
            log_queue_bytes: 32 << 20,
            append_bytes_max: 1 << 20,
            ring_bytes_max: 8 << 20,
            page_bytes_max: 256 << 10,
            response_bytes_max: 1 << 20,
            expired_keys_max: 2_000,
            step_changes: 1_000,
        }
    }
}
