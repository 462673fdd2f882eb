//! How large the log's parts are, and who hears of what it does.

use std::sync::Arc;
use std::time::Duration;

use crate::limits::Limits;
use crate::machine::Machine;
use crate::space::Space;

/// How large the log's parts are.
#[derive(Clone)]
pub struct LogOptions {
    /// Bytes of a segment's file. One is written, one may stand ready; purging frees whole ones.
    pub segment_bytes: u64,
    /// Entries so far in memory although they are on disk: what followers and apply lag by.
    pub cache_bytes: usize,
    /// Entries that wait to be written. [`Log::room`] waits while there are more, which holds back
    /// whoever produces entries faster than the disk takes them.
    pub queue_bytes: usize,
    /// Hears about every sync.
    pub observer: Option<Arc<dyn LogObserver>>,
    /// Gives way on a full disk.
    pub space: Option<Space>,
    /// Where the log is, and what its workers run on.
    pub machine: Machine,
    /// See [`Limits::frame_bytes_max`] and [`Limits::segment_bytes_max`].
    pub limits: Limits,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: 64 * 1024 * 1024,
            cache_bytes: 32 * 1024 * 1024,
            queue_bytes: 32 * 1024 * 1024,
            observer: None,
            space: None,
            machine: Machine::system(),
            limits: Limits::default(),
        }
    }
}

impl std::fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .finish_non_exhaustive()
    }
}

/// Hears what the log's thread does, for metrics.
pub trait LogObserver: Send + Sync {
    /// A frame of `bytes` with `entries` was written in `write` and synced in `sync`.
    fn synced(&self, bytes: usize, entries: usize, write: Duration, sync: Duration);
}
